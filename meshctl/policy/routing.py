"""Keys of a route: where requests go, and what is changed on the way."""

from meshctl.policy.calling import GRPC, PER_TRY, REQUEST, RETRIES
from meshctl.policy.matching import HASH_ON, HEADER, MATCH, NAME, PATH, SERVICE
from meshctl.policy.pieces import Many, Number, Percent, Status, Text, Time, Word
from meshctl.policy.section import Field, Section, Table, Whole
from proxy.core.soundness.numbers import RANGES
from proxy.core.soundness.routing import REDIRECTS
from proxy.model.policy import Route, Subset
from proxy.model.routing import (
    Destination,
    DirectResponse,
    HeaderChanges,
    Mirror,
    Redirect,
    Rewrite,
    RouteTimeouts,
)

_VALUES = Table(value=Text(may_be_empty=True), what="header", keys=HEADER.pattern)
_AUTHORITY = Text("host, or host:port", r"^[a-z0-9_.\[\]:-]+$")

SUBSET = Section(
    title="subset",
    struct=Subset,
    about="The instances of a service with a version in the inventory. A text alone is the "
    "version.",
    short="version",
    fields=(
        Field(
            key="version",
            shape=Text("version", "^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$"),
            about="As in inventory.yaml.",
            is_required=True,
        ),
    ),
)

DESTINATION = Section(
    title="destination",
    struct=Destination,
    about="One place that requests go to. A text alone is the service.",
    short="service",
    fields=(
        Field(
            key="service",
            shape=SERVICE,
            about="A service of the inventory, which every caller has among its upstreams. "
            "Without it: the service that the route belongs to.",
        ),
        Field(
            key="subset",
            shape=NAME,
            about="One of that service's subsets. Without it: all of its endpoints.",
        ),
        Field(
            key="weight",
            shape=Number(RANGES[Destination]["weight"]),
            about="Its share is its weight over the sum of the weights; 0: none for now.",
            source="Istio",
        ),
    ),
)

REDIRECT = Section(
    title="redirect",
    struct=Redirect,
    about="The proxy answers with another address. What is not given stays as in the request.",
    fields=(
        Field(
            key="status",
            shape=Status(REDIRECTS),
            about="The status of the answer.",
            source="ours; a 301 is remembered by browsers for ever",
        ),
        Field(key="scheme", shape=Word(("http", "https")), about="The scheme."),
        Field(key="authority", shape=_AUTHORITY, about="The host, with a port if need be."),
        Field(key="path", shape=PATH, about="Replaces the path; the query stays."),
    ),
)

RESPOND = Section(
    title="respond",
    struct=DirectResponse,
    about="The proxy answers by itself. A number alone is the status.",
    short="status",
    fields=(
        Field(
            key="status",
            shape=Number(RANGES[DirectResponse]["status"]),
            about="The status of the answer.",
            is_required=True,
        ),
        Field(key="body", shape=Text(may_be_empty=True), about="At most 64 KiB."),
        Field(key="content_type", shape=Text("media type"), about="Of the body.", source="Envoy"),
    ),
)

REWRITE = Section(
    title="rewrite",
    struct=Rewrite,
    about="What the application sees instead of what was asked for.",
    fields=(
        Field(
            key="path",
            shape=PATH,
            about="Replaces what the match named: the prefix of a prefix match, else the whole "
            "path. With a match by template `{name}` stands for the segment of that name. The "
            "query stays.",
        ),
        Field(key="authority", shape=_AUTHORITY, about="Replaces the host."),
    ),
)

HEADER_CHANGES = Section(
    title="header_changes",
    struct=HeaderChanges,
    about="Applied in this order: remove, set, add. Headers of framing, identity and the mesh "
    "are refused.",
    fields=(
        Field(key="remove", shape=Many(HEADER), about="All headers of these names."),
        Field(key="set", shape=_VALUES, about="In place of all headers of the name."),
        Field(key="add", shape=_VALUES, about="Besides those that are there."),
    ),
)

MIRROR = Section(
    title="mirror",
    struct=Mirror,
    about="Gets a copy of the request; its answer is thrown away. A text alone is the service.",
    short="service",
    fields=(
        Field(
            key="service",
            shape=SERVICE,
            about="A service that every caller has among its upstreams. Without it: the service "
            "that the route belongs to, and then `subset` is needed.",
        ),
        Field(key="subset", shape=NAME, about="One of that service's subsets."),
        Field(
            key="percent",
            shape=Percent(RANGES[Mirror]["percent"]),
            about="The share of requests that is copied.",
            source="Istio",
        ),
    ),
)

ROUTE_TIMEOUTS = Section(
    title="route_timeouts",
    struct=RouteTimeouts,
    about="What differs from the service's `timeouts` on this route.",
    fields=(
        Field(
            key="per_try",
            field="per_try_s",
            shape=Time(RANGES[RouteTimeouts]["per_try_s"]),
            about=PER_TRY.about,
        ),
        Field(
            key="request",
            field="request_s",
            shape=Time(RANGES[RouteTimeouts]["request_s"]),
            about=REQUEST.about,
        ),
        Field(
            key="grpc",
            field="grpc_s",
            shape=Time(RANGES[RouteTimeouts]["grpc_s"]),
            about=GRPC.about,
        ),
    ),
)

ROUTE = Section(
    title="route",
    struct=Route,
    about="The first route that matches is taken; if none does, the request goes to the service "
    "itself. A route has at most one of `to`, `redirect` and `respond`; with none of them it leads "
    "to the service itself, too.",
    fields=(
        Field(
            key="name",
            shape=NAME,
            about="What people call it; once in a service.",
            is_required=True,
        ),
        Field(key="match", shape=Whole(section=MATCH), about="Which requests. Without it: all."),
        Field(
            key="to",
            shape=Many(Whole(section=DESTINATION)),
            about="Where they go, several places by their weights. Without it: the service itself.",
        ),
        Field(
            key="sticky",
            shape=Whole(section=HASH_ON),
            about="With several destinations: equal values get the same one, while the weights "
            "stay.",
        ),
        Field(key="redirect", shape=Whole(section=REDIRECT), about=REDIRECT.about),
        Field(key="respond", shape=Whole(section=RESPOND), about=RESPOND.about),
        Field(key="rewrite", shape=Whole(section=REWRITE), about=REWRITE.about),
        Field(
            key="request_headers",
            shape=Whole(section=HEADER_CHANGES),
            about="Changes of the request's headers.",
        ),
        Field(
            key="response_headers",
            shape=Whole(section=HEADER_CHANGES),
            about="Changes of the answer's headers.",
        ),
        Field(key="mirror", shape=Whole(section=MIRROR), about=MIRROR.about),
        Field(key="timeouts", shape=Whole(section=ROUTE_TIMEOUTS), about=ROUTE_TIMEOUTS.about),
        Field(
            key="retries",
            shape=RETRIES,
            about="What differs from the service's `retries` on this route.",
        ),
    ),
)
