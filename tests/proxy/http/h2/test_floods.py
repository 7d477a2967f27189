"""What a peer may do in a second, and not once more."""

import tracemalloc

import pytest
from engines import ServerEngine, greeted_client, greeted_server, outcome, request

from proxy.http.h2.connection import ConnectionBroken
from proxy.http.h2.floods import LIMITS, MOST_CONTINUATIONS, MOST_PIECES, Flood, Floods
from proxy.http.h2.frames import (
    CANCEL,
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    HEADERS,
    PING,
    PRIORITY,
    SETTINGS,
    SETTINGS_ACK,
    frame,
    goaway_frame,
    reset_frame,
    window_update_frame,
)


class Client:
    """Sends one thing after the other, with numbers that go up."""

    def __init__(self) -> None:
        self.number = 1

    def rapid_reset(self) -> bytes:
        self.number += 2
        return request(self.number, is_end=False) + reset_frame(self.number, CANCEL)

    def reset_that_the_server_is_made_to_send(self) -> bytes:
        self.number += 2
        return request(self.number) + window_update_frame(self.number, 0)

    def settings(self) -> bytes:
        return frame(SETTINGS, 0, 0)

    def acknowledgement(self) -> bytes:
        return SETTINGS_ACK

    def ping(self) -> bytes:
        return frame(PING, 0, 0, bytes(8))

    def empty_data(self) -> bytes:
        return frame(DATA, 0, 1)

    def credit_of_one_byte(self) -> bytes:
        return window_update_frame(1, 1)

    def credit_of_one_byte_for_all(self) -> bytes:
        return window_update_frame(0, 1)

    def credit_for_nothing(self) -> bytes:
        return window_update_frame(3, 1)

    def priority(self) -> bytes:
        return frame(PRIORITY, 0, 1, bytes(5))

    def goaway(self) -> bytes:
        return goaway_frame(0, 0)

    def unknown(self) -> bytes:
        return frame(0x77, 0, 0)


def open_server() -> ServerEngine:
    """1 is open; 3 was answered."""
    engine = greeted_server()
    engine.receive(request(1, is_end=False) + request(3))
    engine.all_streams[3].send_headers(b"\x88", True)
    engine.sweep(1.0)
    return engine


KINDS = [
    ("rapid_reset", Flood.RESETS),
    ("reset_that_the_server_is_made_to_send", Flood.RESETS_MADE),
    ("settings", Flood.SETTINGS),
    ("acknowledgement", Flood.SETTINGS),
    ("ping", Flood.PINGS),
    ("empty_data", Flood.EMPTY_DATA),
    ("credit_of_one_byte", Flood.SMALL_UPDATES),
    ("credit_of_one_byte_for_all", Flood.SMALL_UPDATES),
    ("credit_for_nothing", Flood.WASTE),
    ("priority", Flood.WASTE),
    ("goaway", Flood.WASTE),
    ("unknown", Flood.WASTE),
]


@pytest.mark.parametrize(("kind", "flood"), KINDS)
def test_a_flood_is_ended_at_its_limit(kind: str, flood: Flood) -> None:
    engine, client = open_server(), Client()
    client.number = 3
    make = getattr(client, kind)
    most = LIMITS[flood][0]
    for _ in range(most):
        engine.receive(make())
    with pytest.raises(ConnectionBroken) as raised:
        engine.receive(make())
    assert raised.value.code == ENHANCE_YOUR_CALM
    assert raised.value.detail == LIMITS[flood][1]


@pytest.mark.parametrize(("kind", "flood"), KINDS)
def test_as_much_in_every_second_is_no_flood(kind: str, flood: Flood) -> None:
    engine, client = open_server(), Client()
    client.number = 3
    make = getattr(client, kind)
    for now in range(3):
        for _ in range(LIMITS[flood][0]):
            engine.receive(make())
        engine.sweep(float(now + 2))


def test_a_flood_of_large_settings_is_one_sooner() -> None:
    engine = greeted_server()
    wire = frame(SETTINGS, 0, 0, bytes.fromhex("00ff00000000") * 5000)
    assert outcome(engine, [wire] * 2)[1] == ENHANCE_YOUR_CALM


def test_resets_of_a_server_are_no_flood_to_its_client() -> None:
    engine = greeted_client()
    for _ in range(LIMITS[Flood.RESETS][0] + 1):
        engine.max_streams = 1
        stream = engine.opened()
        stream.send_headers(b"\x82", True)
        engine.receive(reset_frame(stream.number, CANCEL))


def test_small_continuations_without_end_are_a_flood() -> None:
    engine = greeted_server()
    engine.receive(frame(HEADERS, 0, 1, b"\x82"))
    pieces = [frame(CONTINUATION, 0, 1)] * MOST_CONTINUATIONS
    assert outcome(engine, pieces)[1] == ENHANCE_YOUR_CALM


def test_small_pieces_for_streams_that_wait_are_a_flood() -> None:
    engine = greeted_server()
    engine.receive(request(1, is_end=False) + request(3, is_end=False))
    for number in (1, 3):
        engine.all_streams[number].pause()
    turn = frame(DATA, 0, 1, b"x") + frame(DATA, 0, 3, b"x")
    for _ in range(MOST_PIECES // 2):
        engine.receive(turn)
    engine.events.clear()
    assert outcome(engine, [turn])[1] == ENHANCE_YOUR_CALM


def test_pieces_are_forgotten_when_a_stream_goes_on_or_ends() -> None:
    engine = greeted_server()
    engine.receive(request(1, is_end=False) + request(3, is_end=False))
    for number in (1, 3):
        engine.all_streams[number].pause()
        for _ in range(10):
            engine.receive(frame(DATA, 0, number, b"x"))
    assert engine.pieces == 20
    engine.all_streams[1].resume()
    assert engine.pieces == 10
    engine.receive(reset_frame(1, CANCEL))
    assert engine.pieces == 10
    engine.receive(reset_frame(3, CANCEL))
    assert engine.pieces == 0


def test_streams_reset_without_end_take_no_memory() -> None:
    engine, client = greeted_server(), Client()
    tracemalloc.start()
    try:
        for _ in range(20):
            for _ in range(400):
                engine.receive(client.reset_that_the_server_is_made_to_send())
            engine.out.clear()
            engine.events.clear()
            engine.all_streams.clear()
            engine.sweep(1.0)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 1024 * 1024
    assert engine.streams == {}


def test_every_limit_says_what_it_is() -> None:
    assert set(LIMITS) == set(Flood)
    floods = Floods()
    for flood in Flood:
        most, why = LIMITS[flood]
        assert why
        assert not floods.count(flood, most)
        assert floods.count(flood)
    floods.sweep()
    assert not floods.count(Flood.PINGS)
