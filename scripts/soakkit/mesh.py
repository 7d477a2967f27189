"""Two proxies under soak: one host with the callers, one with the called service."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchkit import registry
from benchkit.contestants import Ports
from benchkit.contestants.ours import endpoint, install, plain_environment
from benchkit.processes import Failed, Group, Process
from benchkit.turn import free_ports

from proxy.model.authorization import Intention
from proxy.model.codec import encode_readable
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy, Route, ServicePolicy, Snapshot
from proxy.model.registration import SNAPSHOT_KEY
from proxy.model.resilience import Limits, OutlierDetection, Retries
from proxy.model.routing import Match, PathMatch
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Upstream, Workload
from proxy.model.snapshot import pack
from proxy.model.telemetry import AccessLog, Telemetry, Tracing

DOMAIN = TrustDomain("bench.mesh")
API = ServiceName("api")
CALLERS = tuple(ServiceName(f"caller-{number:02}") for number in range(1, 13))
"""The last one is denied by policy."""
_BENCH = Path(__file__).resolve().parents[1] / "benchkit"
_MAKING_S = 60.0
_READY_S = 30.0

# Shortened by who has no ten minutes, with all families swept at once rather than in turn: the
# constant is the proxy's own and no setting.
_WITH_IDLE = """\
import sys
import proxy.__main__
for module in [each for each in sys.modules.values() if hasattr(each, "SERIES_IDLE_S")]:
    module.SERIES_IDLE_S = {idle_s!r}
metrics, sweep = proxy.core.metrics.Metrics, proxy.core.metrics.Metrics.sweep
metrics.sweep = lambda self, now: any([sweep(self, now) for _ in range(len(self._families))])
sys.exit(proxy.__main__.main())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    client: Process
    server: Process
    ports: Ports
    callers: Sequence[int]
    """Where each of ``CALLERS`` calls, by Host."""


@contextmanager
def running(
    directory: Path, *, app_port: int, otlp_port: int, series_idle_s: float | None
) -> Iterator[Mesh]:
    """Everything is stopped when the context ends. Raises Failed."""
    identities = directory / "identities"
    _make_identities(identities)
    core = max(os.sched_getaffinity(0))
    with Group() as processes:
        ports = free_ports()
        callers = _more_ports(len(CALLERS), ports)
        registering = Process(
            "registry",
            [sys.executable, "-m", "meshctl.registry", "--port", str(ports.registry)],
            core=core,
            log=directory / "registry.log",
            environment=plain_environment(),
        )
        processes.add(registering)
        registry.wait_ready(ports.registry, registering)
        registry.publish(ports.registry, {SNAPSHOT_KEY: pack(_snapshot(otlp_port))})

        def start(name: str, settings: Settings) -> Process:
            for workload in settings.workloads:
                home = identities / workload.service
                install(home, Path(settings.state_dir), workload.service)
            path = directory / f"{name}.json"
            path.write_bytes(encode_readable(settings))
            Path(settings.log_dir).mkdir()
            program = ["-m", "proxy"]
            if series_idle_s is not None:
                program = ["-c", _WITH_IDLE.format(idle_s=series_idle_s)]
            return processes.add(
                Process(
                    name,
                    [sys.executable, *program, "--settings", str(path)],
                    core=core,
                    log=directory / f"{name}.log",
                    environment=plain_environment(),
                )
            )

        server = start("server", _server(directory, ports, app_port))
        client = start("client", _client(directory, ports, callers))
        yield Mesh(client=client, server=server, ports=ports, callers=callers)


def api_endpoint(host: str, ports: Ports) -> dict[str, object]:
    """The server's proxy once more, as a service of another host."""
    return endpoint(API, host, "127.0.0.1", ports.http_in)


def _make_identities(identities: Path) -> None:
    made = subprocess.run(
        [sys.executable, str(_BENCH / "identities.py"), str(identities), DOMAIN, API, *CALLERS],
        capture_output=True,
        text=True,
        timeout=_MAKING_S,
        check=False,
    )
    if made.returncode != 0:
        raise Failed(f"certificates could not be made: {made.stderr.strip()}")


def _snapshot(otlp_port: int) -> Snapshot:
    """Everything that is told of calls is told of all of them."""
    api = ServicePolicy(
        routes=(
            Route(name="users", match=Match(path=PathMatch(template="/s/{status}/{user}/**"))),
            Route(name="short", match=Match(path=PathMatch(prefix="/s/200"))),
        ),
        retries=Retries(attempts=1, on=("connect-failure", "refused", "reset-reused", "5xx")),
        outlier_detection=OutlierDetection(consecutive_failures=0),
        limits=Limits(connections=64),
        intentions=(
            Intention(name="others", allow=("*",)),
            Intention(name="not-the-last", deny=(CALLERS[-1],)),
        ),
        access_log=AccessLog(percent=100.0),
        tracing=Tracing(percent=20.0, header="x-debug"),
    )
    telemetry = Telemetry(
        otlp=f"http://127.0.0.1:{otlp_port}/v1/traces",
        log_to="file",
        log_file_bytes=1024 * 1024,
        log_files=2,
    )
    return Snapshot(
        generation=1,
        trust_domain=DOMAIN,
        policy=Policy(services={API: api}, telemetry=telemetry),
    )


def _server(directory: Path, ports: Ports, app_port: int) -> Settings:
    workload = Workload(
        service=API,
        protocol="http",
        version="1",
        app=Address(host="127.0.0.1", port=app_port),
        health=HealthCheck(kind="tcp"),
        allow=CALLERS,
    )
    return _settings(
        directory, "server", ports.server_admin, ports.http_in, ports.registry, (workload,)
    )


def _client(directory: Path, ports: Ports, callers: Sequence[int]) -> Settings:
    workloads = tuple(
        Workload(
            service=caller,
            protocol="http",
            version="1",
            app=Address(host="127.0.0.1", port=ports.stranger_out),
            health=HealthCheck(kind="tcp"),
            allow=(),
            upstreams=(Upstream(service=API, protocol="http"),),
            outbound=Address(host="127.0.0.1", port=port),
        )
        for caller, port in zip(CALLERS, callers, strict=True)
    )
    return _settings(
        directory, "client", ports.client_admin, ports.client_inbound, ports.registry, workloads
    )


def _settings(
    directory: Path, name: str, admin: int, inbound: int, consul: int,
    workloads: tuple[Workload, ...],
) -> Settings:  # fmt: skip
    return Settings(
        host=HostName(name),
        trust_domain=DOMAIN,
        advertise="127.0.0.1",
        release="soak",
        config="soak",
        admin=Address(host="127.0.0.1", port=admin),
        inbound=Address(host="127.0.0.1", port=inbound),
        consul=Consul(url=f"http://127.0.0.1:{consul}"),
        state_dir=str(directory / f"state-{name}"),
        log_dir=str(directory / f"log-{name}"),
        trust_bundle=str(directory / "identities" / "trust.pem"),
        workloads=workloads,
        drain_s=1.0,
    )


def _more_ports(count: int, taken: Ports) -> list[int]:
    known = {getattr(taken, name) for name in type(taken).__dataclass_fields__}
    found: list[int] = []
    while len(found) < count:
        more = free_ports()
        values = {getattr(more, name) for name in type(more).__dataclass_fields__}
        found += sorted(values - known - set(found))
    return found[:count]
