"""Where a request's head has its ids and its trace context, and how they are put there.

The lines that differ in each request go last (``RequestHead.fleeting``), the ids before all others
of them: there the peer's parser looks for them, in this order, and knows the rest by its bytes.
"""

from random import Random
from typing import Final

from proxy.core.trace_context import (
    RANDOM,
    SAMPLED,
    Context,
    parse_b3,
    render_b3,
    render_traceparent,
)
from proxy.http.head import RequestHead

_getrandbits = Random().getrandbits  # noqa: S311  # ids are to be different, not secret

_TRACE: Final = b"traceparent: "
_STATE: Final = b"tracestate: "
_B3: Final = (b"b3: ", b"x-b3-")
VALUE_AT: Final = len(_TRACE)


def make_span_id() -> bytes:
    return b"%016x" % (_getrandbits(64) or 1)


def identify(head: RequestHead) -> None:
    """HOT. Gives the request the ids that it lacks; a trace that begins here is not sampled, one
    that came in B3 headers is continued as these say."""
    number = _getrandbits(192)
    identifier = b"%032x" % (number >> 64)
    lines = head.lines
    at = len(lines) - head.fleeting
    if not head.has_trace:
        line = b""
        if head.fleeting > head.has_request_id:
            caller = b3_of(head)
            if caller is not None and caller.trace_id:
                line = render_traceparent(caller.trace_id, caller.span_id, caller.flags)
        # The same number, so that one finds the other.
        line = line or b"traceparent: 00-%b-%016x-02" % (identifier, number & 0xFFFFFFFFFFFFFFFF)
        head.has_trace = True
        head.fleeting += 1
        if head.has_request_id:
            lines.insert(at + 1, line)
            return
        head.has_request_id = True
        head.fleeting += 1
        lines[at:at] = (b"x-request-id: " + identifier, line)
    else:
        head.has_request_id = True
        head.fleeting += 1
        lines.insert(at, b"x-request-id: " + identifier)


def begin_trace(head: RequestHead) -> Context:
    """A sampled trace for a request without one; it is written by ``write``. With a request id, if
    there is none yet: the same number."""
    trace_id = b"%032x" % (_getrandbits(128) or 1)
    if not head.has_request_id:
        head.lines.insert(len(head.lines) - head.fleeting, b"x-request-id: " + trace_id)
        head.has_request_id = True
        head.fleeting += 1
    return Context(trace_id, b"", True, SAMPLED | RANDOM)


def traceparent_of(head: RequestHead) -> bytes:
    """The line; empty if there is not exactly one."""
    if head.fleeting == head.has_request_id + 1:
        return head.lines[-1] if head.lines[-1].startswith(_TRACE) else b""
    found = b""
    for line in head.lines[len(head.lines) - head.fleeting :]:
        if line.startswith(_TRACE):
            if found:
                return b""
            found = line
    return found


def b3_of(head: RequestHead) -> Context | None:
    fields: dict[bytes, bytes] = {}
    for line in head.lines[len(head.lines) - head.fleeting :]:
        if line.startswith(_B3):
            name, _, value = line.partition(b": ")
            fields.setdefault(name, value)
    return parse_b3(fields) if fields else None


def state_of(head: RequestHead) -> bytes:
    """All of ``tracestate``, as one value."""
    return b",".join([line[len(_STATE) :] for line in head.lines if line.startswith(_STATE)])


def forget_trace(head: RequestHead) -> None:
    """What could not be understood must not be passed on, nor what belongs to it."""
    kept = [line for line in head.lines if not line.startswith((_TRACE, _STATE))]
    head.fleeting -= len(head.lines) - len(kept)
    head.lines = kept
    head.has_trace = False


def write(head: RequestHead, made: Context, parent_id: bytes) -> None:
    """``made`` is sampled, and the span that the next hop is a child of. In the place of what came;
    B3 only where B3 came."""
    lines = head.lines
    line = render_traceparent(made.trace_id, made.span_id, made.flags)
    at = len(lines) - head.fleeting
    if head.has_trace:
        for index in range(at, len(lines)):
            if lines[index].startswith(_TRACE):
                lines[index] = line
                break
    else:
        lines.insert(at + head.has_request_id, line)
        head.has_trace = True
        head.fleeting += 1
    if head.fleeting > head.has_request_id + 1:
        _write_b3(head, made, parent_id)


def _write_b3(head: RequestHead, made: Context, parent_id: bytes) -> None:
    at = len(head.lines) - head.fleeting
    last = head.lines[at:]
    kept = [line for line in last if not line.startswith(_B3)]
    if len(kept) == len(last):
        return
    names = {line.partition(b": ")[0] for line in last if line.startswith(_B3)}
    said = b3_of(head)
    if said is not None and said.is_debug:
        made.is_debug = True  # which W3C cannot say
    kept += render_b3(names, made, parent_id)
    head.lines[at:] = kept
    head.fleeting = len(kept)


def unsample(head: RequestHead) -> None:
    """For a copy of a traced request, which is not part of the trace."""
    for index, line in enumerate(head.lines):
        if line.startswith(_TRACE):
            head.lines[index] = line[:-2] + b"%02x" % (int(line[-2:], 16) & ~SAMPLED)
    head.lines = [line for line in head.lines if not line.startswith(_B3)]
