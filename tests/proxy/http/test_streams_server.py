"""The called proxy's end: requests in, responses out, and callers that break the rules."""

import time
from typing import Any

import pytest

from proxy.http.frames import (
    CREDIT,
    DATA,
    DATA_END,
    GOAWAY,
    HEAD,
    HEAD_END,
    INTERIM,
    LAST_STREAM,
    MAX_DATA,
    MAX_STREAMS,
    PIECE_BYTES,
    RESET,
    TRAILERS_END,
    WINDOW_BYTES,
    credit_frame,
    frame,
    head_frame,
)
from proxy.http.head import parse_response
from proxy.http.streams_server import GOING_S, MOST_RESETS, MOST_UNTAKEN
from proxy.model.flags import Flag

GET = b"GET / HTTP/1.1\r\nhost: api\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nserver: app"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"


def measured(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: %d\r\n\r\n" % size


def respond(server: Any, body: bytes = b"", *, at: int = -1, is_end: bool = True) -> None:
    """The application answers; its exchange has an upstream no more, if that is all."""
    up = server.ups[at]
    up.exchange.response_head(parse_response(CHUNKED, b"GET"), body, is_end)


async def test_a_request_and_its_response(server: Any) -> None:
    server.receive(head_frame(1, measured(2), b"ab", True))
    assert (server.ups[0].body, server.ups[0].is_complete) == (b"ab", True)
    head = parse_response(b"HTTP/1.1 200 OK\r\ncontent-length: 2", b"GET")
    server.ups[0].exchange.response_head(head, b"ok", True)
    block = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
    assert server.transport.out == head_frame(1, block, b"ok", True)
    assert not server.channel.streams


async def test_a_flag_of_our_own_goes_with_the_head(server: Any) -> None:
    server.receive(head_frame(1, GET, b"", True))
    server.ups[0].exchange.refuse(Flag.OVERLOAD)
    ((_, kind, payload),) = server.sent()
    assert kind == HEAD_END
    assert b"\r\nx-mesh-flag: OM\r\n" in payload


@pytest.mark.parametrize("size", [0, 1, MAX_DATA, MAX_DATA + 1, WINDOW_BYTES, 3 * WINDOW_BYTES])
async def test_a_response_of_any_size_arrives_whole(server: Any, size: int) -> None:
    server.receive(head_frame(1, GET, b"", True))
    body = bytes(size)
    respond(server, body)
    found, got = server.sent(), 0
    assert found[0][1] == (HEAD_END if size <= MAX_DATA else HEAD)
    while found:
        credit = 0
        for _, kind, payload in found:
            data = payload if kind in (DATA, DATA_END) else payload.split(b"\r\n\r\n")[1]
            got += len(data)
            credit += len(data) + PIECE_BYTES if kind == DATA else 0
            is_over = kind in (DATA_END, HEAD_END)
        if is_over:
            break
        server.receive(credit_frame(1, credit))
        found = server.sent()
    assert (got, is_over) == (size, True)
    assert not server.channel.streams
    assert not server.channel.leaving


async def test_a_response_complete_before_its_request_ends_the_stream(server: Any) -> None:
    server.receive(head_frame(1, POST, b"some", False))
    respond(server, b"no")
    assert not server.channel.streams
    server.receive(
        frame(1, DATA, b"more"), frame(1, DATA_END, b"end"), head_frame(2, GET, b"", True)
    )
    assert not server.transport.end
    assert len(server.ups) == 2


async def test_what_follows_an_answer_that_is_still_being_sent_is_dropped(server: Any) -> None:
    server.receive(head_frame(1, POST, b"some", False))
    respond(server, bytes(2 * WINDOW_BYTES))
    assert server.channel.leaving
    server.sent()
    server.receive(*[frame(1, DATA, bytes(MAX_DATA))] * 20)
    assert not server.sent(), "no credit for what nobody wants"
    assert not server.transport.end
    server.receive(credit_frame(1, WINDOW_BYTES))
    assert server.sent()


async def test_a_reset_cancels_while_the_response_streams(server: Any) -> None:
    server.receive(head_frame(1, GET, b"", True))
    respond(server, b"some", is_end=False)
    server.receive(frame(1, RESET), frame(1, RESET), credit_frame(1, 4 + PIECE_BYTES))
    assert server.ups[0].is_cancelled
    assert not server.channel.streams
    assert not server.transport.end


async def test_a_reset_of_an_answer_that_waits_for_credit_forgets_it(server: Any) -> None:
    server.receive(head_frame(1, GET, b"", True))
    respond(server, bytes(2 * WINDOW_BYTES))
    server.receive(frame(1, RESET))
    assert not server.channel.streams
    assert not server.channel.leaving


async def test_a_response_cut_off_resets_the_stream(server: Any) -> None:
    server.receive(head_frame(1, GET, b"", True))
    respond(server, b"some", is_end=False)
    server.ups[0].exchange.refuse(Flag.UPSTREAM_RESET)
    assert [kind for _, kind, _ in server.sent()] == [HEAD, RESET]
    assert not server.channel.streams


async def test_a_slow_caller_pauses_the_application_and_nobody_else(server: Any) -> None:
    server.receive(head_frame(1, GET, b"", True), head_frame(2, GET, b"", True))
    respond(server, b"", at=0, is_end=False)
    respond(server, b"", at=1, is_end=False)
    slow, other = server.ups
    exchange = slow.exchange
    while not slow.is_paused:
        exchange.response_data(bytes(MAX_DATA), False, [])
    assert not other.is_paused
    sent = sum(len(data) for number, kind, data in server.sent() if kind == DATA)
    assert sent <= WINDOW_BYTES
    server.receive(credit_frame(1, WINDOW_BYTES // 2))
    assert not slow.is_paused
    server.receive(credit_frame(1, WINDOW_BYTES // 4))
    exchange.response_data(b"", True, [b"x-sum: 1"])
    assert server.sent()[-1][1:] == (TRAILERS_END, b"x-sum: 1\r\n")


async def test_a_slow_application_gets_a_window_and_then_the_rest(server: Any) -> None:
    server.receive(head_frame(1, POST, b"", False))
    exchange = server.ups[0].exchange
    exchange.upstream_is_full(True)
    piece = frame(1, DATA, bytes(MAX_DATA - PIECE_BYTES))
    server.receive(*[piece] * (WINDOW_BYTES // MAX_DATA))
    assert not server.sent()
    exchange.upstream_is_full(False)
    assert server.sent() == [(1, CREDIT, WINDOW_BYTES.to_bytes(4, "big"))]
    server.receive(*[piece] * (WINDOW_BYTES // MAX_DATA))
    assert server.sent()
    assert not server.transport.end


async def test_more_than_was_granted_ends_the_connection(server: Any) -> None:
    server.receive(head_frame(1, POST, b"", False), head_frame(2, GET, b"", True))
    server.ups[0].exchange.upstream_is_full(True)
    server.receive(*[frame(1, DATA, bytes(MAX_DATA))] * (WINDOW_BYTES // MAX_DATA))
    assert server.transport.end == "aborted"
    assert [up.is_cancelled for up in server.ups] == [True, True]
    assert server.refusals == ["frame"]


@pytest.mark.parametrize(
    "made",
    [
        head_frame(0, GET, b"", True),
        head_frame(5, GET, b"", True),
        head_frame(4, GET, b"", True),
        frame(5, HEAD, b"\0\1x"),
        frame(6, DATA, b"x"),
        frame(6, RESET),
        frame(6, CREDIT, b"\0\0\0\1"),
        frame(0, RESET),
        frame(5, INTERIM, b""),
        frame(5, DATA, b""),
        frame(5, TRAILERS_END, b""),
        frame(5, TRAILERS_END, b"content-length: 1"),
        frame(5, CREDIT, b""),
        credit_frame(5, 1),
        credit_frame(5, 0),
        credit_frame(5, 0xFFFFFFFF),
        frame(7, HEAD, b"\xff\xff" + GET),
        frame(7, HEAD_END, b"\0\4" + GET),
    ],
    ids=str,
)
async def test_a_caller_that_breaks_the_rules_is_cut_off(server: Any, made: bytes) -> None:
    server.receive(head_frame(5, POST, b"", False), made)
    assert server.transport.end == "aborted"
    assert server.ups[0].is_cancelled
    assert not server.ledger.exchanges


@pytest.mark.parametrize(
    ("block", "data", "is_end"),
    [
        (measured(2), b"abc", True),
        (measured(2), b"a", True),
        (measured(2), b"", True),
        (measured(2), b"abc", False),
        (b"GET / HTTP/1.1\r\nhost: api\r\n\r\n", b"x", True),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            b"x",
            True,
        ),
        (
            measured(1)[:-2] + b"transfer-encoding: chunked\r\n\r\n",
            b"x",
            True,
        ),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", b"x", True),
        (b"GET / HTTP/1.1\r\n\r\n", b"", True),
        (b"GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n", b"", True),
        (b"xGET / HTTP/1.1\r\nhost: a\r\n\r\n", b"", True),
        (b"GET /\nHTTP/1.1\r\nhost: a\r\n\r\n", b"", True),
    ],
    ids=str,
)
async def test_a_request_that_http1_would_refuse_is_refused_alone(
    server: Any, block: bytes, data: bytes, is_end: bool
) -> None:
    server.receive(head_frame(1, GET, b"", True), head_frame(2, block, data, is_end))
    ((number, kind, payload),) = server.sent()
    assert (number, kind) == (2, HEAD_END)
    assert payload[2:].startswith(b"HTTP/1.1 400 ")
    assert len(server.ups) == 1
    assert not server.transport.end
    assert len(server.refusals) == 1


@pytest.mark.parametrize("rest", [(frame(1, DATA, b"abc"),), (frame(1, DATA_END, b"a"),)])
async def test_a_body_that_is_not_as_long_as_its_head_says_never_ends(
    server: Any, rest: tuple[bytes, ...]
) -> None:
    server.receive(head_frame(1, measured(4), b"12", False), *rest)
    assert server.transport.end == "aborted"
    assert not server.ups[0].is_complete
    assert server.ups[0].is_cancelled


async def test_trailers_that_may_not_be_one_are_left_out(server: Any) -> None:
    lines = b"x-sum: 1\r\ncontent-length: 9\r\nhost: evil\r\nx-mesh-flag: UF\r\ncookie: a\r\n"
    server.receive(head_frame(1, POST, b"x", False), frame(1, TRAILERS_END, lines))
    assert server.ups[0].trailers == [b"x-sum: 1"]
    assert server.ups[0].is_complete


async def test_changing_the_protocol_of_what_has_ended_or_by_connect_is_refused(
    server: Any,
) -> None:
    block = b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    server.receive(head_frame(1, block, b"", True))
    server.receive(head_frame(2, b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", b"", False))
    assert [payload[2:14] for _, _, payload in server.sent()] == [b"HTTP/1.1 501"] * 2
    assert not server.ups


async def test_one_stream_too_many_ends_the_connection(server: Any) -> None:
    server.receive(*[head_frame(n, GET, b"", True) for n in range(1, MAX_STREAMS + 1)])
    assert len(server.ups) == MAX_STREAMS
    server.receive(head_frame(MAX_STREAMS + 1, GET, b"", True))
    assert server.transport.end == "aborted"
    assert all(up.is_cancelled for up in server.ups)


async def test_rapid_resets_end_the_connection(server: Any) -> None:
    number = 0

    def give_up(times: int) -> None:
        nonlocal number
        for _ in range(times):
            number += 1
            server.receive(head_frame(number, GET, b"", True), frame(number, RESET))

    give_up(MOST_RESETS)
    server.channel.sweep(time.monotonic())
    give_up(MOST_RESETS)
    assert not server.transport.end
    give_up(1)
    assert server.transport.end == "aborted"
    assert not server.ledger.exchanges


async def test_answers_that_nobody_reads_stop_the_reading_of_requests(server: Any) -> None:
    server.channel.pause_writing()
    server.transport.untaken = MOST_UNTAKEN
    server.receive(head_frame(1, GET, b"", True))
    assert server.transport.is_reading()
    server.transport.untaken += 1
    server.receive(head_frame(2, GET, b"", True))
    assert not server.transport.is_reading()
    server.channel.resume_writing()
    assert server.transport.is_reading()


async def test_an_answer_that_nobody_grants_credit_for_is_given_up(server: Any) -> None:
    server.receive(head_frame(1, GET, b"", True))
    respond(server, bytes(2 * WINDOW_BYTES))
    server.sent()
    now = server.ledger.now
    idle_s = server.handler.timeouts.stream_idle_s
    server.channel.sweep(now + idle_s - 1)
    assert server.channel.leaving
    server.ledger.now = now + idle_s - 1
    server.receive(credit_frame(1, PIECE_BYTES + 1))
    server.channel.sweep(now + idle_s + 1)
    assert server.channel.leaving, "some of it was taken"
    server.channel.sweep(now + 2 * idle_s)
    assert [kind for _, kind, _ in server.sent()] == [DATA, RESET]
    assert not server.channel.streams


async def test_a_drain_asks_the_caller_to_go_and_serves_what_was_under_way(server: Any) -> None:
    now = server.ledger.now
    server.channel.sweep(now)
    assert not server.sent()
    server.ledger.is_draining = True
    server.channel.sweep(now)
    assert server.sent() == [(0, GOAWAY, b"")]
    server.receive(head_frame(1, GET, b"", True))
    server.channel.sweep(now + GOING_S + 1)
    assert not server.transport.end
    respond(server)
    assert server.sent()[0][:2] == (1, HEAD_END)
    server.channel.sweep(now + GOING_S + 2)
    assert server.transport.end == "closed"


async def test_closing_when_idle_gives_the_caller_time_to_know(server: Any) -> None:
    now = server.ledger.now
    server.channel.close_if_idle()
    assert server.sent() == [(0, GOAWAY, b"")]
    server.channel.close_if_idle()
    assert not server.transport.end
    server.ledger.now = now + GOING_S + 0.1
    server.channel.close_if_idle()
    assert server.transport.end == "closed"


async def test_a_busy_connection_is_not_idle_to_shed(server: Any) -> None:
    server.receive(head_frame(1, GET, b"", True))
    server.channel.close_if_idle()
    assert not server.sent()


async def test_an_idle_connection_ends_after_its_time(server: Any) -> None:
    now = server.ledger.now
    idle_s = server.handler.timeouts.connection_idle_s
    server.channel.sweep(now + idle_s - 1)
    assert not server.sent()
    server.channel.sweep(now + idle_s + 1)
    assert server.sent() == [(0, GOAWAY, b"")]
    server.channel.sweep(now + idle_s + 3)
    assert server.transport.end == "closed"


async def test_a_lost_connection_cancels_everything_once(server: Any) -> None:
    server.receive(head_frame(1, GET, b"", True), head_frame(2, POST, b"x", False))
    respond(server, b"some", at=0, is_end=False)
    server.channel.connection_lost(ConnectionResetError())
    assert [up.is_cancelled for up in server.ups] == [True, True]
    assert len(server.handler.finished_ones) == 2
    assert server.channel not in server.ledger.connections


async def test_interim_responses_go_before_the_final_one(server: Any) -> None:
    server.receive(head_frame(1, POST, b"", False))
    up = server.ups[0]
    up.exchange.inform(parse_response(b"HTTP/1.1 100 Continue", b"POST"))
    up.exchange.inform(parse_response(b"HTTP/1.1 103 Early Hints\r\nlink: a", b"POST"))
    respond(server)
    assert [kind for _, kind, _ in server.sent()] == [INTERIM, INTERIM, HEAD_END]


async def test_a_head_too_large_for_a_frame_is_answered_for(server: Any) -> None:
    server.receive(head_frame(1, GET, b"", True), head_frame(2, GET, b"", True))
    head = parse_response(OK, b"GET")
    head.lines = [b"x: " + b"y" * 70_000]
    server.ups[0].exchange.response_head(head, b"body", True)
    server.ups[1].exchange.response_head(head.with_lines(head.lines), b"body", False)
    server.ups[1].exchange.inform(head)
    assert [(n, kind, payload[2:14]) for n, kind, payload in server.sent()] == [
        (1, HEAD_END, b"HTTP/1.1 502"),
        (2, HEAD_END, b"HTTP/1.1 502"),
    ]
    assert server.ups[1].is_cancelled
    assert not server.channel.streams


async def test_the_last_number_can_be_used(server: Any) -> None:
    server.receive(head_frame(LAST_STREAM, GET, b"", True))
    respond(server)
    assert server.sent()[0][0] == LAST_STREAM
