"""The mesh's traffic in a window of time, as a value: made by ``rates``, shown by everything else.

A figure that nothing was seen for is None, never 0: no requests are not 0 ms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from proxy.model.names import HostName

Security = Literal["mutual_tls", "none", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Golden signals of requests in the window."""

    requests: int
    """Finished in the window, however they ended."""
    per_s: float
    failures: int
    """5xx, those that a proxy had to answer itself, and those whose caller had gone."""
    success: float | None
    """0 to 1."""
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    """Interpolated within histogram buckets; the last bound where it lies above all of them."""
    mean_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """TCP in the window."""

    opened_per_s: float
    open: int
    """At its end."""
    sent_bytes_per_s: float
    """To the caller."""
    received_bytes_per_s: float
    failures: int
    """Ended with a flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Who calls whom; both sides' words where both are in the mesh and answer."""

    caller: str
    """``unknown``: outside the mesh."""
    service: str
    """As it was called; ``unknown``: a Host that is no upstream."""
    protocol: str
    """``http`` or ``tcp``, as it was counted; for the former what the service speaks, if that is
    known: ``http``, ``http2`` or ``grpc``."""
    security: Security
    seen_by: tuple[str, ...]
    """``source``, ``destination``: who reports it."""
    signals: Signals | None
    """The source's, else the destination's; None: no request in the window."""
    sessions: Sessions | None
    actual_per_s: float
    """With retries; at least ``signals.per_s``."""
    retries_per_s: float
    request_bytes_per_s: float
    response_bytes_per_s: float
    codes: Mapping[str, int]
    """Responses in the window by status (``0``: none was sent)."""
    flags: Mapping[str, int]
    """Of those, by response flag."""
    denied: int
    """In the window, at the called side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRow:
    caller: str
    service: str
    route: str
    """``-``: none matched, and the service itself was called."""
    signals: Signals


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRow:
    """One endpoint as one caller's proxy sees it. Every try counts."""

    caller: str
    caller_host: HostName
    service: str
    """Of the endpoint: a route may have led elsewhere than asked for."""
    host: HostName
    address: str
    version: str
    zone: str
    state: str
    """As in ``proxy.model.status.EndpointState``; ``gone``: no longer known."""
    why: str
    """Of an ejection or a failing check, in a sentence; empty otherwise."""
    ejected_for_s: float
    in_flight: int
    connections: int
    ewma_ms: float
    signals: Signals | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRow:
    """All calls to one service, over its callers; TCP services have sessions."""

    service: str
    protocol: str
    signals: Signals | None
    sessions: Sessions | None
    actual_per_s: float
    denied: int
    endpoints: int
    """Known to any caller."""
    available: int
    """Of those, used by each caller that knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    host: HostName
    fault: str
    """Why it does not answer; empty: it does."""
    version: str = ""
    generation: int = 0
    uptime_s: float = 0.0
    loop_lag_ms: float = 0.0
    certificates: Mapping[str, float] = field(default_factory=dict)
    """Service to the Unix time at which its leaf ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    at: float
    """Unix seconds, by this machine's clock."""
    window_s: float
    """0: counted since the proxies' start, rates are of that time."""
    services: tuple[ServiceRow, ...]
    edges: tuple[Edge, ...]
    routes: tuple[RouteRow, ...]
    endpoints: tuple[EndpointRow, ...]
    hosts: tuple[HostRow, ...]
    denials: Mapping[tuple[str, str, str], int]
    """In the window, by caller, service and policy."""


def document(view: View) -> dict[str, Any]:
    """For programs, and the dashboard's page. Names are those of ``View``, and its rows go as they
    are: rounding their figures would halve a message, and take five times as long as encoding it.
    """
    return {
        "at": view.at,
        "window_s": view.window_s,
        "services": view.services,
        "edges": view.edges,
        "routes": view.routes,
        "endpoints": view.endpoints,
        "hosts": view.hosts,
        "denials": [
            {"caller": caller, "service": service, "policy": policy, "count": count}
            for (caller, service, policy), count in view.denials.items()
        ],
    }
