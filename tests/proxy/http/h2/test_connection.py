"""The engine's answers to what a peer may send, section by section of RFC 9113."""

import pytest
from engines import (
    ClientEngine,
    ServerEngine,
    frames_of,
    greeted_client,
    greeted_server,
    outcome,
    request,
)

from proxy.http.h2.connection import ConnectionBroken
from proxy.http.h2.frames import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    INTERNAL_ERROR,
    MAX_STREAM,
    MAX_WINDOW,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    frame,
    goaway_frame,
    reset_frame,
    window_update_frame,
)
from proxy.http.h2.settings import FRAME_BYTES, MAX_STREAMS
from proxy.http.h2.stream import WINDOW_BYTES


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def setting(identifier: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, identifier.to_bytes(2, "big") + u32(value))


# The beginning


def test_both_sides_begin_as_section_3_4_says() -> None:
    client, server = ClientEngine(), ServerEngine()
    client.start()
    server.start()
    said = client.sent()
    assert said.startswith(PREFACE)
    assert [kind for kind, *_ in frames_of(said[len(PREFACE) :])] == [SETTINGS, WINDOW_UPDATE]
    kind, flags, number, payload = server.sent_frames()[0]
    assert (kind, flags, number) == (SETTINGS, 0, 0)
    settings = {payload[i + 1]: payload[i + 2 : i + 6] for i in range(0, len(payload), 6)}
    assert settings == {
        1: u32(0),
        3: u32(256),
        4: u32(240 * 1024),
        5: u32(64 * 1024),
        6: u32(64 * 1024),
        8: u32(1),
        9: u32(1),
    }


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        PREFACE[:20] + b"XXXX" + frame(SETTINGS, 0, 0),
        PREFACE + frame(PING, 0, 0, bytes(8)),
        PREFACE + SETTINGS_ACK,
        PREFACE + request(1),
    ],
)
def test_a_client_that_does_not_begin_so_is_refused(wire: bytes) -> None:
    assert outcome(ServerEngine(), [wire]) == ([], PROTOCOL_ERROR)
    assert outcome(ServerEngine(), [bytes([byte]) for byte in wire])[1] == PROTOCOL_ERROR


def test_settings_are_acknowledged_and_applied() -> None:
    engine = greeted_client()
    engine.receive(
        setting(3, 7) + setting(4, 100) + setting(5, 20_000) + setting(6, 999) + setting(8, 1)
    )
    assert engine.sent() == SETTINGS_ACK * 5
    assert engine.max_streams == 7
    assert engine.stream_credit == 100
    assert engine.frame_bytes == 20_000
    assert engine.max_header_bytes == 999
    assert engine.has_extended_connect
    engine.receive(setting(5, 0xFFFFFF))
    assert engine.frame_bytes == 64 * 1024


def test_an_acknowledgement_is_told_once() -> None:
    engine = ServerEngine()
    engine.receive(PREFACE + frame(SETTINGS, 0, 0) + SETTINGS_ACK + SETTINGS_ACK)
    assert engine.events == [("settings",), ("acknowledged",)]


def test_a_client_that_says_nothing_at_all_is_not_waited_for() -> None:
    engine = ServerEngine()
    engine.start()
    engine.sweep(100.0)
    with pytest.raises(ConnectionBroken):
        engine.sweep(111.0)


def test_settings_that_are_not_acknowledged_end_the_connection() -> None:
    engine = ServerEngine()
    engine.receive(PREFACE + frame(SETTINGS, 0, 0))
    engine.sweep(100.0)
    engine.sweep(110.0)
    with pytest.raises(ConnectionBroken) as raised:
        engine.sweep(110.5)
    assert raised.value.code == SETTINGS_TIMEOUT
    assert engine.sent_frames()[-1][3][4:8] == u32(SETTINGS_TIMEOUT)


# What is not allowed. A stream 1 is open, and 3 is answered and so closed.

