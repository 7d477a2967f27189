"""Several processes as one proxy, seen from outside: traffic, metrics, policy, death, drain.

A real proxy process with three workers, both sides of the mesh in one: the client dials web's
port for api, which leads over mTLS to the inbound port of the same proxy, and so to the
application. Which worker has which connection is read from /proc.
"""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import promtool
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from proxy.core.stats import Stats
from proxy.model.authorization import Intention
from proxy.model.codec import decode, encode
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import HostName, ServiceName, server_name
from proxy.model.observed import Observed
from proxy.model.policy import Policy, ServicePolicy, Snapshot, Timeouts
from proxy.model.recent import Ended, SeenRequests
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Upstream, Workload
from proxy.model.status import ProxyStatus
from proxy.net.store import FILE_NAME, LastGood

API, WEB = ServiceName("api"), ServiceName("web")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LIFE_S = 90
"""Of any process started here, whatever happens to the test."""


class App:
    """Answers ``ok``; a request for /slow once ``gate`` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waiting = 0
        self.served = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /slow "):
                    self.waiting += 1
                    await self.gate.wait()
                self.served += 1
                writer.write(OK)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


class Client:
    """One connection, opened again after an error; counts what it saw."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.ok = self.failed = 0
        self.writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    async def open(self) -> None:
        self._reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def get(self, path: str = "/", deadline_s: float = 10.0, request_id: str = "") -> int:
        """The status; 0: the connection ended instead."""
        try:
            async with asyncio.timeout(deadline_s):
                if self.writer is None:
                    await self.open()
                assert self._reader is not None
                assert self.writer is not None
                more = f"X-Request-Id: {request_id}\r\n" if request_id else ""
                self.writer.write(f"GET {path} HTTP/1.1\r\nHost: api\r\n{more}\r\n".encode())
                head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                await self._reader.readexactly(length)
                status = int(head.split(b" ")[1])
                if b"connection: close" in head:
                    self.close()
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            status = 0
        self.ok += status == 200
        self.failed += status != 200
        return status

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class Proxy:
    """A proxy process and what is known of it."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self.clients: list[Client] = []

    def start(self) -> None:
        path = self.directory / "proxy.json"
        path.write_bytes(encode(self.settings))
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "--settings", str(path)], stderr=log
            )

    async def ready(self) -> None:
        async with asyncio.timeout(20):
            while True:
                assert self.process is not None
                assert self.process.poll() is None, self.log()
                try:
                    if (await self.ask("GET /ready"))[0] == 200:
                        return
                except OSError:
                    pass
                await asyncio.sleep(0.02)

    async def ask(self, line: str) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.settings.admin.port)
        writer.write(f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body

    async def status(self) -> ProxyStatus:
        return decode((await self.ask("GET /status"))[1], ProxyStatus)

    async def count(self, name: str, **labels: str) -> float:
        """The sum over the series with these labels."""
        lines = (await self.ask("GET /metrics"))[1].decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{name}{{", f"{name} "))
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        )

    async def alive(self, count: int, deadline_s: float = 10.0) -> ProxyStatus:
        async with asyncio.timeout(deadline_s):
            while (status := await self.status()).workers.alive != count:
                await asyncio.sleep(0.01)
        return status

    @property
    def port(self) -> int:
        listen = self.settings.workloads[0].upstreams[0].listen
        assert listen is not None
        return listen.port

    async def connect(self, count: int) -> list[Client]:
        clients = [Client(self.port) for _ in range(count)]
        self.clients += clients
        for client in clients:
            await client.open()
        return clients

    def log(self) -> str:
        return (self.directory / "log").read_text()


def connections(pid: int, port: int) -> set[str]:
    """Inodes of the established sockets with this local port that the process holds."""
    return {inode for inode, local, _ in established(pid) if local == port}


def established(pid: int) -> set[tuple[str, int, int]]:
    """Inode, local and remote port of each established socket that the process holds."""
    listed = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01":
            listed[fields[9]] = tuple(int(fields[at].split(":")[1], 16) for at in (1, 2))
    held = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    return {(inode, *ports) for inode, ports in listed.items() if inode in held}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stop(process: "subprocess.Popen[bytes]") -> None:
    for _ in range(50):
        process.terminate()  # the second one: now
        try:
            process.wait(0.1)
            return
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.wait(5)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    await app.start()
    yield app
    await app.stop()


Make = Callable[..., Awaitable[Proxy]]


@pytest.fixture
async def make(mesh_pki: Any, free_ports: Any, tmp_path: Path, app: App) -> AsyncIterator[Make]:
    """``await make(workers=3)``: ready. ``is_started=False``: its settings only."""
    made: list[Proxy] = []

    async def start(
        *, workers: int = 3, consul: str = "http://127.0.0.1:1", is_started: bool = True
    ) -> Proxy:
        admin, inbound, upstream, plaintext = free_ports(4)
        for service in (API, WEB):
            mesh_pki.issue(service)
        settings = Settings(
            host=HostName("h1"),
            trust_domain=mesh_pki.domain,
            advertise="127.0.0.1",
            release="r1",
            config="c1",
            admin=Address(host="127.0.0.1", port=admin),
            inbound=Address(host="127.0.0.1", port=inbound),
            consul=Consul(url=consul),
            state_dir=str(mesh_pki.state_dir),
            log_dir=str(tmp_path / "access"),
            trust_bundle=str(mesh_pki.trust_bundle),
            drain_s=8.0,
            workers=workers,
            workloads=tuple(
                Workload(
                    service=service,
                    protocol="http",
                    version="v1",
                    app=Address(host="127.0.0.1", port=app.port),
                    health=HealthCheck(interval_s=1.0),
                    allow=(WEB,),
                    plaintext=Address(host="127.0.0.1", port=plaintext) if service == API else None,
                    upstreams=(
                        Upstream(
                            service=API,
                            protocol="http",
                            listen=Address(host="127.0.0.1", port=upstream),
                        ),
                    )
                    if service == WEB
                    else (),
                )
                for service in (WEB, API)
            ),
        )
        endpoint = Endpoint(
            service=API, host=HostName("h1"), address="127.0.0.1", port=inbound, version="v1"
        )
        snapshot = Snapshot(
            generation=1,
            trust_domain=mesh_pki.domain,
            policy=Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=30.0))),
        )
        last = LastGood(
            trust_domain=mesh_pki.domain,
            snapshot=snapshot,
            catalogue=Catalogue(endpoints={API: (endpoint,)}),
        )
        (mesh_pki.state_dir / FILE_NAME).write_bytes(encode(last))
        proxy = Proxy(settings, tmp_path)
        made.append(proxy)
        if is_started:
            proxy.start()
            await proxy.ready()
        return proxy

    yield start
    for proxy in made:
        for client in proxy.clients:
            client.close()
        process = proxy.process
        if process is not None and process.poll() is None:
            await asyncio.to_thread(stop, process)
    await asyncio.sleep(0.01)


async def test_every_worker_serves_and_the_sums_are_what_the_clients_counted(make: Make) -> None:
    proxy = await make()
    status = await proxy.alive(3)
    assert (status.workers.desired, len(set(status.workers.pids)), status.workers.restarts) == (
        *(3, 3),
        0,
    )
    clients = await proxy.connect(60)
    for _ in range(5):
        assert {await each for each in asyncio.as_completed([c.get() for c in clients])} == {200}
    held = {pid: len(connections(pid, proxy.port)) for pid in status.workers.pids}
    assert sum(held.values()) == 60
    assert min(held.values()) >= 5
    for reporter in ("source", "destination"):
        labels = {"reporter": reporter, "response_code": "200"}
        assert await proxy.count("istio_requests_total", **labels) == 300
        assert await proxy.count("istio_request_duration_milliseconds_count", **labels) == 300
    assert await proxy.count("mesh_workers") == 3
    upstream = await proxy.count("mesh_upstream_connections", reporter="source")
    assert upstream == sum(
        len(connections(pid, proxy.settings.inbound.port)) for pid in status.workers.pids
    )


async def test_one_worker_is_one_process(make: Make) -> None:
    proxy = await make(workers=1)
    (client,) = await proxy.connect(1)
    assert await client.get() == 200
    status = await proxy.status()
    assert proxy.process is not None
    assert status.workers.pids == (proxy.process.pid,)
    assert (status.workers.desired, status.workers.alive) == (1, 1)
    children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children").read_text()
    assert children == ""


async def test_a_killed_worker_costs_its_own_connections_and_comes_back(make: Make) -> None:
    proxy = await make()
    before = await proxy.alive(3)
    clients = await proxy.connect(24)
    is_over = False

    async def load(client: Client) -> None:
        while not is_over:
            await client.get(deadline_s=5.0)

    seen: list[float] = []

    async def watch() -> None:
        while not is_over:
            seen.append(await proxy.count("istio_requests_total", reporter="source"))
            await asyncio.sleep(0.02)

    running = [asyncio.ensure_future(load(client)) for client in clients]
    running.append(asyncio.ensure_future(watch()))
    async with asyncio.timeout(10):
        while min(client.ok for client in clients) < 20:
            await asyncio.sleep(0.01)
    victim = before.workers.pids[1]
    at_stake = connections(victim, proxy.port) | connections(victim, proxy.settings.inbound.port)
    assert at_stake
    os.kill(victim, signal.SIGKILL)
    killed_s = time.monotonic()
    while victim in (after := await proxy.alive(3)).workers.pids:
        await asyncio.sleep(0.005)
    back_s = time.monotonic() - killed_s
    before_s = {client: client.ok for client in clients}
    async with asyncio.timeout(10):
        while min(client.ok - before_s[client] for client in clients) < 20:
            await asyncio.sleep(0.01)
    is_over = True
    await asyncio.gather(*running)

    assert sum(client.failed for client in clients) <= len(at_stake)
    assert back_s < 5.0  # two seconds where nothing else runs; this machine is shared
    assert (after.workers.desired, after.workers.restarts) == (3, 1)
    assert await proxy.count("mesh_worker_restarts_total") == 1
    assert seen == sorted(seen)
    # The new one has a share of the new connections.
    await proxy.connect(40)
    (newcomer,) = set(after.workers.pids) - set(before.workers.pids)
    async with asyncio.timeout(5):
        while not connections(newcomer, proxy.port):
            await asyncio.sleep(0.01)
    # What it counted between being asked last and its death is lost, at most a second's worth.
    answered = sum(client.ok for client in clients)
    counted = await proxy.count("istio_requests_total", reporter="source", response_code="200")
    assert answered * 0.5 < counted <= answered + len(at_stake)


async def test_nothing_fails_that_arrives_while_a_worker_is_down(
    make: Make, tmp_path: Path
) -> None:
    proxy = await make(workers=2)
    status = await proxy.alive(2)
    os.kill(status.workers.pids[1], signal.SIGKILL)
    # Each on a connection of its own: about half hash to the seat that is empty.
    fresh = [Client(proxy.port) for _ in range(40)]
    proxy.clients += fresh
    assert await asyncio.gather(*(each.get() for each in fresh)) == [200] * 40


async def test_a_drain_finishes_what_every_worker_has_in_flight(make: Make, app: App) -> None:
    proxy = await make()
    status = await proxy.alive(3)
    clients = await proxy.connect(24)
    asked = [asyncio.ensure_future(client.get("/slow")) for client in clients]
    async with asyncio.timeout(10):
        while app.waiting < 24:
            await asyncio.sleep(0.01)
    assert all(connections(pid, proxy.port) for pid in status.workers.pids)
    assert proxy.process is not None
    proxy.process.terminate()
    async with asyncio.timeout(5):
        while (await proxy.ask("GET /ready")) != (503, b"draining\n"):
            await asyncio.sleep(0.01)
    # Callers that have not noticed yet are served, and told, whichever worker they reach.
    late = await proxy.connect(12)
    async with asyncio.timeout(5):
        while left := [client for client in late if client.writer is not None]:
            assert set(await asyncio.gather(*(client.get() for client in left))) == {200}
            await asyncio.sleep(0.01)
    app.gate.set()
    assert await asyncio.gather(*asked) == [200] * 24
    assert await asyncio.to_thread(proxy.process.wait, 15) == 0
    assert not any(is_running(pid) for pid in status.workers.pids)
    assert '"drained"' in proxy.log()
    assert "error" not in {json.loads(line)["level"] for line in proxy.log().splitlines()}


async def test_when_the_main_process_is_killed_the_others_finish_and_free_the_addresses(
    make: Make, app: App
) -> None:
    proxy = await make()
    main, *others = (await proxy.alive(3)).workers.pids
    clients = await proxy.connect(24)
    asked = [asyncio.ensure_future(client.get("/slow")) for client in clients]
    async with asyncio.timeout(10):
        while app.waiting < 24:
            await asyncio.sleep(0.01)
    # One connection between two workers carries many requests: they live or die together.
    inbound = proxy.settings.inbound.port
    dying = {remote for _, local, remote in established(main) if local == inbound}
    kept = sum(
        len(connections(other, proxy.port))
        for other in others
        if dying.isdisjoint({local for _, local, to in established(other) if to == inbound})
    )
    os.kill(main, signal.SIGKILL)
    assert proxy.process is not None
    proxy.process.wait(5)
    proxy.process = None
    proxy.start()  # a successor has the addresses at once, while the others finish
    await proxy.ready()
    (fresh,) = await proxy.connect(1)
    assert await fresh.get() == 200
    assert any(is_running(pid) for pid in others)
    app.gate.set()
    answers = await asyncio.gather(*asked)
    assert answers.count(200) >= kept
    async with asyncio.timeout(15):
        while any(is_running(pid) for pid in others):
            await asyncio.sleep(0.05)


async def test_reloaded_identities_are_in_force_in_every_worker(make: Make, mesh_pki: Any) -> None:
    proxy = await make()
    await proxy.alive(3)
    directory = mesh_pki.issue("api")
    code, body = await proxy.ask("POST /reload")
    assert (code, json.loads(body)["errors"]) == (200, {})
    home = Path(proxy.settings.state_dir) / "identities/web/current"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(mesh_pki.trust_bundle)
    context.load_cert_chain(home / "chain.pem", home / "key.pem")
    shown = set()
    for _ in range(24):  # all of one worker's: once in ten thousand runs
        _, writer = await asyncio.open_connection(
            "127.0.0.1",
            proxy.settings.inbound.port,
            ssl=context,
            server_hostname=server_name(mesh_pki.domain, API),
        )
        certificate = writer.get_extra_info("ssl_object").getpeercert()
        shown.add(certificate["serialNumber"].lower().lstrip("0"))
        writer.transport.abort()
    assert shown == {directory.name}
    (home.parent.parent / "api/current/chain.pem").write_text("rubbish")
    code, body = await proxy.ask("POST /reload")
    assert (code, list(json.loads(body)["errors"])) == (207, ["api"])


@pytest.mark.parametrize("consul", ["embedded"], indirect=True)
async def test_a_policy_is_acknowledged_when_every_worker_runs_it(
    make: Make, consul: Any, app: App
) -> None:
    proxy = await make(consul=consul.url, is_started=False)

    async def publish(generation: int, request_s: float) -> None:
        timeouts = Timeouts(connect_s=1.5, request_s=request_s)
        policy = Policy(defaults=ServicePolicy(timeouts=timeouts))
        snapshot = Snapshot(
            generation=generation, trust_domain=proxy.settings.trust_domain, policy=policy
        )
        path = "/v1/kv/meshctl/snapshot"
        await asyncio.to_thread(consul.call, "PUT", path, encode(snapshot))

    async def acknowledged() -> int:
        checks = await asyncio.to_thread(consul.checks, "mesh-web")
        _, output = checks.get("mesh-web-h1:proxy", ("", ""))
        return int(json.loads(output)["generation"]) if output.startswith("{") else 0

    async def until_acknowledged(generation: int) -> None:
        async with asyncio.timeout(15):
            while await acknowledged() != generation:
                await asyncio.sleep(0.02)

    await publish(2, 30.0)
    proxy.start()
    await proxy.ready()
    await until_acknowledged(2)
    (_, stopped, _) = (await proxy.alive(3)).workers.pids
    os.kill(stopped, signal.SIGSTOP)
    try:
        await publish(3, 2.0)
        async with asyncio.timeout(10):
            while b'"request_s":2.0' not in (await proxy.ask("GET /config"))[1]:
                assert (await proxy.status()).refused == ""
                await asyncio.sleep(0.02)
        ends_s = time.monotonic() + 1.0
        while time.monotonic() < ends_s:
            assert await acknowledged() == 2
            assert (await proxy.status()).generation == 2
            await asyncio.sleep(0.05)
    finally:
        os.kill(stopped, signal.SIGCONT)
    await until_acknowledged(3)
    assert (await proxy.status()).generation == 3
    clients = await proxy.connect(24)
    assert set(await asyncio.gather(*(client.get("/slow") for client in clients))) == {504}


_ALL = Intention(name="all", allow=("*",))


@pytest.mark.parametrize("consul", ["embedded"], indirect=True)
async def test_a_policy_that_cuts_does_so_in_every_worker(
    make: Make, consul: Any, app: App
) -> None:
    proxy = await make(consul=consul.url, is_started=False)

    async def publish(generation: int, deny: str, *, cut_denied: bool) -> None:
        closed = Intention(name="closed", deny=(deny,))
        policy = Policy(services={API: ServicePolicy(intentions=(_ALL, closed))})
        snapshot = Snapshot(
            generation=generation,
            trust_domain=proxy.settings.trust_domain,
            policy=policy,
            cut_denied=cut_denied,
        )
        path = "/v1/kv/meshctl/snapshot"
        await asyncio.to_thread(consul.call, "PUT", path, encode(snapshot))
        async with asyncio.timeout(15):
            while (await proxy.status()).generation != generation:
                await asyncio.sleep(0.02)

    proxy.start()
    await proxy.ready()
    await publish(2, "other", cut_denied=True)
    await proxy.alive(3)
    clients = await proxy.connect(24)
    asked = [asyncio.ensure_future(client.get("/slow")) for client in clients]
    async with asyncio.timeout(10):
        while app.waiting < 24:
            await asyncio.sleep(0.01)
    await publish(3, "web", cut_denied=False)
    assert not any(each.done() for each in asked)
    await publish(4, "*", cut_denied=True)
    assert await asyncio.gather(*asked) == [403] * 24
    denied = {"source_workload": "web", "policy": "api/closed"}
    assert await proxy.count("mesh_authorization_denials_total", **denied) == 24


async def test_a_request_is_found_whichever_worker_served_it(make: Make) -> None:
    proxy = await make()
    await proxy.alive(3)
    clients = await proxy.connect(30)
    for number, client in enumerate(clients):
        assert client.writer is not None
        assert await client.get(f"/?n={number}", request_id=f"r-{number}") == 200
    for number in range(len(clients)):
        status, body = await proxy.ask(f"GET /requests/r-{number}")
        found = decode(body, SeenRequests).requests
        assert status == 200
        assert {(each.id, each.path) for each in found} == {(f"r-{number}", "/")}
        assert sorted(each.side for each in found) == ["destination", "source"]
    newest = decode((await proxy.ask("GET /requests"))[1], SeenRequests).requests
    assert len(newest) == 60
    assert [each.ended_at for each in newest] == sorted(
        (each.ended_at for each in newest), reverse=True
    )


async def test_what_ended_since_is_told_once_whichever_worker_served_it(make: Make) -> None:
    proxy = await make()
    await proxy.alive(3)
    clients = await proxy.connect(30)
    assert [await client.get("/before") for client in clients] == [200] * 30
    first = decode((await proxy.ask("GET /ended"))[1], Ended)
    assert (first.requests, len(first.next.split("_"))) == ((), 3)
    for number, client in enumerate(clients):
        assert await client.get("/", request_id=f"r-{number}") == 200
    cursor = first.next.removeprefix("-,all,")
    told = decode((await proxy.ask(f"GET /ended/api,all,{cursor}"))[1], Ended)
    assert told.missed == 0
    assert sorted(each.id for each in told.requests if each.side == "source") == sorted(
        f"r-{number}" for number in range(30)
    )
    assert [each.ended_at for each in told.requests] == sorted(
        each.ended_at for each in told.requests
    )
    assert {each.response_bytes for each in told.requests} == {2}
    assert all(each.trace_id for each in told.requests)
    nothing = decode((await proxy.ask(f"GET /ended/api,bad,{cursor}"))[1], Ended)
    assert nothing.requests == ()
    again = decode((await proxy.ask(f"GET /ended/{told.next}"))[1], Ended)
    assert again.requests == ()
    assert (await proxy.ask("GET /ended/api,some,-"))[0] == 400


async def test_calls_are_looked_at_in_every_worker_and_told_as_one(make: Make) -> None:
    proxy = await make()
    await proxy.alive(3)
    clients = await proxy.connect(30)
    assert [await client.get("/users/1") for client in clients] == [200] * 30
    assert decode((await proxy.ask("GET /observed"))[1], Observed) == Observed()
    for wrong in ("POST /observe", "POST /observe/soon", "POST /observe/-1", "POST /observe/9999"):
        assert (await proxy.ask(wrong))[0] == 400
    assert (await proxy.ask("GET /observe/60"))[0] == 405
    assert (await proxy.ask("POST /observe/60"))[0] == 200
    for number, client in enumerate(clients):
        assert await client.get(f"/users/{number}") == 200
    told = decode((await proxy.ask("GET /observed"))[1], Observed)
    assert told.left_s > 0
    (call,) = told.calls
    assert (call.caller, call.service, call.path) == (WEB, API, "/users/*")
    assert call.allowed == 30
    assert (await proxy.ask("POST /observe/0"))[0] == 200
    assert await clients[0].get("/users/1") == 200
    assert decode((await proxy.ask("GET /observed"))[1], Observed) == Observed()


async def test_plaintext_callers_are_refused_by_every_worker_and_told_as_one(make: Make) -> None:
    proxy = await make()
    await proxy.alive(3)
    address = proxy.settings.workloads[1].plaintext
    assert address is not None
    clients = [Client(address.port) for _ in range(24)]
    proxy.clients += clients
    assert [await client.get() for client in clients] == [403] * 24
    (told,) = decode((await proxy.ask("GET /plaintext"))[1], Observed).plaintext
    assert (told.service, told.source, told.count) == (API, "127.0.0.1", 24)


OPEN_METRICS = "Accept: application/openmetrics-text; version=1.0.0\r\n"


async def scraped(proxy: Proxy, headers: str = "") -> tuple[str, bytes]:
    """Content type and body of the metrics."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.settings.admin.port)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    return head.lower().split(b"content-type: ")[1].split(b"\r\n")[0].decode(), body


