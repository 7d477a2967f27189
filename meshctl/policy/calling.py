"""Keys of how a service is called: timeouts, retries, balancing, limits, outliers, health, and
what is told of its calls.

These may stand in the defaults as well as under a service.
"""

from typing import get_args

from meshctl.policy.matching import HASH_ON, METHOD, PATH
from meshctl.policy.pieces import Bytes, Many, Number, Percent, Time, TrueOr, Truth, Word
from meshctl.policy.section import Field, Given, Section, Whole
from meshctl.policy.telemetry import ACCESS_LOG, TRACING
from proxy.core.soundness.numbers import RANGES, Range
from proxy.model.policy import Algorithm, Balancing, Timeouts
from proxy.model.resilience import (
    ActiveHealth,
    Limits,
    OutlierDetection,
    Retries,
    RetryOn,
)

_TIMEOUTS = RANGES[Timeouts]
_RETRIES = RANGES[Retries]
_BALANCING = RANGES[Balancing]
_LIMITS = RANGES[Limits]
_OUTLIERS = RANGES[OutlierDetection]
_HEALTH = RANGES[ActiveHealth]

PER_TRY = Field(
    key="per_try",
    field="per_try_s",
    shape=Time(_TIMEOUTS["per_try_s"]),
    about="From the last byte of the request to the head of the response, for each try; 0: none.",
    source="Envoy",
)
REQUEST = Field(
    key="request",
    field="request_s",
    shape=Time(_TIMEOUTS["request_s"]),
    about="From the last byte of the request to the last of the response, all tries together; "
    "0: none. Not for gRPC, whose calls may be streams: see `grpc`.",
    source="Envoy",
)

GRPC = Field(
    key="grpc",
    field="grpc_s",
    shape=Time(_TIMEOUTS["grpc_s"]),
    about="The most that a gRPC call may take, a stream included; a shorter `grpc-timeout` of the "
    "caller's holds. 0: as long as the caller allows.",
    source="ours: nothing cuts a stream that its caller wants",
)

TIMEOUTS = Section(
    title="timeouts",
    struct=Timeouts,
    about="How long things may take.",
    may_be_empty=True,
    fields=(
        Field(
            key="connect",
            field="connect_s",
            shape=Time(_TIMEOUTS["connect_s"]),
            about="TCP and TLS together, to one endpoint.",
            source="Linkerd",
        ),
        PER_TRY,
        REQUEST,
        GRPC,
        Field(
            key="stream_idle",
            field="stream_idle_s",
            shape=Time(_TIMEOUTS["stream_idle_s"]),
            about="No byte in either direction within a request or TCP session.",
            source="Envoy",
        ),
        Field(
            key="connection_idle",
            field="connection_idle_s",
            shape=Time(_TIMEOUTS["connection_idle_s"]),
            about="A connection from an application without a request.",
            source="Envoy",
        ),
        Field(
            key="pool_idle",
            field="pool_idle_s",
            shape=Time(_TIMEOUTS["pool_idle_s"]),
            about="An unused connection to an application; keep it below its own keep-alive.",
            source="Linkerd",
        ),
    ),
)

