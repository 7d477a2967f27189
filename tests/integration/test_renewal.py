"""A proxy that renews its identity by itself, with real signers as processes of their own."""

import asyncio
import random
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from ports import free_ports
from signing.world import API, DOMAIN, HOST, WEB, World

from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.signer.settings import SignerSettings
from proxy.core import renewal as timing
from proxy.model import codec
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, Snapshot
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Upstream, Workload
from proxy.model.status import ProxyStatus, RenewalStatus
from proxy.net.server import Server
from proxy.net.store import FILE_NAME, LastGood
from proxy.notify import Notifier

BOTH = DeployRecord(hosts={HOST: HostRecord(services=(API, WEB))})
NOBODY = "http://127.0.0.1:1"


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Any:
    return {"uvloop": uvloop.new_event_loop}


class SignerProcess:
    """``python -I -m meshctl.signer``, as its unit starts it."""

    def __init__(self, settings: SignerSettings) -> None:
        self.settings = settings
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "meshctl.signer", "--settings"),
            str(Path(self.settings.record).parent / "signer.json"),
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(60):
            while not await self.is_ready():
                assert self._process.returncode is None
                await asyncio.sleep(0.05)

    async def is_ready(self) -> bool:
        try:
            answer = await ask(self.settings.admin.port, "/ready")
        except OSError:
            return False
        return answer == b"ready\n"

    def revoke_all(self) -> None:
        self._tell(DeployRecord())

    def allow_all(self) -> None:
        self._tell(BOTH)

    def _tell(self, record: DeployRecord) -> None:
        Path(self.settings.record).write_bytes(codec.encode(record))
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    async def signed(self) -> int:
        found = codec.decode(await ask(self.settings.admin.port, "/status"), dict[str, Any])
        return int(found["signed"])

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            assert await asyncio.wait_for(self._process.wait(), 30) == 0


async def ask(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    whole = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return whole.partition(b"\r\n\r\n")[2]


class OneHost:
    """A proxy with two workloads, web calling api, and the application behind api."""

    def __init__(self, world: World, signers: tuple[Address, ...]) -> None:
        self.admin, self.inbound, self.upstream, self.app = free_ports(4)
        self.state = world.folder / "proxy"
        self.state.mkdir(mode=0o700)

        def workload(service: ServiceName, upstreams: tuple[Upstream, ...]) -> Workload:
            return Workload(
                service=service,
                protocol="http",
                version="v1",
                app=Address(host="127.0.0.1", port=self.app),
                health=HealthCheck(),
                allow=(WEB,),
                upstreams=upstreams,
            )

        at = Address(host="127.0.0.1", port=self.upstream)
        self.settings = Settings(
            host=HOST,
            trust_domain=DOMAIN,
            advertise="127.0.0.1",
            release="r1",
            admin=Address(host="127.0.0.1", port=self.admin),
            inbound=Address(host="127.0.0.1", port=self.inbound),
            consul=Consul(url=NOBODY),
            state_dir=str(self.state),
            trust_bundle=str(world.bundle),
            workloads=(
                workload(API, ()),
                workload(WEB, (Upstream(service=API, protocol="http", listen=at),)),
            ),
            signers=signers,
            drain_s=1.0,
        )
        endpoint = Endpoint(
            service=API, host=HOST, address="127.0.0.1", port=self.inbound, version="v1"
        )
        known = LastGood(
            trust_domain=DOMAIN,
            snapshot=Snapshot(generation=1, trust_domain=DOMAIN, policy=Policy()),
            catalogue=Catalogue(endpoints={API: (endpoint,)}),
        )
        (self.state / FILE_NAME).write_bytes(codec.encode(known))
        self.failed: list[str] = []
        self.answered = 0

    async def run(self, stack: AsyncExitStack) -> Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        async def serve_quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        app = await asyncio.start_server(serve_quietly, "127.0.0.1", self.app)
        stack.callback(app.close)
        server = Server(self.settings, notifier=Notifier({}), rng=random.Random(3))
        task = asyncio.ensure_future(server.run())

        async def stop() -> None:
            server.stop()
            server.stop()
            assert await asyncio.wait_for(task, 30) == 0

        stack.push_async_callback(stop)
        async with asyncio.timeout(60):
            while server.state != "ready":
                assert not task.done()
                await asyncio.sleep(0.02)
        return server

    def call_on(self, stack: AsyncExitStack) -> None:
        """Requests without a pause, each over a new connection to the proxy."""
        task = asyncio.ensure_future(self._call_on())

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(stop)

    async def _call_on(self) -> None:
        while True:
            try:
                answer = await self._call()
            except OSError as error:
                self.failed.append(repr(error))
            else:
                if answer.startswith(b"HTTP/1.1 200"):
                    self.answered += 1
                else:
                    self.failed.append(answer[:300].decode())
            await asyncio.sleep(0.02)

    async def _call(self) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
            return await asyncio.wait_for(reader.read(), 30)
        finally:
            writer.transport.abort()

    async def status(self) -> ProxyStatus:
        return codec.decode(await ask(self.admin, "/status"), ProxyStatus)

    async def serials(self) -> dict[str, str]:
        return {
            each.service: each.identity.serial if each.identity else ""
            for each in (await self.status()).workloads
        }

    async def renewal(self, service: ServiceName) -> RenewalStatus:
        found = next(one for one in (await self.status()).workloads if one.service == service)
        assert found.renewal is not None
        return found.renewal

    async def until_renewed(self, before: dict[str, str], within_s: float = 100.0) -> None:
        async with asyncio.timeout(within_s):
            while set(before.values()) & set((await self.serials()).values()):
                await asyncio.sleep(0.1)

    async def metric(self, line: str) -> float:
        text = (await ask(self.admin, "/metrics")).decode()
        return next(
            (float(each.split()[-1]) for each in text.splitlines() if each.startswith(line)), 0.0
        )


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "mesh")


