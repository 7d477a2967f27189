"""What is known of a call before it is made: the answer of ``explaining``, as a value.

``at`` is always ``<file>:<line>``, or empty where no text is at hand or nothing was written.
"""

from dataclasses import dataclass
from enum import StrEnum

from proxy.model.names import HostName, ServiceName
from proxy.model.settings import Protocol


class Outcome(StrEnum):
    ALLOWED = "allowed"
    DENIED = "denied"
    """By policy: at the called side, or because a route leads to what the caller may not call."""
    ANSWERED = "answered"
    """By the caller's proxy itself: a redirect, a direct response, a fault on purpose."""
    REFUSED = "refused"
    """By the caller's proxy: it is not valid HTTP, or no address leads there."""
    DEPENDS = "depends"
    """On the request, or on which destination it gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmet:
    """A condition that the request does not meet."""

    wants: str
    """As in ``mesh.yaml``: ``methods GET, HEAD``."""
    has: str
    """What the request has in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """An address at which the calling application reaches the service."""

    host: HostName
    """Of the caller."""
    address: str
    names: tuple[str, ...]
    """The Hosts that mean the service there; empty: any, for the port is the service's own."""
    user: str
    """The unix user whose processes may call there; empty: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """A route that stands before the one taken, and why it was not taken."""

    name: str
    at: str
    unmet: tuple[Unmet, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSeen:
    name: str
    at: str
    percent: float
    """Of the requests that it is asked about: faults before it take theirs first."""
    delay_s: float
    abort_status: int
    """0: no abort."""
    grpc_status: str = ""
    """What gRPC calls get instead; empty: what the abort means to them."""
    until: str
    depends_on: str
    """The conditions, where there is no request to judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of the caller's proxy in the service's place."""

    what: str
    """``redirect``, ``respond`` or ``fault``."""
    status: int
    location: str
    """Of a redirect; empty without a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    key: str
    """As in ``mesh.yaml``: ``timeouts.request``."""
    value: str
    origin: str
    """``route``, ``service``, ``defaults`` or ``built-in``."""
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A destination's own endpoints, or those of one of its failovers."""

    name: str
    service: ServiceName
    datacenter: str
    """Empty: the mesh's own."""
    hosts: tuple[HostName, ...]
    """As the inventory has them; of another datacenter it knows none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    name: str
    """``api`` or ``api/<subset>``."""
    service: ServiceName
    share_percent: float
    at: str
    is_declared: bool
    """False: the caller may not call it, and its own proxy refuses."""
    is_pinned: bool
    """This very request belongs there, as the route is sticky."""
    tiers: tuple[Tier, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSeen:
    """An intention, and what came of looking at it."""

    id: str
    at: str
    verb: str
    """``allow`` or ``deny``."""
    is_audit: bool
    result: str
    """``holds``, ``does not hold``, ``depends``, ``not for this caller`` or ``not asked``."""
    conditions: str
    unmet: tuple[Unmet, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSeen:
    """A rate limit that counts the request."""

    name: str
    at: str
    figures: str
    depends_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the called side makes of it, which is the same on each of its hosts."""

    service: ServiceName
    outcome: Outcome
    policy: str
    """The id, as in answer, log and metric; empty while it depends."""
    why: str
    at: str
    """Of the intention."""
    target: str
    """What the application gets, with the query; empty without a request."""
    authority: str
    is_permissive: bool
    """Callers without an identity are served as well, on a plaintext port of their own."""
    audited: tuple[str, ...]
    rules: tuple[RuleSeen, ...]
    limits: tuple[LimitSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSeen:
    name: str
    service: ServiceName
    percent: float
    at: str
    is_declared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """What one route makes of it, or the service itself where none matches."""

    route: str
    """Empty: none."""
    at: str
    conditions: str
    answer: Answer | None
    changes: str
    """Rewrites and header changes, as in ``mesh.yaml``."""
    sticky: str
    destinations: tuple[Destination, ...]
    mirror: MirrorSeen | None
    settings: tuple[Setting, ...]
    judgements: tuple[Judgement, ...]
    """One for each service that a destination, a failover or the mirror leads to."""

    def judgement(self, service: ServiceName) -> Judgement | None:
        return next((each for each in self.judgements if each.service == service), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    caller: ServiceName
    service: ServiceName
    protocol: Protocol
    request: str
    """``GET /v1``; empty: none was given."""
    outcome: Outcome
    why: str
    """One sentence."""
    grpc_status: str = ""
    """Of a gRPC call that a proxy answers: ``PERMISSION_DENIED``; else empty."""
    ways: tuple[Way, ...]
    faults: tuple[FaultSeen, ...]
    passed_over: tuple[PassedOver, ...]
    branches: tuple[Branch, ...]
    """One for a request. Without one: all that are possible, in their order."""
