"""Certificates in the layout that a host has, and a small mesh of two real data planes."""

import asyncio
import contextlib
import datetime
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httptools
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.core.metrics import Metrics
from proxy.core.table import compile_table
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import HostName, ServiceName, TrustDomain, spiffe_id
from proxy.model.policy import Balancing, Policy, ServicePolicy, Timeouts
from proxy.model.resilience import Limits, Retries
from proxy.model.settings import (
    Address,
    Consul,
    HealthCheck,
    Protocol,
    Settings,
    Upstream,
    Workload,
)
from proxy.net import inbound, pool_dial
from proxy.net.dataplane import DataPlane

DOMAIN = TrustDomain("mesh.test")
BOTH_USES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass
class Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def sign(
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    issuer: Issuer | None,
    own_key: ec.EllipticCurvePrivateKey | None = None,
    *,
    is_ca: bool = False,
    uris: tuple[str, ...] = (),
    dns: tuple[str, ...] = (),
    uses: tuple[x509.ObjectIdentifier, ...] = BOTH_USES,
    starts_in: datetime.timedelta = datetime.timedelta(minutes=-1),
    ends_in: datetime.timedelta = datetime.timedelta(days=1),
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key if issuer else own_key
    assert signer is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts_in)
        .not_valid_after(now + ends_in)
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(each) for each in dns]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if uses and (not is_ca or uris):
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    if not is_ca:
        builder = builder.add_extension(
            x509.KeyUsage(True, False, False, False, False, False, False, False, False),
            critical=True,
        )
    return builder.sign(signer, hashes.SHA256())


@dataclass
class MeshPki:
    """A root, an issuing CA and whatever leaves a test asks for, as files under ``directory``.

    ``state_dir`` has ``identities/<service>/current/{key.pem,chain.pem}``; ``trust_bundle`` is
    the root as a PEM file.
    """

    directory: Path
    domain: TrustDomain = DOMAIN
    root: Issuer = field(init=False)
    issuing: Issuer = field(init=False)

    def __post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        root = sign("test root", key.public_key(), None, key, is_ca=True)
        self.root = Issuer(root, key)
        key = ec.generate_private_key(ec.SECP256R1())
        self.issuing = Issuer(sign("test issuing CA", key.public_key(), self.root, is_ca=True), key)
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.trust_bundle.write_bytes(self.root.pem)

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def trust_bundle(self) -> Path:
        return self.directory / "trust-bundle.pem"

    def issue(
        self,
        service: str,
        *,
        state_dir: Path | None = None,
        uris: tuple[str, ...] | None = None,
        dns: tuple[str, ...] = (),
        uses: tuple[x509.ObjectIdentifier, ...] = BOTH_USES,
        is_ca: bool = False,
        starts_in: datetime.timedelta = datetime.timedelta(minutes=-1),
        ends_in: datetime.timedelta = datetime.timedelta(days=1),
        issuer: Issuer | None = None,
    ) -> Path:
        """Makes a leaf (an ordinary one by default) the current one; its directory."""
        issuer = issuer or self.issuing
        key = ec.generate_private_key(ec.SECP256R1())
        names = (spiffe_id(self.domain, ServiceName(service)),) if uris is None else uris
        leaf = sign(
            service,
            key.public_key(),
            issuer,
            is_ca=is_ca,
            uris=names,
            dns=dns,
            uses=uses,
            starts_in=starts_in,
            ends_in=ends_in,
        )
        home = (state_dir or self.state_dir) / "identities" / service
        directory = home / f"{leaf.serial_number:x}"
        directory.mkdir(parents=True)
        (directory / "key.pem").write_bytes(key_pem(key))
        chain = leaf.public_bytes(serialization.Encoding.PEM) + issuer.pem
        (directory / "chain.pem").write_bytes(chain)
        switch = home / ".next"
        switch.symlink_to(directory.name)
        switch.replace(home / "current")
        return directory