async def start_signers(
    world: World, stack: AsyncExitStack, count: int
) -> tuple[SignerProcess, ...]:
    ports = free_ports(2 * count)
    made = tuple(
        SignerProcess(
            world.signer(
                f"s{number}",
                port=ports[2 * number],
                admin=ports[2 * number + 1],
                record=BOTH,
                leaf_life_s=60.0,
            )
        )
        for number in range(count)
    )
    for each in made:
        await each.start()
        stack.push_async_callback(each.stop)
    return made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewal after a few seconds instead of a half of the life; everything else as it is."""
    monkeypatch.setattr(timing, "FROM", 0.02)
    monkeypatch.setattr(timing, "UNTIL", 0.05)


def on_disk(world: World, host: OneHost, life_s: float) -> None:
    for service in (API, WEB):
        world.identity(host.state, service, HOST, life_s)


@pytest.mark.timeout(300)
async def test_leaves_of_a_minute_are_renewed_under_load_and_no_request_fails(
    world: World, stack: AsyncExitStack
) -> None:
    """The real thing: nothing is made faster. Takes most of a minute."""
    signers = await start_signers(world, stack, 2)
    host = OneHost(world, tuple(each.settings.listen for each in signers))
    on_disk(world, host, 60.0)
    await host.run(stack)
    before = await host.serials()
    host.call_on(stack)

    await host.until_renewed(before)

    answered = host.answered
    async with asyncio.timeout(60):
        while host.answered < answered + 20:
            await asyncio.sleep(0.05)
    assert host.failed == []
    assert sum([await each.signed() for each in signers]) >= 2
    for service in (API, WEB):
        line = f'mesh_certificate_renewals_total{{service="{service}",result="renewed"}}'
        assert await host.metric(line) == 1
        assert (await host.renewal(service)).last_error == ""
        assert await host.metric(f'mesh_certificate_next_renewal_seconds{{service="{service}"}}')


@pytest.mark.timeout(300)
async def test_one_signer_is_enough_and_without_any_the_leaf_goes_on(
    world: World, stack: AsyncExitStack, soon: None
) -> None:
    one, two = await start_signers(world, stack, 2)
    host = OneHost(world, (one.settings.listen, two.settings.listen))
    on_disk(world, host, 300.0)
    await one.stop()
    await host.run(stack)
    host.call_on(stack)

    await host.until_renewed(await host.serials())  # one stopped: the other serves
    await two.stop()
    async with asyncio.timeout(100):
        while (await host.renewal(API)).failures == 0:
            await asyncio.sleep(0.1)

    renewal = await host.renewal(API)
    assert "cannot be reached: Connection refused" in renewal.last_error
    assert not renewal.is_revoked
    before = await host.serials()
    await one.start()
    stack.push_async_callback(one.stop)
    await host.until_renewed(before)
    assert (await host.renewal(API)).failures == 0
    assert host.failed == []


@pytest.mark.timeout(300)
async def test_who_is_revoked_is_told_goes_on_asking_and_is_taken_back(
    world: World, stack: AsyncExitStack, soon: None
) -> None:
    (signer,) = await start_signers(world, stack, 1)
    signer.revoke_all()
    host = OneHost(world, (signer.settings.listen,))
    on_disk(world, host, 60.0)
    await host.run(stack)
    before = await host.serials()

    async with asyncio.timeout(100):
        while not (await host.renewal(API)).is_revoked:
            await asyncio.sleep(0.1)
    assert "not deployed there" in (await host.renewal(API)).last_error
    assert (await host.serials())["api"] == before["api"]
    signer.allow_all()

    await host.until_renewed({"api": before["api"]})


@pytest.mark.timeout(300)
async def test_what_is_not_a_signer_gets_no_request(
    world: World, stack: AsyncExitStack, soon: None
) -> None:
    """The proxy's own inbound port: a server of the same mesh, with a good certificate."""
    host = OneHost(world, ())
    impostor = Address(host="127.0.0.1", port=free_ports(1)[0])
    leaf = world.leaf(API)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf)
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(listen, impostor.host, impostor.port, ssl=context)
    stack.callback(server.close)
    host.settings = msgspec.structs.replace(host.settings, signers=(impostor,))
    on_disk(world, host, 60.0)
    await host.run(stack)

    async with asyncio.timeout(100):
        while (await host.renewal(API)).failures == 0:
            await asyncio.sleep(0.1)
    assert "is not a signer" in (await host.renewal(API)).last_error
    assert not any(received)
