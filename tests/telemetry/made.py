"""What proxies would have counted, without proxies: one look by hand, or a whole moving mesh."""

import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from proxy.core.exposition import FamilyTally, Figures
from proxy.core.metrics import DURATION_MS_BUCKETS
from proxy.core.stats import Stats
from proxy.model.names import HostName, ServiceName
from proxy.model.status import ClusterState, EndpointState

EDGE_LABELS = (
    *("reporter", "source_workload", "source_principal", "destination_workload"),
    *("destination_service", "request_protocol", "response_code", "response_flags"),
    "connection_security_policy",
)
SIZE_BUCKETS = (100.0, 1000.0, 10_000.0, 100_000.0, 1_000_000.0)
PAIR = ("source_workload", "destination_service")

State = Literal["available", "ejected", "probing", "failing", "avoided"]


@dataclass
class Proxy:
    """Counts as one proxy does; ``stats`` is a look at it."""

    host: str
    families: dict[str, FamilyTally] = field(default_factory=dict)
    series: dict[str, dict[tuple[str, ...], Figures]] = field(default_factory=dict)
    clusters: dict[tuple[str, str], list[EndpointState]] = field(default_factory=dict)

    def add(self, name: str, names: tuple[str, ...], labels: tuple[str, ...], by: float) -> None:
        """To a counter."""
        figures = self._figures(name, "counter", names, labels, (), 1)
        figures[0] += by

    def set(self, name: str, names: tuple[str, ...], labels: tuple[str, ...], to: float) -> None:
        self._figures(name, "gauge", names, labels, (), 1)[0] = to

    def observe(
        self,
        name: str,
        names: tuple[str, ...],
        labels: tuple[str, ...],
        value: float,
        number: int = 1,
        bounds: tuple[float, ...] = DURATION_MS_BUCKETS,
    ) -> None:
        """``number`` times the same value, in a histogram."""
        figures = self._figures(name, "histogram", names, labels, bounds, len(bounds) + 2)
        figures[bisect_left(bounds, value)] += number
        figures[-1] += value * number

    def requests(
        self,
        caller: str,
        service: str,
        number: int = 1,
        *,
        reporter: str = "source",
        code: int = 200,
        flag: str = "-",
        grpc: str | None = None,
        ms: float = 4.0,
        security: str = "mutual_tls",
        sent_bytes: float = 200.0,
        received_bytes: float = 2000.0,
    ) -> None:
        """``grpc``: the label, with None that of a proxy that knows of no such thing."""
        labels = _edge(reporter, caller, service, "http", str(code), flag, security)
        if grpc is None:
            self.add("istio_requests_total", EDGE_LABELS, labels, number)
        else:
            names = (*EDGE_LABELS, "grpc_response_status")
            self.add("istio_requests_total", names, (*labels, grpc), number)
        name = "istio_request_duration_milliseconds"
        self.observe(name, EDGE_LABELS, labels, ms, number)
        for name, size in (
            ("istio_request_bytes", sent_bytes),
            ("istio_response_bytes", received_bytes),
        ):
            self.observe(name, EDGE_LABELS, labels, size, number, SIZE_BUCKETS)

    def sessions(
        self,
        caller: str,
        service: str,
        opened: int,
        closed: int,
        *,
        reporter: str = "source",
        flag: str = "-",
        sent_bytes: float = 0.0,
        received_bytes: float = 0.0,
    ) -> None:
        labels = _edge(reporter, caller, service, "tcp", "0", flag, "mutual_tls")
        for name, figure in (
            ("istio_tcp_connections_opened_total", opened),
            ("istio_tcp_connections_closed_total", closed),
            ("istio_tcp_sent_bytes_total", sent_bytes),
            ("istio_tcp_received_bytes_total", received_bytes),
        ):
            self.add(name, EDGE_LABELS, labels, figure)

    def retries(self, caller: str, service: str, number: int) -> None:
        self.add("mesh_retries_total", PAIR, (caller, service), number)

    def denials(self, caller: str, service: str, policy: str, number: int) -> None:
        labels = (caller, service, policy)
        self.add("mesh_authorization_denials_total", (*PAIR, "policy"), labels, number)

    def route(
        self, caller: str, service: str, route: str, number: int = 1, *, ms: float = 4.0,
        outcome: str = "success",
    ) -> None:  # fmt: skip
        name = "mesh_route_request_duration_milliseconds"
        names = (*PAIR, "route", "outcome")
        self.observe(name, names, (caller, service, route, outcome), ms, number)

    def tries(
        self, caller: str, service: str, host: str, number: int = 1, *, version: str = "v1",
        ms: float = 4.0, outcome: str = "success",
    ) -> None:  # fmt: skip
        name = "mesh_endpoint_request_duration_milliseconds"
        names = (*PAIR, "destination_host", "destination_version", "outcome")
        self.observe(name, names, (caller, service, host, version, outcome), ms, number)

    def endpoint(
        self, caller: str, cluster: str, host: str, *, service: str = "",
        state: State = "available", address: str = "10.0.0.9", version: str = "v1",
        zone: str = "", ejected_for_s: float = 0.0,
        ejections: int = 0, in_flight: int = 0, connections: int = 1, latency_ms: float = 4.0,
    ) -> None:  # fmt: skip
        made = EndpointState(
            host=HostName(host), address=address, port=15006, version=version, zone=zone, tier=0,
            state=state, ejected_for_s=ejected_for_s, ejections=ejections, in_flight=in_flight,
            connections=connections, latency_ms=latency_ms,
            service=service or cluster.partition("/")[0],
        )  # fmt: skip
        self.clusters.setdefault((caller, cluster), []).append(made)

    def stats(self, uptime_s: float, *, at: float = 0.0, generation: int = 1) -> Stats:
        return Stats(
            host=HostName(self.host),
            at=at or uptime_s,
            uptime_s=uptime_s,
            version="0.1.0",
            generation=generation,
            families=tuple(
                replace(
                    self.families[name],
                    series=[(key, list(figures)) for key, figures in sorted(series.items())],
                )
                for name, series in sorted(self.series.items())
            ),
            clusters=tuple(
                ClusterState(
                    caller=ServiceName(caller), name=name, algorithm="peak_ewma", active_tier=0,
                    is_panicking=False, requests=0, pending=0, endpoints=tuple(states),
                )
                for (caller, name), states in sorted(self.clusters.items())
            ),
        )  # fmt: skip

    def _figures(
        self,
        name: str,
        kind: Literal["counter", "gauge", "histogram"],
        names: tuple[str, ...],
        labels: tuple[str, ...],
        bounds: tuple[float, ...],
        length: int,
    ) -> Figures:
        if name not in self.families:
            self.families[name] = FamilyTally(
                name=name, kind=kind, text=name, label_names=names, combine="sum", bounds=bounds,
                series=[],
            )  # fmt: skip
        series = self.series.setdefault(name, {})
        if labels not in series:
            series[labels] = [0] * length
        return series[labels]


