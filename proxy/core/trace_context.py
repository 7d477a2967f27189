"""Trace context as requests carry it: W3C (``traceparent``, levels 1 and 2) and B3. Pure.

Header values come in as they were received, without white space around them. What is malformed is
no context: W3C Trace Context, section 3.2, and the B3 specification both have the receiver start a
new trace then. Ids are lower-case hexadecimal digits throughout.
"""

import re
from typing import Final

SAMPLED: Final = 0x01
RANDOM: Final = 0x02
"""Level 2: the trace id's last seven bytes are random, so that others may sample by it."""

MAX_STATE_BYTES: Final = 512
"""Of ``tracestate``: what section 3.3.1.5 has everybody keep. It is passed on whatever its length;
this is about what a span keeps of it."""

# The version `ff` is invalid; a later one than ours may have more fields after the flags.
_W3C = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_UNSAMPLED = re.compile(
    rb"traceparent: 00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]"
)
_B3_TRACE = re.compile(rb"(?!0+$)(?:[0-9a-f]{32}|[0-9a-f]{16})")
_B3_SPAN = re.compile(rb"(?!0{16})[0-9a-f]{16}")
_B3_STATES: Final = {b"0": False, b"false": False, b"1": True, b"true": True, b"d": True}
"""The words are what old tracers send in ``x-b3-sampled``."""


class Context:
    """What a caller says of the trace that its request belongs to."""

    __slots__ = ("flags", "is_debug", "is_sampled", "span_id", "trace_id")

    def __init__(
        self,
        trace_id: bytes = b"",
        span_id: bytes = b"",
        is_sampled: bool | None = None,
        flags: int = 0,
        *,
        is_debug: bool = False,
    ) -> None:
        self.trace_id = trace_id
        """32 digits; empty (B3 only): a decision without a trace."""
        self.span_id = span_id
        """16 digits: the caller's own span."""
        self.is_sampled = is_sampled
        """None (B3 only): left to us."""
        self.flags = flags
        """Those of ``traceparent``."""
        self.is_debug = is_debug
        """B3's stronger kind of sampled."""


def parse_traceparent(value: bytes) -> Context | None:
    match = _W3C.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, digits, rest = match.groups()
    if rest is not None and version == b"00":
        return None
    # Level 2, section 3.2.2.4: flags that we do not know are not passed on.
    flags = int(digits, 16) & (SAMPLED | RANDOM)
    return Context(trace_id, span_id, bool(flags & SAMPLED), flags)


def is_unsampled(line: bytes) -> bool:
    """HOT. Whether a ``traceparent`` line plainly says so; what is unusual is to be parsed."""
    return _UNSAMPLED.fullmatch(line) is not None


def render_traceparent(trace_id: bytes, span_id: bytes, flags: int) -> bytes:
    """The whole line, in the version that we know."""
    return b"traceparent: 00-%b-%b-%02x" % (trace_id, span_id, flags)


def parse_b3(fields: dict[bytes, bytes]) -> Context | None:
    """``fields``: by name in lower case, only the first of each. The single header goes before the
    others, as the B3 specification has it."""
    single = fields.get(b"b3")
    if single is not None:
        parts = single.split(b"-")
        if len(parts) == 1:
            is_sampled = _B3_STATES.get(single)
            if is_sampled is None:
                return None
            return Context(is_sampled=is_sampled, is_debug=single == b"d")
        if len(parts) > 4:
            return None
        state = parts[2] if len(parts) > 2 else None
        if state is not None and state not in _B3_STATES:
            return None
        return _b3(parts[0], parts[1], state, is_debug=state == b"d")
    is_debug = fields.get(b"x-b3-flags") == b"1"
    state = fields.get(b"x-b3-sampled", b"").lower() or None
    made = _b3(
        fields.get(b"x-b3-traceid", b""), fields.get(b"x-b3-spanid", b""), state, is_debug=is_debug
    )
    if made is None and (is_debug or state in _B3_STATES):
        return Context(is_sampled=is_debug or _B3_STATES[state or b""], is_debug=is_debug)
    return made


def _b3(trace_id: bytes, span_id: bytes, state: bytes | None, *, is_debug: bool) -> Context | None:
    if _B3_TRACE.fullmatch(trace_id) is None or _B3_SPAN.fullmatch(span_id) is None:
        return None
    is_sampled = True if is_debug else _B3_STATES.get(state) if state is not None else None
    flags = SAMPLED if is_sampled else 0
    return Context(trace_id.rjust(32, b"0"), span_id, is_sampled, flags, is_debug=is_debug)


def render_b3(names: set[bytes], made: Context, parent_id: bytes) -> list[bytes]:
    """The lines in the place of those that a sampled request came with, whose ``names`` these
    are; ``parent_id`` may be empty."""
    lines: list[bytes] = []
    if b"b3" in names:
        state = b"d" if made.is_debug else b"1"
        behind = b"-" + parent_id if parent_id else b""
        lines.append(b"b3: %b-%b-%b%b" % (made.trace_id, made.span_id, state, behind))
    if names - {b"b3"}:
        lines.append(b"x-b3-traceid: " + made.trace_id)
        lines.append(b"x-b3-spanid: " + made.span_id)
        if parent_id:
            lines.append(b"x-b3-parentspanid: " + parent_id)
        lines.append(b"x-b3-flags: 1" if made.is_debug else b"x-b3-sampled: 1")
    return lines
