"""Whether an exchange gets another try: what is known of the try that is over, and what follows.

Each of these functions is asked by the exchange as something arrives, and says whether that is the
end of it for the client: True means that another endpoint has the request, or that what arrived
waits. ``proxy.core.retry`` decides; here is what it is asked, and what the exchange says meanwhile
to those who judge the try: its status and its flag.

An answer in gRPC says only at its end how it went. Where the policy names a status, the head of an
answer that may be a failure's is kept back until there is more of it (``Call.held``).
"""

from typing import TYPE_CHECKING, Final

from proxy.core.grpc import Status
from proxy.core.retry import (
    NEVER_REACHED,
    CompiledRetries,
    Failure,
    Verdict,
    decide,
    decide_grpc,
    decide_status,
    is_exhausted,
)
from proxy.http.grpc import Call, pushback_ms, status_in, status_of
from proxy.http.head import ResponseHead
from proxy.model.flags import Flag

if TYPE_CHECKING:
    from proxy.http.exchange import Exchange

_GRPC_OF: Final = {
    Failure.CONNECT: Status.UNAVAILABLE,
    Failure.UNPROCESSED: Status.UNAVAILABLE,
    Failure.RESET: Status.UNAVAILABLE,
    Failure.PROTOCOL: Status.INTERNAL,
    Failure.PER_TRY_TIMEOUT: Status.DEADLINE_EXCEEDED,
}
"""What a gRPC client would get for it, so that policy's word for that status means this too."""


def is_failure_repeated(
    exchange: "Exchange",
    retries: CompiledRetries,
    failure: Failure,
    *,
    has_begun: bool,
    is_reused: bool,
) -> bool:
    """The try failed. ``has_begun``: a byte of a response had arrived."""
    verdict = decide(
        retries,
        failure,
        method=exchange.head.method,
        tries=exchange.tries,
        is_reused=is_reused,
        is_replayable=exchange.is_replayable,
        has_begun=has_begun,
    )
    if verdict is Verdict.GIVE_UP and exchange.grpc is not None and not has_begun:
        verdict = _decide_grpc(exchange, retries, _GRPC_OF.get(failure))
        if verdict is not Verdict.GIVE_UP:
            verdict = Verdict.FRESH_CONNECTION
    return verdict is not Verdict.GIVE_UP and exchange.handler.retry(exchange, failure, verdict)


def is_refusal_repeated(exchange: "Exchange", head: ResponseHead, is_end: bool) -> bool:
    """The peer's proxy answered: did it refuse the request before the application saw it?"""
    retries = exchange.retries
    if head.status != 503 or head.flag not in NEVER_REACHED or retries is None:
        return False
    verdict = decide(
        retries,
        Failure.REFUSED_BY_PEER,
        method=exchange.head.method,
        tries=exchange.tries,
        is_reused=False,
        is_replayable=exchange.is_replayable,
        has_begun=exchange.has_begun,
    )
    return exchange.hand_over(Failure.REFUSED_BY_PEER, verdict, is_end)


def is_status_repeated(
    exchange: "Exchange", retries: CompiledRetries, head: ResponseHead, is_end: bool
) -> bool:
    """An answer whose status may be one that the policy does not take for an answer."""
    if not retries.may_retry_status:
        return False
    status = exchange.status = head.status
    method, tries = exchange.head.method, exchange.tries
    verdict = decide_status(
        retries, status, method=method, tries=tries, is_replayable=exchange.is_replayable
    )
    if _is_answer_dropped(exchange, head, verdict, is_end):
        return True
    if is_exhausted(retries, status, method=method, tries=tries):
        exchange.flag = Flag.RETRY_LIMIT.value
    return False


def is_grpc_head_kept(
    exchange: "Exchange",
    call: Call,
    head: ResponseHead,
    data: bytes,
    is_end: bool,
    trailers: list[bytes],
) -> bool:
    """Whether the head does not go downstream: not yet, or never."""
    retries = exchange.retries
    lines = trailers
    # HOT: what trailers say holds, and then the head need not be searched.
    said = status_in(trailers) if trailers and head.status == 200 and not head.flag else None
    if said is None:
        said = status_of(head)
        if said is not None:
            lines = head.lines
        elif is_end:
            said = Status.UNKNOWN  # a server that does not say how it went
    if said is not None:
        # A failure behind a message is passed on: the same as if the message had come alone.
        is_final = bool(data) and lines is trailers
        if not is_final and _is_grpc_repeated(exchange, call, said, head, lines, is_end):
            return True
        call.status = said
        return False
    call.can_end_early = head.length < 0
    if (
        retries is not None
        and retries.grpc_statuses
        and exchange.is_request_done
        and not data
        and exchange.is_replayable
        and exchange.tries <= retries.attempts
    ):
        # Some servers send head and trailers apart for a call that fails at once.
        call.held = head
        return True
    return False


def is_grpc_end_dropped(
    exchange: "Exchange", call: Call, data: bytes, is_end: bool, trailers: list[bytes]
) -> bool:
    """Whether what comes behind the head is the end of an answer that is thrown away."""
    said = call.status
    if is_end and said is None:
        said = status_in(trailers)
        if said is None:
            said = Status.UNKNOWN  # a server that does not say how it went
    held = call.held
    if held is not None:
        if (
            said is not None
            and is_end
            and not data
            and _is_grpc_repeated(exchange, call, said, held, trailers, is_end)
        ):
            return True
        exchange.release(call)
    if said is not None:
        call.status = said
    return False


def _is_grpc_repeated(
    exchange: "Exchange",
    call: Call,
    status: Status,
    head: ResponseHead,
    lines: list[bytes],
    is_end: bool,
) -> bool:
    """``lines`` are those with the status in them: the head's, or the trailers."""
    retries = exchange.retries
    if retries is None or status not in retries.grpc_statuses:
        return False
    if exchange.tries > retries.attempts:
        exchange.flag = Flag.RETRY_LIMIT.value
        return False
    asked_ms = pushback_ms(lines)
    if asked_ms is not None:
        left_s = exchange.left_s()
        if asked_ms < 0 or (left_s and asked_ms / 1000 >= left_s):
            return False
        call.pushback_s = asked_ms / 1000
    exchange.status, call.status = head.status, status
    if _is_answer_dropped(exchange, head, _decide_grpc(exchange, retries, status), is_end):
        call.status = call.held = None
        return True
    return False


def _decide_grpc(exchange: "Exchange", retries: CompiledRetries, status: Status | None) -> Verdict:
    """Nothing of an answer went downstream."""
    if status is None or exchange.has_begun:
        return Verdict.GIVE_UP
    is_replayable = exchange.is_replayable
    return decide_grpc(retries, status, tries=exchange.tries, is_replayable=is_replayable)


def _is_answer_dropped(
    exchange: "Exchange", head: ResponseHead, verdict: Verdict, is_end: bool
) -> bool:
    """Whether somebody else answers instead."""
    said = exchange.flag, exchange.policy
    if head.flag:
        exchange.flag = exchange.policy = ""  # go with the answer that nobody gets
    if exchange.hand_over(None, verdict, is_end):
        return True
    exchange.flag, exchange.policy = said
    return False
