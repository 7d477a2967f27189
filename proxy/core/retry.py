"""Whether a failed attempt may be repeated, and where. A pure table.

A request is sent twice only where it provably never reached the application, or where the
method is idempotent and the connection was an old one that the other side closed in the same
moment (RFC 9110, section 9.2.2; RFC 9112, section 9.3.1). An application's own 5xx is an
answer, not a failure.
"""

from enum import Enum, auto

MAX_TRIES = 10
"""In all; the deadline of the request usually comes first."""

BODY_LIMIT_BYTES = 64 * 1024
"""Of the request's body kept for another try (Linkerd's figure); beyond it there is none."""

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
"""RFC 9110, section 9.2.2."""

NEVER_REACHED = frozenset((b"UF", b"UH", b"OM"))
"""Flags of a 503 made by the peer's proxy before the application saw anything."""


class Failure(Enum):
    CONNECT = auto()
    """TCP or TLS could not be established, or the peer refused our certificate."""
    REFUSED_BY_PEER = auto()
    """The peer's proxy answered 503 with a flag of ``NEVER_REACHED``."""
    RESET = auto()
    """The connection ended before the response was complete."""
    PROTOCOL = auto()
    """The response was not valid."""
    TIMEOUT = auto()


class Verdict(Enum):
    GIVE_UP = auto()
    OTHER_ENDPOINT = auto()
    FRESH_CONNECTION = auto()
    """Another endpoint if there is one, else the same; never a pooled connection."""


def decide(
    failure: Failure,
    *,
    method: bytes,
    tries: int,
    is_reused: bool,
    is_replayable: bool,
    has_begun: bool,
) -> Verdict:
    """``tries`` counts the failed one; ``has_begun``: a byte of the response has arrived."""
    if has_begun or not is_replayable or tries >= MAX_TRIES:
        return Verdict.GIVE_UP
    match failure:
        case Failure.CONNECT | Failure.REFUSED_BY_PEER:
            return Verdict.OTHER_ENDPOINT
        case Failure.RESET if is_reused and method in IDEMPOTENT:
            return Verdict.FRESH_CONNECTION
        case _:
            return Verdict.GIVE_UP