RETRIES = Section(
    title="retries",
    struct=Retries,
    about="What is tried again. By default only what provably never reached the application.",
    may_be_empty=True,
    fields=(
        Field(
            key="attempts",
            shape=Number(_RETRIES["attempts"]),
            about="Further tries after the first; 0: none.",
            source="one more than Linkerd, as none of `on` can repeat work",
        ),
        Field(
            key="on",
            shape=Many(Word(get_args(RetryOn)), may_be_empty=True),
            about="After what. `connect-failure`: no connection. `refused`: the peer's proxy "
            "refused it before the application, or the application's HTTP/2 says that it has not "
            "begun with it. `reset-reused`: a kept connection was closed "
            "before the first byte. The others repeat what the application may have seen, so only "
            "for `methods`: `reset` (the connection ended before the head of the answer), "
            "`per-try-timeout`, `gateway-error` (502, 503, 504), `5xx`, `retriable-4xx` (409), "
            "`statuses` (those listed). For gRPC, whatever the method: `cancelled`, "
            "`deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable`: a call that "
            "ended so before its first message came back.",
            source="stricter than Istio, whose defaults can repeat work",
        ),
        Field(
            key="statuses",
            shape=Many(Number(Range(400, 599, "statuses"))),
            about="With `statuses` in `on`: which.",
        ),
        Field(
            key="methods",
            shape=Many(METHOD, may_be_empty=True),
            about="What may be repeated although the application may have seen it.",
            source="idempotent ones: RFC 9110, section 9.2.2",
        ),
        Field(
            key="backoff_base",
            field="backoff_base_s",
            shape=Time(_RETRIES["backoff_base_s"]),
            about="Wait before the second retry to the same service, doubling from there, with "
            "full jitter; the first after a failure to connect goes at once.",
            source="Envoy",
        ),
        Field(
            key="backoff_max",
            field="backoff_max_s",
            shape=Time(_RETRIES["backoff_max_s"]),
            about="The wait never grows beyond it.",
            source="Envoy",
        ),
        Field(
            key="budget",
            field="budget_percent",
            shape=Percent(_RETRIES["budget_percent"]),
            about="Retries are at most this share of the requests of the last 10 s.",
            source="Linkerd",
        ),
        Field(
            key="budget_min_per_s",
            shape=Number(_RETRIES["budget_min_per_s"], is_whole=False),
            about="But always this many a second.",
            source="Linkerd",
        ),
        Field(
            key="body_limit",
            field="body_limit_bytes",
            shape=Bytes(_RETRIES["body_limit_bytes"]),
            about="How much of a request's body is kept for another try; a larger one has none.",
            source="Linkerd",
        ),
    ),
)

LOAD_BALANCING = Section(
    title="load_balancing",
    struct=Balancing,
    about="Which endpoint gets a request.",
    may_be_empty=True,
    fields=(
        Field(
            key="algorithm",
            shape=Word(get_args(Algorithm)),
            about="`peak_ewma` (expected latency) and `least_request` take the better of two "
            "random endpoints; `ring_hash` and `maglev` need `hash_on`.",
            source="Linkerd",
        ),
        Field(
            key="hash_on",
            shape=Whole(section=HASH_ON),
            about="For `ring_hash` and `maglev`: equal values get the same endpoint.",
        ),
        Field(
            key="default_rtt",
            field="default_rtt_s",
            shape=Time(_BALANCING["default_rtt_s"]),
            about="`peak_ewma`: the latency assumed of an endpoint that was not measured yet.",
            source="Linkerd",
        ),
        Field(
            key="decay",
            field="decay_s",
            shape=Time(_BALANCING["decay_s"]),
            about="`peak_ewma`: how fast a measurement is forgotten.",
            source="Linkerd",
        ),
        Field(
            key="slow_start",
            field="slow_start_s",
            shape=Time(_BALANCING["slow_start_s"]),
            about="How long the share of a new endpoint takes to grow to the whole; 0: at once.",
            source="Envoy",
        ),
        Field(
            key="zone",
            shape=Word(("prefer", "ignore")),
            about="`prefer`: endpoints of the caller's own zone, spilling over as the healthy "
            "share of these goes down.",
            source="Envoy",
        ),
    ),
)

LIMITS = Section(
    title="limits",
    struct=Limits,
    about="Per calling workload and called service or subset. What is beyond is refused at once "
    "with 503 and the flag UO.",
    may_be_empty=True,
    fields=(
        Field(
            key="connections",
            shape=Number(_LIMITS["connections"]),
            about="Open connections.",
            source="Envoy",
        ),
        Field(
            key="pending",
            shape=Number(_LIMITS["pending"]),
            about="Requests that wait for a connection.",
            source="Envoy",
        ),
        Field(
            key="requests",
            shape=Number(_LIMITS["requests"]),
            about="Requests in flight; with TCP: sessions.",
            source="Envoy",
        ),
        Field(
            key="retries",
            shape=Number(_LIMITS["retries"]),
            about="Retries in flight at the same time, whatever the budget says.",
            source="ours; Envoy has 3, and no budget by default",
        ),
        Field(
            key="new_connections_per_s",
            shape=Number(_LIMITS["new_connections_per_s"], is_whole=False),
            about="TCP: sessions begun in a second, with a burst of one second's worth; 0: no "
            "limit.",
            source="Envoy",
        ),
    ),
)

