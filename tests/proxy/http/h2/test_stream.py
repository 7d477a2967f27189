"""What a stream sends, and how it waits; what it takes, and how that is held back."""

import pytest
from engines import ServerEngine, greeted_client, greeted_server, request

from proxy.http.flow import MOST_WIDE
from proxy.http.h2.connection import LocalViolation
from proxy.http.h2.frames import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    NO_ERROR,
    RST_STREAM,
    SETTINGS,
    frame,
    reset_frame,
    settings_frame,
    window_update_frame,
)
from proxy.http.h2.output import CROWDED_BYTES
from proxy.http.h2.settings import MAX_STREAMS
from proxy.http.h2.stream import GRANTED_BYTES, WINDOW_BYTES

TRAILERS = b"\x00\x01t\x01v"


def asked(*numbers: int, window: int | None = None, connection: int = 0) -> ServerEngine:
    """A server that owes answers; the peer's windows are as it says."""
    settings = (
        b"" if window is None else bytes([0, INITIAL_WINDOW_SIZE]) + window.to_bytes(4, "big")
    )
    engine = greeted_server(settings)
    engine.is_new = False
    if connection:
        engine.receive(window_update_frame(0, connection))
    engine.receive(b"".join([request(number) for number in numbers]))
    for number in numbers:
        engine.all_streams[number].send_headers(b"\x88", False)
    engine.out.clear()
    engine.events.clear()
    return engine


def body(engine: ServerEngine, number: int) -> bytes:
    return b"".join(
        [data for kind, _, at, data in engine.sent_frames() if kind == DATA and at == number]
    )


def test_data_goes_in_frames_of_the_peers_size() -> None:
    engine = asked(1)
    data = bytes(range(256)) * 160
    engine.all_streams[1].send_data(data, True)
    sent = engine.sent_frames()
    assert [(flags, len(payload)) for _, flags, _, payload in sent] == [
        (0, 16384),
        (0, 16384),
        (END_STREAM, 8192),
    ]
    assert b"".join(payload for *_, payload in sent) == data
    assert engine.events == [("closed", 1)]


