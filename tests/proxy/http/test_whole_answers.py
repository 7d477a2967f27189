"""Unary calls of gRPC: one piece each way, on each hop, and known by their bytes."""

from typing import Any

import pytest

from proxy.core.retry import Failure, Verdict, compile_retries
from proxy.http import head as heads
from proxy.http.fields import parse_trailers
from proxy.http.frames import (
    DATA,
    HEAD,
    HEAD_END,
    MAX_DATA,
    RESET,
    TRAILERS_END,
    frame,
    head_frame,
    trailers_frame,
)
from proxy.http.head import CHUNKED, ResponseHead, parse_request, serialize_request
from proxy.model.resilience import Retries

CALL = (
    b"POST /a.B/C HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\nconnection: te\r\n"
    b"te: trailers\r\ncontent-type: application/grpc"
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n"
IDS = b"\r\nx-request-id: %d\r\ntraceparent: 00-ab-cd-00"
OK = [b"grpc-status: 0"]


def answer_head(*lines: bytes) -> ResponseHead:
    made = ResponseHead(200, b"200 OK", True)
    made.length = CHUNKED
    made.lines = [b"content-type: application/grpc", *lines]
    return made


class Pieces:
    """What a downstream half is told, each call a piece."""

    def __init__(self, down: Any) -> None:
        self.said: list[Any] = []
        whole, head, data = down.respond_whole, down.respond, down.respond_data

        def respond_whole(*given: Any) -> None:
            self.said.append(("whole", given[1], given[2]))
            whole(*given)

        def respond(*given: Any) -> None:
            self.said.append(("head", given[1], given[2]))
            head(*given)

        def respond_data(*given: Any) -> None:
            self.said.append(("data", *given))
            data(*given)

        down.respond_whole, down.respond, down.respond_data = respond_whole, respond, respond_data

    @property
    def first(self) -> Any:
        return self.said[0]


# Between the proxies: the caller's end


async def test_an_answer_that_comes_in_one_read_is_one_piece(client: Any) -> None:
    down, exchange = client.ask(b"message", block=CALL)
    pieces = Pieces(down)
    client.receive(head_frame(1, ANSWER, b"answer", False), trailers_frame(1, OK))
    assert pieces.first == ("whole", b"answer", OK)
    assert (down.body, down.trailers, down.is_complete) == (b"answer", OK, True)
    assert exchange.grpc_status == "0"
    assert client.pool.ended == 1
    assert not client.channel.streams


async def test_a_head_waits_for_no_later_read(client: Any) -> None:
    down, _ = client.ask(b"message", block=CALL)
    client.receive(head_frame(1, ANSWER, b"answer", False))
    assert (down.status, down.body, down.is_complete) == (200, b"answer", False)
    client.receive(trailers_frame(1, OK))
    assert (down.trailers, down.is_complete) == (OK, True)


async def test_more_messages_follow_the_head_in_their_order(client: Any) -> None:
    down, _ = client.ask(b"message", block=CALL)
    more = frame(1, DATA, b" two")
    client.receive(head_frame(1, ANSWER, b"one", False), more, trailers_frame(1, OK))
    assert (down.body, down.trailers, down.is_complete) == (b"one two", OK, True)


async def test_answers_of_one_read_are_all_passed_on(client: Any) -> None:
    downs = [client.ask(b"message", block=CALL)[0] for _ in range(3)]
    client.receive(
        head_frame(1, ANSWER, b"a", False),
        head_frame(3, ANSWER, b"c", False),
        head_frame(2, ANSWER, b"b", False),
        trailers_frame(2, OK),
        trailers_frame(1, OK),
    )
    assert [(down.body, down.is_complete) for down in downs] == [
        (b"a", True),
        (b"b", True),
        (b"c", False),
    ]


async def test_a_reset_behind_a_head_that_waits_cuts_off_what_has_begun(client: Any) -> None:
    down, exchange = client.ask(b"message", block=CALL)
    client.receive(head_frame(1, ANSWER, b"answer", False), frame(1, RESET))
    assert down.status == 200
    assert [(each.failure, each.has_begun) for each in exchange.failures] == [(Failure.RESET, True)]


async def test_a_body_shorter_than_its_head_says_is_no_whole_answer(client: Any) -> None:
    _, exchange = client.ask(b"message", block=CALL)
    short = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"
    client.receive(head_frame(1, short, b"answer", False), trailers_frame(1, OK))
    assert [each.failure for each in exchange.failures] == [Failure.PROTOCOL]


async def test_who_is_gone_gets_nothing_of_a_head_that_waits(client: Any) -> None:
    first, exchange = client.ask(b"message", block=CALL)
    second, _ = client.ask()
    second.respond = lambda *_: exchange.downstream_gone()
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    client.receive(head_frame(1, ANSWER, b"answer", False), head_frame(2, plain, b"", True))
    assert first.head is None
    assert client.sent()[-1][:2] == (1, RESET)


# The request


@pytest.mark.parametrize("size", [1, MAX_DATA])
async def test_a_whole_request_is_one_frame(client: Any, size: int) -> None:
    client.ask(bytes(size), block=CALL)
    assert [(number, kind) for number, kind, _ in client.sent()] == [(1, HEAD_END)]


def test_a_call_is_known_to_the_peer_whatever_its_ids_and_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer takes the head apart twice, and then never again."""
    asked = parse_request(CALL + IDS % 1)
    for number in range(2):
        asked.lines[-2] = b"x-request-id: %d" % number
        parse_request(serialize_request(asked, b"").removesuffix(b"\r\n\r\n"))
    monkeypatch.delattr(heads, "_parse_request_fields")
    for number in range(2, 5):
        asked.lines[-2] = b"x-request-id: %d" % number
        block = serialize_request(asked, b"").removesuffix(b"\r\n\r\n")
        for more in (b"", b"\r\nx-mesh-timeout-ms: %d" % (10 * number)):
            head = parse_request(block + more)
            assert head.lines == asked.lines
            assert head.length == CHUNKED
            assert head.has_te
            assert head.is_grpc
            assert head.timeout_ms == more[21:]


# The called end


async def test_a_whole_answer_is_one_write_and_ends_its_stream(server: Any) -> None:
    server.receive(head_frame(1, CALL + b"\r\n\r\n", b"message", True))
    server.ups[0].exchange.response_head(answer_head(), b"answer", True, OK)
    whole = head_frame(1, ANSWER, b"answer", False) + trailers_frame(1, OK)
    assert server.transport.out == whole
    assert not server.channel.streams
    assert server.ups[0].exchange.is_finished


async def test_a_whole_answer_too_large_for_a_frame_goes_in_several(server: Any) -> None:
    server.receive(head_frame(1, CALL + b"\r\n\r\n", b"message", True))
    server.ups[0].exchange.response_head(answer_head(), bytes(MAX_DATA + 1), True, OK)
    sent = server.sent()
    kinds = [kind for _, kind, _ in sent]
    assert (kinds[0], kinds[-1]) == (HEAD, TRAILERS_END)
    assert all(len(payload) <= MAX_DATA for _, kind, payload in sent)
    assert not server.channel.streams


# What is tried again


@pytest.mark.parametrize(("message", "is_repeated"), [(b"", True), (b"message", False)])
async def test_a_status_that_policy_names_is_tried_again_unless_a_message_came_with_it(
    client: Any, message: bytes, is_repeated: bool
) -> None:
    def dispatched(exchange: Any) -> None:
        exchange.retries = compile_retries(Retries(on=("unavailable",), attempts=2))
        exchange.tries = 1
        client.channel.open(exchange)

    client.handler.dispatched = dispatched
    down, exchange = client.ask(b"message", block=CALL)
    verdicts: list[Verdict] = []
    exchange.handler.retry = lambda _, __, verdict: verdicts.append(verdict) or True
    client.receive(head_frame(1, ANSWER, message, False), trailers_frame(1, [b"grpc-status: 14"]))
    assert bool(verdicts) is is_repeated
    assert down.is_complete is not is_repeated


def test_a_line_alone_that_may_not_be_a_trailer_is_left_out_however_often() -> None:
    for line in (b"cache-control: no-store", b"content-length: 1", b"te: trailers"):
        for _ in range(3):
            assert parse_trailers(line) == []
    for _ in range(3):
        assert parse_trailers(b"grpc-status: 0") == OK
