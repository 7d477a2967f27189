"""The calling proxy's end: requests out, responses in, and peers that break the rules."""

import time
from typing import Any

import pytest

from proxy.core.retry import Failure
from proxy.http.frames import (
    CREDIT,
    DATA,
    DATA_END,
    GOAWAY,
    HEAD,
    HEAD_END,
    LAST_STREAM,
    MAX_DATA,
    OPENED_STREAMS,
    PIECE_BYTES,
    RESET,
    TRAILERS_END,
    WINDOW_BYTES,
    credit_frame,
    frame,
    head_frame,
    interim_frame,
)

POST = b"POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def measured(size: int, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n" % (status, size)


async def test_a_request_and_its_response(client: Any) -> None:
    down, exchange = client.ask()
    assert client.transport.out == head_frame(1, b"GET / HTTP/1.1\r\nhost: api\r\n\r\n", b"", True)
    client.receive(head_frame(1, measured(2), b"ok", True))
    assert (down.status, down.body, down.is_complete) == (200, b"ok", True)
    assert exchange.is_finished
    assert not client.channel.streams
    assert client.pool.ended == 1


@pytest.mark.parametrize("size", [0, 1, MAX_DATA, MAX_DATA + 1, WINDOW_BYTES, 3 * WINDOW_BYTES])
@pytest.mark.parametrize("trailers", [(), (b"x-sum: 1",)])
async def test_a_request_of_any_size_leaves_whole(
    client: Any, size: int, trailers: tuple[bytes, ...]
) -> None:
    client.ask(bytes(size), trailers=trailers, block=POST)
    got, is_over, found = 0, False, client.sent()
    while found:
        credit = 0
        for _, kind, payload in found:
            assert not is_over
            if kind == TRAILERS_END:
                assert payload == b"x-sum: 1\r\n"
                is_over = True
                continue
            data = payload if kind in (DATA, DATA_END) else payload.split(b"\r\n\r\n")[1]
            got += len(data)
            is_over = kind in (DATA_END, HEAD_END)
            if data:
                credit += len(data) + PIECE_BYTES
        if is_over:
            break
        client.receive(credit_frame(1, credit))
        found = client.sent()
    assert (got, is_over) == (size, True)


