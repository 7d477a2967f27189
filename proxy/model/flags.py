"""Why the proxy itself answered, in Envoy's codes, each with one plain sentence.

A response made by the proxy has status, ``x-mesh-flag: <code>`` and the sentence as its body.
"""

from enum import StrEnum


class Flag(StrEnum):
    """The subset of Envoy's response flags that this version can produce."""

    NO_HEALTHY_UPSTREAM = "UH"
    UPSTREAM_CONNECT_FAILURE = "UF"
    UPSTREAM_OVERFLOW = "UO"
    NO_ROUTE = "NR"
    UPSTREAM_TIMEOUT = "UT"
    UPSTREAM_RESET = "UC"
    DOWNSTREAM_RESET = "DC"
    STREAM_IDLE = "SI"
    DENIED = "UAEX"
    DOWNSTREAM_PROTOCOL_ERROR = "DPE"
    UPSTREAM_PROTOCOL_ERROR = "UPE"
    OVERLOAD = "OM"
    RETRY_LIMIT = "URX"
    RATE_LIMITED = "RL"
    FAULT_ABORT = "FI"
    FAULT_DELAY = "DI"


STATUS: dict[Flag, int] = {
    Flag.NO_HEALTHY_UPSTREAM: 503,
    Flag.UPSTREAM_CONNECT_FAILURE: 503,
    Flag.UPSTREAM_OVERFLOW: 503,
    Flag.NO_ROUTE: 404,
    Flag.UPSTREAM_TIMEOUT: 504,
    Flag.UPSTREAM_RESET: 502,
    Flag.STREAM_IDLE: 504,
    Flag.DENIED: 403,
    Flag.DOWNSTREAM_PROTOCOL_ERROR: 400,
    Flag.UPSTREAM_PROTOCOL_ERROR: 502,
    Flag.OVERLOAD: 503,
    Flag.RETRY_LIMIT: 503,
    Flag.RATE_LIMITED: 429,
    Flag.FAULT_ABORT: 503,
}
"""HTTP status of each flag that can reach a client; a reset downstream has nobody to tell."""

SENTENCE: dict[Flag, str] = {
    Flag.NO_HEALTHY_UPSTREAM: "no healthy endpoint is known for this service",
    Flag.UPSTREAM_CONNECT_FAILURE: "the connection to the service could not be made",
    Flag.UPSTREAM_OVERFLOW: "the service is at its limit of connections or pending requests",
    Flag.NO_ROUTE: "no route leads from here to a service",
    Flag.UPSTREAM_TIMEOUT: "the service did not answer in time",
    Flag.UPSTREAM_RESET: "the service closed the connection before its answer was complete",
    Flag.DOWNSTREAM_RESET: "the caller closed the connection before the answer was complete",
    Flag.STREAM_IDLE: "nothing was sent in either direction for too long",
    Flag.DENIED: "the caller's identity is not allowed to call this service",
    Flag.DOWNSTREAM_PROTOCOL_ERROR: "the request is not valid HTTP",
    Flag.UPSTREAM_PROTOCOL_ERROR: "the service's answer is not valid HTTP",
    Flag.OVERLOAD: "the proxy is at its limit and sheds load",
    Flag.RETRY_LIMIT: "every attempt failed and no further one is allowed",
    Flag.RATE_LIMITED: "more requests than the rate limit allows",
    Flag.FAULT_ABORT: "a fault was injected by policy",
    Flag.FAULT_DELAY: "a delay was injected by policy",
}
"""Lower case, without a full stop: a subject may be put in front, a detail behind."""

FINE = frozenset(("", Flag.FAULT_DELAY.value))
"""Of a call that went as its caller wanted, if its status did: a delay is not a failure."""

FLAG_HEADER = b"x-mesh-flag"
"""Only believed from a peer proxy over mTLS; dropped when it comes from an application."""
