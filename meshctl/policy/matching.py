"""Keys that tell requests apart: ``match``, and what stickiness and hashing go by."""

from meshctl.policy.pieces import Many, Text, Time, Truth
from meshctl.policy.section import Field, Section, Table, Whole
from proxy.core.soundness.numbers import RANGES
from proxy.model.routing import GrpcMatch, HashOn, Match, PathMatch, TextMatch

SERVICE = Text("service", "^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$")
CALLER = Text("service or `*`", rf"^(\*|{SERVICE.pattern.strip('^$')})$")
NAME = Text("name", "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
PATH = Text("path", "^/")
METHOD = Text("method", "^[A-Z][A-Z0-9_-]*$")
HEADER = Text("header name", "^[!#$%&'*+.^_`|~0-9a-z-]+$")
_GRPC_NAME = "^[A-Za-z_][A-Za-z0-9_.-]*$"
REGEX = Text("regular expression")

TEXT_MATCH = Section(
    title="text_match",
    struct=TextMatch,
    about="A condition on a header or a query parameter. A text alone means `exact`.",
    short="exact",
    one_of=("exact", "prefix", "regex", "present"),
    fields=(
        Field(key="exact", shape=Text(may_be_empty=True), about="The whole value is this."),
        Field(key="prefix", shape=Text(), about="The value begins with this."),
        Field(key="regex", shape=REGEX, about="The whole value matches this (RE2 syntax)."),
        Field(
            key="present",
            shape=Truth(),
            about="`true`: it is there, whatever its value; `false`: it is not there.",
        ),
    ),
)

PATH_MATCH = Section(
    title="path_match",
    struct=PathMatch,
    about="A condition on the path as the application gets it, without the query. A text alone "
    "means `prefix`.",
    short="prefix",
    one_of=("exact", "prefix", "template", "regex"),
    fields=(
        Field(key="exact", shape=PATH, about="The whole path is this."),
        Field(
            key="prefix",
            shape=PATH,
            about="By whole segments: `/v1` matches `/v1` and `/v1/x`, never `/v10`.",
        ),
        Field(
            key="template",
            shape=PATH,
            about="`/users/{id}/orders/*`: `{name}` and `*` are one segment, a final `**` is the "
            "rest.",
        ),
        Field(key="regex", shape=REGEX, about="The whole path matches this (RE2 syntax)."),
    ),
)

GRPC_MATCH = Section(
    title="grpc_match",
    struct=GrpcMatch,
    about="A gRPC call by its names, which is a condition on the path: `/service/method`. Letters "
    "keep their case. A text alone is the service.",
    short="service",
    fields=(
        Field(
            key="service",
            shape=Text("gRPC service", _GRPC_NAME),
            about="With its package: `orders.v1.Orders`.",
            is_required=True,
        ),
        Field(
            key="method",
            shape=Text("gRPC method", _GRPC_NAME),
            about="One of its methods: `GetOrder`. Without it: all of them.",
        ),
    ),
)

MATCH = Section(
    title="match",
    struct=Match,
    about="Which requests are meant: those that meet all of the conditions. Without any: all.",
    at_most_one_of=("path", "grpc"),
    fields=(
        Field(key="path", shape=Whole(section=PATH_MATCH), about="The path."),
        Field(
            key="grpc",
            shape=Whole(section=GRPC_MATCH),
            about="A gRPC service, or one of its methods; instead of `path`.",
        ),
        Field(key="methods", shape=Many(METHOD), about="The method is one of these."),
        Field(
            key="headers",
            shape=Table(value=Whole(section=TEXT_MATCH), what="header", keys=HEADER.pattern),
            about="Headers, by their names in lower case.",
        ),
        Field(
            key="query",
            shape=Table(value=Whole(section=TEXT_MATCH), what="parameter"),
            about="Parameters of the query, by their names.",
        ),
        Field(
            key="authorities",
            shape=Many(Text("host", r"^(\*\.)?[a-z0-9_.\[\]:-]+$")),
            about="The host that was asked for is one of these, without its port; "
            "`*.example.com` is every name below.",
        ),
        Field(key="sources", shape=Many(SERVICE), about="The calling service is one of these."),
    ),
)

HASH_ON = Section(
    title="hash_on",
    struct=HashOn,
    about="What makes two requests belong together.",
    one_of=("header", "cookie", "source"),
    fields=(
        Field(key="header", shape=HEADER, about="Equal values of this header."),
        Field(
            key="cookie",
            shape=Text("cookie name"),
            about="Equal values of this cookie, which the proxy sets if the client has none.",
        ),
        Field(
            key="source",
            shape=Truth(only_true=True),
            about="The caller: its address for a connection from an application.",
        ),
        Field(
            key="ttl",
            field="ttl_s",
            shape=Time(RANGES[HashOn]["ttl_s"]),
            about="How long the browser keeps the cookie; 0: until it is closed.",
        ),
    ),
)
