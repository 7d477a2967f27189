"""The whole proxy in this process: start, cold start, readiness, reload, drain, stop."""

import asyncio
import datetime
import json
import random
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.core.metrics import Metrics
from proxy.model.codec import decode, encode
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy, ServicePolicy, Snapshot, Timeouts
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Upstream, Workload
from proxy.model.settings import Metrics as Placement
from proxy.model.status import ProxyStatus
from proxy.net import server as module
from proxy.net.dataplane import DataPlane, ListenError
from proxy.net.server import Server, StartError
from proxy.net.store import FILE_NAME, LastGood
from proxy.notify import Notifier

API, WEB = ServiceName("api"), ServiceName("web")
SLOW = Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=60.0)))
NOBODY = "http://127.0.0.1:1"


@dataclass
class Host:
    """Settings of one host, and its running server."""

    settings: Settings
    server: Server | None = None
    task: "asyncio.Task[int] | None" = None
    planes: list[DataPlane] = field(default_factory=list)

    async def ask(self, line: str) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.settings.admin.port)
        writer.write(f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body

    async def status(self) -> ProxyStatus:
        code, body = await self.ask("GET /status")
        assert code == 200
        return decode(body, ProxyStatus)

    async def is_ready(self) -> bool:
        try:
            return (await self.ask("GET /ready"))[0] == 200
        except OSError:
            return False

    async def ready(self, deadline_s: float = 10.0) -> None:
        async with asyncio.timeout(deadline_s):
            while not await self.is_ready():
                assert self.task is not None
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.01)


