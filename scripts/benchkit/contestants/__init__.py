"""Those who are compared. Each writes its configuration for the same work and starts two proxies.

The work: a client sidecar of the service ``web`` with two plaintext loopback listeners, one for
``api`` (HTTP/1.1) and one for ``blob`` (TCP); a server sidecar that carries both, over TLS 1.3
with certificates on both sides, each side checking whom it talks to.

With every feature on (``Group.FULL``) there is more: the server sidecar is reachable under
``ADDRESSES``, which the client balances over; the client has ``ROUTES``, of which the third is the
one that matches; retries, outlier detection, limits and timeouts are configured; the server lets
``web`` in by a rule; each request gets an id, a trace context and the caller's identity; and there
are metrics to be had. What one cannot do, or is spared, it says in ``omissions``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from benchkit.processes import Group as Processes
from benchkit.processes import Process

CALLER, HTTP_SERVICE, TCP_SERVICE = "web", "api", "blob"
STRANGER = "stranger"
"""Has a valid certificate of the same mesh, and may call nothing."""
TRUST_DOMAIN = "bench.mesh"

EVERY_PHASE = frozenset(
    {"http", "latency", "tcp", "memory"}
    | {"unary", "streaming", "download", "streams", "websockets"}
)
"""What a go can measure, in ``turn`` and in ``multiplexed``."""

ADDRESSES = ("127.0.0.1", "127.0.0.2")
"""Of the server sidecar: two endpoints for who balances, one process to measure."""
REQUEST_PREFIX = "/api/items"
"""What the load asks for lies below it, with a header ``ROUTING_HEADER: t<number>``."""
ROUTING_HEADER = "x-tenant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The path has this prefix and the header, if any, this exact value or this prefix."""

    name: str
    path_prefix: str
    header_exact: str = ""
    header_prefix: str = ""


ROUTES = (
    Route(name="beta", path_prefix="/api", header_exact="beta"),
    Route(name="admin", path_prefix="/admin"),
    Route(name="items", path_prefix=REQUEST_PREFIX, header_prefix="t"),
)
"""The first that matches is taken; no request of the load matches one before the last."""

CALLED = "/bench.Items"
"""What the load calls by gRPC is a method below it, with the same header."""
CALL_ROUTES = (
    Route(name="beta", path_prefix=CALLED, header_exact="beta"),
    Route(name="admin", path_prefix="/bench.Admin"),
    Route(name="items", path_prefix=CALLED, header_prefix="t"),
)
"""The same three for gRPC: by service instead of by path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What is behind the server sidecar as ``HTTP_SERVICE``."""

    port: int
    protocol: str = "http"
    """As in the inventory: ``http`` is HTTP/1.1, ``http2`` and ``grpc`` by prior knowledge."""
    routes: Sequence[Route] = ROUTES
    most_requests: int = 1024
    """In flight, by the limits of every contestant."""

    @property
    def is_multiplexed(self) -> bool:
        return self.protocol in {"http2", "grpc"}


class Group(StrEnum):
    """Only who is in the same group is compared."""

    FULL = "all features on"
    BARE = "bare"
    TCP = "TCP only"


def spiffe_id(service: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/svc/{service}"


def server_name(service: str) -> str:
    return f"{service}.{TRUST_DOMAIN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """All on 127.0.0.1, free a moment ago."""

    http_out: int
    """Where the client sidecar takes requests for ``api``."""
    tcp_out: int
    """Where it takes connections for ``blob``."""
    stranger_out: int
    """Where a client sidecar of ``STRANGER`` listens, if a contestant needs one to be tested."""
    http_in: int
    """mTLS, on the server sidecar, for ``api``."""
    tcp_in: int
    """mTLS, for ``blob``; a contestant with one inbound port leaves it unused."""
    client_admin: int
    server_admin: int
    client_inbound: int
    registry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a contestant is given for one go."""

    directory: Path
    """Empty, its own, removed afterwards."""
    identities: Path
    """``trust.pem`` and ``<service>/{key,chain,both}.pem``."""
    backend_port: int
    """Where ``TCP_SERVICE`` is: HTTP/1.1 in a stream of bytes."""
    application: Application
    ports: Ports
    proxy_core: int
    load_core: int
    """For helpers that are not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two proxies that are measured."""

    client: Process
    server: Process

    @property
    def both(self) -> tuple[Process, Process]:
        return self.client, self.server


class Contestant(Protocol):
    @property
    def name(self) -> str:
        """Unique in a run, with the group if it is not ``Group.FULL``."""
        ...

    @property
    def group(self) -> Group: ...

    @property
    def phases(self) -> frozenset[str]:
        """Those of ``turn.PHASES`` that it takes part in."""
        ...

    @property
    def version(self) -> str:
        """As the program itself says."""
        ...

    @property
    def features(self) -> Sequence[str]:
        """What it was configured to do, in words, for the report."""
        ...

    @property
    def omissions(self) -> Sequence[str]:
        """What it was not, though others were."""
        ...

    def start(self, site: Site, processes: Processes) -> Pair:
        """Adds every process that it starts to ``processes``, which stops them.

        Waits for the server sidecar and for helpers, not for the client sidecar.
        """
        ...

    def intruders(self, site: Site) -> Sequence[str]:
        """Who is let in without a right to be; asked while the pair runs. Empty: nobody."""
        ...
