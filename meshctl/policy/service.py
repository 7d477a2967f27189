"""Keys of one service, of the defaults, and of the whole file."""

from typing import get_args

from meshctl.policy.calling import CALLING
from meshctl.policy.matching import CALLER, MATCH, NAME, SERVICE
from meshctl.policy.pieces import Many, Moment, Number, Percent, Text, Time, Truth, Word
from meshctl.policy.routing import ROUTE, SUBSET
from meshctl.policy.section import Field, Section, Table, Whole
from meshctl.policy.tokens import TOKEN_RULE
from proxy.core.soundness.numbers import RANGES
from proxy.model.authorization import Intention
from proxy.model.policy import ServicePolicy
from proxy.model.resilience import Failover, Fault, GrpcError, RateLimit

VERSION = 1

RATE_LIMIT = Section(
    title="rate_limit",
    struct=RateLimit,
    about="Requests beyond it are refused with 429, the flag RL, `retry-after` and `ratelimit-*` "
    "headers. Enforced at the called side, so that callers share it; each proxy there counts for "
    "itself.",
    fields=(
        Field(
            key="name",
            shape=NAME,
            about="In the answer and the metric; once in a service.",
            is_required=True,
        ),
        Field(
            key="requests",
            shape=Number(RANGES[RateLimit]["requests"]),
            about="How many, in each `per`.",
            is_required=True,
        ),
        Field(
            key="per",
            field="per_s",
            shape=Time(RANGES[RateLimit]["per_s"]),
            about="The time that `requests` is for.",
            source="ours",
        ),
        Field(
            key="burst",
            shape=Number(RANGES[RateLimit]["burst"]),
            about="How many at once; 0: as many as `requests`.",
            source="ours",
        ),
        Field(
            key="by",
            shape=Word(("service", "caller")),
            about="`caller`: each calling service has the whole figure to itself.",
            source="ours",
        ),
        Field(key="match", shape=Whole(section=MATCH), about="Which requests. Without it: all."),
    ),
)

FAULT = Section(
    title="fault",
    struct=Fault,
    about="Faults on purpose, to see what callers make of them; injected at the calling side.",
    fields=(
        Field(
            key="name",
            shape=NAME,
            about="In the answer and the metric; once in a service.",
            is_required=True,
        ),
        Field(
            key="until",
            shape=Moment(),
            about="When it is over by itself. A time in the past is refused.",
            is_required=True,
        ),
        Field(
            key="percent",
            shape=Percent(RANGES[Fault]["percent"]),
            about="The share of requests that is hit.",
            source="ours",
        ),
        Field(
            key="delay",
            field="delay_s",
            shape=Time(RANGES[Fault]["delay_s"]),
            about="The request waits for this long first; 0: not at all.",
            source="ours",
        ),
        Field(
            key="abort",
            field="abort_status",
            shape=Number(RANGES[Fault]["abort_status"]),
            about="The proxy answers with this status, after the delay if there is one; 0: it "
            "does not.",
            source="ours",
        ),
        Field(
            key="grpc_status",
            shape=Word(get_args(GrpcError)),
            about="What a gRPC call is answered with, instead of `abort`. Without it: with what "
            "`abort` means to gRPC.",
        ),
        Field(key="match", shape=Whole(section=MATCH), about="Which requests. Without it: all."),
    ),
)

FAILOVER = Section(
    title="failover",
    struct=Failover,
    about="Where requests go while the service itself, and nothing before this in the list, is "
    "available. One key at least. A text alone is the service.",
    short="service",
    fields=(
        Field(
            key="service",
            shape=SERVICE,
            about="A service that every caller has among its upstreams. Without it: the service "
            "itself.",
        ),
        Field(key="subset", shape=NAME, about="One of that service's subsets."),
        Field(
            key="datacenter",
            shape=Text("datacenter", "^[a-z0-9_-]{1,64}$"),
            about="Another of Consul's datacenters.",
        ),
    ),
)

INTENTION = Section(
    title="intention",
    struct=Intention,
    about="Who may call the service. One that denies decides before all that allow; among those "
    "that allow, one is enough. It narrows what the inventory declares, and never widens it. "
    "Enforced at the called side; its id in answers, logs and metrics is `service/name`.",
    one_of=("allow", "deny"),
    fields=(
        Field(
            key="name",
            shape=NAME,
            about="Part of its id; once in a service.",
            is_required=True,
        ),
        Field(
            key="allow",
            shape=Many(CALLER),
            about="Services that may; `*` is every one that the inventory declares.",
        ),
        Field(key="deny", shape=Many(CALLER), about="Services that may not."),
        Field(
            key="audit",
            field="is_audit",
            shape=Truth(),
            about="`true`: it decides nothing; calls that it would have decided otherwise are "
            "logged and counted.",
        ),
        Field(
            key="match",
            shape=Whole(section=MATCH),
            about="Which requests, without `sources`. Without it: all. A path is compared in its "
            "normal form, which the application gets as well; what `deny` names is denied in any "
            "case of its letters.",
        ),
        Field(
            key="token",
            shape=Whole(section=TOKEN_RULE),
            about="http and `allow` only: a valid token as well. Without it: none is asked for.",
        ),
    ),
)

LISTS = {
    "rate_limits": RATE_LIMIT,
    "faults": FAULT,
    "routes": ROUTE,
    "failover": FAILOVER,
    "intentions": INTENTION,
}
"""Keys of a service whose value is a list of sections."""

_OWN = (
    Field(
        key="mode",
        shape=Word(("strict", "permissive")),
        about="Whether callers without an identity are served too, on the service's "
        "`plaintext_port` of the inventory; all that such a caller is held to are intentions "
        "that deny everybody.",
        source="ours",
    ),
    Field(
        key="rate_limits",
        shape=Many(Whole(section=RATE_LIMIT), may_be_empty=True, alone=False),
        about="The first that is exceeded refuses the request.",
    ),
    Field(
        key="faults",
        shape=Many(Whole(section=FAULT), may_be_empty=True, alone=False),
        about=FAULT.about,
    ),
    Field(
        key="subsets",
        shape=Table(value=Whole(section=SUBSET), what="subset", keys=NAME.pattern),
        about="Parts of the service by version, under names of your own.",
    ),
    Field(
        key="routes",
        shape=Many(ROUTE, may_be_empty=True, alone=False),
        about="For callers of this service; the first that matches is taken.",
    ),
    Field(
        key="failover",
        shape=Many(Whole(section=FAILOVER), may_be_empty=True, alone=False),
        about="Where requests go while the service is not available, in this order.",
    ),
    Field(
        key="intentions",
        shape=Many(Whole(section=INTENTION), may_be_empty=True, alone=False),
        about="Who may call it. Without any: whoever the inventory declares; with any that is "
        "not an audit: only what one of them allows.",
    ),
)

DEFAULTS = Section(
    title="defaults",
    struct=ServicePolicy,
    about="In force wherever a service says nothing else.",
    may_be_empty=True,
    fields=CALLING,
)

SERVICE_POLICY = Section(
    title="service",
    struct=ServicePolicy,
    about="What is in force when this service is called; overrides the defaults field by field.",
    may_be_empty=True,
    fields=(*CALLING, *_OWN),
    hidden=lambda value: ("mode",) if value.mode == "strict" else (),
)