def test_nothing_is_sent_without_credit_and_the_rest_follows() -> None:
    engine = asked(1, window=10)
    stream = engine.all_streams[1]
    stream.send_data(b"0123456789ab", False)
    assert engine.sent_frames() == [(DATA, 0, 1, b"0123456789")]
    assert engine.events == [("full", 1)]
    assert stream.is_full
    assert stream.waiting_bytes == 2
    stream.send_data(b"cd", True, TRAILERS)
    assert engine.sent() == b""
    engine.receive(window_update_frame(1, 3))
    assert engine.sent_frames() == [(DATA, 0, 1, b"ab"), (DATA, 0, 1, b"c")]
    engine.receive(window_update_frame(1, 100))
    assert engine.sent_frames() == [
        (DATA, 0, 1, b"d"),
        (HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
    ]
    assert engine.events == [("full", 1), ("closed", 1)]
    assert engine.held_bytes == 0


def test_a_stream_with_room_again_says_so() -> None:
    engine = asked(1, window=4)
    stream = engine.all_streams[1]
    stream.send_data(b"12345", False)
    engine.receive(window_update_frame(1, 1))
    assert engine.events == [("full", 1), ("free", 1)]
    assert not stream.is_full
    assert stream.is_bulk
    assert engine.bulk == 1


def test_an_end_without_data_needs_no_credit() -> None:
    engine = asked(1, 3, window=0)
    engine.all_streams[1].send_data(b"", True)
    engine.all_streams[3].send_data(b"", True, TRAILERS)
    assert engine.sent_frames() == [
        (DATA, END_STREAM, 1, b""),
        (HEADERS, END_HEADERS | END_STREAM, 3, TRAILERS),
    ]


def test_an_end_that_comes_while_data_wait_is_the_last_datas() -> None:
    engine = asked(1, window=0)
    stream = engine.all_streams[1]
    stream.send_data(b"waits", False)
    stream.send_data(b"", True)
    engine.receive(window_update_frame(1, 5))
    assert engine.sent_frames() == [(DATA, END_STREAM, 1, b"waits")]


def test_trailers_sent_as_headers_wait_for_the_data_before() -> None:
    engine = asked(1, window=0)
    stream = engine.all_streams[1]
    stream.send_data(b"waits", False)
    stream.send_headers(TRAILERS, True)
    engine.receive(window_update_frame(1, 5))
    assert [kind for kind, *_ in engine.sent_frames()] == [DATA, HEADERS]


def test_a_header_block_larger_than_a_frame_goes_in_several() -> None:
    engine = asked(1, 3)
    engine.all_streams[1].send_data(b"x", True, bytes(20_000))
    kinds = [(kind, flags, len(payload)) for kind, flags, _, payload in engine.sent_frames()]
    assert kinds == [(DATA, 0, 1), (HEADERS, END_STREAM, 16384), (9, END_HEADERS, 3616)]
    engine.all_streams[3].send_headers(bytes(20_000), True)
    assert [kind for kind, *_ in engine.sent_frames()] == [HEADERS, 9]


def test_a_half_may_send_and_end_when_it_hears_that_there_is_room() -> None:
    engine = asked(1, 3, window=0)
    streams = engine.all_streams
    streams[1].send_data(bytes(CROWDED_BYTES + 1), False)
    heard = []

    def told() -> None:
        heard.append(streams[3].is_full)
        if not streams[3].is_full:
            streams[3].send_headers(TRAILERS, True)
            streams[1].send_reset(CANCEL)

    streams[3].on_pressure = told
    streams[1].on_pressure = lambda: heard.append(None)
    engine.receive(window_update_frame(1, CROWDED_BYTES))
    engine.receive(window_update_frame(0, CROWDED_BYTES))
    assert heard == [False]
    assert not engine.streams
    assert engine.held_bytes == 0


def test_many_small_pieces_that_wait_are_sent_as_few_frames() -> None:
    engine = asked(1, window=0)
    stream = engine.all_streams[1]
    pieces = [bytes([at % 256]) * (at % 7 + 1) for at in range(3000)]
    for piece in pieces:
        stream.send_data(piece, False)
    engine.receive(window_update_frame(1, 60_000))
    sent = engine.sent_frames()
    assert b"".join(payload for *_, payload in sent) == b"".join(pieces)
    assert len(sent) <= 4


def test_large_and_small_pieces_keep_their_order() -> None:
    engine = asked(1, window=0, connection=MAX_WINDOW - 65_535)
    stream = engine.all_streams[1]
    pieces = [b"a" * 10, b"b" * 5000, b"c" * 20, b"d" * 30, b"e" * 4096, b"f"]
    for piece in pieces:
        stream.send_data(piece, False)
    for _ in range(10):
        engine.receive(window_update_frame(1, 1000))
    assert body(engine, 1) == b"".join(pieces)


def test_streams_take_turns_with_the_connections_credit() -> None:
    engine = asked(1, 3, 5, window=MAX_WINDOW)
    for number in (1, 3, 5):
        engine.all_streams[number].send_data(bytes([number]) * 100_000, True)
    assert {number for _, _, number, _ in engine.sent_frames()} == {1}  # 65,535 bytes of it
    engine.receive(window_update_frame(0, 16_384 * 5))
    assert [number for _, _, number, _ in engine.sent_frames()] == [1, 3, 5, 1, 3]
    engine.receive(window_update_frame(0, 1_000_000))
    ends = [number for _, flags, number, _ in engine.sent_frames() if flags & END_STREAM]
    assert sorted(ends) == [1, 3, 5]
    assert engine.held_bytes == 0
    assert not engine.waiting


def test_a_window_that_shrinks_below_zero_holds_until_it_is_positive() -> None:
    engine = asked(1, window=100)
    stream = engine.all_streams[1]
    stream.send_data(bytes(80), False)
    engine.sent()
    engine.receive(settings_frame({INITIAL_WINDOW_SIZE: 10}))
    assert stream.credit == -70
    stream.send_data(b"x", False)
    engine.receive(window_update_frame(1, 70))
    assert [kind for kind, *_ in engine.sent_frames()] == [SETTINGS]
    engine.receive(window_update_frame(1, 1))
    assert engine.sent_frames() == [(DATA, 0, 1, b"x")]


def test_a_window_that_grows_by_settings_lets_what_waits_go() -> None:
    engine = asked(1, window=0)
    engine.all_streams[1].send_data(b"waits", True)
    engine.receive(settings_frame({INITIAL_WINDOW_SIZE: 100}))
    assert engine.sent_frames()[0] == (DATA, END_STREAM, 1, b"waits")


def test_a_socket_that_is_full_fills_every_stream() -> None:
    engine = asked(1, 3)
    engine.pause_writing()
    assert engine.events == [("full", 1), ("full", 3)]
    engine.resume_writing()
    assert engine.events[2:] == [("free", 1), ("free", 3)]


def test_a_stream_that_begins_while_the_socket_is_full_hears_of_it() -> None:
    engine = greeted_server()
    engine.pause_writing()
    engine.receive(request(1))
    engine.all_streams[1].send_headers(b"\x88", False)
    assert engine.events[-1] == ("full", 1)


def test_whoever_sends_although_it_is_full_is_asked_again_to_pause() -> None:
    engine = asked(1, window=0)
    stream = engine.all_streams[1]
    for _ in range(3):
        stream.send_data(b"x", False)
    assert engine.events == [("full", 1)] * 3
    engine = asked(1)
    engine.pause_writing()
    engine.all_streams[1].send_data(b"x", False)
    assert engine.events == [("full", 1)] * 2


def test_much_that_waits_on_one_connection_holds_its_other_streams_too() -> None:
    engine = asked(1, 3, window=0)
    stream = engine.all_streams[1]
    stream.send_data(bytes(CROWDED_BYTES), False)
    assert ("full", 3) not in engine.events
    stream.send_data(b"x", False)
    assert engine.events == [("full", 1), ("full", 3), ("full", 1)]
    engine.receive(window_update_frame(1, CROWDED_BYTES + 1))
    engine.receive(window_update_frame(0, CROWDED_BYTES))
    assert sorted(engine.events[3:]) == [("free", 1), ("free", 3)]
    assert engine.held_bytes == 0


def test_answers_that_nobody_takes_hold_little_however_many_they_are() -> None:
    engine = asked(*range(1, 2 * MAX_STREAMS, 2), window=0)
    piece = bytes(256 * 1024)
    for _ in range(3):
        for stream in engine.all_streams.values():
            if not stream.is_full:
                stream.send_data(piece, False)
    assert engine.held_bytes <= CROWDED_BYTES + len(piece)
    assert engine.events.count(("full", 2 * MAX_STREAMS - 1)) == 1


def test_what_waits_is_forgotten_with_its_stream() -> None:
    engine = asked(1, 3, 5, window=0)
    for number in (1, 3, 5):
        engine.all_streams[number].send_data(bytes(CROWDED_BYTES // 2), False)
    engine.receive(reset_frame(1, CANCEL))
    engine.all_streams[3].send_reset(CANCEL)
    assert engine.held_bytes == CROWDED_BYTES // 2
    engine.receive(reset_frame(5, CANCEL))
    assert engine.held_bytes == 0
    assert engine.bulk == 0
    assert not engine.is_full


def test_a_reset_is_sent_once_and_nothing_behind_it() -> None:
    engine = asked(1)
    stream = engine.all_streams[1]
    stream.send_reset(CANCEL)
    stream.send_reset(NO_ERROR)
    stream.send_headers(b"\x88", True)
    stream.send_data(b"x", True)
    assert engine.sent_frames() == [(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big"))]
    assert engine.events == [("closed", 1)]


def test_more_after_the_end_is_a_bug_and_raises() -> None:
    engine = greeted_client()
    stream = engine.opened()
    with pytest.raises(LocalViolation):
        stream.send_data(b"x", False)
    stream.send_headers(b"\x82", True)
    with pytest.raises(LocalViolation):
        stream.send_headers(b"\x82", True)
    with pytest.raises(LocalViolation):
        stream.send_data(b"", True)
    engine = greeted_client(bytes.fromhex("0004 00000000"))
    stream = engine.opened()
    stream.send_headers(b"\x82", False)
    stream.send_data(b"waits", True)
    with pytest.raises(LocalViolation):
        stream.send_data(b"x", False)


# What arrives


def test_credit_is_given_back_half_a_window_at_a_time() -> None:
    engine = greeted_server()
    engine.receive(request(1, is_end=False))
    piece = frame(DATA, 0, 1, bytes(1024))
    engine.receive(piece * (GRANTED_BYTES // 1024))
    assert engine.sent() == b""
    engine.receive(piece)
    assert engine.sent() == window_update_frame(1, GRANTED_BYTES + 1024)
    assert engine.all_streams[1].is_bulk


def test_a_paused_stream_is_given_no_credit_until_it_goes_on() -> None:
    engine = greeted_server()
    engine.receive(request(1, is_end=False))
    stream = engine.all_streams[1]
    stream.pause()
    engine.receive(frame(DATA, 0, 1, bytes(40_000)) * 6)
    assert engine.sent() == b""
    stream.resume()
    assert engine.sent() == window_update_frame(1, 240_000)
    stream.resume()
    assert engine.sent() == b""


def test_streams_that_go_on_carrying_much_get_a_second_window_while_there_are_few() -> None:
    engine = greeted_server()
    numbers = range(1, 2 * MOST_WIDE + 4, 2)
    engine.receive(b"".join(request(number, is_end=False) for number in numbers))
    much = bytes(16_000), GRANTED_BYTES // 16_000 + 1
    size = len(much[0]) * much[1]
    for number in numbers[:-2]:
        for granted in (size, size + WINDOW_BYTES, size):
            engine.receive(frame(DATA, 0, number, much[0]) * much[1])
            assert engine.sent() == window_update_frame(number, granted)
    for _ in range(3):
        engine.receive(frame(DATA, 0, numbers[-1], much[0]) * much[1])
        assert engine.sent() == window_update_frame(numbers[-1], size)
    stream = engine.all_streams[1]
    stream.pause()
    engine.receive(frame(DATA, 0, 1, bytes(WINDOW_BYTES // 15)) * 30)
    assert stream.withheld == 2 * WINDOW_BYTES
    assert engine.sent() == b""
    engine.receive(frame(DATA, 0, 1, b"more"))
    assert engine.sent() == reset_frame(1, FLOW_CONTROL_ERROR)


def test_padding_counts_for_the_window() -> None:
    engine = greeted_server()
    engine.receive(request(1, is_end=False))
    piece = frame(DATA, 0x8, 1, b"\xff" + bytes(255))
    engine.receive(piece * (GRANTED_BYTES // 256))
    assert engine.all_streams[1].taken == GRANTED_BYTES
    engine.receive(piece)
    assert engine.sent() == window_update_frame(1, GRANTED_BYTES + 256)
    assert ("data", 1, b"", False) not in engine.events


def test_padding_is_no_data_wherever_a_read_ends() -> None:
    wire = frame(DATA, 0, 1, b"one") + frame(DATA, 0x8, 1, b"\x14two" + bytes(20))
    for cut in range(len(wire)):
        engine = greeted_server()
        engine.receive(request(1, is_end=False))
        engine.receive(wire[:cut])
        engine.receive(wire[cut:])
        assert engine.events[-1] == ("data", 1, b"onetwo", False)


def test_every_way_to_send_data_is_paid_for_with_both_windows() -> None:
    engine = asked(1, 3, 5)
    engine.all_streams[1].send_data(b"12345", True, TRAILERS)
    engine.all_streams[3].send_data(b"12345", False)
    engine.all_streams[5].send_data(bytes(20_000), False)
    assert engine.credit == 65_535 - 20_010
    assert [engine.all_streams[number].credit for number in (1, 3, 5)] == [65_530, 65_530, 45_535]


def test_a_message_that_has_ended_is_given_no_credit() -> None:
    engine = greeted_server()
    engine.receive(
        request(1, is_end=False)
        + frame(DATA, 0, 1, bytes(65_536)) * 2
        + frame(DATA, END_STREAM, 1, bytes(65_536))
    )
    engine.all_streams[1].resume()
    assert engine.sent() == b""


def test_the_connections_credit_is_given_back_long_before_it_is_used_up() -> None:
    engine = greeted_server()
    engine._window = MAX_WINDOW // 2
    engine.receive(request(1, is_end=False) + frame(DATA, 0, 1, b"x"))
    assert engine.sent() == window_update_frame(0, MAX_WINDOW - MAX_WINDOW // 2 + 1)


def test_a_large_frame_is_passed_on_as_it_comes() -> None:
    engine = greeted_server()
    engine.receive(request(1, is_end=False))
    wire = frame(DATA, END_STREAM, 1, b"0123456789")
    engine.receive(wire[:14])
    assert engine.events[-1] == ("data", 1, b"01234", False)
    engine.receive(wire[14:])
    assert engine.events[-1] == ("data", 1, b"0123456789", True)


def test_the_rest_of_a_frame_of_a_stream_given_up_is_nobodys() -> None:
    engine = greeted_server()
    engine.receive(request(1, is_end=False))
    wire = frame(DATA, 0, 1, b"0123456789") + request(3)
    engine.receive(wire[:14])
    engine.all_streams[1].send_reset(CANCEL)
    engine.receive(wire[14:])
    assert engine.events[-1] == ("headers", 3, b"\x82", True)
    assert engine.events.count(("data", 1, b"01234", False)) == 1
