"""Two real proxies that call each other, and listeners of an attacker's in their way."""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile.consul import HostileConsul, instance
from ports import free_ports

from meshctl.pki.policykey import PolicyKey
from proxy.model.authorization import Intention
from proxy.model.codec import encode_readable
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Snapshot
from proxy.model.policy_keys import PolicyKeys, encode_key
from proxy.model.routing import Match
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Upstream, Workload
from proxy.model.signed import Kind
from proxy.model.snapshot import pack
from proxy.net.server import Server
from proxy.notify import Notifier

TD = TrustDomain("mesh.test")
API, WEB, DB = ServiceName("api"), ServiceName("web"), ServiceName("db")
SECRET = "the-callers-token"
ANSWER = b"the application"

ONLY_GET = Intention(name="only-get", allow=("web",), match=Match(methods=("GET",)))
STRICT = Policy(services={API: ServicePolicy(intentions=(ONLY_GET,))})
"""Of web, api takes GET and nothing else."""
LOOSE = Policy()
"""What an attacker wants: web may do anything."""


def snapshot(generation: int, policy: Policy, trust_domain: str = TD) -> bytes:
    return pack(
        Snapshot(generation=generation, trust_domain=TrustDomain(trust_domain), policy=policy)
    )


async def until(condition: Callable[[], object], deadline_s: float = 20.0) -> None:
    """Polls; the deadline is a test failure."""
    ends = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends, "the condition was not met in time"
        await asyncio.sleep(0.01)


@dataclass
class Listener:
    """Somebody's server: what it was sent, and what it says to each of them."""

    answer: bytes = b""
    received: list[bytes] = field(default_factory=list)
    """One for each connection, what came over TLS already opened."""
    connections: int = 0
    """Accepted, with the handshake done where there is one."""
    port: int = 0

    @property
    def everything(self) -> bytes:
        return b"".join(self.received)

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator["Listener"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = len(self.received)
        self.received.append(b"")
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                self.received[number] += data
                if b"\r\n\r\n" in self.received[number]:
                    length = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.answer)}\r\n\r\n"
                    writer.write(length.encode() + self.answer)
        writer.close()


@dataclass
class HostileMesh:
    """web on the host front calls api on the host back. ``key`` signs for the operator."""

    pki: Any
    consul: HostileConsul
    app: Listener
    folder: Path
    key: PolicyKey = field(default_factory=PolicyKey.generate)
    servers: dict[str, Server] = field(default_factory=dict)
    settings: dict[str, Settings] = field(default_factory=dict)
    _running: list["asyncio.Task[int]"] = field(default_factory=list)

    def signed(self, generation: int, policy: Policy, trust_domain: str = TD) -> bytes:
        return self.key.seal(Kind.POLICY, snapshot(generation, policy, trust_domain))

    async def start(self, name: str, service: ServiceName, **keys: Any) -> Server:
        """The proxy of one host; started again with the files that it left."""
        if name not in self.settings:
            self.settings[name] = self._settings(name, service)
        settings = self.settings[name]
        self.write_keys(name, **keys)
        server = self.servers[name] = Server(settings, notifier=Notifier({}), rng=random.Random(1))
        task = asyncio.ensure_future(server.run())
        self._running.append(task)
        await until(lambda: server.state == "ready" or task.done())
        assert not task.done(), task.result()
        return server

    def write_keys(self, name: str, **changes: Any) -> None:
        """As a deploy does, over SSH."""
        keys = PolicyKeys(trust_domain=TD, keys=(encode_key(self.key.public),), **changes)
        Path(self.settings[name].policy_keys).write_bytes(encode_readable(keys))

    async def stop(self, *names: str) -> None:
        for name in names or tuple(self.servers):
            server = self.servers.pop(name)
            server.stop()
            server.stop()  # at once
        await asyncio.wait(self._running, timeout=20)

    async def both(self) -> None:
        """Runs, with the strict policy in force as generation 5."""
        self.consul.publish(self.signed(5, STRICT))
        await self.start("back", API)
        self.place_api()
        await self.start("front", WEB)
        await until(lambda: all(self.generation(name) == 5 for name in self.servers))
        await until(lambda: self.endpoints() == 1)
        assert await self.call("GET") == (200, ANSWER)
        assert (await self.call("DELETE"))[0] == 403

    def place_api(self) -> None:
        """Where it really is."""
        self.consul.place("api", instance("api", "127.0.0.1", self.settings["back"].inbound.port))

    def status(self, name: str) -> Any:
        return self.servers[name].report.status()

    def generation(self, name: str) -> int:
        return int(self.status(name).generation)

    def endpoints(self) -> int:
        return len(self.status("front").upstreams[0].endpoints)

    async def call(self, method: str) -> tuple[int, bytes]:
        """By web of api, with a secret in it; status and body."""
        workload = self.settings["front"].workloads[0]
        listen = workload.upstreams[0].listen
        assert listen is not None
        reader, writer = await asyncio.open_connection(listen.host, listen.port)
        head = f"{method} / HTTP/1.1\r\nHost: api\r\nAuthorization: {SECRET}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        head_, _, body = answer.partition(b"\r\n\r\n")
        return int(head_.split(b" ")[1]), body

    def context(self, service: str, **leaf: Any) -> ssl.SSLContext:
        """A server with an identity of ``service`` that this mesh's CA gave it (or another)."""
        home = self.pki.issue(service, state_dir=self.folder / "attacker", **leaf)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home / "chain.pem", home / "key.pem")
        return context

    def _settings(self, name: str, service: ServiceName) -> Settings:
        admin, inbound, upstream = free_ports(3)
        state = self.folder / name
        state.mkdir()
        self.pki.issue(service, state_dir=state)
        listen = Address(host="127.0.0.1", port=upstream)
        workload = Workload(
            service=service,
            protocol="http",
            version="v1",
            app=Address(host="127.0.0.1", port=self.app.port),
            health=HealthCheck(),
            allow=(WEB,),
            upstreams=(Upstream(service=API, protocol="http", listen=listen),)
            if service == WEB
            else (),
        )
        return Settings(
            host=HostName(name),
            trust_domain=TD,
            advertise="127.0.0.1",
            release="r",
            admin=Address(host="127.0.0.1", port=admin),
            inbound=Address(host="127.0.0.1", port=inbound),
            consul=Consul(url=self.consul.url),
            state_dir=str(state),
            trust_bundle=str(self.pki.trust_bundle),
            policy_keys=str(state / "policy-keys.json"),
            workloads=(workload,),
            drain_s=0.2,
        )


@asynccontextmanager
async def hostile_mesh(pki: Any, folder: Path) -> AsyncIterator[HostileMesh]:
    consul = HostileConsul()
    await consul.start()
    async with Listener(answer=ANSWER).serving() as app:
        mesh = HostileMesh(pki=pki, consul=consul, app=app, folder=folder)
        try:
            yield mesh
        finally:
            if mesh.servers:
                await mesh.stop()
            await consul.stop()