async def test_a_slow_peer_pauses_the_one_request(client: Any) -> None:
    down, exchange = client.ask(b"", is_end=False, block=POST)
    other, _ = client.ask(b"", is_end=False, block=POST)
    while not down.is_paused:
        exchange.request_data(bytes(MAX_DATA), False, [])
    assert not other.is_paused
    sent = sum(len(data) for number, kind, data in client.sent() if kind == DATA)
    assert sent <= WINDOW_BYTES
    client.receive(credit_frame(1, WINDOW_BYTES // 2))
    assert not down.is_paused


async def test_a_slow_reader_makes_the_peer_send_at_most_a_window(client: Any) -> None:
    _down, exchange = client.ask()
    client.sent()
    client.receive(head_frame(1, CHUNKED, b"", False))
    exchange.downstream_is_full(True)
    piece = frame(1, DATA, bytes(MAX_DATA - PIECE_BYTES))
    client.receive(*[piece] * (WINDOW_BYTES // MAX_DATA))
    assert not client.sent()
    exchange.downstream_is_full(False)
    assert client.sent() == [(1, CREDIT, WINDOW_BYTES.to_bytes(4, "big"))]
    exchange.downstream_is_full(True)
    client.receive(*[piece] * (WINDOW_BYTES // MAX_DATA))
    assert not client.transport.end
    client.receive(frame(1, DATA_END, b"x"))
    assert client.transport.end == "aborted"


async def test_a_response_complete_before_its_request_ends_the_stream(client: Any) -> None:
    down, exchange = client.ask(b"some", is_end=False, block=POST)
    client.receive(head_frame(1, measured(0, b"413 Content Too Large"), b"", True))
    assert down.status == 413
    assert not client.channel.streams
    client.sent()
    exchange.request_data(b"more", True, [])
    assert not client.sent()
    client.receive(credit_frame(1, 4 + PIECE_BYTES), frame(1, RESET))
    assert not client.transport.end


async def test_a_client_that_disappears_resets_its_stream_and_no_other(client: Any) -> None:
    _, exchange = client.ask()
    other, _ = client.ask()
    client.receive(head_frame(1, CHUNKED, b"some", False))
    client.sent()
    exchange.downstream_gone()
    assert client.sent() == [(1, RESET, b"")]
    client.receive(
        frame(1, DATA, b"late"), frame(1, DATA_END, b""), head_frame(2, EMPTY, b"", True)
    )
    assert other.status == 200
    assert not client.transport.end


async def test_a_reset_before_and_after_a_response_has_begun(client: Any) -> None:
    early, first = client.ask()
    late, second = client.ask()
    client.receive(frame(1, RESET), head_frame(2, CHUNKED, b"some", False), frame(2, RESET))
    assert (early.status, late.status, late.is_abandoned) == (502, 200, True)
    assert [each.has_begun for each in first.failures + second.failures] == [False, True]
    assert not client.channel.streams


async def test_a_lost_connection_fails_each_request_once(client: Any) -> None:
    asked = [client.ask() for _ in range(5)]
    client.receive(
        head_frame(1, EMPTY, b"", True),
        head_frame(2, CHUNKED, b"some", False),
        interim_frame(3, b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    )
    client.channel.connection_lost(None)
    failures = [exchange.failures for _, exchange in asked]
    assert [len(each) for each in failures] == [0, 1, 1, 1, 1]
    assert [each[0].has_begun for each in failures[1:]] == [True, True, False, False]
    assert {each[0].failure for each in failures[1:]} == {Failure.RESET}
    assert {each[0].is_reused for each in failures[1:]} == {True}
    assert client.pool.is_lost


async def test_a_connection_that_never_answered_is_not_a_reused_one(client: Any) -> None:
    _, exchange = client.ask()
    client.channel.connection_lost(None)
    assert not exchange.failures[0].is_reused


async def test_a_refused_certificate_is_a_failure_to_connect(client: Any) -> None:
    asked = [client.ask()[1] for _ in range(3)]
    client.channel.connection_lost(ConnectionRefusedError("the peer refused our certificate"))
    assert {each.failures[0].failure for each in asked} == {Failure.CONNECT}


async def test_a_request_to_go_lets_what_is_there_finish(client: Any) -> None:
    down, _ = client.ask()
    client.receive(frame(0, GOAWAY))
    assert not client.channel.has_room
    assert not client.transport.end
    client.receive(head_frame(1, EMPTY, b"", True))
    assert down.status == 200
    assert client.transport.end == "closed"
    assert client.pool.ended == 0, "nobody may be put on it any more"


async def test_a_request_to_go_ends_an_idle_connection(client: Any) -> None:
    client.receive(frame(0, GOAWAY))
    assert client.transport.end == "closed"


async def test_a_full_connection_has_no_room(client: Any) -> None:
    for _ in range(OPENED_STREAMS):
        assert client.channel.has_room
        client.ask()
    assert not client.channel.has_room
    client.receive(head_frame(7, EMPTY, b"", True))
    assert client.channel.has_room


async def test_the_last_number_is_the_last(client: Any) -> None:
    client.channel._next = LAST_STREAM
    down, _ = client.ask()
    assert not client.channel.has_room
    client.receive(head_frame(LAST_STREAM, EMPTY, b"", True))
    assert down.status == 200
    assert client.transport.end == "closed"


async def test_a_connection_with_a_large_body_is_not_for_others(client: Any) -> None:
    client.ask()
    client.receive(head_frame(1, CHUNKED, b"", False))
    assert client.channel.is_flowing
    piece = frame(1, DATA, bytes(MAX_DATA))
    client.receive(piece, piece)
    assert not client.channel.is_flowing
    client.receive(frame(1, DATA_END, b""))
    assert client.channel.is_flowing
    client.ask(bytes(2 * WINDOW_BYTES), block=POST)
    assert client.channel.is_flowing
    client.receive(credit_frame(2, WINDOW_BYTES // 2), credit_frame(2, WINDOW_BYTES // 2))
    assert not client.channel.is_flowing
    client.receive(frame(2, RESET))
    assert client.channel.is_flowing


@pytest.mark.parametrize(
    "made",
    [
        frame(1, DATA, b"x"),
        frame(1, DATA_END, b""),
        frame(1, TRAILERS_END, b"a: b\r\n"),
        credit_frame(1, 1),
        frame(1, CREDIT, b"\0"),
        head_frame(1, CHUNKED, b"", False) + frame(1, DATA, b""),
        head_frame(1, CHUNKED, b"", False) * 2,
        head_frame(1, CHUNKED, b"", False) + interim_frame(1, b"HTTP/1.1 103 X\r\n\r\n"),
        head_frame(1, CHUNKED, b"", False) + frame(1, TRAILERS_END, b"a: b"),
        frame(1, HEAD, b"\0\x09" + EMPTY),
        head_frame(1, CHUNKED, b"", False) + frame(1, DATA, bytes(WINDOW_BYTES // 4)) * 4,
        frame(3, RESET),
        frame(0, DATA, b"x"),
        head_frame(9, EMPTY, b"", True),
    ],
    ids=lambda made: made[:40].hex(),
)
async def test_a_peer_that_breaks_the_rules_is_cut_off(client: Any, made: bytes) -> None:
    asked = [client.ask() for _ in range(2)]
    if made.count(bytes(1000)):
        asked[0][1].downstream_is_full(True)
    client.receive(made)
    assert client.transport.end == "aborted"
    assert [each.failures[0].failure for _, each in asked] == [Failure.PROTOCOL] * 2
    assert client.errors == ["frame"]
    client.channel.connection_lost(None)
    assert [len(each.failures) for _, each in asked] == [1, 1]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ((head_frame(1, measured(2), b"abc", True),), "length"),
        ((head_frame(1, measured(2), b"a", True),), "length"),
        ((head_frame(1, measured(2), b"abc", False),), "length"),
        ((head_frame(1, measured(2), b"a", False), frame(1, DATA_END, b"")), "length"),
        ((head_frame(1, measured(2), b"a", False), frame(1, DATA, b"bc")), "length"),
        ((head_frame(1, b"HTTP/1.1 204 X\r\n\r\n", b"x", True),), "length"),
        ((head_frame(1, CHUNKED[:-2] + b"content-length: 1\r\n\r\n", b"x", True),), "framing"),
        ((head_frame(1, b"HTTP/1.1 100 Continue\r\n\r\n", b"", True),), "status"),
        ((head_frame(1, b"nonsense\r\n\r\n", b"", True),), "start_line"),
        ((interim_frame(1, EMPTY),), "status"),
        ((interim_frame(1, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),), "status"),
        ((interim_frame(1, b"HTTP/1.1 103 X\r\n\r\n"),) * 17, "status"),
    ],
)
async def test_a_response_that_http1_would_refuse_fails_alone(
    client: Any, frames: tuple[bytes, ...], reason: str
) -> None:
    _down, exchange = client.ask()
    other, _ = client.ask()
    client.sent()
    client.receive(*frames, head_frame(2, EMPTY, b"", True))
    assert exchange.failures[0].failure is Failure.PROTOCOL
    assert client.errors == [reason]
    assert client.sent() == [(1, RESET, b"")]
    assert other.status == 200
    assert not client.transport.end


async def test_trailers_that_may_not_be_one_are_left_out(client: Any) -> None:
    down, _ = client.ask()
    lines = b"x-sum: 1\r\ntransfer-encoding: chunked\r\nset-cookie: a=b\r\n"
    client.receive(head_frame(1, CHUNKED, b"x", False), frame(1, TRAILERS_END, lines))
    assert (down.body, down.trailers, down.is_complete) == (b"x", [b"x-sum: 1"], True)


async def test_responses_to_head_have_a_length_and_no_body(client: Any) -> None:
    down, _ = client.ask(block=b"HEAD / HTTP/1.1\r\nhost: api")
    client.receive(head_frame(1, measured(1000), b"", True))
    assert down.is_complete
    assert down.head.lines == [b"content-length: 1000"]
    down, _ = client.ask(block=b"HEAD / HTTP/1.1\r\nhost: api")
    client.receive(head_frame(2, measured(1), b"x", True))
    assert client.errors == ["length"]


async def test_interim_responses_pass(client: Any) -> None:
    down, exchange = client.ask(b"", is_end=False, block=POST + b"\r\nexpect: 100-continue")
    client.receive(interim_frame(1, b"HTTP/1.1 100 Continue\r\n\r\n"))
    exchange.request_data(b"body", True, [])
    client.receive(head_frame(1, EMPTY, b"", True))
    assert (down.informed, down.status) == ([100], 200)
    assert [kind for _, kind, _ in client.sent()] == [HEAD, DATA_END]


async def test_a_head_too_large_for_a_frame_is_refused(client: Any) -> None:
    block = b"GET / HTTP/1.1\r\nhost: api\r\nx: " + b"y" * 70_000
    down, _ = client.ask(block=block)
    assert down.status == 431
    assert not client.sent(), "the peer knows of no such stream"
    assert not client.channel.streams
    client.ask()
    assert [number for number, _, _ in client.sent()] == [2]


async def test_a_stuck_connection_fails_its_requests(client: Any) -> None:
    _, exchange = client.ask()
    client.transport.untaken = 100_000
    client.channel.pause_writing()
    assert not client.channel.is_flowing
    now = time.monotonic()
    client.channel.sweep(now)
    client.channel.sweep(now + 60)
    assert client.transport.end == "aborted"
    client.channel.connection_lost(None)
    assert exchange.failures[0].failure is Failure.RESET


async def test_a_peer_whose_kernel_is_silent_gets_no_new_requests(client: Any) -> None:
    class Socket:
        retransmits = 0

        def getsockopt(self, _level: int, _option: int, size: int) -> bytes:
            return bytes((1, 0, self.retransmits, 0))[:size]

    sock = Socket()
    client.transport.get_extra_info = lambda _name, _default=None: sock
    for retransmits, is_flowing in ((0, True), (1, True), (2, False), (9, False), (0, True)):
        sock.retransmits = retransmits
        client.channel.sweep(0.0)
        assert client.channel.is_flowing is is_flowing
