"""Sources without a mesh: a shop whose figures move, a mesh of any size, what is slow to ask."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any

from telemetry.made import MadeMesh

from meshctl.dashboard.past import Past
from meshctl.telemetry.rates import view
from meshctl.telemetry.view import (
    Edge,
    EndpointRow,
    HostRow,
    RouteRow,
    ServiceRow,
    Sessions,
    Signals,
    View,
    document,
)
from proxy.model.flags import SENTENCE
from proxy.model.names import HostName

DAY_S = 86400.0


def signals(per_s: float, success: float, p95_ms: float, *, window_s: float = 10.0) -> Signals:
    requests = max(1, round(per_s * window_s))
    failures = round(requests * (1 - success))
    return Signals(
        requests=requests,
        per_s=per_s,
        failures=failures,
        success=1 - failures / requests,
        p50_ms=p95_ms * 0.4,
        p95_ms=p95_ms,
        p99_ms=p95_ms * 1.7,
        mean_ms=p95_ms * 0.5,
    )


def edge(caller: str, service: str, found: Signals | None, **changes: Any) -> Edge:
    codes = {"200": found.requests - found.failures} if found else {}
    if found and found.failures:
        codes["503"] = found.failures
    made = Edge(
        caller=caller,
        service=service,
        protocol="http",
        security="mutual_tls",
        seen_by=("source", "destination"),
        signals=found,
        sessions=None,
        actual_per_s=found.per_s if found else 0.0,
        retries_per_s=0.0,
        request_bytes_per_s=812.0,
        response_bytes_per_s=48_213.0,
        codes=codes,
        flags={"UF": found.failures} if found and found.failures else {},
        denied=0,
    )
    return replace(made, **changes)


SHOP = (
    ("unknown", "gateway", 180.0, 0.999, 42.0),
    ("gateway", "web", 120.0, 1.0, 31.0),
    ("gateway", "api", 62.0, 0.998, 38.0),
    ("web", "catalogue", 96.0, 1.0, 9.0),
    ("web", "accounts", 31.0, 1.0, 12.0),
    ("api", "catalogue", 44.0, 1.0, 11.0),
    ("api", "orders", 18.0, 0.91, 640.0),
    ("orders", "payments", 11.0, 0.86, 910.0),
    ("orders", "stock", 18.0, 0.985, 74.0),
    ("catalogue", "search", 70.0, 1.0, 22.0),
    ("accounts", "mail", 0.6, 1.0, 120.0),
)


def shop(step: int, *, markup: bool = False) -> View:
    """``markup``: every text of it is an attempt to become part of the page."""
    rng = random.Random(step)
    bad = "<img src=x onerror=hacked()>" if markup else ""
    edges = [
        edge(caller, service + bad, signals(rate * rng.uniform(0.9, 1.1), success, p95))
        for caller, service, rate, success, p95 in SHOP
    ]
    edges[6] = replace(edges[6], retries_per_s=2.1, actual_per_s=20.1)
    edges.append(
        edge("reports", "orders" + bad, None, denied=3, seen_by=("destination",), codes={"403": 3})
    )
    edges.append(
        edge("stock", "warehouse" + bad, signals(4.0, 1.0, 88.0), security="none",
             seen_by=("source",))
    )  # fmt: skip
    sessions = Sessions(
        opened_per_s=0.4,
        open=24,
        sent_bytes_per_s=92_000.0,
        received_bytes_per_s=8_100.0,
        failures=0,
    )
    edges += [
        edge(caller, "postgres" + bad, None, protocol="tcp", sessions=sessions)
        for caller in ("orders", "accounts")
    ]
    called = sorted({each.service for each in edges})
    return View(
        at=time.time(),
        window_s=10.0,
        services=tuple(_service(name, edges) for name in called),
        edges=tuple(edges),
        routes=tuple(
            RouteRow(caller=each.caller, service=each.service, route=route + bad, signals=found)
            for each in edges
            if (found := each.signals) is not None
            for route in (("checkout", "-") if each.service.startswith("orders") else ("-",))
        ),
        endpoints=tuple(_endpoints(edges, bad)),
        hosts=(
            *(
                HostRow(
                    host=HostName(f"host-{number}"),
                    fault="",
                    version="0.4.0",
                    generation=7,
                    uptime_s=3 * DAY_S + number,
                    loop_lag_ms=1.2,
                )
                for number in (1, 2, 3)
            ),
            HostRow(
                host=HostName("host-4"),
                fault=f"host-4: connection refused on port 22 {bad}".strip(),
            ),
        ),
        denials={("reports", "orders" + bad, "orders/default-deny" + bad): 3},
    )


def _service(name: str, edges: list[Edge]) -> ServiceRow:
    own = [each for each in edges if each.service == name]
    found = [each.signals for each in own if each.signals]
    one = next((each.sessions for each in own if each.sessions), None)
    total = sum(each.per_s for each in found)
    success = sum(each.per_s * (each.success or 0) for each in found) / total if total else 1.0
    p95 = max((each.p95_ms or 0.0 for each in found), default=0.0)
    return ServiceRow(
        service=name,
        protocol=own[0].protocol,
        signals=signals(total, success, p95) if found else None,
        sessions=one,
        actual_per_s=sum(each.actual_per_s for each in own),
        denied=sum(each.denied for each in own),
        endpoints=2,
        available=1 if name.startswith("payments") else 2,
    )


def _endpoints(edges: list[Edge], bad: str) -> list[EndpointRow]:
    rows = []
    for each in edges:
        for number in (1, 2):
            is_out = each.service.startswith("payments") and number == 2
            rows.append(
                EndpointRow(
                    caller=each.caller,
                    caller_host=HostName("host-3"),
                    service=each.service,
                    host=HostName(f"host-{number}"),
                    address=f"10.0.0.{number}",
                    version="v1",
                    zone="a",
                    state="ejected" if is_out else "available",
                    why=f"5 failures in a row, the last one 503 {bad}".strip() if is_out else "",
                    ejected_for_s=21.0 if is_out else 0.0,
                    in_flight=number,
                    connections=4,
                    ewma_ms=12.5,
                    signals=each.signals,
                )
            )
    return rows


@dataclass
class Live:
    """Views of the shop; ``first`` None: no traffic, as from proxies that have just started."""

    past: Past
    every_s: float = 0.1
    markup: bool = False
    is_quiet: bool = False
    topic: str = "view"
    step: int = 0
    looked: list[float] = field(default_factory=list)

    async def documents(self) -> AsyncGenerator[object, None]:
        while True:
            self.step += 1
            shown = shop(self.step, markup=self.markup)
            if self.is_quiet:
                shown = replace(shown, services=(), edges=(), routes=(), endpoints=(), denials={})
            self.past.add(shown)
            yield document(shown)
            await asyncio.sleep(self.every_s)


@dataclass
class Large:
    """A mesh of ``services`` and ``edges``, from the counters of proxies to the document."""

    past: Past
    services: int = 200
    edges: int = 1000
    every_s: float = 1.0
    topic: str = "view"

    async def documents(self) -> AsyncGenerator[object, None]:
        mesh = MadeMesh(self.services, self.edges, seed=1)
        looks = [mesh.step(10.0), mesh.step(10.0)]
        while True:
            shown = view(looks[0], looks[-1], at=time.time())
            self.past.add(shown)
            yield document(shown)
            await asyncio.sleep(self.every_s)
            looks = [*looks[-10:], mesh.step(self.every_s)]


@dataclass
class Fixed:
    topic: str
    found: Any

    async def documents(self) -> AsyncGenerator[Any, None]:
        yield self.found
        await asyncio.Event().wait()


def greeting() -> Fixed:
    return Fixed("mesh", {"trust_domain": "shop.test", "interval_s": 1.0, "flags": SENTENCE})


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def status(bad: str = "") -> Fixed:
    now = time.time()
    hosts = [
        {"host": f"host-{number}", "address": f"10.0.0.{number}", "release": "r7", "config": "c3",
         "state": "unreachable" if number == 4 else "ready", "version": "0.4.0",
         "generation": None if number == 4 else 6 if number == 3 else 7,
         "consul": "leader known" if number != 4 else ""}
        for number in (1, 2, 3, 4)
    ]  # fmt: skip
    findings = [
        {"severity": "problem", "subject": "host-3",
         "message": "its proxy runs policy generation 6, published is 7" + bad,
         "fix": "wait a moment; if it stays, see whether its Consul agent answers"},
        {"severity": "problem", "subject": "host-4", "message": "connection refused on port 22",
         "fix": "meshctl check"},
    ]  # fmt: skip
    workloads = [
        {"service": name, "host": f"host-{number % 3 + 1}", "version": "v1", "protocol": "http",
         "health": "passing", "registered": "passing",
         "spiffe_id": f"spiffe://shop.test/svc/{name}", "serial": f"{number:032x}" + bad,
         "not_after": _stamp(now + (number - 0.1) * DAY_S / 2), "upstreams": [],
         "renews_at": _stamp(now + number * 3600.0) if number != 2 else "",
         "renewal_error": "the signer on host-4 does not answer" + bad if number == 3 else "",
         "is_renewed": number not in (2, 3)}
        for number, name in enumerate(sorted({row[1] for row in SHOP}))
    ]  # fmt: skip
    found = {"generation": 7, "is_well": False, "hosts": hosts, "workloads": workloads}
    return Fixed("status", {**found, "signers": [], "findings": findings})


def history(bad: str = "") -> Fixed:
    now = time.time()
    changed = {
        7: [("services.orders.timeouts.request", "15s", "5s"),
            ("services.orders.retries.attempts", "", "2")],
        6: [("services.reports.intentions", "web", "")],
        5: [("defaults.load_balancing.algorithm", "", "round_robin")],
    }  # fmt: skip
    entries = [
        {"generation": generation, "published_at": _stamp(now - (8 - generation) * 7200.0),
         "by": "ops@control" + bad, "why": "rollback to 4" if generation == 6 else "",
         "changes": [{"path": path, "before": before, "after": after + bad}
                     for path, before, after in rows],
         "services": ["orders"], "hosts": ["host-1", "host-3"]}
        for generation, rows in changed.items()
    ]  # fmt: skip
    return Fixed("history", {"unverified": [], "entries": entries})


def denials(bad: str = "") -> Fixed:
    told = {"why": "no intention of orders allows it" + bad, "at": ""}
    row = {"caller": "reports", "service": "orders" + bad, "policy": "orders/default-deny"}
    seen = {"id": "3f1c9d52-77a0-4a55", "ended_at": "2026-01-01T10:11:12.345Z", "host": "host-2",
            "method": "GET", "path": "/orders/17" + bad, "status": 403}  # fmt: skip
    return Fixed(
        "denials",
        {"rows": [{**row, **told, "count": 42, "last_at": time.time() - 3}],
         "recent": [{**row, **seen, **told}]},
    )  # fmt: skip


def slow_ones(*, markup: bool = False) -> tuple[Fixed, ...]:
    bad = '"><script>hacked()</script>' if markup else ""
    return greeting(), status(bad), history(bad), denials(bad)
