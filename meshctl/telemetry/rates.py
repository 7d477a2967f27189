"""Two looks at every proxy -> the mesh's traffic between them, as a ``View``. Pure.

Differences are taken host by host, each over that host's own uptime: clocks need not agree, and
hosts need not have been asked at the same moment.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from meshctl.telemetry.counting import Requests
from meshctl.telemetry.difference import Difference
from meshctl.telemetry.edges import UNKNOWN, Edges, Joined, edge_of
from meshctl.telemetry.endpoints import endpoint_rows
from meshctl.telemetry.view import (
    Edge,
    EndpointRow,
    HostRow,
    RouteRow,
    ServiceRow,
    Sessions,
    View,
)
from proxy.core.stats import Stats
from proxy.model.names import HostName

_ROUTES = "mesh_route_request_duration_milliseconds"
_ROUTE_LABELS = ("source_workload", "destination_service", "route", "outcome")


def view(
    before: Mapping[HostName, Stats],
    after: Mapping[HostName, Stats],
    *,
    at: float,
    faults: Mapping[HostName, str] | None = None,
    protocols: Mapping[str, str] | None = None,
) -> View:
    """``before`` empty: since the proxies' start. A host that is new in ``after`` counts from zero
    if its proxy started within the window, else from its next look on.

    ``at``: Unix seconds. ``faults``: why hosts did not answer, in a sentence. ``protocols``: of
    the services that the inventory declares, which are listed even if nobody calls them.
    """
    differences = tuple(_differences(before, after))
    edges = Edges()
    for host in differences:
        edges.add(host)
    for host in differences:
        edges.add_refusals(host)
    rows = tuple(edge_of(key, edges.joined[key]) for key in sorted(edges.joined))
    endpoints = tuple(
        sorted(
            (row for host in differences for row in endpoint_rows(host)),
            key=lambda row: (row.service, row.host, row.version, row.caller, row.caller_host),
        )
    )
    hosts = [_host(host) for host in differences]
    hosts += [
        HostRow(host=name, fault=fault)
        for name, fault in (faults or {}).items()
        if name not in after
    ]
    return View(
        at=at,
        window_s=max((host.window_s for host in differences), default=0.0) if before else 0.0,
        services=tuple(_services(rows, edges.joined, endpoints, protocols or {})),
        edges=tuple(_as_declared(row, protocols or {}) for row in rows),
        routes=tuple(_routes(differences)),
        endpoints=endpoints,
        hosts=tuple(sorted(hosts, key=lambda row: row.host)),
        denials={key: count for key, count in sorted(edges.denials.items()) if count},
    )


def _differences(
    before: Mapping[HostName, Stats], after: Mapping[HostName, Stats]
) -> Iterable[Difference]:
    known = {name: Difference(before.get(name), stats) for name, stats in after.items()}
    if not before:
        return known.values()
    longest_s = max((known[name].window_s for name in after if name in before), default=0.0)
    return (
        # A proxy that had long been counting when it first answered has no window yet.
        Difference(stats, stats)
        if name not in before and stats.uptime_s > longest_s
        else difference
        for (name, stats), difference in zip(after.items(), known.values(), strict=True)
    )


def _services(
    edges: Sequence[Edge],
    joined: Mapping[tuple[str, str, str], Joined],
    endpoints: Sequence[EndpointRow],
    protocols: Mapping[str, str],
) -> Iterable[ServiceRow]:
    called: dict[str, list[Edge]] = {}
    for edge in edges:
        called.setdefault(edge.service, []).append(edge)
    used: dict[str, dict[HostName, bool]] = {}
    for row in endpoints:
        if row.state != "gone":
            of_service = used.setdefault(row.service, {})
            of_service[row.host] = of_service.get(row.host, True) and row.state == "available"
    for service in sorted(called.keys() | used.keys() | protocols.keys()):
        own = called.get(service, [])
        if service == UNKNOWN and not any(edge.signals for edge in own):
            continue
        total = Requests()
        for edge in own:
            total.add(joined[edge.caller, service, edge.protocol].told.requests)
        protocol = protocols.get(service) or (own[0].protocol if own else "http")
        yield ServiceRow(
            service=service,
            protocol=protocol,
            signals=total.signals() if total.requests else None,
            sessions=_sum([edge.sessions for edge in own if edge.sessions is not None]),
            actual_per_s=sum(edge.actual_per_s for edge in own),
            denied=sum(edge.denied for edge in own),
            endpoints=len(used.get(service, {})),
            available=sum(used.get(service, {}).values()),
        )


def _as_declared(edge: Edge, protocols: Mapping[str, str]) -> Edge:
    """What is counted as HTTP is called what the called service speaks."""
    declared = protocols.get(edge.service, edge.protocol)
    if "tcp" in (edge.protocol, declared):
        return edge  # Counted as the one and declared the other: a change is on its way.
    return replace(edge, protocol=declared)


def _sum(sessions: Sequence[Sessions]) -> Sessions | None:
    if not sessions:
        return None
    return Sessions(
        opened_per_s=sum(one.opened_per_s for one in sessions),
        open=sum(one.open for one in sessions),
        sent_bytes_per_s=sum(one.sent_bytes_per_s for one in sessions),
        received_bytes_per_s=sum(one.received_bytes_per_s for one in sessions),
        failures=sum(one.failures for one in sessions),
    )


def _routes(hosts: Sequence[Difference]) -> Iterable[RouteRow]:
    found: dict[tuple[str, ...], Requests] = {}
    for host in hosts:
        bounds = host.bounds(_ROUTES)
        for (*key, outcome), added, _ in host.moved(_ROUTES, _ROUTE_LABELS):
            requests = found.setdefault(tuple(key), Requests())
            if added is not None:
                requests.count(sum(added[:-1]), host.window_s, is_failure=outcome != "success")
                requests.observe(bounds, added)
    for (caller, service, route), requests in sorted(found.items(), key=lambda item: item[0]):
        yield RouteRow(caller=caller, service=service, route=route, signals=requests.signals())


def _host(host: Difference) -> HostRow:
    stats = host.after
    lag_s = [now[0] for _, _, now in host.moved("mesh_event_loop_lag_seconds", ())]
    return HostRow(
        host=stats.host,
        fault="",
        version=stats.version,
        generation=stats.generation,
        uptime_s=stats.uptime_s,
        loop_lag_ms=1000.0 * max(lag_s, default=0.0),
        certificates={
            service: now[0]
            for (service,), _, now in host.moved("mesh_certificate_not_after_seconds", ("service",))
            if now[0]
        },
    )