@pytest.fixture
async def hosts(mesh_pki: Any, free_ports: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """``hosts.start(name, …)``; every host has one workload, web calls api."""

    class Hosts:
        def __init__(self) -> None:
            self.all: list[Host] = []
            self.app_port = free_ports(1)[0]

        def make(
            self,
            name: str,
            service: ServiceName,
            *,
            consul: str = NOBODY,
            identity: bool = True,
            drain_s: float = 2.0,
        ) -> Host:
            admin, inbound, upstream = free_ports(3)
            state = tmp_path / name
            state.mkdir()
            if identity:
                mesh_pki.issue(service, state_dir=state)
            workload = Workload(
                service=service,
                protocol="http",
                version="v1",
                app=Address(host="127.0.0.1", port=self.app_port),
                health=HealthCheck(kind="http", path="/", interval_s=0.1),
                allow=(WEB,),
                upstreams=()
                if service == API
                else (
                    Upstream(
                        service=API,
                        protocol="http",
                        listen=Address(host="127.0.0.1", port=upstream),
                    ),
                ),
            )
            host = Host(
                Settings(
                    host=HostName(name),
                    trust_domain=mesh_pki.domain,
                    advertise="127.0.0.1",
                    release="r1",
                    config="c1",
                    admin=Address(host="127.0.0.1", port=admin),
                    inbound=Address(host="127.0.0.1", port=inbound),
                    consul=Consul(url=consul),
                    state_dir=str(state),
                    trust_bundle=str(mesh_pki.trust_bundle),
                    workloads=(workload,),
                    drain_s=drain_s,
                )
            )
            self.all.append(host)
            return host

        def run(self, host: Host, **options: Any) -> Host:
            def make(settings: Settings, metrics: Metrics) -> DataPlane:
                plane = options.get("plane", DataPlane)(settings, metrics)
                host.planes.append(plane)
                return plane

            host.server = Server(
                host.settings,
                notifier=options.get("notifier") or Notifier({}),
                rng=random.Random(1),
                make_dataplane=make,
            )
            host.task = asyncio.ensure_future(host.server.run())
            return host

    made = Hosts()
    yield made
    for host in made.all:
        if host.task is not None and not host.task.done():
            assert host.server is not None
            host.server.stop()
            host.server.stop()
            await asyncio.wait({host.task}, timeout=10)
    await asyncio.sleep(0.01)


@pytest.fixture
async def app(hosts: Any) -> AsyncIterator[list[str]]:
    """The application of every workload: says hello."""
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", hosts.app_port)
    yield heads
    server.close()
    await asyncio.sleep(0.01)


async def call(host: Host) -> int:
    """One request of the workload to its upstream: the status."""
    listen = host.settings.workloads[0].upstreams[0].listen
    reader, writer = await asyncio.open_connection(listen.host, listen.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
    head = await asyncio.wait_for(reader.readline(), 10)
    await reader.read()
    writer.close()
    return int(head.split(b" ")[1])


def keep_on_disk(host: Host, api: Host, generation: int = 7) -> None:
    endpoint = Endpoint(
        service=API,
        host=api.settings.host,
        address="127.0.0.1",
        port=api.settings.inbound.port,
        version="v1",
    )
    state = LastGood(
        trust_domain=host.settings.trust_domain,
        snapshot=Snapshot(
            generation=generation, trust_domain=host.settings.trust_domain, policy=SLOW
        ),
        catalogue=Catalogue(endpoints={API: (endpoint,)}),
    )
    (Path(host.settings.state_dir) / FILE_NAME).write_bytes(encode(state))


async def test_a_cold_start_without_consul_serves_from_disk(hosts: Any, app: list[str]) -> None:
    api = hosts.run(hosts.make("h1", API))
    web = hosts.make("h2", WEB)
    keep_on_disk(web, api)
    hosts.run(web)
    await web.ready(deadline_s=3)
    async with asyncio.timeout(10):
        while (await call(web)) != 200:  # until the other host listens
            await asyncio.sleep(0.02)
    status = await web.status()
    assert (status.state, status.generation, status.policy_source) == ("ready", 7, "disk")
    assert [(up.service, up.source, len(up.endpoints)) for up in status.upstreams] == [
        ("api", "disk", 1)
    ]
    assert "Connection refused" in status.registry_error
    assert status.workloads[0].identity is not None
    assert status.workloads[0].identity.spiffe_id.endswith("/svc/web")


async def test_without_consul_and_without_a_disk_it_is_ready_in_the_end(
    hosts: Any, app: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_ANSWERS_S", 0.3)
    web = hosts.run(hosts.make("h2", WEB))
    async with asyncio.timeout(5):
        while True:
            try:
                code, body = await web.ask("GET /ready")
                break
            except OSError:
                await asyncio.sleep(0.005)
    assert (code, body) == (503, b"starting\n")
    assert (await web.ask("GET /live"))[0] == 200
    await web.ready()
    status = await web.status()
    assert (status.generation, status.policy_source) == (0, "none")
    assert await call(web) == 503


async def test_the_admin_port_says_what_is_in_force(hosts: Any, app: list[str], until: Any) -> None:
    api = hosts.make("h1", API)
    web = hosts.make("h2", WEB)
    keep_on_disk(web, api)
    hosts.run(web)
    await web.ready()
    await until(lambda: web.server.report.status().workloads[0].is_healthy)
    config = json.loads((await web.ask("GET /config"))[1])
    assert config["generation"] == 7
    assert config["policy"]["defaults"]["timeouts"]["request_s"] == 60.0
    assert config["settings"]["host"] == "h2"
    endpoints = json.loads((await web.ask("GET /endpoints"))[1])
    assert endpoints["api"]["endpoints"][0]["port"] == api.settings.inbound.port
    assert endpoints["api"]["source"] == "disk"
    metrics = (await web.ask("GET /metrics"))[1].decode()
    for line in (
        'mesh_build_info{version="',
        "mesh_config_generation 7\n",
        "mesh_config_refused 0\n",
        'mesh_endpoints{service="api"} 1\n',
        'mesh_registry_errors_total{kind="unavailable"} ',
        'mesh_registry_errors_total{kind="garbage"} 0\n',
        "mesh_event_loop_lag_seconds ",
        'mesh_certificate_not_after_seconds{service="web"} 1',
    ):
        assert line in metrics, line


async def test_a_reload_takes_new_identities_and_says_which(
    hosts: Any, app: list[str], mesh_pki: Any, tmp_path: Path
) -> None:
    web = hosts.make("h2", WEB)
    keep_on_disk(web, web)
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        systemd.setblocking(False)
        hosts.run(web, notifier=Notifier({"NOTIFY_SOCKET": name}))
        await web.ready()
        assert systemd.recv(999).startswith(b"READY=1\n")
        directory = mesh_pki.issue("web", state_dir=Path(web.settings.state_dir))
        code, body = await web.ask("POST /reload")
        assert code == 200
        answer = json.loads(body)
        assert answer["identities"]["web"]["serial"] == directory.name
        assert answer["errors"] == {}
        assert (await web.status()).workloads[0].identity.serial == directory.name
        assert systemd.recv(999).startswith(b"RELOADING=1\n")
        assert systemd.recv(999).startswith(b"READY=1\n")
        (Path(web.settings.state_dir) / "identities/web/current/chain.pem").write_text("rubbish")
        code, body = await web.ask("POST /reload")
        assert code == 500
        answer = json.loads(body)
        assert list(answer["errors"]) == ["web"]
        assert answer["identities"]["web"]["serial"] == directory.name  # the previous stays
        web.server.stop()
        assert await web.task == 0
        said = []
        while not said or not said[-1].startswith(b"STOPPING=1"):
            said.append(systemd.recv(999))


async def test_a_reload_in_which_one_of_two_fails_is_a_success_with_an_error(
    hosts: Any, app: list[str]
) -> None:
    web = hosts.make("h2", WEB)
    keep_on_disk(web, web)
    (only,) = web.settings.workloads
    second = msgspec.structs.replace(only, service=ServiceName("mob"), upstreams=())
    web.settings = msgspec.structs.replace(web.settings, workloads=(only, second))
    hosts.run(web)
    await web.ready()
    code, body = await web.ask("POST /reload")
    answer = json.loads(body)
    assert code == 207
    assert list(answer["errors"]) == ["mob"]
    assert answer["identities"]["mob"] is None
    assert answer["identities"]["web"] is not None


async def test_a_port_that_is_taken_is_named(hosts: Any) -> None:
    web = hosts.make("h2", WEB)
    listen = web.settings.workloads[0].upstreams[0].listen
    for address, error, words in (
        (listen, ListenError, ("web", "api")),
        (web.settings.inbound, ListenError, ("inbound",)),
        (web.settings.admin, StartError, ("admin port",)),
    ):
        with socket.socket() as squatter:
            squatter.bind((address.host, address.port))
            squatter.listen()
            hosts.run(web)
            with pytest.raises(error) as refusal:
                await web.task
        assert f"{address.host}:{address.port}" in str(refusal.value)
        for word in words:
            assert word in str(refusal.value)


async def test_a_task_that_dies_ends_the_process_with_an_error(
    hosts: Any, app: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "DRAIN_AFTER_FAILURE_S", 0.1)
    web = hosts.make("h2", WEB)
    keep_on_disk(web, web)
    hosts.run(web)
    await web.ready()
    next(task for task in asyncio.all_tasks() if task.get_name() == "watcher").cancel()
    assert await asyncio.wait_for(web.task, 5) == 1
    assert "task watcher died" in caplog.text


async def test_a_stop_drains_and_a_second_one_does_not_wait(hosts: Any, app: list[str]) -> None:
    class Busy(DataPlane):
        async def drain(self, deadline_s: float) -> bool:
            await asyncio.sleep(deadline_s)
            return False

    for stops, least_s, most_s in ((1, 1.0, 5.0), (2, 0.0, 0.9)):
        web = hosts.make(f"h{stops}", WEB, drain_s=1.0)
        keep_on_disk(web, web)
        hosts.run(web, plane=Busy)
        await web.ready()
        before = asyncio.get_running_loop().time()
        for _ in range(stops):
            web.server.stop()
            await asyncio.sleep(0.02)
        if stops == 1:
            assert (await web.ask("GET /ready")) == (503, b"draining\n")
        assert await web.task == 0
        assert least_s <= asyncio.get_running_loop().time() - before < most_s


async def test_the_last_change_before_a_stop_is_on_disk(hosts: Any, app: list[str]) -> None:
    web = hosts.make("h2", WEB)
    keep_on_disk(web, web)
    hosts.run(web)
    await web.ready()
    for generation in (8, 9):  # the second within the interval in which nothing is written
        web.server._watcher.snapshot = Snapshot(
            generation=generation, trust_domain=web.settings.trust_domain, policy=Policy()
        )
        web.server._changed()
        await asyncio.sleep(0.05)
    web.server.stop()
    assert await web.task == 0
    kept = decode((Path(web.settings.state_dir) / FILE_NAME).read_bytes(), LastGood)
    assert kept.snapshot is not None
    assert kept.snapshot.generation == 9


async def test_many_changes_in_one_turn_make_one_table(hosts: Any, app: list[str]) -> None:
    applied = []

    class Counting(DataPlane):
        def apply(self, table: Any) -> None:
            applied.append(table)
            super().apply(table)

    web = hosts.make("h2", WEB)
    keep_on_disk(web, web)
    hosts.run(web, plane=Counting)
    await web.ready()
    applied.clear()
    for generation in range(10, 20):
        policy = Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=float(generation))))
        web.server._watcher.snapshot = Snapshot(
            generation=generation, trust_domain=web.settings.trust_domain, policy=policy
        )
        web.server._changed()
    await asyncio.sleep(0.02)
    assert len(applied) == 1
    web.server._changed()  # nothing new
    await asyncio.sleep(0.02)
    assert len(applied) == 1
    (route,) = applied[0].outbound.values()
    assert route.timeouts.request_s == 19.0


