"""What a proxy is told over SSH: who it carries, whom it may accept, where it listens.

Rendered by ``meshctl`` from the inventory, read once at start. Everything that security rests
on is in here or in the certificates, never in Consul: the identities, the callers that each
workload accepts, the trust domain.
"""

from typing import Literal

from proxy.model.codec import Value
from proxy.model.names import HostName, ServiceName, TrustDomain

Protocol = Literal["http", "http2", "grpc", "tcp"]
"""What the application of a service speaks: HTTP/1.1; HTTP/2 with prior knowledge; the same with
gRPC in it; anything. Its callers may speak either version of HTTP to any of the first three."""

MAX_WORKERS = 64
"""Each costs its own memory and connections; more than the cores of a host are of no use."""


class Address(Value, frozen=True, kw_only=True):
    """A place to listen on or to dial."""

    host: str
    port: int


class HealthCheck(Value, frozen=True, kw_only=True):
    """How the proxy asks its local application whether it can serve."""

    kind: Literal["http", "grpc", "tcp"] = "tcp"
    path: str = "/"
    """HTTP only: any 2xx or 3xx answer to GET is healthy. Asked in the version of HTTP that the
    workload's protocol names."""
    grpc_service: str = ""
    """gRPC only: the name that ``grpc.health.v1.Health/Check`` is asked for; empty: the server as
    a whole. ``SERVING`` is healthy."""
    interval_s: float = 5.0
    timeout_s: float = 2.0
    unhealthy_after: int = 2
    """Consecutive failures before the workload is reported critical; one success restores it."""


class Upstream(Value, frozen=True, kw_only=True):
    """A service that a workload calls, and the loopback port it is reached on."""

    service: ServiceName
    protocol: Protocol
    listen: Address | None = None
    """None: only through the workload's ``outbound`` listener, by Host, or by a route."""


class Workload(Value, frozen=True, kw_only=True):
    """One service instance on this host, with an identity of its own."""

    service: ServiceName
    protocol: Protocol
    version: str
    app: Address
    """Where the application itself listens, plaintext."""
    health: HealthCheck
    allow: tuple[ServiceName, ...]
    """Callers accepted by the inbound side; nobody else is. Derived from declared upstreams."""
    upstreams: tuple[Upstream, ...] = ()
    outbound: Address | None = None
    """One port for all HTTP upstreams, told apart by Host; also an ``http_proxy``."""
    weight: int = 1
    """Registered; callers' share of requests among equals."""
    user: str = ""
    """The unix user whose processes may call as this workload; empty: any of the host's."""
    plaintext: Address | None = None
    """Where callers outside the mesh are served while the service's mode is permissive."""


class Capacity(Value, frozen=True, kw_only=True):
    """Beyond it the proxy refuses, with a reason, rather than dies."""

    connections: int = 10_000
    """Downstream, on each side, over all workers."""
    memory_bytes: int = 512 * 1024 * 1024
    """Resident, of each worker; above it new requests get 503 OM."""


class Consul(Value, frozen=True, kw_only=True):
    """The local agent, or the embedded registry: same API."""

    url: str
    """``http://host:port`` without a trailing slash."""
    token_file: str | None = None
    """A file with an ACL token, read at each start; never the token itself."""
    datacenter: str | None = None


class Metrics(Value, frozen=True, kw_only=True):
    """Where others than this host's own users read its figures, in plain text."""

    listen: Address
    sources: tuple[str, ...]
    """Networks (CIDR) that are answered; a connection from elsewhere is closed unread."""


class Settings(Value, frozen=True, kw_only=True):
    """``proxy.json``."""

    host: HostName
    trust_domain: TrustDomain
    advertise: str
    """The address other hosts dial: registered in Consul with ``inbound.port``."""
    release: str
    """Digest of the release that runs; reported, so that drift shows."""
    config: str = ""
    """Digest of this configuration, filled in by its renderer over everything else in here."""
    admin: Address
    inbound: Address
    metrics: Metrics | None = None
    """None: only the admin port has them."""
    consul: Consul
    state_dir: str
    """``identities/<service>/current/{key.pem,chain.pem}``, ``snapshot.json`` and the like."""
    log_dir: str = ""
    """Of ``access.log``, where it is a file; empty: access logs go to stdout only."""
    trust_bundle: str
    """PEM file with the root certificates that a peer may chain to."""
    workloads: tuple[Workload, ...]
    signers: tuple[Address, ...] = ()
    """Who renews identities; empty: an operator, over SSH."""
    policy_keys: str = ""
    """JSON file (``policy_keys.PolicyKeys``) with the keys that policy must be signed by. Empty:
    unsigned policy is believed, which no deploy ever renders."""
    zone: str = ""
    """Where the host stands: registered, and what ``balancing.zone`` prefers."""
    workers: int = 1
    """Processes that share the listening sockets; 0: as many as there are cores."""
    capacity: Capacity = Capacity()
    drain_s: float = 60.0
    """After a stop signal, how long requests in flight may take."""
