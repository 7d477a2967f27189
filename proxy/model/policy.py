"""``mesh.yaml`` as the proxies see it: an immutable snapshot with a generation number."""

from typing import Literal

from proxy.model.authorization import Intention, Mode, TokenProvider
from proxy.model.codec import Value
from proxy.model.names import ServiceName, TrustDomain
from proxy.model.resilience import (
    ActiveHealth,
    Failover,
    Fault,
    Limits,
    OutlierDetection,
    RateLimit,
    Retries,
)
from proxy.model.routing import (
    Destination,
    DirectResponse,
    HashOn,
    HeaderChanges,
    Match,
    Mirror,
    Redirect,
    Rewrite,
    RouteTimeouts,
)
from proxy.model.telemetry import AccessLog, Telemetry, Tracing


class Timeouts(Value, frozen=True, kw_only=True, omit_defaults=True):
    """All in seconds. Defaults: Linkerd for connect, Envoy for the rest."""

    connect_s: float = 1.0
    """TCP and TLS together."""
    per_try_s: float = 0.0
    """From the last byte of the request to the response's head, for each try; 0: none."""
    request_s: float = 15.0
    """From the last byte of the request to the last of the response, all tries; 0: none. Not for
    gRPC, whose calls may be streams."""
    grpc_s: float = 0.0
    """The most that a gRPC call may take, a stream included; 0: as long as its caller allows."""
    stream_idle_s: float = 300.0
    """No byte in either direction within a request or TCP session."""
    connection_idle_s: float = 3600.0
    """A downstream connection without a request."""
    pool_idle_s: float = 3.0
    """An unused upstream connection: below the usual keep-alive of applications."""


Algorithm = Literal["peak_ewma", "least_request", "round_robin", "random", "ring_hash", "maglev"]


class Balancing(Value, frozen=True, kw_only=True, omit_defaults=True):
    algorithm: Algorithm = "peak_ewma"
    """``peak_ewma`` and ``least_request`` look at two random endpoints and take the better."""
    hash_on: HashOn | None = None
    """For ``ring_hash`` and ``maglev``."""
    default_rtt_s: float = 0.03
    """Assumed of an endpoint not measured yet (Linkerd)."""
    decay_s: float = 10.0
    """How fast a measurement is forgotten (Linkerd)."""
    slow_start_s: float = 0.0
    """How long a new endpoint's share takes to grow to the whole; 0: at once."""
    zone: Literal["prefer", "ignore"] = "prefer"
    """``prefer``: the caller's own zone, spilling over as its healthy share goes down."""


class Subset(Value, frozen=True, kw_only=True, omit_defaults=True):
    version: str


class Route(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What it does is exactly one of: ``to`` (empty: the service itself), ``redirect``,
    ``respond``."""

    name: str
    match: Match = Match()
    to: tuple[Destination, ...] = ()
    sticky: HashOn | None = None
    """With several destinations: equal values get the same one, while the weights stay."""
    redirect: Redirect | None = None
    respond: DirectResponse | None = None
    rewrite: Rewrite | None = None
    request_headers: HeaderChanges | None = None
    response_headers: HeaderChanges | None = None
    mirror: Mirror | None = None
    timeouts: RouteTimeouts | None = None
    retries: Retries | None = None
    """None: as for the service."""


class ServicePolicy(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What is in force when a service is called."""

    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    balancing: Balancing = Balancing()
    limits: Limits = Limits()
    outlier_detection: OutlierDetection = OutlierDetection()
    health_check: ActiveHealth | None = None
    rate_limits: tuple[RateLimit, ...] = ()
    faults: tuple[Fault, ...] = ()
    subsets: dict[str, Subset] = {}
    routes: tuple[Route, ...] = ()
    failover: tuple[Failover, ...] = ()
    mode: Mode = "strict"
    intentions: tuple[Intention, ...] = ()
    """Empty: whoever the inventory declares may call. Otherwise one of them has to allow it."""
    access_log: AccessLog = AccessLog()
    tracing: Tracing = Tracing()


class Policy(Value, frozen=True, kw_only=True, omit_defaults=True):
    """The mesh's traffic policy; a service not named gets ``defaults``."""

    defaults: ServicePolicy = ServicePolicy()
    services: dict[ServiceName, ServicePolicy] = {}
    tokens: dict[str, TokenProvider] = {}
    """By names that intentions refer to."""
    telemetry: Telemetry = Telemetry()

    def of(self, service: ServiceName) -> ServicePolicy:
        return self.services.get(service, self.defaults)


class Snapshot(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One published policy. Published by check-and-set under ``registration.SNAPSHOT_KEY``, as
    ``snapshot.pack`` makes it."""

    generation: int
    """Starts at 1, goes up by one with each publication that changes anything."""
    trust_domain: TrustDomain
    policy: Policy
    cut_denied: bool = False
    """Connections that live and that this policy would not let in are cut as it is applied."""
    digest: str = ""
    """Of the whole policy's encoding, noted by a proxy that keeps only its own part of it."""