CONNECTION_ERRORS = [
    ("6.1 data of no stream", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    ("6.1 padding as long as the frame", frame(DATA, PADDED, 1, b"\x04abc"), PROTOCOL_ERROR),
    ("6.1 padded, and empty", frame(DATA, PADDED, 1), FRAME_SIZE_ERROR),
    ("6.2 headers of no stream", request(0), PROTOCOL_ERROR),
    (
        "6.2 headers of no stream that go on",
        frame(HEADERS, 0, 0, b"\x82"),
        PROTOCOL_ERROR,
    ),
    (
        "6.2 more padding than block",
        frame(HEADERS, PADDED | END_HEADERS, 5, b"\x09abc"),
        PROTOCOL_ERROR,
    ),
    (
        "6.2 a priority that is cut off",
        frame(HEADERS, HAS_PRIORITY | END_HEADERS, 5, b"\0\0\0"),
        PROTOCOL_ERROR,
    ),
    ("6.3 a priority of no stream", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    ("6.4 a reset of no stream", reset_frame(0, 8), PROTOCOL_ERROR),
    ("6.4 a reset of an idle stream", reset_frame(9, 8), PROTOCOL_ERROR),
    ("6.4 a reset of a wrong size", frame(RST_STREAM, 0, 1, bytes(5)), FRAME_SIZE_ERROR),
    ("6.5 settings of a stream", frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    ("6.5 settings of a wrong size", frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    ("6.5 an ack with settings", frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    ("6.5.2 push neither on nor off", setting(2, 2), PROTOCOL_ERROR),
    ("6.5.2 a window too large", setting(4, MAX_WINDOW + 1), FLOW_CONTROL_ERROR),
    ("6.5.2 frames too small", setting(5, 16_383), PROTOCOL_ERROR),
    ("6.5.2 frames too large", setting(5, 1 << 24), PROTOCOL_ERROR),
    ("8441 3 extended connect neither on nor off", setting(8, 2), PROTOCOL_ERROR),
    ("9218 2.1 priorities neither on nor off", setting(9, 2), PROTOCOL_ERROR),
    ("6.6 a push", frame(PUSH_PROMISE, END_HEADERS, 1, u32(2) + b"\x82"), PROTOCOL_ERROR),
    ("6.7 a ping of a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    ("6.7 a ping of a wrong size", frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    ("6.8 a goaway of a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    ("6.8 a goaway that is cut off", frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    (
        "6.8 a goaway that takes back another",
        goaway_frame(0, 0) + goaway_frame(2, 0),
        PROTOCOL_ERROR,
    ),
    ("6.9 no credit for the connection", window_update_frame(0, 0), PROTOCOL_ERROR),
    ("6.9 credit of a wrong size", frame(WINDOW_UPDATE, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
    ("6.9 credit for an idle stream", window_update_frame(9, 1), PROTOCOL_ERROR),
    ("6.9.1 the connection's window overflows", window_update_frame(0, MAX_WINDOW), 3),
    ("6.10 a continuation of nothing", frame(CONTINUATION, 4, 1, b"x"), PROTOCOL_ERROR),
    (
        "6.10 a block that is interrupted",
        frame(HEADERS, 0, 5, b"\x82") + frame(PING, 0, 0, bytes(8)),
        PROTOCOL_ERROR,
    ),
    (
        "6.10 a block that is interrupted by data",
        frame(HEADERS, 0, 5, b"\x82") + frame(DATA, 0, 1, b"x"),
        PROTOCOL_ERROR,
    ),
    (
        "6.10 a block that goes on as another stream's",
        frame(HEADERS, 0, 5, b"\x82") + frame(CONTINUATION, 4, 7, b"x"),
        PROTOCOL_ERROR,
    ),
    ("4.2 a frame too large", frame(DATA, 0, 1, bytes(FRAME_BYTES + 1)), FRAME_SIZE_ERROR),
    ("5.1 data of an idle stream", frame(DATA, 0, 9, b"x"), PROTOCOL_ERROR),
    ("5.1 data of a closed stream", frame(DATA, 0, 3, b"x"), STREAM_CLOSED),
    ("5.1 headers of a closed stream", request(3), STREAM_CLOSED),
    ("5.1.1 an even number", request(6), PROTOCOL_ERROR),
    ("5.1.1 a number that was left out", request(11) + request(9), PROTOCOL_ERROR),
    ("5.1.1 the first that was left out", request(11) + request(5), PROTOCOL_ERROR),
    ("5.1 the last before a gap", request(11) + request(3), STREAM_CLOSED),
    ("5.1 data of a number that was left out", request(11) + frame(DATA, 0, 9), STREAM_CLOSED),
    ("5.1.1 data of an even number", frame(DATA, 0, 2, b"x"), PROTOCOL_ERROR),
]


def busy_server() -> ServerEngine:
    engine = greeted_server()
    engine.receive(request(1, is_end=False) + request(3))
    engine.all_streams[3].send_headers(b"\x88", True)
    engine.out.clear()
    engine.events.clear()
    return engine


@pytest.mark.parametrize(
    ("wire", "code"),
    [pytest.param(wire, code, id=name) for name, wire, code in CONNECTION_ERRORS],
)
def test_an_error_of_the_connection_is_told_and_ends_it(wire: bytes, code: int) -> None:
    engine = busy_server()
    with pytest.raises(ConnectionBroken) as raised:
        engine.receive(wire)
    assert raised.value.code == code
    kind, _, number, payload = engine.sent_frames()[-1]
    assert (kind, number) == (GOAWAY, 0)
    assert payload[4:8] == u32(code)
    assert payload[8:].decode() == raised.value.detail


STREAM_ERRORS = [
    ("5.1 headers after the end", request(5) + request(5), 5, STREAM_CLOSED),
    ("5.1 data after the end", request(5) + frame(DATA, 0, 5, b"x"), 5, STREAM_CLOSED),
    ("6.3 a priority of a wrong size", frame(PRIORITY, 0, 1, bytes(4)), 1, FRAME_SIZE_ERROR),
    ("6.9 no credit", window_update_frame(1, 0), 1, PROTOCOL_ERROR),
    ("6.9.1 a window overflows", window_update_frame(1, MAX_WINDOW), 1, FLOW_CONTROL_ERROR),
    ("8.1 trailers that do not end", request(1, is_end=False), 1, PROTOCOL_ERROR),
    (
        "6.9.1 more data than credit",
        frame(DATA, 0, 1, bytes(FRAME_BYTES)) * 4 + frame(DATA, 0, 1, b"x"),
        1,
        FLOW_CONTROL_ERROR,
    ),
]


@pytest.mark.parametrize(
    ("wire", "number", "code"),
    [pytest.param(wire, number, code, id=name) for name, wire, number, code in STREAM_ERRORS],
)
def test_an_error_of_a_stream_ends_that_stream_alone(wire: bytes, number: int, code: int) -> None:
    engine = busy_server()
    engine.all_streams[1].pause()
    engine.receive(wire)
    assert engine.sent() == reset_frame(number, code)
    assert engine.events[-2:] == [("closed", number), ("reset", number, code, False)]
    assert number not in engine.streams
    engine.receive(request(101))
    assert engine.events[-1] == ("headers", 101, b"\x82", True)


IGNORED = [
    ("4.1 an unknown kind", frame(0x42, 0xFF, 1, b"what")),
    ("4.1 an unknown kind of a closed stream", frame(0x42, 0, 3, b"what")),
    ("4.1 an undefined flag", frame(PING, ACK | 0xFE, 0, bytes(8))),
    ("4.1 the reserved bit", frame(PRIORITY, 0, 0x8000_0001, bytes(5))),
    ("5.1 a priority of an idle stream", frame(PRIORITY, 0, 9, bytes(5))),
    ("5.1 a priority of a closed stream", frame(PRIORITY, 0, 3, bytes(5))),
    ("5.1 a reset that crossed the end", reset_frame(3, CANCEL)),
    ("5.1 credit that crossed the end", window_update_frame(3, 100)),
    ("6.1 data of nothing", frame(DATA, 0, 1)),
]


@pytest.mark.parametrize("wire", [pytest.param(wire, id=name) for name, wire in IGNORED])
def test_what_means_nothing_is_ignored(wire: bytes) -> None:
    engine = busy_server()
    engine.receive(wire)
    assert engine.sent() == b""
    assert engine.events == []


def test_an_unknown_setting_is_ignored() -> None:
    engine = busy_server()
    engine.receive(setting(0x99, 0xFFFF_FFFF))
    assert engine.sent() == SETTINGS_ACK


def test_a_client_takes_no_push_and_no_stream_of_the_servers() -> None:
    for wire in (request(2), request(5), setting(2, 1), frame(DATA, 0, 1, b"x")):
        engine = greeted_client()
        engine.opened()  # 1, and not begun
        assert outcome(engine, [wire])[1] == PROTOCOL_ERROR
    engine = greeted_client()
    engine.opened()
    assert outcome(engine, [request(1)])[1] == PROTOCOL_ERROR


def test_extended_connect_is_not_taken_back() -> None:
    engine = greeted_client(bytes.fromhex("0008 00000001"))
    assert engine.has_extended_connect
    assert outcome(engine, [setting(8, 0)])[1] == PROTOCOL_ERROR


# Messages


def test_a_request_with_padding_priority_and_continuation_is_whole() -> None:
    engine = greeted_server()
    first = bytes([2]) + bytes(5) + b"\x82\x86" + b"\0\0"
    engine.receive(
        frame(HEADERS, PADDED | HAS_PRIORITY, 1, first)
        + frame(CONTINUATION, 0, 1, b"\x84")
        + frame(CONTINUATION, END_HEADERS, 1, b"\x41")
        + frame(DATA, PADDED, 1, b"\x02abc\0\0")
        + frame(DATA, PADDED, 1, b"\x01\0")
        + frame(DATA, 0, 1, b"def")
        + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01t\x01v")
    )
    assert engine.events == [
        ("headers", 1, b"\x82\x86\x84\x41", False),
        ("data", 1, b"abcdef", False),
        ("headers", 1, b"\x00\x01t\x01v", True),
    ]
    assert engine.batches == 2  # the greeting, and this


def test_headers_and_trailers_around_data_are_an_answer() -> None:
    engine = greeted_server()
    engine.receive(request(1))
    stream = engine.all_streams[1]
    stream.send_headers(b"\x88", False)
    stream.send_data(b"hello", True, b"\x00\x01t\x01v")
    assert engine.sent_frames() == [
        (HEADERS, END_HEADERS, 1, b"\x20\x88"),
        (DATA, 0, 1, b"hello"),
        (HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01t\x01v"),
    ]
    assert engine.events[-1] == ("closed", 1)
    assert stream.is_over


def test_only_the_first_block_says_that_there_is_no_table() -> None:
    engine = greeted_server()
    engine.receive(request(1) + request(3))
    engine.all_streams[1].send_headers(b"\x88", True)
    engine.all_streams[3].send_headers(b"\x88", True)
    assert [payload for *_, payload in engine.sent_frames()] == [b"\x20\x88", b"\x88"]


def test_an_answer_before_the_end_of_the_request_asks_for_no_more_of_it() -> None:
    engine = greeted_server()
    engine.receive(request(1, is_end=False))
    engine.all_streams[1].send_headers(b"\x88", True)
    assert [kind for kind, *_ in engine.sent_frames()] == [HEADERS, RST_STREAM]
    assert engine.events[-1] == ("closed", 1)
    # What was under way is nobody's, and no error.
    engine.receive(frame(DATA, END_STREAM, 1, b"late") + request(1))
    assert engine.sent() == b""
    assert engine.skipped == [b"\x82"]


def test_a_client_hears_the_answer_and_may_go_on_with_its_request() -> None:
    engine = greeted_client()
    stream = engine.opened()
    stream.send_headers(b"\x83", False)
    engine.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88"))
    assert 1 in engine.streams
    assert stream.is_ended_by_peer
    engine.receive(reset_frame(1, NO_ERROR))
    assert engine.events == [
        ("headers", 1, b"\x88", True),
        ("closed", 1),
        ("reset", 1, NO_ERROR, False),
    ]
    engine.out.clear()
    stream.send_data(b"nobody wants it", True)
    stream.send_reset(CANCEL)
    assert engine.sent() == b""


def test_a_stream_that_never_began_is_given_up_in_silence() -> None:
    engine = greeted_client()
    stream = engine.opened()
    stream.send_reset(CANCEL)
    assert engine.sent() == b""
    assert engine.streams == {}
    later = engine.opened()
    later.send_headers(b"\x82", True)
    assert engine.sent_frames() == [(HEADERS, END_HEADERS | END_STREAM, 3, b"\x82")]


def test_a_stream_refused_by_the_peer_is_unprocessed() -> None:
    engine = greeted_client()
    engine.opened().send_headers(b"\x82", True)
    engine.receive(reset_frame(1, REFUSED_STREAM))
    assert engine.events[-1] == ("reset", 1, REFUSED_STREAM, True)


def test_more_streams_than_we_allow_are_refused_one_by_one() -> None:
    engine = greeted_server()
    numbers = range(1, 2 * MAX_STREAMS + 5, 2)
    engine.receive(b"".join([request(number, is_end=False) for number in numbers]))
    assert len(engine.streams) == MAX_STREAMS
    assert engine.sent() == reset_frame(2 * MAX_STREAMS + 1, 7) + reset_frame(
        2 * MAX_STREAMS + 3, 7
    )
    assert engine.skipped == [b"\x82", b"\x82"]
    engine.receive(frame(DATA, END_STREAM, 2 * MAX_STREAMS + 1, b"under way"))
    assert engine.sent() == b""


def test_room_is_what_the_server_allows() -> None:
    engine = greeted_client(bytes.fromhex("0003 00000001"))
    assert engine.has_room
    stream = engine.opened()
    assert not engine.has_room
    stream.send_reset(CANCEL)
    assert engine.has_room
    engine.receive(goaway_frame(1, NO_ERROR))
    assert not engine.has_room


def test_the_last_number_is_the_last_stream() -> None:
    engine = greeted_client()
    engine._next = MAX_STREAM
    assert engine.opened().number == MAX_STREAM
    assert engine.is_going


# Going


def test_a_server_goes_in_two_steps() -> None:
    engine = greeted_server()
    engine.receive(request(1))
    engine.go(50.0)
    assert engine.sent() == goaway_frame(MAX_STREAM, NO_ERROR)
    assert engine.is_going
    engine.receive(request(3))
    assert set(engine.streams) == {1, 3}
    engine.sweep(50.5)
    assert not engine.is_final
    engine.sweep(51.0)
    assert engine.is_final
    assert engine.sent() == goaway_frame(3, NO_ERROR)
    # What comes now will be sent again on another connection: the peer knows.
    engine.receive(request(5, is_end=False) + frame(DATA, END_STREAM, 5, b"x"))
    assert set(engine.streams) == {1, 3}
    assert engine.skipped == [b"\x82"]
    engine.all_streams[1].send_headers(b"\x88", True)
    engine.all_streams[3].send_headers(b"\x88", True)
    assert engine.streams == {}
    engine.go(60.0)
    assert [kind for kind, *_ in engine.sent_frames()] == [HEADERS, HEADERS]


def test_a_client_goes_at_once() -> None:
    engine = greeted_client()
    engine.go(50.0)
    assert engine.sent() == goaway_frame(0, NO_ERROR)
    assert engine.is_final


def test_a_servers_goaway_gives_back_what_it_will_not_process() -> None:
    engine = greeted_client()
    for _ in range(3):
        engine.opened().send_headers(b"\x82", True)
    engine.receive(goaway_frame(MAX_STREAM, NO_ERROR))
    assert engine.is_going
    engine.receive(goaway_frame(3, NO_ERROR))
    assert engine.events == [
        ("go", NO_ERROR),
        ("closed", 5),
        ("reset", 5, REFUSED_STREAM, True),
        ("go", NO_ERROR),
    ]
    engine.receive(frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x88"))
    assert engine.events[-1] == ("headers", 3, b"\x88", True)
    # An answer after all would be the peer's mistake; it is not worth the others' answers.
    engine.receive(frame(HEADERS, END_HEADERS | END_STREAM, 5, b"\x88"))


# Is it there


def test_a_ping_is_answered_with_its_own_bytes() -> None:
    engine = greeted_server()
    engine.receive(frame(PING, 0, 0, b"abcdefgh"))
    assert engine.sent() == frame(PING, ACK, 0, b"abcdefgh")


def test_a_peer_that_answers_nothing_is_not_there() -> None:
    engine = greeted_client()
    engine.sweep(99.0)
    engine.ping()
    engine.ping()
    assert [kind for kind, *_ in engine.sent_frames()] == [PING]
    engine.sweep(100.0)
    engine.sweep(110.0)
    with pytest.raises(ConnectionBroken, match="PING"):
        engine.sweep(111.0)


def test_a_peer_that_says_anything_is_there() -> None:
    engine = greeted_client()
    engine.ping()
    engine.sweep(100.0)
    engine.receive(window_update_frame(0, 5000))
    engine.sweep(109.0)
    engine.sweep(118.0)
    engine.receive(frame(PING, ACK, 0, b"meshctl."))
    engine.sweep(200.0)
    engine.sweep(300.0)


def test_an_owners_error_ends_the_connection_as_a_peers() -> None:
    engine = greeted_server()
    engine.receive(request(7))
    with pytest.raises(ConnectionBroken, match="INTERNAL_ERROR"):
        engine.fail(INTERNAL_ERROR, "no more")
    assert engine.sent() == goaway_frame(7, INTERNAL_ERROR, b"no more")


def test_what_waits_in_memory_of_a_header_block_is_bounded() -> None:
    engine = greeted_server()
    piece = bytes(FRAME_BYTES)
    engine.receive(frame(HEADERS, 0, 1, piece))
    assert outcome(engine, [frame(CONTINUATION, 0, 1, b"x")])[1] == ENHANCE_YOUR_CALM


def test_a_lost_connection_reads_no_further() -> None:
    engine = greeted_server()

    engine.on_batch = lambda: engine.all_streams[1].send_headers(b"\x88", True)
    engine.receive(request(1))
    engine.is_lost = True
    engine.receive(request(3) + request(5))
    assert 5 not in engine.all_streams
    assert engine.batches == 2


def test_the_windows_are_as_large_as_said() -> None:
    engine = busy_server()
    stream = engine.all_streams[1]
    stream.pause()
    engine.receive(frame(DATA, 0, 1, bytes(WINDOW_BYTES // 10)) * 10)
    assert engine.sent() == b""
    stream.resume()
    assert engine.sent() == window_update_frame(1, WINDOW_BYTES)