async def test_a_workload_without_a_valid_identity_is_not_reported_as_serving(
    hosts: Any, app: list[str], mesh_pki: Any, until: Any
) -> None:
    api = hosts.make("h1", API, identity=False)
    keep_on_disk(api, api)
    hosts.run(api)
    await api.ready()
    assert not api.server._standing(API).is_serving
    assert (await api.status()).workloads[0].identity is None
    assert 'mesh_certificate_not_after_seconds{service="api"} 0' in (
        (await api.ask("GET /metrics"))[1].decode()
    )
    mesh_pki.issue(
        "api", state_dir=Path(api.settings.state_dir), ends_in=datetime.timedelta(seconds=2)
    )
    assert (await api.ask("POST /reload"))[0] == 200
    assert api.server._standing(API).is_serving
    await until(lambda: not api.server._standing(API).is_serving)  # it expires


async def test_an_event_loop_that_lags_is_seen(hosts: Any, app: list[str]) -> None:
    web = hosts.make("h2", WEB)
    keep_on_disk(web, web)
    hosts.run(web)
    await web.ready()
    async with asyncio.timeout(10):
        lag = 0.0
        while lag < 0.1:
            time.sleep(0.7)  # the pulse is due meanwhile
            await asyncio.sleep(0.01)
            for line in (await web.ask("GET /metrics"))[1].decode().splitlines():
                if line.startswith("mesh_event_loop_lag_seconds "):
                    lag = max(lag, float(line.split(" ")[1]))


