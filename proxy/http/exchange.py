"""One request and its response, between a downstream half and an upstream half.

The halves speak HTTP in some version each and know nothing of each other; the exchange carries
head, data and end across, and pressure back. It holds what is needed to repeat the request on
another endpoint: the head, the body so far (up to a limit), and what has been tried.

    downstream half            exchange                      upstream half
    begin, request_data  --->  (kept for a retry)  --->      send, send_data
    respond, ...         <---  (retry decided)     <---      response_head, response_data
    downstream_gone      --->                      --->      cancel
    pause_request        <---                      <---      upstream_is_full
    downstream_is_full   --->                      --->      pause_response

Who to send to is the handler's business; the handler is told when the exchange is over.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any

from proxy.core.grpc import DIGITS, Status, http_of, status_of_refusal
from proxy.core.retry import CompiledRetries, Failure, Verdict
from proxy.http.grpc import Call, end_lines, status_at_end
from proxy.http.halves import Downstream, Handler, Upstream
from proxy.http.head import RequestHead, ResponseHead
from proxy.http.ledger import Ledger
from proxy.http.repetition import (
    is_failure_repeated,
    is_grpc_end_dropped,
    is_grpc_head_kept,
    is_refusal_repeated,
    is_status_repeated,
)
from proxy.http.reply import make_reply
from proxy.http.tunnel import SWITCHING
from proxy.model.flags import SENTENCE, STATUS, Flag
from proxy.model.policy import Timeouts

__all__ = ["UNSENT_BYTES", "Downstream", "Exchange", "Handler", "Upstream"]

UNSENT_BYTES = 64 * 1024
"""Of a request's body that wait for a connection before the client is asked to pause."""


_UNTIL_DISPATCHED = Timeouts()
_NO_TRAILERS: list[bytes] = []

_FLAG_OF = {
    Failure.CONNECT: Flag.UPSTREAM_CONNECT_FAILURE,
    Failure.UNPROCESSED: Flag.UPSTREAM_OVERFLOW,
    Failure.RESET: Flag.UPSTREAM_RESET,
    Failure.PROTOCOL: Flag.UPSTREAM_PROTOCOL_ERROR,
    Failure.TIMEOUT: Flag.UPSTREAM_TIMEOUT,
    Failure.PER_TRY_TIMEOUT: Flag.UPSTREAM_TIMEOUT,
}
_DENIED = Flag.DENIED.value.encode()
_REPEATED = frozenset((Failure.RESET, Failure.PER_TRY_TIMEOUT))
"""Where "tried and failed again" says more than the last failure alone."""