@pytest.fixture
def mesh_pki(tmp_path: Path) -> MeshPki:
    return MeshPki(tmp_path / "pki")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the proxy runs on."""
    return {"uvloop": uvloop.new_event_loop}


async def until(condition: Callable[[], object], deadline_s: float = 5.0) -> None:
    """Polls; the deadline is a test failure."""
    ends = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends, "the condition was not met in time"
        await asyncio.sleep(0.005)


@dataclass
class Received:
    """One request as an application's own parser sees it."""

    method: str = ""
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class App:
    """An HTTP application: records what it received, answers what ``answer`` returns.

    ``script`` replaces it altogether with a coroutine over the raw streams.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.answer: Callable[[Received], bytes] = lambda _: OK
        self.script: (
            Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None
        ) = None
        self.server: asyncio.Server | None = None
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await (self.script or self._answer)(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass  # the end of the test
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done: list[Received] = []
        collector = _Collector(done)
        parser = httptools.HttpRequestParser(collector)
        while data := await reader.read(65536):
            try:
                parser.feed_data(data)
            except httptools.HttpParserUpgrade:  # the offer is passed over, as a server may
                parser = httptools.HttpRequestParser(collector)
            for received in done:
                self.requests.append(received)
                writer.write(self.answer(received))
            done.clear()
            await writer.drain()


class _Collector:
    """httptools' callbacks: a parser that is not ours judges what ours let through."""

    def __init__(self, done: list[Received]) -> None:
        self._done = done
        self._current = Received()

    def on_message_begin(self) -> None:
        self._current = Received()

    def on_url(self, url: bytes) -> None:
        self._current.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._current.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self._current.body += body

    def on_message_complete(self) -> None:
        self._done.append(self._current)

    def on_headers_complete(self) -> None:
        pass


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-From: app\r\n\r\nok"


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes
    head: bytes


class Client:
    """A raw HTTP/1.1 client on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, *, method: str = "GET") -> Response:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        lines = head[:-4].decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = b""
        if status >= 200 and status not in (204, 304) and method != "HEAD":
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readline(), 16):
                    body += await self.reader.readexactly(size)
                    assert await self.reader.readexactly(2) == b"\r\n"
                while (trailer := await self.reader.readline()) != b"\r\n":
                    name, _, value = trailer.decode().partition(":")
                    headers["trailer:" + name.lower()] = value.strip()
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.read()
        return Response(status, headers, body, head)

    async def get(self, target: str = "/", headers: str = "") -> Response:
        self.send(f"GET {target} HTTP/1.1\r\nHost: api\r\n{headers}\r\n".encode())
        return await self.response()

    async def is_closed(self) -> bool:
        """Whether the proxy ends the connection, with nothing more on it."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 5) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()


NO_CHECK = HealthCheck()
FAST = Timeouts(connect_s=1.0, pool_idle_s=3.0)


