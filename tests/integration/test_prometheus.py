"""A real Prometheus finds real proxies through Consul, and what it then knows is true.

Its whole configuration is what ``meshctl observe prometheus`` writes for the inventory that the
proxies were installed from; only its intervals are shorter.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import promtool
import pytest
from certs.mesh import DOMAIN, OK, Load, RealMesh
from contract.conftest import consul_binary, embedded_url, end, kind, real_url, url
from ports import free_ports

from meshctl.inventory.parse import parse
from meshctl.observe.grafana import DASHBOARDS
from meshctl.pki.store import CaStore
from meshctl.registry.server import Registry
from meshctl.state import StateDir
from proxy.model.policy import Policy, ServicePolicy, Snapshot
from proxy.model.registration import SNAPSHOT_KEY
from proxy.model.snapshot import pack
from proxy.model.telemetry import Telemetry, Tracing

__all__ = ["consul_binary", "embedded_url", "kind", "real_url", "url"]

REQUESTS = 40
WAIT_S = 60.0
SILENT = re.compile(
    r"mesh_(authorization_denials|rate_limited|ejections|breaker_refusals|connections_shed"
    r"|retry_budget_exhausted|registry_errors|certificate_renewals|worker_restarts|scrapes_refused"
    r"|inbound_tls_failures|downstream_protocol|upstream_protocol|endpoints_unconfirmed|panic"
    r"|failover_tier|access_log_dropped|spans_dropped|metric_series_overflowed)|istio_tcp_"
)
"""Queries of what did not happen may find nothing."""


@dataclass
class Prometheus:
    """Listens on loopback."""

    url: str
    process: "subprocess.Popen[bytes]"

    async def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer; raises OSError where there is none yet."""
        query = urllib.parse.urlencode(parameters)

        def ask() -> Any:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20) as answer:
                return json.load(answer)

        found = await asyncio.to_thread(ask)
        assert found["status"] == "success"
        assert not found.get("warnings"), found
        return found["data"]

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        found = await self.get("query", query=expression)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    async def value(self, expression: str) -> float | None:
        found = await self.query(expression)
        return found[0][1] if found else None

    async def targets(self) -> list[dict[str, Any]]:
        found = await self.get("targets", state="active")
        return sorted(found["activeTargets"], key=lambda target: target["labels"]["host"])

    async def until(self, what: str, check: Callable[[], Any]) -> Any:
        ends = asyncio.get_running_loop().time() + WAIT_S
        while True:
            with contextlib.suppress(OSError):
                if found := await check():
                    return found
            assert self.process.poll() is None, "Prometheus ended"
            assert asyncio.get_running_loop().time() < ends, f"not in time: {what}"
            await asyncio.sleep(0.1)


@dataclass
class Scene:
    mesh: RealMesh
    prometheus: Prometheus

    async def requests(self, count: int) -> None:
        for _ in range(count):
            await self.mesh.load._connection(1)


def inventory_text(folder: Path, consul: str) -> str:
    """``front`` has two services, ``caller`` only calls, ``hidden`` is not to be scraped."""
    web, shop, api, cron, secret, by_host, call, other, *ports = free_ports(20)
    hosts = ("front", "back", "caller", "hidden")
    places = {name: ports[3 * at : 3 * at + 3] for at, name in enumerate(hosts)}

    def head(name: str) -> str:
        inbound, admin, metrics = places[name]
        return (
            f"  - name: {name}\n    address: 127.0.0.1\n    transport: local\n"
            f"    root: {folder}/{name}\n    zone: z-{name}\n"
            f"    proxy: {{inbound_address: 127.0.0.1, inbound_port: {inbound},"
            f" admin_port: {admin}, drain: 1s}}\n"
            f"    metrics: {{port: {metrics}{', from: []' if name == 'hidden' else ''}}}\n"
        )

    return (
        f'version: 1\nconsul: {{mode: existing, address: "{consul}"}}\n'
        f"metrics: {{from: [127.0.0.1/32]}}\nhosts:\n"
        f"{head('front')}    services:\n"
        f"      - {{name: web, port: {web}, protocol: http, outbound_port: {by_host},"
        f" upstreams: [api: {call}]}}\n"
        f"      - {{name: shop, port: {shop}, protocol: http}}\n"
        f"{head('back')}    services: [{{name: api, port: {api}, protocol: http}}]\n"
        f"{head('caller')}    services:\n"
        f"      - {{name: cron, port: {cron}, upstreams: [api: {other}], outbound_port: none}}\n"
        f"{head('hidden')}    services: [{{name: secret, port: {secret}}}]\n"
    )