OUTLIER_DETECTION = Section(
    title="outlier_detection",
    struct=OutlierDetection,
    about="When an endpoint that fails is left out for a while. It comes back after one real "
    "request to it went well.",
    may_be_empty=True,
    fields=(
        Field(
            key="consecutive_failures",
            shape=Number(_OUTLIERS["consecutive_failures"]),
            about="5xx, resets, timeouts and failed connects in a row that eject it; 0: never.",
            source="Envoy",
        ),
        Field(
            key="ejection",
            field="ejection_s",
            shape=Time(_OUTLIERS["ejection_s"]),
            about="For how long, times the number of ejections in a row.",
            source="Envoy",
        ),
        Field(
            key="max_ejection",
            field="max_ejection_s",
            shape=Time(_OUTLIERS["max_ejection_s"]),
            about="Never longer than this.",
            source="Envoy",
        ),
        Field(
            key="max_ejected",
            field="max_ejected_percent",
            shape=Percent(_OUTLIERS["max_ejected_percent"]),
            about="At most this share of the endpoints at a time, but at least one.",
            source="Envoy",
        ),
        Field(
            key="panic",
            field="panic_percent",
            shape=Percent(_OUTLIERS["panic_percent"]),
            about="Below this share of available endpoints all of them are used; 0: never.",
            source="Envoy",
        ),
    ),
)


def _with_kind(given: Given) -> Given:
    """Also undoes what the defaults say of another kind."""
    nothing = {"path": ActiveHealth().path, "grpc_service": "", "statuses": ()}
    if given.pop("kind", None):
        return nothing | given | {"kind": "tcp", "statuses": ()}
    if "grpc_service" in given:
        return nothing | given | {"kind": "grpc"}
    return given | {"kind": "http", "grpc_service": ""} if "path" in given else given


_ASKED_BY = {"http": ("grpc", "tcp"), "grpc": ("http", "tcp"), "tcp": ("http", "grpc")}
"""By the kind of a check the keys that say nothing of it."""


HEALTH_CHECK = Section(
    title="health_check",
    struct=ActiveHealth,
    about="Each calling proxy asks each endpoint by itself, through the mesh. Without this key "
    "what the proxy beside the application reports is believed, and outliers are ejected. `off` "
    "under a service undoes the defaults' check.",
    may_be_empty=True,
    off="off",
    at_most_one_of=("http", "grpc", "tcp"),
    adapt=_with_kind,
    hidden=lambda health: _ASKED_BY[health.kind],
    fields=(
        Field(
            key="http",
            field="path",
            shape=PATH,
            about="A GET of this path is answered with one of `statuses`.",
        ),
        Field(
            key="grpc",
            field="grpc_service",
            shape=TrueOr("name"),
            about="Instead of `http`: `grpc.health.v1.Health/Check` answers `SERVING` for the gRPC "
            "service of this name, or with `true` for the server as a whole.",
        ),
        Field(
            key="tcp",
            field="kind",
            shape=Truth(only_true=True),
            about="Instead of `http`: the mTLS handshake with the endpoint's proxy completes.",
        ),
        Field(
            key="statuses",
            shape=Many(Number(Range(200, 599, "statuses"))),
            about="`http`: the healthy ones. Default: 200 to 399.",
            source="ours",
        ),
        Field(
            key="interval",
            field="interval_s",
            shape=Time(_HEALTH["interval_s"]),
            about="Time between two checks of one endpoint.",
            source="Consul",
        ),
        Field(
            key="timeout",
            field="timeout_s",
            shape=Time(_HEALTH["timeout_s"]),
            about="How long an answer may take; at most the interval.",
            source="ours",
        ),
        Field(
            key="unhealthy_after",
            shape=Number(_HEALTH["unhealthy_after"]),
            about="Failures in a row before an endpoint is left out.",
            source="HAProxy",
        ),
        Field(
            key="healthy_after",
            shape=Number(_HEALTH["healthy_after"]),
            about="Successes in a row before it is back.",
            source="HAProxy",
        ),
    ),
)

CALLING = (
    Field(key="timeouts", shape=TIMEOUTS, about=TIMEOUTS.about),
    Field(key="retries", shape=RETRIES, about=RETRIES.about),
    Field(
        key="load_balancing", field="balancing", shape=LOAD_BALANCING, about=LOAD_BALANCING.about
    ),
    Field(key="limits", shape=LIMITS, about=LIMITS.about),
    Field(key="outlier_detection", shape=OUTLIER_DETECTION, about=OUTLIER_DETECTION.about),
    Field(key="health_check", shape=HEALTH_CHECK, about=HEALTH_CHECK.about),
    Field(key="access_log", shape=ACCESS_LOG, about=ACCESS_LOG.about),
    Field(key="tracing", shape=TRACING, about=TRACING.about),
)
