"""What gRPC says in HTTP's terms: statuses, deadlines, messages. Pure.

Sources: gRPC's ``doc/PROTOCOL-HTTP2.md`` (the wire), ``doc/statuscodes.md`` (the statuses) and
``doc/http-grpc-status-mapping.md`` (a plain HTTP status as a client has to read it); Envoy for
the way back, from a gRPC status to HTTP's.
"""

import re
from enum import IntEnum
from typing import Final

from proxy.model.flags import Flag


class Status(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    __hash__ = int.__hash__
    """HOT: an enum's own is a function in Python."""


STATUSES: Final = {b"%d" % status: status for status in Status}
"""By what stands in ``grpc-status``."""
DIGITS: Final = tuple(str(int(status)) for status in Status)
"""The same as text, by status."""

_OF_HTTP: Final = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}

_HTTP_OF: Final = {
    Status.OK: 200,
    Status.CANCELLED: 499,
    Status.UNKNOWN: 500,
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 400,
    Status.ABORTED: 409,
    Status.OUT_OF_RANGE: 400,
    Status.UNIMPLEMENTED: 404,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.DATA_LOSS: 500,
    Status.UNAUTHENTICATED: 401,
}
"""Envoy's, but for UNIMPLEMENTED, which is a 501 there: it is an answer to a question that the
caller should not have asked, and five of them must not take an endpoint out of service."""

_OF_FLAG: Final = {
    Flag.UPSTREAM_TIMEOUT: Status.DEADLINE_EXCEEDED,
    Flag.DENIED: Status.PERMISSION_DENIED,
    Flag.RATE_LIMITED: Status.RESOURCE_EXHAUSTED,
    # As gRPC reads a 404: no later attempt finds a route either, so no client should make one.
    Flag.NO_ROUTE: Status.UNIMPLEMENTED,
    Flag.UPSTREAM_OVERFLOW: Status.UNAVAILABLE,
    Flag.UPSTREAM_CONNECT_FAILURE: Status.UNAVAILABLE,
    Flag.NO_HEALTHY_UPSTREAM: Status.UNAVAILABLE,
    Flag.OVERLOAD: Status.UNAVAILABLE,
    Flag.UPSTREAM_RESET: Status.UNAVAILABLE,
    Flag.STREAM_IDLE: Status.UNAVAILABLE,
    Flag.DOWNSTREAM_PROTOCOL_ERROR: Status.INTERNAL,
    Flag.UPSTREAM_PROTOCOL_ERROR: Status.INTERNAL,
    Flag.DOWNSTREAM_RESET: Status.CANCELLED,
}

_TOKEN_POLICY: Final = b"/token"
"""The end of the id of a denial that a good token would have turned."""

MAX_MESSAGE_BYTES: Final = 1024
"""Of ``grpc-message``, encoded: clients have limits on all of the trailers together, 8 KiB."""

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LEAST_S: Final = 0.001
"""0 means "no deadline" elsewhere; and a sweep cannot tell less apart."""
_MAX_DIGITS_VALUE: Final = 99_999_999

_ENCODED: Final = re.compile(rb"[^ -$&-~]")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def parse_status(value: bytes) -> Status:
    """What is no status is UNKNOWN, as clients read it (``doc/statuscodes.md``)."""
    return STATUSES.get(value, Status.UNKNOWN)


def status_of_http(status: int) -> Status:
    """An answer without ``grpc-status``, as a client reads it. Not a success in any case."""
    return _OF_HTTP.get(status, Status.UNKNOWN)


def http_of(status: Status) -> int:
    """For those who judge by HTTP's statuses: 5xx is the server's failure."""
    return _HTTP_OF[status]


def status_of_refusal(flag: bytes, http_status: int, policy: bytes = b"") -> Status:
    """Of an answer that a proxy made itself, by its flag and the id of what denied the call."""
    if flag == b"UAEX" and policy.endswith(_TOKEN_POLICY):
        return Status.UNAUTHENTICATED
    try:
        known = _OF_FLAG.get(Flag(flag.decode("latin-1")))
    except ValueError:
        known = None
    if known is not None:
        return known
    # URX has the status of its last failure, FI the one that policy asks for.
    if http_status == 504:
        return Status.DEADLINE_EXCEEDED
    if http_status == 429:
        return Status.RESOURCE_EXHAUSTED
    return status_of_http(http_status)


def is_failure(status: Status) -> bool:
    """Whether it is held against the endpoint."""
    return _HTTP_OF[status] >= 500


def parse_timeout(value: bytes) -> float | None:
    """Seconds, at least 1 ms; None if it is not one to eight digits and a unit."""
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        return None
    return max(_LEAST_S, int(found[1]) * _UNIT_S[found[2]])


def render_timeout(remaining_s: float) -> bytes:
    """The value; in milliseconds, rounded down, but at least 1 ms. Above 27 hours, in seconds."""
    ms = max(1, int(remaining_s * 1000))
    if ms <= _MAX_DIGITS_VALUE:
        return b"%dm" % ms
    return b"%dS" % min(_MAX_DIGITS_VALUE, ms // 1000)


def encode_message(text: str) -> bytes:
    """``grpc-message``: percent-encoded UTF-8, cut at ``MAX_MESSAGE_BYTES`` between characters."""
    encoded = bytearray()
    for character in text.strip():
        one = _ENCODED.sub(_escape, character.encode("utf-8", "replace"))
        if len(encoded) + len(one) > MAX_MESSAGE_BYTES:
            break
        encoded += one
    return bytes(encoded)


def decode_message(value: bytes) -> str:
    """Total: what is no escape stays, what is no UTF-8 is replaced, as the protocol asks."""
    raw = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), value)
    return raw.decode("utf-8", "replace")


def _escape(found: re.Match[bytes]) -> bytes:
    return b"%%%02X" % ord(found[0])