class Exchange:
    """Made when a request's head is complete; finished exactly once."""

    __slots__ = (
        "_body",
        "_down",
        "_is_request_paused",
        "_ledger",
        "_request_ended",
        "_touched",
        "_up",
        "body_bytes",
        "change_response",
        "connect_s",
        "detail",
        "flag",
        "grpc",
        "handler",
        "has_begun",
        "head",
        "headed",
        "is_finished",
        "is_request_done",
        "key",
        "mirror",
        "policy",
        "queue_s",
        "request_s",
        "response_bytes",
        "retries",
        "rule",
        "span",
        "started",
        "status",
        "target",
        "timeouts",
        "trailers",
        "tried",
        "tried_at",
        "tries",
        "waits_since",
    )

    def __init__(
        self, down: Downstream, head: RequestHead, handler: Handler, ledger: Ledger
    ) -> None:
        self._down = down
        self._up: Upstream | None = None
        self._ledger = ledger
        self.head = head
        self.grpc = Call() if head.is_grpc else None
        """None: not gRPC."""
        self.handler = handler
        self.timeouts = _UNTIL_DISPATCHED
        """Set by the handler as it dispatches, like ``request_s`` and ``retries``."""
        self.request_s = 0.0
        """Of the timeouts, or less if the caller has less left."""
        self.retries: CompiledRetries | None = None
        """None: never repeated."""
        self._body: list[bytes] | None = None
        """What was received, from the first byte; None once it cannot be replayed."""
        self.body_bytes = 0
        self.trailers: list[bytes] = []
        self.is_request_done = False
        self._is_request_paused = False
        self.has_begun = False
        """A part of the response went downstream."""
        self.is_finished = False
        self.key = 0
        """Requests with the same one belong to the same endpoint, where balancing hashes."""
        self.rule: Any = None
        """The handler's own: what the request's route says."""
        self.target: Any = None
        """The handler's own: the endpoint of the current try."""
        self.tried: tuple[object, ...] = ()
        self.change_response: Callable[[list[bytes]], list[bytes]] | None = None
        """Applied to the lines of the answer that goes downstream."""
        self.mirror: Exchange | None = None
        """Gets a copy of the body."""
        self.headed = 0.0
        """When the answer's head arrived, if the body did not come with it; 0: not."""
        self.tries = 0
        """Counted by the handler, as it dispatches."""
        self.status = 0
        self.flag = self.policy = ""
        """Why a proxy answered, this one or the peer's; and, of a denial, the id of what denied."""
        self.detail = ""
        """What the proxy's own answer says beyond its flag's sentence."""
        self.response_bytes = 0
        """Of the body that went downstream."""
        self.queue_s = self.connect_s = self.waits_since = 0.0
        """The pools' own: waited for a connection of others to become free, and for one to be
        made, in all tries; and since when it waits now, 0: it does not."""
        self.span: Any = None
        """The handler's own, of a request that is traced."""
        self.started = self.tried_at = self._touched = self._request_ended = monotonic()
        ledger.now = self.started

    # From downstream

    def begin(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        self._ledger.exchanges.add(self)
        self._body = [data] if data else []
        self.body_bytes = len(data)
        self.is_request_done = is_end
        self.trailers = trailers
        self.handler.dispatch(self)

    def request_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        if self.is_finished:
            return
        self._touched = self._ledger.now
        self.body_bytes += len(data)
        if is_end:
            self.is_request_done = True
            self._request_ended = self._ledger.now
            self.trailers = trailers
        up = self._up
        if self._body is not None:
            if up is not None and self.body_bytes > self._kept_bytes:
                self._body = None
            elif data:
                self._body.append(data)
        if self.mirror is not None:
            self.mirror.request_data(data, is_end, trailers)
        if up is not None:
            up.send_data(data, is_end, trailers)
        elif self.body_bytes > UNSENT_BYTES and not self._is_request_paused:
            self._is_request_paused = True
            self._down.pause_request()

    @property
    def _kept_bytes(self) -> int:
        return self.retries.body_limit_bytes if self.retries is not None else 0

    @property
    def grpc_status(self) -> str:
        """In digits; empty: not gRPC, or unknown. HOT code asks ``grpc`` first."""
        call = self.grpc
        return "" if call is None or call.status is None else DIGITS[call.status]

    @property
    def judged_status(self) -> int:
        """For those who judge by HTTP's statuses: what a gRPC status means there."""
        call = self.grpc
        if call is None or not call.status or self.status >= 400:  # unknown, or OK
            return self.status
        if call.status is Status.DEADLINE_EXCEEDED and self.headed:
            return self.status  # an answer that went on for as long as its caller wanted
        return http_of(call.status)

    def client(self) -> bytes:
        return self._down.client()

    @property
    def is_tunnel(self) -> bool:
        """The protocol was changed: what goes both ways is not HTTP any more."""
        return self.status == SWITCHING

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def downstream_gone(self) -> None:
        if not self.is_finished:
            self.flag = Flag.DOWNSTREAM_RESET
            if self.grpc is not None:
                self.grpc.status = Status.CANCELLED
            self._drop_upstream()
            self._finish()

    def downstream_is_full(self, is_full: bool) -> None:
        self._touched = self._ledger.now
        if self._up is not None:
            if is_full:
                self._up.pause_response()
            else:
                self._up.resume_response()

    # From the handler

    def attach(self, up: Upstream) -> None:
        """Sends the request on ``up``, which is connected."""
        self._up = up
        self._touched = self.tried_at = self._ledger.now
        was_paused, self._is_request_paused = self._is_request_paused, False
        up.send(self)
        if self.body_bytes and self.body_bytes > self._kept_bytes:
            self._body = None
        if was_paused and not self._is_request_paused:
            self._down.resume_request()

    def take_body(self) -> bytes:
        """All that has been received of the body."""
        return b"".join(self._body) if self._body else b""

    def refuse(
        self,
        flag: Flag,
        detail: str = "",
        status: int = 0,
        lines: tuple[bytes, ...] = (),
        policy: str = "",
    ) -> None:
        """The proxy answers by itself; a response that has begun is cut off instead.

        ``policy``: the id of what denied the request.
        """
        if self.is_finished:
            return
        self._drop_upstream()
        self.flag, self.policy, self.detail = flag.value, policy, detail
        if self.has_begun:
            self._cut_off(flag, detail, status)
            return
        head, body = make_reply(self.handler.subject, flag, detail, status)
        head.policy = policy.encode()
        head.lines.extend(lines)
        self.answer(head, body)

    def _cut_off(self, flag: Flag, detail: str, status: int) -> None:
        """A response that has begun ends here; of a gRPC call, with the reason."""
        call = self.grpc
        if call is None:
            self._finish()
            self._down.abandon()
            return
        status = status or STATUS[flag]
        call.status = status_of_refusal(flag.value.encode(), status, self.policy.encode())
        self._finish()
        if call.can_end_early:
            text = f"{self.handler.subject}: {SENTENCE[flag]}{': ' + detail if detail else ''}"
            lines = end_lines(call.status, text)
            self._down.respond_data(b"", True, lines)
        else:
            self._down.abandon()

    def answer(self, head: ResponseHead, body: bytes) -> None:
        """An answer of the proxy's own making, instead of an upstream's."""
        if self.head.method == b"HEAD":
            body = b""
        self.status = head.status
        self.response_bytes = len(body)
        if self.grpc is not None:
            self.grpc.status = status_at_end(head)
        self._finish()
        if self.change_response is not None:
            head.lines = self.change_response(head.lines)
        self._down.respond(head, body, True)

    # From upstream

    def response_head(
        self,
        head: ResponseHead,
        data: bytes,
        is_end: bool,
        trailers: list[bytes] = _NO_TRAILERS,
    ) -> None:
        """``trailers``: only with ``is_end``, of an answer that has come as a whole."""
        if head.flag:
            if not self.handler.trusts_flag:
                head.flag = head.policy = b""  # not a shared one: those have none
            elif is_refusal_repeated(self, head, is_end):
                return
            else:
                self.flag = head.flag.decode("latin-1")
                if head.flag != _DENIED:
                    head.policy = b""
                self.policy = head.policy.decode("latin-1")
        status = head.status
        if (
            status >= 400
            and self.retries is not None
            and is_status_repeated(self, self.retries, head, is_end)
        ):
            return
        if self.grpc is not None and is_grpc_head_kept(
            self, self.grpc, head, data, is_end, trailers
        ):
            return
        self.status = status
        self.has_begun = True
        self.response_bytes = len(data)
        if is_end:
            self._up = None
            self._finish()
        else:
            self._body = None
            self._touched = self.headed = monotonic()
        if self.change_response is not None:
            head = head.with_lines(self.change_response(head.lines))
        if trailers:
            self._down.respond_whole(head, data, trailers)
        else:
            self._down.respond(head, data, is_end)

    def response_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        call = self.grpc
        if (
            call is not None
            and (is_end or call.held is not None)
            and is_grpc_end_dropped(self, call, data, is_end, trailers)
        ):
            return
        self.response_bytes += len(data)
        if is_end:
            self._up = None
            self._finish()
        else:
            self._touched = self._ledger.now
        self._down.respond_data(data, is_end, trailers)

    def inform(self, head: ResponseHead) -> None:
        self._touched = self._ledger.now
        self._down.inform(head)

    def upstream_failed(
        self, failure: Failure, detail: str, *, has_begun: bool = False, is_reused: bool = False
    ) -> None:
        """The current try is over; ``has_begun``: a byte of a response had arrived."""
        if self.is_finished:
            return
        self._up = None
        flag = _FLAG_OF[failure]
        if self.grpc is not None:
            self.grpc.held = None
        if self.retries is not None:
            has_begun = has_begun or self.has_begun
            if is_failure_repeated(
                self, self.retries, failure, has_begun=has_begun, is_reused=is_reused
            ):
                return
            if self.tries > 1 and failure in _REPEATED:
                more = f"{SENTENCE[flag]}, in {self.tries} tries"
                self.refuse(Flag.RETRY_LIMIT, f"{more}: {detail}" if detail else more, STATUS[flag])
                return
        self.refuse(flag, detail)

    def upstream_is_full(self, is_full: bool) -> None:
        self._touched = self._ledger.now
        self._is_request_paused = is_full
        if is_full:
            self._down.pause_request()
        else:
            self._down.resume_request()

    # Another try (proxy.http.repetition)

    @property
    def is_replayable(self) -> bool:
        """All of the body so far is kept."""
        return self._body is not None

    def hand_over(self, failure: Failure | None, verdict: Verdict, is_end: bool) -> bool:
        """Whether somebody else has the request now; then the current answer is not wanted."""
        if verdict is Verdict.GIVE_UP:
            return False
        up, self._up = self._up, None
        if not self.handler.retry(self, failure, verdict):
            self._up = up
            return False
        if up is not None and not is_end:
            up.cancel()
        return True

    def release(self, call: Call) -> None:
        """The head that was kept back goes downstream."""
        head, call.held = call.held, None
        if head is None:
            return
        self.status = head.status
        self.has_begun = True
        self._body = None
        self._touched = self.headed = monotonic()
        if self.change_response is not None:
            head = head.with_lines(self.change_response(head.lines))
        self._down.respond(head, b"", False)

    # From the sweeper

    def sweep(self, now: float) -> None:
        timeouts = self.timeouts
        if self.grpc is not None:
            self._sweep_grpc(self.grpc, now)
            if self.is_finished:
                return
        if (self.is_request_done or self.head.upgrade) and not self.is_tunnel:
            if self.request_s and now - self._request_ended > self.request_s:
                self.refuse(Flag.UPSTREAM_TIMEOUT, f"waited {self.request_s:g} s")
                return
            if (
                timeouts.per_try_s
                and not self.has_begun
                and self._up is not None
                and now - max(self._request_ended, self.tried_at) > timeouts.per_try_s
            ):
                self._drop_upstream()
                self.upstream_failed(
                    Failure.PER_TRY_TIMEOUT, f"waited {timeouts.per_try_s:g} s for an answer"
                )
                return
        if now - self._touched > timeouts.stream_idle_s:
            self.refuse(Flag.STREAM_IDLE, f"waited {timeouts.stream_idle_s:g} s")

    def _sweep_grpc(self, call: Call, now: float) -> None:
        if call.deadline and now > call.deadline:
            self.refuse(
                Flag.UPSTREAM_TIMEOUT,
                f"the deadline of {call.deadline - self.started:.3g} s is over",
            )
        elif call.held is not None:
            # A stream that is silent at first: somebody may wait for its head.
            self.release(call)

    def left_s(self) -> float:
        """Until the request's deadline; 0: there is none."""
        if self.grpc is not None and self.grpc.deadline:
            return max(0.001, self.grpc.deadline - monotonic())
        if not self.request_s:
            return 0.0
        if not self.is_request_done and not self.head.upgrade:
            return self.request_s
        return max(0.001, self._request_ended + self.request_s - self._ledger.now)

    def abort(self) -> None:
        """The proxy stops."""
        if not self.is_finished:
            self._drop_upstream()
            self.flag, self.policy, self.detail = Flag.OVERLOAD.value, "", ""
            self._finish()
            self._down.abandon()

    def _drop_upstream(self) -> None:
        up, self._up = self._up, None
        if up is not None:
            up.cancel()

    def _finish(self) -> None:
        self.is_finished = True
        self._body = None
        self._ledger.exchanges.discard(self)
        if self.mirror is not None and not self.is_request_done:
            self.mirror.downstream_gone()
        self.handler.finished(self)