@contextlib.asynccontextmanager
async def running_mesh(folder: Path, consul: str) -> AsyncIterator[RealMesh]:
    """Installed and started; the application of all services answers 200."""
    text = inventory_text(folder, consul)
    (folder / "inventory.yaml").write_text(text)
    inventory = parse(text, folder / "inventory.yaml")
    state = StateDir.create(folder / ".meshctl", DOMAIN, datetime.now(UTC))
    CaStore.create(state, None, datetime.now(UTC))
    front = next(host for host in inventory.hosts if host.name == "front")
    upstream = next(use for service in front.services for use in service.upstreams)
    assert upstream.port is not None
    mesh = RealMesh(
        folder=folder,
        inventory=inventory,
        state=state,
        load=Load(port=upstream.port),
        registry=Registry(port=0),
    )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*ends):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(OK)
        writer.close()

    ports = [service.port for host in inventory.hosts for service in host.services]
    apps = [await asyncio.start_server(answer, "127.0.0.1", port) for port in ports]
    try:
        await mesh.install()
        await mesh.start()
        await mesh.serve()
        yield mesh
    finally:
        for host in mesh.inventory.hosts:
            mesh.kill(host.name)
        for app in apps:
            app.close()


async def configure(mesh: RealMesh, *options: str) -> Path:
    """By the command itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from meshctl.cli import main; main()"),
        *("observe", "prometheus", "--dir", "prometheus", *options),
        cwd=mesh.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, said.decode()
    path = mesh.folder / "prometheus" / "prometheus.yml"
    path.write_text(path.read_text().replace("15s", "1s"))
    return path


@contextlib.asynccontextmanager
async def running_prometheus(
    binary: str, config: Path, folder: Path, *options: str
) -> AsyncIterator[Prometheus]:
    port = free_ports(1)[0]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(binary, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
                *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn", *options),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}", process)
        await prometheus.until("it listens", lambda: prometheus.get("status/buildinfo"))
        yield prometheus
    finally:
        end(process)


@pytest.fixture
async def scene(url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    binary = promtool.found_with_consul("prometheus")
    async with running_mesh(tmp_path, url) as mesh:
        config = await configure(mesh)
        async with running_prometheus(binary, config, tmp_path) as prometheus:
            yield Scene(mesh, prometheus)


@pytest.mark.timeout(240)
async def test_every_proxy_is_found_once_and_what_it_counts_is_known(scene: Scene) -> None:
    prometheus = scene.prometheus

    async def all_up() -> bool:
        found = await prometheus.targets()
        return len(found) == 3 and all(target["health"] == "up" for target in found)

    await prometheus.until("three targets that are up", all_up)
    ports = {host.name: host.metrics.port for host in scene.mesh.inventory.hosts}
    assert [target["labels"] for target in await prometheus.targets()] == [
        {
            "job": "mesh",
            "instance": f"127.0.0.1:{ports[name]}",
            "host": name,
            "datacenter": "dc1",
            "zone": f"z-{name}",
        }
        for name in ("back", "caller", "front")
    ]

    edge = 'source_workload="web",destination_service="api",response_code="200"'
    before = scene.mesh.load.done
    await scene.requests(REQUESTS)
    done = scene.mesh.load.done
    assert done == before + REQUESTS

    async def is_counted() -> bool:
        return all(
            [
                await prometheus.value(
                    f'sum(istio_requests_total{{reporter="{side}",host="{host}",{edge}}})'
                )
                == done
                for side, host in (("source", "front"), ("destination", "back"))
            ]
        )

    await prometheus.until("the true count on both sides", is_counted)

    async def has_rates() -> bool:
        await scene.requests(1)
        found = await prometheus.value(f"edge:istio_requests:rate5m{{{edge.rpartition(',')[0]}}}")
        return found is not None and found > 0

    await prometheus.until("the recorded rate of the edge", has_rates)
    assert await prometheus.value("edge:istio_requests_success:ratio_rate5m") == 1
    await every_dashboard_has_answers(scene)
    rules = await prometheus.get("rules")
    sick = [
        rule["lastError"]
        for group in rules["groups"]
        for rule in group["rules"]
        if rule["health"] == "err"
    ]
    assert sick == []


async def every_dashboard_has_answers(scene: Scene) -> None:
    """No query is refused, and what must have a result gets one, once all rules were evaluated."""

    async def without_answer() -> list[str]:
        empty = []
        for dashboard in DASHBOARDS:
            for query in dashboard.queries:
                text = query.expression.replace("$service", "api").replace("$host", ".+")
                if not await scene.prometheus.query(text) and not SILENT.search(text):
                    empty.append(f"{dashboard.uid}: {text}")
        return empty

    ends = asyncio.get_running_loop().time() + WAIT_S
    while empty := await without_answer():
        assert asyncio.get_running_loop().time() < ends, empty
        await scene.requests(1)
        await asyncio.sleep(0.2)


@pytest.mark.timeout(240)
async def test_a_proxy_that_stops_raises_its_alert(scene: Scene) -> None:
    prometheus = scene.prometheus

    async def is_up() -> bool:
        return await prometheus.value('up{host="back"}') == 1

    await prometheus.until("the proxy is up", is_up)
    assert not await prometheus.query('ALERTS{alertname="MeshProxyDown"}')
    scene.mesh.kill("back")

    async def is_pending() -> list[tuple[dict[str, str], float]]:
        return await prometheus.query('ALERTS{alertname="MeshProxyDown"}')

    found = await prometheus.until("the alert", is_pending)
    assert [(labels["host"], labels["alertstate"]) for labels, _ in found] == [("back", "pending")]


TRACED = Policy(
    defaults=ServicePolicy(tracing=Tracing(percent=100)),
    telemetry=Telemetry(otlp="http://127.0.0.1:1/v1/traces"),
)
"""To a receiver that is not there: spans are dropped, and requests have traces all the same."""


@pytest.mark.timeout(240)
async def test_exemplars_lead_from_latency_to_traces(embedded_url: str, tmp_path: Path) -> None:
    """And hosts can be named without Consul, for a Prometheus that is built without."""
    binary = promtool.found("prometheus")
    if binary == promtool.found_with_consul("prometheus"):
        pytest.skip("the only Prometheus here is older than exemplars (2.26)")
    snapshot = Snapshot(generation=1, trust_domain=DOMAIN, policy=TRACED)
    put(f"{embedded_url}/v1/kv/{SNAPSHOT_KEY}", pack(snapshot))
    async with running_mesh(tmp_path, embedded_url) as mesh:
        config = await configure(mesh, "--static")
        feature = "--enable-feature=exemplar-storage"
        async with running_prometheus(binary, config, tmp_path, feature) as prometheus:
            bucket = 'istio_request_duration_milliseconds_bucket{source_workload="web"}'

            async def exemplars() -> Any:
                await mesh.load._connection(1)
                now = time.time()
                span = {"start": str(now - 600), "end": str(now + 60)}
                return await prometheus.get("query_exemplars", query=bucket, **span)

            found = await prometheus.until("exemplars", exemplars)
            assert {each["seriesLabels"]["host"] for each in found} <= {"front", "back"}
            traces = {shown["labels"]["trace_id"] for each in found for shown in each["exemplars"]}
            assert traces
            assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)


def put(url: str, body: bytes) -> None:
    with urllib.request.urlopen(
        urllib.request.Request(url, method="PUT", data=body), timeout=20
    ) as answer:
        assert answer.status == 200
