"""gRPC through an exchange between two halves that only record."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.core.grpc import Status, decode_message
from proxy.core.retry import CompiledRetries, Failure, Verdict, compile_retries
from proxy.http.exchange import Exchange
from proxy.http.grpc import is_refusal, refusal_of
from proxy.http.head import CHUNKED, RequestHead, ResponseHead, parse_request, parse_response
from proxy.http.ledger import Ledger
from proxy.http.reply import make_reply
from proxy.model.flags import Flag
from proxy.model.policy import Timeouts
from proxy.model.resilience import Retries, RetryOn

POST = b"POST /orders.v1.Orders/Get HTTP/1.1\r\nhost: orders\r\ncontent-type: application/grpc"


def call_head(more: bytes = b"") -> RequestHead:
    return parse_request(POST + more + b"\r\ntransfer-encoding: chunked")


def answer_head(*lines: bytes, status: int = 200) -> ResponseHead:
    head = ResponseHead(status, b"%d" % status, True)
    head.length = CHUNKED
    head.lines = [b"content-type: application/grpc", *lines]
    return head


@dataclass
class Down:
    got: list[Any] = field(default_factory=list)

    def respond(self, head: ResponseHead, data: bytes, is_end: bool) -> None:
        self.got.append(("head", head.status, data, is_end))

    def respond_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        self.got.append(("data", data, is_end, trailers))

    def respond_whole(self, head: ResponseHead, data: bytes, trailers: list[bytes]) -> None:
        self.got.append(("whole", head.status, data, trailers))

    def inform(self, head: ResponseHead) -> None: ...
    def abandon(self) -> None:
        self.got.append("abandoned")

    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
    def client(self) -> bytes:
        return b""


@dataclass
class Up:
    is_cancelled: bool = False

    def send(self, exchange: Exchange) -> None: ...
    def send_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None: ...
    def cancel(self) -> None:
        self.is_cancelled = True

    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...


class Handler:
    trusts_flag = True
    authority = b"orders"
    subject = "web -> orders"

    def __init__(self, retries: CompiledRetries | None, timeouts: Timeouts) -> None:
        self.retries, self.timeouts = retries, timeouts
        self.ups: list[Up] = []
        self.judged: list[int] = []
        self.verdicts: list[Verdict] = []
        self.finishes = 0

    def dispatch(self, exchange: Exchange) -> None:
        exchange.timeouts, exchange.retries = self.timeouts, self.retries
        exchange.tries = 1
        self._attach(exchange)

    def _attach(self, exchange: Exchange) -> None:
        up = Up()
        self.ups.append(up)
        exchange.attach(up)

    def retry(self, exchange: Exchange, failure: Failure | None, verdict: Verdict) -> bool:
        self.judged.append(exchange.judged_status)
        self.verdicts.append(verdict)
        exchange.tries += 1
        self._attach(exchange)
        return True

    def finished(self, exchange: Exchange) -> None:
        self.finishes += 1


class Call:
    """One call, its request sent whole unless ``is_open``."""

    def __init__(
        self,
        *on: RetryOn,
        attempts: int = 2,
        timeouts: Timeouts | None = None,
        head: RequestHead | None = None,
        is_open: bool = False,
    ) -> None:
        self.down = Down()
        retries = compile_retries(Retries(on=on, attempts=attempts))
        self.handler = Handler(retries, timeouts or Timeouts())
        self.ledger = Ledger(10, lambda _: None)
        self.exchange = Exchange(self.down, head or call_head(), self.handler, self.ledger)
        self.exchange.begin(b"message", not is_open, [])

    def answers(self, head: ResponseHead, data: bytes = b"", is_end: bool = False) -> None:
        self.exchange.response_head(head, data, is_end)

    def data(self, data: bytes, *trailers: bytes) -> None:
        self.exchange.response_data(data, bool(trailers), list(trailers))

    @property
    def status(self) -> str:
        return self.exchange.grpc_status


# What is said


def test_a_call_is_known_by_its_content_type() -> None:
    for kind, expected in {
        b"application/grpc": True,
        b"application/grpc+proto": True,
        b"application/grpc;charset=utf-8": True,
        b"application/grpc ; x=y": True,
        b"Application/GRPC": True,
        b"application/grpc-web": False,
        b"application/grpc-web+proto": False,
        b"application/grpcx": False,
        b"application/json": False,
        b"text/application/grpc": False,
    }.items():
        block = b"POST /a.B/C HTTP/1.1\r\nhost: x\r\ncontent-type: " + kind
        for _ in range(3):  # read, then remembered
            head = parse_request(block)
            assert head.is_grpc is expected, kind
            assert head.lines == [b"content-type: " + kind]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (b"\r\ngrpc-timeout: 1500m", b"1500"),
        (b"\r\ngrpc-timeout: 2S\r\nx-mesh-timeout-ms: 500", b"500"),
        (b"\r\nx-mesh-timeout-ms: 5000\r\ngrpc-timeout: 2S", b"2000"),
        (b"\r\ngrpc-timeout: 1n", b"1"),
        (b"\r\ngrpc-timeout: 99999999H", b"999999999"),
        (b"\r\ngrpc-timeout: soon", b""),
        (b"\r\ngrpc-timeout: soon\r\nx-mesh-timeout-ms: 7", b"7"),
        (b"", b""),
    ],
)
def test_a_calls_deadline_is_the_shorter_of_both_fields(more: bytes, expected: bytes) -> None:
    head = call_head(more)
    assert head.timeout_ms == expected
    assert not any(b"timeout" in line for line in head.lines)


def test_a_grpc_timeout_of_another_request_is_the_applications_own() -> None:
    block = b"GET / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nGrpc-Timeout: 5S"
    for _ in range(3):
        head = parse_request(block)
        assert not head.timeout_ms
        assert head.lines == [b"content-type: application/json", b"grpc-timeout: 5S"]


def test_a_deadline_behind_the_ids_leaves_the_rest_to_be_remembered() -> None:
    ids = b"\r\nx-request-id: 1\r\ntraceparent: 00-ab-cd-00"
    for number in range(4):
        head = parse_request(POST + ids + b"\r\nx-mesh-timeout-ms: %d" % (100 + number))
        assert head.timeout_ms == b"%d" % (100 + number)
        assert head.lines == [b"content-type: application/grpc", *ids[2:].split(b"\r\n")]
        assert head.is_grpc
        assert head.fleeting == 2


def test_the_lines_of_an_answer_keep_their_order() -> None:
    block = b"HTTP/1.1 200 OK\r\na: 1\r\ncontent-type: application/grpc\r\nb: 2"
    assert parse_response(block, b"POST").lines == [
        b"a: 1",
        b"content-type: application/grpc",
        b"b: 2",
    ]


def test_the_status_of_a_call_is_in_its_trailers() -> None:
    call = Call()
    assert not call.status
    call.answers(answer_head())
    call.data(b"message")
    call.data(b"", b"grpc-status: 5", b"grpc-message: no")
    assert call.status == "5"
    assert call.exchange.judged_status == 404
    assert call.down.got == [
        ("head", 200, b"", False),
        ("data", b"message", False, []),
        ("data", b"", True, [b"grpc-status: 5", b"grpc-message: no"]),
    ]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (answer_head(b"grpc-status: 0"), "0"),
        (answer_head(b"grpc-status: 14"), "14"),
        (answer_head(b"grpc-status: 99"), "2"),
        (answer_head(), "2"),
        (answer_head(status=503), "14"),
        (answer_head(status=404), "12"),
        (answer_head(b"grpc-status: 8", status=503), "8"),
    ],
)
def test_the_status_of_an_answer_without_a_body_is_in_its_head(
    head: ResponseHead, expected: str
) -> None:
    call = Call()
    call.answers(head, is_end=True)
    assert call.status == expected


def test_an_answer_whose_trailers_do_not_say_how_it_went_is_no_success() -> None:
    call = Call()
    call.answers(answer_head())
    call.data(b"message", b"other: 1")
    assert call.status == "2"
    assert call.exchange.judged_status == 500


def test_what_is_no_grpc_has_no_status() -> None:
    head = parse_request(b"GET / HTTP/1.1\r\nhost: x")
    call = Call(head=head)
    call.answers(answer_head(b"grpc-status: 14"), is_end=True)
    assert not call.status
    assert call.exchange.judged_status == 200


def test_a_caller_that_goes_away_has_cancelled() -> None:
    call = Call()
    call.exchange.downstream_gone()
    assert call.status == "1"
    assert call.handler.ups[0].is_cancelled


# Refusals


def test_a_refusal_becomes_an_answer_of_trailers_only() -> None:
    head, body = make_reply("web -> orders", Flag.DENIED, "100% no (policy orders/x)")
    head.policy = b"orders/x"
    head.lines.append(b"retry-after: 3")
    assert is_refusal(call_head(), head)
    made = refusal_of(head, body)
    assert made.status == 200
    assert made.lines[:2] == [b"content-type: application/grpc", b"grpc-status: 7"]
    assert decode_message(made.lines[2].removeprefix(b"grpc-message: ")) == body.decode().strip()
    assert made.lines[3:] == [b"x-mesh-flag: UAEX", b"x-mesh-policy: orders/x", b"retry-after: 3"]
    assert not made.flag
    assert made.length == 0


def test_a_status_that_policy_asks_for_is_the_refusals() -> None:
    head, body = make_reply("web -> orders", Flag.FAULT_ABORT, "(chaos)")
    head.lines.append(b"grpc-status: 10")
    assert [line for line in refusal_of(head, body).lines if line.startswith(b"grpc-s")] == [
        b"grpc-status: 10"
    ]


def test_only_a_proxys_own_answer_to_a_call_is_a_refusal() -> None:
    refused, _ = make_reply("web -> orders", Flag.DENIED)
    assert not is_refusal(parse_request(b"GET / HTTP/1.1\r\nhost: x"), refused)
    assert not is_refusal(call_head(), answer_head(status=503))


def test_a_call_that_is_refused_has_the_status_of_the_refusal() -> None:
    call = Call()
    call.exchange.refuse(Flag.RATE_LIMITED)
    assert call.status == "8"


def test_an_answer_that_has_begun_ends_with_the_reason() -> None:
    call = Call()
    call.answers(answer_head(), b"message")
    call.exchange.upstream_failed(Failure.RESET, "gone", has_begun=True)
    (_, data, is_end, trailers) = call.down.got[-1]
    assert (data, is_end, trailers[0]) == (b"", True, b"grpc-status: 14")
    assert b"gone" in trailers[1]
    assert call.status == "14"
    assert call.handler.finishes == 1


def test_an_answer_of_known_length_cannot_end_so() -> None:
    call = Call()
    head = answer_head()
    head.length = 100
    call.answers(head, b"message")
    call.exchange.upstream_failed(Failure.RESET, "gone", has_begun=True)
    assert call.down.got[-1] == "abandoned"


# Deadlines


def test_a_deadline_that_passes_ends_the_call_on_both_sides() -> None:
    call = Call(is_open=True)
    assert call.exchange.grpc is not None
    call.exchange.grpc.deadline = call.exchange.started + 2.0
    call.exchange.sweep(call.exchange.started + 1.9)
    assert not call.exchange.is_finished
    call.exchange.sweep(call.exchange.started + 2.1)
    assert call.status == "4"
    assert call.exchange.flag == "UT"
    assert call.handler.ups[0].is_cancelled
    assert call.down.got[0][:2] == ("head", 504)


def test_a_stream_at_its_deadline_is_not_held_against_the_endpoint() -> None:
    call = Call()
    assert call.exchange.grpc is not None
    call.exchange.grpc.deadline = call.exchange.started + 2.0
    call.answers(answer_head(), b"message")
    call.exchange.sweep(call.exchange.started + 2.1)
    assert call.status == "4"
    assert call.exchange.judged_status == 200
    assert call.down.got[-1][3][0] == b"grpc-status: 4"


def test_what_is_left_counts_from_the_begin_of_the_call() -> None:
    call = Call(is_open=True)
    assert call.exchange.grpc is not None
    call.exchange.grpc.deadline = call.exchange.started + 60
    assert 59 < call.exchange.left_s() < 60
    call.exchange.grpc.deadline = call.exchange.started - 1
    assert call.exchange.left_s() == 0.001


# Retries


def test_a_status_that_policy_names_is_tried_again() -> None:
    call = Call("unavailable")
    call.answers(answer_head(b"grpc-status: 14"), is_end=True)
    assert not call.down.got
    assert call.handler.judged == [503]
    call.answers(answer_head(b"grpc-status: 0"), is_end=True)
    assert call.down.got == [("head", 200, b"", True)]
    assert call.status == "0"
    assert not call.exchange.flag


def test_a_delay_on_purpose_is_still_told_after_a_retry() -> None:
    call = Call("unavailable")
    call.exchange.flag = "DI"
    call.answers(answer_head(b"grpc-status: 14"), is_end=True)
    call.answers(answer_head(b"grpc-status: 0"), is_end=True)
    assert call.exchange.flag == "DI"


def test_a_head_that_was_held_is_no_answer_of_a_call_that_its_caller_gave_up() -> None:
    call = Call("unavailable")
    call.answers(answer_head())
    call.exchange.downstream_gone()
    assert (call.exchange.status, call.status) == (0, "1")


def test_a_retry_that_is_not_to_be_had_leaves_the_answer_as_it_is() -> None:
    call = Call("unavailable")
    call.handler.retry = lambda *_: False  # type: ignore[method-assign]  # the budget is empty
    call.answers(answer_head())
    call.data(b"", b"grpc-status: 14")
    assert call.down.got == [
        ("head", 200, b"", False),
        ("data", b"", True, [b"grpc-status: 14"]),
    ]
    assert call.status == "14"


def test_the_last_try_is_the_answer() -> None:
    call = Call("unavailable", attempts=1)
    call.answers(answer_head(b"grpc-status: 14"), is_end=True)
    call.answers(answer_head(b"grpc-status: 14"), is_end=True)
    assert call.down.got == [("head", 200, b"", True)]
    assert call.exchange.flag == "URX"
    assert call.status == "14"


@pytest.mark.parametrize("status", [0, 1, 2, 4, 5, 8, 13, 16])
def test_no_other_status_is(status: int) -> None:
    call = Call("unavailable")
    call.answers(answer_head(b"grpc-status: %d" % status), is_end=True)
    assert call.down.got == [("head", 200, b"", True)]
    assert call.status == str(status)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("cancelled", 1),
        ("deadline-exceeded", 4),
        ("internal", 13),
        ("resource-exhausted", 8),
        ("unavailable", 14),
    ],
)
def test_each_word_is_for_its_status(word: RetryOn, status: int) -> None:
    call = Call(word)
    call.answers(answer_head(b"grpc-status: %d" % status), is_end=True)
    assert len(call.handler.ups) == 2


def test_head_and_trailers_without_a_message_are_tried_again_too() -> None:
    call = Call("unavailable")
    call.answers(answer_head())
    assert not call.down.got
    call.data(b"", b"grpc-status: 14")
    assert not call.down.got
    call.answers(answer_head())
    call.data(b"message", b"grpc-status: 0")
    assert call.down.got == [
        ("head", 200, b"", False),
        ("data", b"message", True, [b"grpc-status: 0"]),
    ]
    assert call.handler.finishes == 1


def test_after_the_first_message_nothing_is_tried_again() -> None:
    call = Call("unavailable")
    call.answers(answer_head())
    call.data(b"message")
    assert [each[0] for each in call.down.got] == ["head", "data"]
    call.data(b"", b"grpc-status: 14")
    assert len(call.handler.ups) == 1
    assert call.status == "14"


def test_a_head_that_comes_alone_waits_no_longer_than_to_the_next_sweep() -> None:
    call = Call("unavailable")
    call.answers(answer_head())
    call.exchange.sweep(call.exchange.started + 0.1)
    assert call.down.got == [("head", 200, b"", False)]
    call.data(b"", b"grpc-status: 14")
    assert len(call.handler.ups) == 1


def test_a_caller_that_still_sends_gets_the_head_at_once() -> None:
    call = Call("unavailable", is_open=True)
    call.answers(answer_head())
    assert call.down.got == [("head", 200, b"", False)]


def test_without_such_a_policy_no_head_waits() -> None:
    call = Call("connect-failure", "refused", "reset-reused")
    call.answers(answer_head())
    assert call.down.got == [("head", 200, b"", False)]


def test_a_connection_that_breaks_is_unavailable_to_such_a_policy() -> None:
    call = Call("unavailable")
    call.exchange.upstream_failed(Failure.RESET, "")
    assert call.handler.verdicts == [Verdict.FRESH_CONNECTION]
    call.exchange.upstream_failed(Failure.RESET, "", has_begun=True)
    assert call.down.got[0][1] == 502


def test_a_head_that_was_held_is_forgotten_with_its_try() -> None:
    call = Call("deadline-exceeded", timeouts=Timeouts(per_try_s=1.0))
    call.answers(answer_head())
    call.exchange.upstream_failed(Failure.PER_TRY_TIMEOUT, "")
    call.exchange.sweep(call.exchange.started + 0.1)
    assert not call.down.got
    assert len(call.handler.ups) == 2
    call.answers(answer_head(b"grpc-status: 0"), is_end=True)
    assert call.down.got == [("head", 200, b"", True)]


@pytest.mark.parametrize(
    ("pushback", "tries"), [(b"250", 2), (b"0", 2), (b"-1", 1), (b"soon", 1), (b"2500", 1)]
)
def test_the_server_may_ask_for_a_pause_or_for_none_at_all(pushback: bytes, tries: int) -> None:
    call = Call("unavailable")
    assert call.exchange.grpc is not None
    call.exchange.grpc.deadline = call.exchange.started + 2
    head = answer_head(b"grpc-status: 14", b"grpc-retry-pushback-ms: " + pushback)
    call.answers(head, is_end=True)
    assert len(call.handler.ups) == tries
    if tries == 2:
        assert call.exchange.grpc.pushback_s == int(pushback) / 1000


def test_what_the_application_never_began_with_is_tried_again_by_default() -> None:
    call = Call("connect-failure", "refused", "reset-reused")
    call.exchange.upstream_failed(Failure.UNPROCESSED, "refused")
    assert call.handler.verdicts == [Verdict.FRESH_CONNECTION]
    call = Call("connect-failure")
    call.exchange.upstream_failed(Failure.UNPROCESSED, "refused")
    assert call.down.got[0][1] == 503
    assert call.exchange.flag == "UO"  # of those after which a calling proxy tries another one


def test_a_refusal_of_the_peers_proxy_is_tried_again_as_for_http() -> None:
    call = Call("refused")
    head, body = make_reply("orders", Flag.NO_HEALTHY_UPSTREAM)
    call.answers(head, body, is_end=True)
    assert len(call.handler.ups) == 2
    head, body = make_reply("orders", Flag.DENIED)
    call.answers(head, body, is_end=True)
    assert call.status == str(int(Status.PERMISSION_DENIED))