async def used(proxy: Proxy) -> None:
    """Has had requests of many kinds through all its workers."""
    clients = await proxy.connect(30)
    for path in ("/", "/a%22b", "/x"):
        assert {await each for each in asyncio.as_completed([c.get(path) for c in clients])} == {
            200
        }
    async with asyncio.timeout(10):
        while await proxy.count("istio_requests_total", reporter="destination") < 90:
            await asyncio.sleep(0.05)


async def test_the_metrics_in_both_forms_are_what_their_readers_parse(make: Make) -> None:
    proxy = await make()
    await proxy.alive(3)
    await used(proxy)
    kind, older = await scraped(proxy)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    text = {each.name: each for each in text_string_to_metric_families(older.decode())}
    kind, newer = await scraped(proxy, OPEN_METRICS)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = {each.name: each for each in open_metrics_families(newer.decode())}
    assert families.keys() == text.keys()
    for each in (families, text):
        requests = each["istio_requests"].samples
        assert {sample.name for sample in requests} == {"istio_requests_total"}
        assert sum(s.value for s in requests if s.labels["reporter"] == "source") == 90
    assert {each.type for each in families.values()} == {"counter", "gauge", "histogram"}


async def test_promtool_has_nothing_to_say_but_that_istio_counts_in_milliseconds(
    make: Make,
) -> None:
    binary = await asyncio.to_thread(promtool.found, "promtool")
    proxy = await make()
    await proxy.alive(3)
    await used(proxy)
    _, body = await scraped(proxy)
    result = await asyncio.to_thread(
        subprocess.run,
        [binary, "check", "metrics"],
        input=body,
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = set((result.stdout + result.stderr).decode().splitlines())
    assert said == {
        f'{name} use base unit "seconds" instead of "milliseconds"'
        for name in (
            "istio_request_duration_milliseconds",
            "mesh_route_request_duration_milliseconds",
            "mesh_endpoint_request_duration_milliseconds",
        )
    }


async def test_the_figures_for_programs_are_those_of_all_workers(make: Make) -> None:
    proxy = await make()
    await proxy.alive(3)
    await used(proxy)
    status, body = await proxy.ask("GET /stats")
    stats = decode(body, Stats)
    assert (status, stats.host, stats.uptime_s > 0) == (200, "h1", True)
    (requests,) = (each for each in stats.families if each.name == "istio_requests_total")
    sides = [labels[requests.label_names.index("reporter")] for labels, _ in requests.series]
    assert sorted(sides) == ["destination", "source"]
    assert [figures for _, figures in requests.series] == [[90], [90]]
    (cluster,) = stats.clusters
    assert [(each.host, each.state) for each in cluster.endpoints] == [("h1", "available")]


async def test_all_workers_write_their_lines_to_one_file(make: Make, app: App) -> None:
    proxy = await make()
    await proxy.alive(3)
    await app.stop()
    clients = await proxy.connect(30)
    assert {await client.get() for client in clients} == {503}
    answered = await proxy.count("istio_requests_total")
    async with asyncio.timeout(20):
        while await proxy.count("mesh_access_log_lines_total") < answered:
            await asyncio.sleep(0.05)
    file = Path(proxy.settings.log_dir) / "access.log"
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert len(lines) == answered >= 30
    assert {(line["log"], line["status"]) for line in lines} == {("access", 503)}
    assert [line["side"] for line in lines].count("source") == 30
    writers = [pid for pid in (await proxy.status()).workers.pids if _has_open(pid, file)]
    assert len(writers) >= 2


def _has_open(pid: int, file: Path) -> bool:
    found = Path(f"/proc/{pid}/fd").iterdir()
    return any(each.is_symlink() and os.readlink(each) == str(file) for each in found)
