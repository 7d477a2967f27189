"""What a proxy says of itself on ``GET /status`` of its admin port."""

from typing import Literal

from proxy.model.codec import Value
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName

State = Literal["starting", "ready", "draining"]
PolicySource = Literal["none", "disk", "consul"]


class IdentityStatus(Value, frozen=True, kw_only=True):
    """The leaf in force for new connections."""

    spiffe_id: str
    serial: str
    """Lower-case hex without leading zeros."""
    not_before: str
    not_after: str
    """RFC 3339, UTC."""


class RenewalStatus(Value, frozen=True, kw_only=True):
    """How it stands with the renewal of an identity by the signers."""

    next_at: str
    """RFC 3339, UTC; empty: there is no identity to renew."""
    last_error: str
    """Of the last try; empty after one that worked, and before the first."""
    failures: int
    """In a row."""
    is_revoked: bool
    """A signer said that this host no longer has the service."""


class WorkloadStatus(Value, frozen=True, kw_only=True):
    service: ServiceName
    version: str
    protocol: str
    is_healthy: bool
    health_detail: str
    identity: IdentityStatus | None
    """None: no usable key and chain on disk; the workload refuses traffic."""
    renewal: RenewalStatus | None = None
    """None: there are no signers."""
    user_problem: str = ""
    """Why no process of the host may call as it; empty: its user's may, or everybody's."""


class UpstreamStatus(Value, frozen=True, kw_only=True):
    service: ServiceName
    caller: ServiceName
    listen: str
    """Its own address, or its caller's outbound port; empty: only a route leads there."""
    endpoints: tuple[Endpoint, ...]
    source: PolicySource


class WorkersStatus(Value, frozen=True, kw_only=True):
    """The processes that share the proxy's listening sockets."""

    desired: int = 1
    alive: int = 1
    """That accept connections, the main one among them."""
    restarts: int = 0
    """Since the start of the main one."""
    pids: tuple[int, ...] = ()
    """The main one first."""


class ProxyStatus(Value, frozen=True, kw_only=True):
    host: HostName
    version: str
    state: State
    release: str
    config: str
    generation: int
    policy_source: PolicySource
    refused: str
    """Why the newest snapshot was refused; empty if it was not."""
    registry_error: str
    """The last failure to talk to Consul; empty while it works."""
    is_announced: bool
    """The registry has been told of every workload since the start."""
    started_at: str
    workloads: tuple[WorkloadStatus, ...]
    upstreams: tuple[UpstreamStatus, ...]
    workers: WorkersStatus = WorkersStatus()
    policy_keys: tuple[str, ...] = ()
    """Ids of the keys by which policy is believed, sorted."""


class EndpointState(Value, frozen=True, kw_only=True):
    """What a calling proxy has learned of one endpoint; of one worker, if there are several."""

    host: HostName
    address: str
    port: int
    version: str
    zone: str
    tier: int
    """0: the service itself; 1 and more: what it fails over to, in order."""
    state: Literal["available", "ejected", "probing", "failing", "avoided"]
    """``failing``: its active health check. ``avoided``: a connect failed lately."""
    ejected_for_s: float
    """0 unless ejected."""
    ejections: int
    """In a row."""
    in_flight: int
    connections: int
    latency_ms: float
    """Peak EWMA, with penalties for failures; what ``peak_ewma`` compares."""
    why: str = ""
    """What took it out of use, in a short sentence; empty while it is available."""
    service: str = ""
    """Of the endpoint: another than the cluster's where a failover leads to one."""


class ClusterState(Value, frozen=True, kw_only=True):
    """One destination of one caller, on ``GET /clusters``."""

    caller: ServiceName
    name: str
    """``api`` or ``api/<subset>``."""
    algorithm: str
    active_tier: int
    is_panicking: bool
    requests: int
    """In flight."""
    pending: int
    endpoints: tuple[EndpointState, ...]