class Mesh:
    """Two hosts: ``near`` with the workloads web and mob, ``far`` with api (HTTP) and db (TCP).

    web may call both, mob nothing: its calls must be refused by the far side.
    """

    def __init__(self, pki: MeshPki) -> None:
        self.pki = pki
        self.api = App()
        self.db = App()
        self.metrics: dict[str, Metrics] = {}
        self.planes: dict[str, DataPlane] = {}
        self.settings: dict[str, Settings] = {}
        self.is_sharing = True
        self.timeouts = FAST
        self.limits = Limits()
        self.retries = Retries()
        self.balancing = Balancing(algorithm="round_robin")
        """The simplest to reason about; the others have tests of their own."""
        self.max_connections = 10_000
        self.api_protocol: Protocol = "http"
        """What api speaks."""
        self.servers: list[asyncio.Server] = []
        """Of the test's own; closed at its end, since uvloop waits for an open one forever."""
        self._clients: list[Client] = []

    async def start(self, *, services: tuple[str, ...] = ("web", "mob", "api", "db")) -> None:
        for service in services:
            self.pki.issue(service)
        await self.api.start()
        await self.db.start()
        await self.add_far("far")
        await self.add_near()
        self.route("far")

    async def add_far(self, name: str, state_dir: Path | None = None) -> None:
        served: tuple[tuple[str, Protocol, App], ...] = (
            ("api", self.api_protocol, self.api),
            ("db", "tcp", self.db),
        )
        workloads = tuple(
            Workload(
                service=ServiceName(service),
                protocol=protocol,
                version="1",
                app=Address(host="127.0.0.1", port=app.port),
                health=NO_CHECK,
                allow=(ServiceName("web"),),
            )
            for service, protocol, app in served
        )
        await self._add(name, workloads, state_dir)

    async def add_near(self) -> None:
        await self._add(
            "near",
            tuple(
                Workload(
                    service=ServiceName(caller),
                    protocol="http",
                    version="1",
                    app=Address(host="127.0.0.1", port=1),
                    health=NO_CHECK,
                    allow=(),
                    upstreams=(
                        Upstream(
                            service=ServiceName("api"),
                            protocol="http",
                            listen=Address(host="127.0.0.1", port=0),
                        ),
                        Upstream(
                            service=ServiceName("db"),
                            protocol="tcp",
                            listen=Address(host="127.0.0.1", port=0),
                        ),
                    ),
                    outbound=Address(host="127.0.0.1", port=0),
                )
                for caller in ("web", "mob")
            ),
            None,
        )

    async def _add(
        self, name: str, workloads: tuple[Workload, ...], state_dir: Path | None
    ) -> None:
        settings = Settings(
            host=HostName(name),
            trust_domain=self.pki.domain,
            advertise="127.0.0.1",
            release="r",
            admin=Address(host="127.0.0.1", port=0),
            inbound=Address(host="127.0.0.1", port=0),
            consul=Consul(url="http://127.0.0.1:8500"),
            state_dir=str(state_dir or self.pki.state_dir),
            trust_bundle=str(self.pki.trust_bundle),
            workloads=workloads,
        )
        self.metrics[name] = Metrics()
        self.settings[name] = settings
        plane = DataPlane(settings, self.metrics[name], max_connections=self.max_connections)
        self.planes[name] = plane
        await plane.start()

    def route(self, *hosts: str, extra: tuple[tuple[str, int], ...] = ()) -> None:
        """Makes ``hosts`` (and extra addresses) the endpoints of api and db."""
        ports = [(host, self.planes[host].inbound_address()[1]) for host in hosts]
        ports += extra
        catalogue = Catalogue(
            endpoints={
                ServiceName(service): tuple(
                    Endpoint(
                        service=ServiceName(service),
                        host=HostName(host),
                        address="127.0.0.1",
                        port=port,
                    )
                    for host, port in ports
                )
                for service in ("api", "db")
            }
        )
        policy = Policy(
            defaults=ServicePolicy(
                timeouts=self.timeouts,
                limits=self.limits,
                retries=self.retries,
                balancing=self.balancing,
            )
        )
        for name, plane in self.planes.items():
            plane.apply(compile_table(self.settings[name], policy, catalogue))

    async def connect(self, service: str = "api", caller: str = "web") -> Client:
        host, port = self.planes["near"].outbound_address(ServiceName(caller), ServiceName(service))
        client = Client(*await asyncio.open_connection(host, port))
        self._clients.append(client)
        return client

    def metric(self, host: str, name: str, **labels: str) -> float:
        """The sum of the series of ``name`` that have ``labels``."""
        total = 0.0
        for line in self.metrics[host].render().decode().splitlines():
            if line.startswith((name + "{", name + " ")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rpartition(" ")[2])
        return total

    until = staticmethod(until)

    async def stop(self) -> None:
        for client in self._clients:
            client.close()
        for client in self._clients:
            with contextlib.suppress(ConnectionError):
                await client.writer.wait_closed()
        for server in self.servers:
            server.close()
        for plane in self.planes.values():
            await plane.close()
        await self.api.stop()
        await self.db.stop()
        for _ in range(5):  # the loop's own closing of handles
            await asyncio.sleep(0)


@pytest.fixture(params=["shared", "http1"])
async def mesh(
    mesh_pki: MeshPki, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Mesh]:
    """Running: web -> api and web -> db through two hosts.

    ``http1``: as with a peer that does not know how to share a connection.
    """
    if request.param == "http1":
        monkeypatch.setattr(inbound, "ALPN", "something else")
        monkeypatch.setattr(pool_dial, "ALPN", "something else")
    mesh = Mesh(mesh_pki)
    mesh.is_sharing = request.param == "shared"
    await mesh.start()
    yield mesh
    await mesh.stop()


@pytest.fixture
async def quiet_mesh(mesh_pki: MeshPki) -> AsyncIterator[Mesh]:
    """Not started yet."""
    mesh = Mesh(mesh_pki)
    yield mesh
    await mesh.stop()


@pytest.fixture
def mesh_types() -> tuple[type[MeshPki], type[App], type[Client]]:
    """For meshes of another shape."""
    return MeshPki, App, Client
