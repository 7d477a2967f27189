"""Where a request goes: matches, destinations and what is changed on the way, as data.

Part of ``policy.ServicePolicy``. A match with several conditions needs all of them; one with none
matches everything. The first route that matches is taken; if none does, the service itself.
"""

from proxy.model.codec import Value
from proxy.model.names import ServiceName


class TextMatch(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Exactly one field is set. For a header or a query parameter."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None
    """RE2 syntax; must match the whole value."""
    present: bool | None = None
    """True: there, whatever its value; False: absent."""


class PathMatch(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Exactly one field is set. Compared with the path as the application gets it, no query."""

    exact: str | None = None
    prefix: str | None = None
    """By whole segments: ``/v1`` matches ``/v1`` and ``/v1/x``, never ``/v10``."""
    template: str | None = None
    """``/users/{id}/orders/*`` : ``{name}`` and ``*`` are one segment, a final ``**`` the rest."""
    regex: str | None = None
    """RE2 syntax; must match the whole path."""


class GrpcMatch(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A gRPC call by its names, which are in its path. Letters keep their case."""

    service: str
    """With its package: ``orders.v1.Orders``."""
    method: str = ""
    """Empty: all of the service's."""

    @property
    def path(self) -> PathMatch:
        """gRPC's ``Path``: ``/`` service ``/`` method."""
        if self.method:
            return PathMatch(exact=f"/{self.service}/{self.method}")
        return PathMatch(prefix=f"/{self.service}/")


class Match(Value, frozen=True, kw_only=True, omit_defaults=True):
    path: PathMatch | None = None
    grpc: GrpcMatch | None = None
    """Another way to say a path; never both."""
    methods: tuple[str, ...] = ()
    """Upper case; any if empty."""
    headers: dict[str, TextMatch] = {}
    """Lower-case names."""
    query: dict[str, TextMatch] = {}
    authorities: tuple[str, ...] = ()
    """Host without port, lower case; ``*.example.com`` for every name below. Any if empty."""
    sources: tuple[ServiceName, ...] = ()
    """The calling services; any if empty."""

    @property
    def asked_path(self) -> PathMatch | None:
        """Of ``path`` and ``grpc`` the one that is there, as a path."""
        return self.path if self.grpc is None else self.grpc.path


class HashOn(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What makes two requests belong together. Exactly one field is set."""

    header: str = ""
    cookie: str = ""
    """Set by the proxy in the answer if the client has none."""
    source: bool = False
    """The caller: its address for a connection from an application."""
    ttl_s: float = 0.0
    """Of the cookie; 0: until the browser closes."""


class Destination(Value, frozen=True, kw_only=True, omit_defaults=True):
    service: ServiceName | None = None
    """None: the service that the route belongs to."""
    subset: str = ""
    """One of the destination service's; empty: all endpoints."""
    weight: int = 1
    """Its share is weight over the sum of weights; 0: none, but it may stay in the list."""


class Redirect(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What is not given stays as in the request."""

    status: int = 302
    scheme: str = ""
    authority: str = ""
    path: str = ""
    """Replaces the path; the query stays."""


class DirectResponse(Value, frozen=True, kw_only=True, omit_defaults=True):
    status: int
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"


class Rewrite(Value, frozen=True, kw_only=True, omit_defaults=True):
    path: str = ""
    """Replaces what the match named: the prefix of a prefix match, else the whole path. In a
    template match ``{name}`` stands for the segment of that name. The query stays."""
    authority: str = ""


class HeaderChanges(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Applied in this order: remove, set, add. Framing, identity and mesh headers are refused."""

    remove: tuple[str, ...] = ()
    set: dict[str, str] = {}
    add: dict[str, str] = {}


class Mirror(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A copy of the request whose answer is thrown away."""

    service: ServiceName | None = None
    subset: str = ""
    percent: float = 100.0


class RouteTimeouts(Value, frozen=True, kw_only=True, omit_defaults=True):
    """None: as for the service."""

    per_try_s: float | None = None
    request_s: float | None = None
    grpc_s: float | None = None