async def until_async(condition: Any, deadline_s: float = 15.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_two_hosts_find_each_other_through_consul_and_do_without_it(
    consul: Any, hosts: Any, app: list[str]
) -> None:
    domain = hosts.make("h0", API).settings.trust_domain
    snapshot = Snapshot(generation=3, trust_domain=domain, policy=SLOW)
    await asyncio.to_thread(consul.call, "PUT", "/v1/kv/meshctl/snapshot", encode(snapshot))
    api = hosts.run(hosts.make("h1", API, consul=consul.url))
    web = hosts.run(hosts.make("h2", WEB, consul=consul.url))
    await web.ready()
    await api.ready()
    await until_async(lambda: _is(web, 200))
    status = await web.status()
    assert (status.generation, status.policy_source, status.registry_error) == (3, "consul", "")

    async def acknowledged() -> bool:
        checks = await asyncio.to_thread(consul.checks, "mesh-web")
        state, output = checks.get("mesh-web-h2:proxy", ("", ""))
        return state == "passing" and '"generation":3,' in output

    await until_async(acknowledged)

    # Consul stops; a proxy is restarted meanwhile; nothing is lost.
    await asyncio.to_thread(consul.stop)
    web.server.stop()
    assert await web.task == 0
    hosts.run(web)
    await web.ready(deadline_s=5)
    for _ in range(20):
        assert await call(web) == 200
    assert (await web.status()).policy_source == "disk"

    consul.start()
    await consul.ready()

    async def recovered() -> bool:
        assert await call(web) == 200
        status = await web.status()
        return status.registry_error == "" and status.policy_source == "consul"

    await until_async(recovered, deadline_s=30)
    await until_async(acknowledged)
    assert await call(web) == 200

    # A drain is told before it begins, and the caller has no endpoint left.
    api.server.stop()
    assert await api.task == 0
    state, output = (await asyncio.to_thread(consul.checks, "mesh-api"))["mesh-api-h1:proxy"]
    assert (state, json.loads(output)["state"]) == ("critical", "draining")
    await until_async(lambda: _is(web, 503))
    assert (await web.status()).upstreams[0].endpoints == ()
    code, body = await web.ask("POST /deregister")
    assert (code, json.loads(body)) == (200, {"deregistered": ["mesh-web-h2"]})
    left = await asyncio.to_thread(consul.call, "GET", "/v1/agent/services")
    assert set(left) == {"mesh-api-h1"}  # critical, and dropped after its time


async def _is(web: Host, wanted: int) -> bool:
    return await call(web) == wanted


async def test_metrics_are_read_at_their_own_port_where_there_is_one(
    hosts: Any, free_ports: Any
) -> None:
    host = hosts.make("h1", API)
    port = free_ports(1)[0]
    at = Address(host="127.0.0.1", port=port)
    host.settings = msgspec.structs.replace(
        host.settings, metrics=Placement(listen=at, sources=("127.0.0.0/8",))
    )
    hosts.run(host)
    await host.ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: h1:15090\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\nmesh_build_info{" in answer
    assert b"\nmesh_scrapes_refused_total 0\n" in answer


async def test_a_metrics_port_that_is_taken_is_said(hosts: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = hosts.make("h1", API)
        at = Address(host="127.0.0.1", port=taken.getsockname()[1])
        host.settings = msgspec.structs.replace(
            host.settings, metrics=Placement(listen=at, sources=())
        )
        hosts.run(host)
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{at.port} for metrics"):
            await host.task
