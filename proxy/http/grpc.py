"""gRPC in heads and trailers: what an answer says, and a proxy's own answers as gRPC.

Between two proxies a refusal is an HTTP answer with ``x-mesh-flag``, for gRPC as for everything
else: the calling proxy judges it so. Only the edge that faces a gRPC client makes it gRPC's.
"""

from typing import TYPE_CHECKING

from proxy.core.deadline import parse, tighten
from proxy.core.grpc import Status, encode_message, parse_status, status_of_http, status_of_refusal
from proxy.http.head import RequestHead, ResponseHead

if TYPE_CHECKING:
    from proxy.http.exchange import Exchange

_STATUS = b"grpc-status: "
_MESSAGE = b"grpc-message: "
_PUSHBACK = b"grpc-retry-pushback-ms: "


class Call:
    """What an exchange knows of its gRPC call."""

    __slots__ = ("can_end_early", "deadline", "held", "pushback_s", "status")

    def __init__(self) -> None:
        self.deadline = 0.0
        """Monotonic; 0: none. From the call's begin, as the caller counts."""
        self.status: Status | None = None
        """None: not said yet."""
        self.held: ResponseHead | None = None
        """Not passed on yet, as it may turn out to be a failure's that is retried."""
        self.pushback_s = -1.0
        """What the failed try asked the next one to wait; negative: nothing."""
        self.can_end_early = False
        """The answer has begun, and trailers may end it at any time."""


def set_deadline(exchange: "Exchange", call: Call) -> float:
    """As the caller asks, within what is allowed, and from the begin of the call: what an answer
    may take does not count. In seconds from then; 0: there is none."""
    exchange.request_s = 0.0
    head = exchange.head
    asked_s = parse(head.timeout_ms) if head.timeout_ms else None
    allowed_s = tighten(exchange.timeouts.grpc_s, asked_s)
    if allowed_s:
        call.deadline = exchange.started + allowed_s
    return allowed_s


def is_refusal(request: RequestHead, head: ResponseHead) -> bool:
    """Whether ``head`` is a proxy's own answer to a gRPC request, for ``refusal_of``."""
    return bool(head.flag) and request.is_grpc


def refusal_of(head: ResponseHead, body: bytes) -> ResponseHead:
    """A trailers-only answer in place of a proxy's own one, which has a flag.

    To be sent with the end of the stream and without a body; what may still come of the body is
    nobody's. The lines include ``x-mesh-flag`` and ``x-mesh-policy``; the new head has no flag.
    """
    status = _line(head.lines, _STATUS)
    lines = [
        b"content-type: application/grpc",
        _STATUS + (status or b"%d" % status_of_refusal(head.flag, head.status, head.policy)),
    ]
    text = body.decode("utf-8", "replace")
    if text:
        lines.append(_MESSAGE + encode_message(text))
    lines += head.own_lines()
    # What was said beyond the body: when to try again, which limit it was, whose answer it is.
    lines += [line for line in head.lines if not line.startswith(_REPLACED)]
    made = ResponseHead(200, b"200 OK", head.is_keep_alive)
    made.lines = lines
    return made


_REPLACED = (b"content-type: ", b"content-length: ", _STATUS, _MESSAGE)


def end_lines(status: Status, text: str) -> list[bytes]:
    """Trailers that end an answer which has begun and cannot be completed."""
    return [_STATUS + b"%d" % status, _MESSAGE + encode_message(text)]


def status_in(lines: list[bytes]) -> Status | None:
    """What ``grpc-status`` says in a head or in trailers; None: it is not there."""
    for line in lines:
        if line.startswith(_STATUS):
            return parse_status(line[len(_STATUS) :])
    return None


def status_of(head: ResponseHead) -> Status | None:
    """Of an answer's head: trailers-only, or no answer of a gRPC server at all; None: the
    trailers will say."""
    said = status_in(head.lines)
    if said is not None:
        return said
    if head.flag:
        return status_of_refusal(head.flag, head.status, head.policy)
    return status_of_http(head.status) if head.status != 200 else None


def status_at_end(head: ResponseHead) -> Status:
    """The same where nothing comes after the head: a server that does not say how it went is
    not to be trusted with a success."""
    said = status_of(head)
    return Status.UNKNOWN if said is None else said


def pushback_ms(lines: list[bytes]) -> int | None:
    """What the server asks of retries: not before so many milliseconds; negative: not at all;
    None: nothing. What is no number means "not at all" (gRFC A6)."""
    value = _line(lines, _PUSHBACK)
    if value is None:
        return None
    return int(value) if value.isdigit() and len(value) <= 9 else -1


def _line(lines: list[bytes], start: bytes) -> bytes | None:
    for line in lines:
        if line.startswith(start):
            return line[len(start) :]
    return None
