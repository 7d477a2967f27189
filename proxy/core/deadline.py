"""How long the caller still waits, told to the next hop, so that nobody works for nobody.

A duration and not a time of day: the hosts' clocks need not agree. Between proxies it has one
form, for gRPC too; what an application says and gets in ``grpc-timeout`` is the same in
milliseconds.
"""

from proxy.core.grpc import parse_timeout, render_timeout

HEADER = b"x-mesh-timeout-ms"
"""An application gets it too, and may pass it on with its own calls: it can only shorten."""

_MAX_DIGITS = 9
"""Eleven days; more is no deadline."""
_MAX_MS = 10**_MAX_DIGITS - 1


def parse(value: bytes) -> float | None:
    """Seconds, above 0; None if it is not one to nine digits, which is then no deadline."""
    # bytes.isdigit knows ASCII only, and int() would also take signs, blanks and underscores.
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        return None
    # What says 0 has less than 1 ms left; 0 itself means "none" in our time-outs.
    return max(1, int(value)) / 1000


def merge_grpc(timeout_ms: bytes, grpc_timeout: bytes) -> bytes:
    """The shorter of the two fields of a gRPC call, in the form of ours; ``timeout_ms``: empty if
    there is none. What is no deadline is none."""
    asked_s = parse_timeout(grpc_timeout)
    if asked_s is None:
        return timeout_ms
    own_s = parse(timeout_ms)
    if own_s is not None and own_s <= asked_s:
        return timeout_ms
    return b"%d" % min(_MAX_MS, int(asked_s * 1000))


def tighten(own_s: float, asked_s: float | None) -> float:
    """The smaller of our own time-out (0: none) and what the caller still waits (None: no word)."""
    if asked_s is None:
        return own_s
    return min(own_s, asked_s) if own_s > 0 else asked_s


def render(remaining_s: float) -> bytes:
    """The header line; rounded down, but at least 1 ms."""
    return b"x-mesh-timeout-ms: %d" % min(_MAX_MS, max(1, int(remaining_s * 1000)))


def render_grpc(remaining_s: float) -> bytes:
    """The same for a gRPC application."""
    return b"grpc-timeout: " + render_timeout(remaining_s)
