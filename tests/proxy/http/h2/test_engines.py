"""Two engines of ours with each other, ours with an HTTP/2 library, and what nobody thought of."""

from random import Random

import h2.config
import h2.connection
import h2.events
import pytest
from engines import ClientEngine, ServerEngine, outcome, pump
from fuzz.conversations import audit, check, make
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.h2.frames import CANCEL, NO_ERROR, PREFACE, SETTINGS_ACK, settings_frame

TRAILERS = b"\x00\x01t\x01v"
REQUEST = b"\x82\x86\x84\x41\x01a"
"""GET / of http://a"""
POST = b"\x83\x86\x84\x41\x01a"


def pair() -> tuple[ClientEngine, ServerEngine]:
    client, server = ClientEngine(), ServerEngine()
    client.start()
    server.start()
    pump(client, server)
    for engine in (client, server):
        engine.events.clear()
    return client, server


def test_an_exchange_between_two_engines() -> None:
    client, server = pair()
    stream = client.opened()
    stream.send_headers(POST, False)
    stream.send_data(b"question", True, TRAILERS)
    pump(client, server)
    assert server.events == [
        ("headers", 1, b"\x20" + POST, False),
        ("data", 1, b"question", False),
        ("headers", 1, TRAILERS, True),
    ]
    answer = server.all_streams[1]
    answer.send_headers(b"\x08\x03103", False)
    answer.send_headers(b"\x88", False)
    answer.send_data(b"answer", True)
    pump(client, server)
    assert client.events == [
        ("headers", 1, b"\x20\x08\x03103", False),
        ("headers", 1, b"\x88", False),
        ("closed", 1),
        ("data", 1, b"answer", True),
    ]
    assert client.streams == server.streams == {}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 400_000), min_size=1, max_size=5),
    answers=st.lists(st.integers(0, 400_000), min_size=1, max_size=3),
    has_trailers=st.booleans(),
)
def test_bodies_of_any_size_arrive_whole_both_ways(
    sizes: list[int], answers: list[int], has_trailers: bool
) -> None:
    client, server = pair()
    stream = client.opened()
    stream.send_headers(POST, False)
    bodies = [Random(size).randbytes(size) for size in sizes]
    for body in bodies[:-1]:
        stream.send_data(body, False)
    stream.send_data(bodies[-1], True, TRAILERS if has_trailers else b"")
    pump(client, server)
    data = b"".join([event[2] for event in server.events if event[0] == "data"])
    assert data == b"".join(bodies)
    assert server.streams[1].is_ended_by_peer
    answer = server.all_streams[1]
    answer.send_headers(b"\x88", False)
    replies = [Random(size + 1).randbytes(size) for size in answers]
    for reply in replies:
        answer.send_data(reply, False)
    answer.send_data(b"", True)
    pump(client, server)
    data = b"".join([event[2] for event in client.events if event[0] == "data"])
    assert data == b"".join(replies)
    for engine in (client, server):
        assert not engine.streams
        audit(engine)


# With a library


def _library(*, is_client: bool) -> h2.connection.H2Connection:
    library = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=is_client, header_encoding=None)
    )
    library.initiate_connection()
    return library


def _exchange_bytes(
    library: h2.connection.H2Connection, engine: ClientEngine | ServerEngine
) -> list[h2.events.Event]:
    events = []
    for _ in range(1000):
        there, back = library.data_to_send(), engine.sent()
        if not there and not back:
            return events
        if there:
            engine.receive(there)
        if back:
            for event in library.receive_data(back):
                events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    library.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    raise AssertionError("they never come to an end")


HEADERS = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]


@pytest.mark.parametrize("padding", [None, 7])
def test_a_librarys_client_is_served(padding: int | None) -> None:
    library, engine = _library(is_client=True), ServerEngine()
    engine.start()
    _exchange_bytes(library, engine)
    assert ("acknowledged",) in engine.events
    body = Random(1).randbytes(200_000)
    sent = 0
    library.send_headers(1, HEADERS)
    while sent < len(body):
        room = min(library.local_flow_control_window(1) - 10, library.max_outbound_frame_size - 10)
        piece = body[sent : sent + room]
        sent += len(piece)
        library.send_data(1, piece, end_stream=sent == len(body), pad_length=padding)
        _exchange_bytes(library, engine)
    assert b"".join([event[2] for event in engine.events if event[0] == "data"]) == body
    stream = engine.all_streams[1]
    stream.send_headers(b"\x88", False)
    stream.send_data(body, True, TRAILERS)
    events = _exchange_bytes(library, engine)
    data = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    assert data == body
    assert any(isinstance(event, h2.events.TrailersReceived) for event in events)
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)
    library.ping(b"12345678")
    assert any(
        isinstance(event, h2.events.PingAckReceived) for event in _exchange_bytes(library, engine)
    )
    library.send_headers(3, HEADERS)
    library.reset_stream(3, CANCEL)
    _exchange_bytes(library, engine)
    assert engine.events[-1] == ("reset", 3, CANCEL, False)
    engine.go(1.0)
    engine.go(2.0)
    (gone, _) = [
        event
        for event in _exchange_bytes(library, engine)
        if isinstance(event, h2.events.ConnectionTerminated)
    ]
    assert gone.error_code == NO_ERROR


def test_a_librarys_server_is_asked() -> None:
    library, engine = _library(is_client=False), ClientEngine()
    engine.start()
    _exchange_bytes(library, engine)
    assert engine.max_streams == 100
    body = Random(2).randbytes(200_000)
    stream = engine.opened()
    stream.send_headers(POST, False)
    stream.send_data(body, True, TRAILERS)
    events = _exchange_bytes(library, engine)
    assert isinstance(events[0], h2.events.RequestReceived)
    assert dict(events[0].headers)[b":method"] == b"POST"
    data = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    assert data == body
    library.send_headers(1, [(":status", "200")])
    library.send_data(1, b"answer", end_stream=True)
    _exchange_bytes(library, engine)
    assert engine.events[-2:] == [("closed", 1), ("data", 1, b"answer", True)]
    other = engine.opened()
    other.send_headers(REQUEST, False)
    _exchange_bytes(library, engine)
    library.reset_stream(3, CANCEL)
    _exchange_bytes(library, engine)
    assert engine.events[-1] == ("reset", 3, CANCEL, False)
    library.close_connection(last_stream_id=3)
    _exchange_bytes(library, engine)
    assert engine.is_going


# Whatever comes


@given(wire=st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_else(wire: bytes) -> None:
    outcome(ServerEngine(), [wire])
    outcome(ServerEngine(), [PREFACE + settings_frame({}) + wire])
    outcome(ClientEngine(), [settings_frame({}) + SETTINGS_ACK + wire])


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_a_conversation_means_the_same_wherever_reads_end(seed: int) -> None:
    check(make(Random(seed)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_a_conversation_may_come_byte_by_byte(seed: int) -> None:
    conversation = make(Random(seed))
    wire = conversation.wire[:3000]
    whole, parts = ServerEngine(), ServerEngine()
    ended = outcome(whole, [wire])
    assert outcome(parts, [wire[at : at + 1] for at in range(len(wire))]) == ended
