"""What keeps a failing service from taking its callers with it, as data.

Part of ``policy.ServicePolicy``. Each default names its source.
"""

from datetime import datetime
from typing import Literal

from proxy.model.codec import Value
from proxy.model.names import ServiceName
from proxy.model.routing import Match

RetryOn = Literal[
    "connect-failure",
    "refused",
    "reset-reused",
    "reset",
    "per-try-timeout",
    "gateway-error",
    "5xx",
    "retriable-4xx",
    "statuses",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
]
"""``connect-failure``: no connection. ``refused``: the peer's proxy refused it before the
application, or the application's HTTP/2 says that it has not begun with it. ``reset-reused``: a
kept connection was closed before the first byte, idempotent methods only. These three are the
default: none repeats what an application has seen.

``reset``: the connection ended before the answer's head. ``per-try-timeout``. ``gateway-error``:
502, 503, 504. ``5xx``. ``retriable-4xx``: 409. ``statuses``: those listed. The proxy's own 502
for a reset and 504 for a try's timeout count as such. These repeat what the application may have
seen, so only for ``methods``.

``cancelled``, ``deadline-exceeded``, ``internal``, ``resource-exhausted``, ``unavailable``: what a
gRPC call ended with before its first message came back. ``methods`` is not asked: all calls of
gRPC are POST."""


GrpcError = Literal[
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]
"""gRPC's statuses, but for OK."""


class Retries(Value, frozen=True, kw_only=True, omit_defaults=True):
    attempts: int = 2
    """Further tries; 0: none. One more than Linkerd, as none of ``on`` can repeat work."""
    on: tuple[RetryOn, ...] = ("connect-failure", "refused", "reset-reused")
    statuses: tuple[int, ...] = ()
    methods: tuple[str, ...] = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")
    """RFC 9110, section 9.2.2."""
    backoff_base_s: float = 0.025
    """At most, before the first retry, doubling with each, full jitter; the first after a
    failure to connect goes at once. Envoy's figures."""
    backoff_max_s: float = 0.25
    budget_percent: float = 20.0
    """Retries at most this share of requests over the last 10 s (Linkerd)."""
    budget_min_per_s: float = 10.0
    """But always this many a second (Linkerd)."""
    body_limit_bytes: int = 65536
    """Of the request's body kept for another try (Linkerd); beyond it there is none."""


class Limits(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Per calling workload and called service (or subset); beyond them 503 UO at once. Envoy."""

    connections: int = 1024
    pending: int = 1024
    """Requests that wait for a connection."""
    requests: int = 1024
    """In flight. TCP: sessions."""
    retries: int = 64
    """In flight at the same time, on top of the budget."""
    new_connections_per_s: float = 0.0
    """TCP sessions begun, burst of one second's worth; 0: no limit."""


class OutlierDetection(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Envoy's figures; recovery by one real request, as in Linkerd."""

    consecutive_failures: int = 5
    """5xx, resets, timeouts and failed connects in a row; 0: never eject."""
    ejection_s: float = 30.0
    """Times the number of ejections in a row."""
    max_ejection_s: float = 300.0
    max_ejected_percent: float = 10.0
    """Of the endpoints, but at least one."""
    panic_percent: float = 50.0
    """Below this share of available endpoints all are used; 0: never."""


class ActiveHealth(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Asked by each calling proxy of each endpoint, through the mesh."""

    kind: Literal["http", "grpc", "tcp"] = "http"
    """``grpc``: ``grpc.health.v1.Health/Check`` answers ``SERVING``. ``tcp``: the mTLS handshake
    with the endpoint's proxy completes."""
    path: str = "/"
    """HTTP only."""
    grpc_service: str = ""
    """gRPC only; empty: the server as a whole."""
    statuses: tuple[int, ...] = ()
    """Healthy ones; empty: 200 to 399."""
    interval_s: float = 10.0
    timeout_s: float = 2.0
    unhealthy_after: int = 3
    healthy_after: int = 2


class RateLimit(Value, frozen=True, kw_only=True, omit_defaults=True):
    """At the called side, so that callers share it; each proxy counts for itself."""

    name: str
    """In the answer, the log and the metric."""
    requests: int
    """Per ``per_s``."""
    per_s: float = 1.0
    burst: int = 0
    """At once; 0: as many as ``requests``."""
    by: Literal["service", "caller"] = "service"
    """``caller``: each calling identity has the whole figure to itself."""
    match: Match = Match()


class Fault(Value, frozen=True, kw_only=True, omit_defaults=True):
    """At the calling side; over by itself at ``until``."""

    name: str
    until: datetime
    percent: float = 100.0
    delay_s: float = 0.0
    abort_status: int = 0
    """0: no abort. With a delay: after it."""
    grpc_status: GrpcError | None = None
    """What a gRPC call is answered with instead; None: with what the abort's status means."""
    match: Match = Match()


class Failover(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Where requests go while nothing before it in the list is available. One field at least."""

    service: ServiceName | None = None
    subset: str = ""
    datacenter: str = ""