def _edge(reporter: str, caller: str, service: str, *rest: str) -> tuple[str, ...]:
    principal = "unknown" if caller == "unknown" else f"spiffe://mesh.test/svc/{caller}"
    return (reporter, caller, principal, service, service, *rest)


@dataclass
class _Call:
    caller: str
    service: str
    per_s: float
    ms: float
    failing: float
    """Share that fails."""
    retried: float
    is_tcp: bool
    phase: float


class MadeMesh:
    """``services`` services, a host each, and up to ``edges`` calls between them, callers before
    called; about one service in 15 is troubled, and one in 10 is TCP. ``step`` lets time pass.

    Figures follow from ``seed`` alone. ``names``: of services, if ``svc-012`` is not wanted.
    """

    def __init__(
        self, services: int, edges: int, *, seed: int = 1, names: Sequence[str] = ()
    ) -> None:
        rng = random.Random(seed)
        self.services = [
            names[number] if number < len(names) else f"svc-{number:03}"
            for number in range(services)
        ]
        tcp = {
            name for number, name in enumerate(self.services) if number % 10 == min(9, services - 2)
        }
        troubled = {
            name for number, name in enumerate(self.services) if number % 15 == min(7, services - 1)
        }
        pairs: set[tuple[int, int]] = {
            (max(0, number - 1 - rng.randrange(8)), number) for number in range(1, services)
        }
        most = services * (services - 1) // 2
        while len(pairs) < min(edges, most):
            one, other = sorted(rng.sample(range(services), 2))
            pairs.add((one, other))
        self.calls = [
            _Call(
                caller=self.services[one],
                service=self.services[other],
                per_s=math.exp(rng.uniform(-1, 5)),
                ms=math.exp(rng.uniform(0, 5)),
                failing=rng.uniform(0.02, 0.2) if self.services[other] in troubled else 0.0,
                retried=0.1 if self.services[other] in troubled else 0.001,
                is_tcp=self.services[other] in tcp,
                phase=rng.uniform(0, 6),
            )
            for one, other in sorted(pairs)
        ]
        next(call for call in self.calls if call.service in troubled).failing = 0.18
        self._rng = rng
        self._uptime_s = 0.0
        self._proxies = {name: Proxy(host=f"host-{name}") for name in self.services}
        self.troubled = frozenset(troubled)
        for call in self.calls:
            self._proxies[call.caller].endpoint(
                call.caller,
                call.service,
                f"host-{call.service}",
                address=f"10.0.{self.services.index(call.service) // 250}."
                f"{self.services.index(call.service) % 250 + 1}",
                state="ejected" if call.failing > 0.15 else "available",
                ejected_for_s=17.0 if call.failing > 0.15 else 0.0,
                ejections=2 if call.failing > 0.15 else 0,
                in_flight=rng.randrange(4),
                connections=rng.randrange(1, 8),
                latency_ms=round(call.ms, 3),
            )
        for name, proxy in self._proxies.items():
            proxy.set("mesh_certificate_not_after_seconds", ("service",), (name,), 1.9e9)
            proxy.set("mesh_event_loop_lag_seconds", (), (), 0.0004)

    def step(self, seconds: float) -> dict[HostName, Stats]:
        """The next look at every proxy, ``seconds`` after the last one."""
        self._uptime_s += seconds
        for call in self.calls:
            wave = 1.0 + 0.4 * math.sin(self._uptime_s / 20.0 + call.phase)
            number = max(0, round(self._rng.gauss(call.per_s * wave * seconds, 1.0)))
            self._count(call, number)
        first = self._proxies[self.services[0]]
        first.requests(
            "unknown", self.services[0], round(20 * seconds), reporter="destination",
            security="none", ms=30.0,
        )  # fmt: skip
        last = self.services[-1]
        self._proxies[last].denials(self.services[0], last, "default-deny", round(seconds))
        return {
            HostName(proxy.host): proxy.stats(self._uptime_s, at=1.8e9 + self._uptime_s)
            for proxy in self._proxies.values()
        }

    def _count(self, call: _Call, number: int) -> None:
        sides = (
            (self._proxies[call.caller], "source"),
            (self._proxies[call.service], "destination"),
        )
        if call.is_tcp:
            for proxy, reporter in sides:
                proxy.sessions(
                    call.caller, call.service, number, number, reporter=reporter,
                    sent_bytes=number * 4000.0, received_bytes=number * 900.0,
                )  # fmt: skip
            return
        failed = round(number * call.failing)
        for proxy, reporter in sides:
            for share, factor in ((0.6, 0.7), (0.3, 1.2), (0.1, 4.0)):
                well = round((number - failed) * share)
                proxy.requests(
                    call.caller, call.service, well, reporter=reporter, ms=call.ms * factor
                )
            if failed:
                proxy.requests(
                    call.caller, call.service, failed, reporter=reporter, code=503,
                    flag="UF" if reporter == "source" else "-", ms=call.ms * 2,
                )  # fmt: skip
        source = sides[0][0]
        source.route(call.caller, call.service, "-", number - failed, ms=call.ms)
        source.tries(call.caller, call.service, f"host-{call.service}", number, ms=call.ms)
        if failed:
            source.route(call.caller, call.service, "-", failed, ms=call.ms, outcome="failure")
        source.retries(call.caller, call.service, round(number * call.retried))
