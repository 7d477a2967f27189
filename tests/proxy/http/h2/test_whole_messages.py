"""Whole messages: head, body and trailers that are sent together, and what is in the way of it."""

import pytest
from engines import ServerEngine, greeted_server, request

from proxy.http.h2.frames import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    reset_frame,
    window_update_frame,
)

HEAD = b"\x88"
TRAILERS = b"\x00\x01t\x01v"
LAST = END_HEADERS | END_STREAM


def asked(window: int | None = None) -> ServerEngine:
    settings = (
        b"" if window is None else bytes([0, INITIAL_WINDOW_SIZE]) + window.to_bytes(4, "big")
    )
    engine = greeted_server(settings)
    engine.is_new = False
    engine.receive(request(1))
    engine.out.clear()
    engine.events.clear()
    return engine


@pytest.mark.parametrize(
    ("body", "trailers", "expected"),
    [
        (b"body", b"", [(HEADERS, END_HEADERS, HEAD), (DATA, END_STREAM, b"body")]),
        (b"", TRAILERS, [(HEADERS, END_HEADERS, HEAD), (HEADERS, LAST, TRAILERS)]),
        (
            b"body",
            TRAILERS,
            [(HEADERS, END_HEADERS, HEAD), (DATA, 0, b"body"), (HEADERS, LAST, TRAILERS)],
        ),
    ],
)
def test_a_message_is_one_write_that_ends_the_stream(
    body: bytes, trailers: bytes, expected: list[tuple[int, int, bytes]]
) -> None:
    engine = asked()
    credit = engine.credit
    stream = engine.all_streams[1]
    stream.send_message(HEAD, body, trailers)
    assert len(engine.out) == 1
    assert [(kind, flags, data) for kind, flags, _, data in engine.sent_frames()] == expected
    assert engine.events == [("closed", 1)]
    assert engine.credit == credit - len(body)
    stream.send_message(HEAD, body, trailers)
    assert engine.sent() == b""


def test_what_there_is_no_credit_for_follows() -> None:
    engine = asked(window=2)
    engine.all_streams[1].send_message(HEAD, b"body", TRAILERS)
    assert [data for *_, data in engine.sent_frames()] == [HEAD, b"bo"]
    engine.receive(window_update_frame(1, 2))
    assert [data for *_, data in engine.sent_frames()] == [b"dy", TRAILERS]
    assert engine.events[-1] == ("closed", 1)


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ((20_000, 4, 4), [16384, 3616, 4, 4]),
        ((4, 20_000, 4), [4, 16384, 3616, 4]),
        ((4, 4, 20_000), [4, 4, 16384, 3616]),
    ],
)
def test_what_is_larger_than_a_frame_goes_in_several(
    parts: tuple[int, int, int], sizes: list[int]
) -> None:
    engine = asked()
    engine.all_streams[1].send_message(*map(bytes, parts))
    assert [len(data) for *_, data in engine.sent_frames()] == sizes


def test_the_first_block_says_that_there_is_no_table() -> None:
    engine = asked()
    engine.is_new = True
    engine.all_streams[1].send_message(HEAD, b"body")
    assert engine.sent_frames()[0][3] == b"\x20" + HEAD
    assert not engine.is_new


def test_nothing_is_sent_on_a_stream_that_is_gone() -> None:
    engine = asked()
    stream = engine.all_streams[1]
    engine.receive(reset_frame(1, CANCEL))
    stream.send_message(HEAD, b"body", TRAILERS)
    assert engine.sent() == b""
