"""Much is read into a buffer that all connections share: nothing of it is kept."""

import random
from itertools import pairwise

import pytest
from engines import ServerEngine, greeted_server, request

from proxy.http.h2.frames import DATA, PING, frame, window_update_frame
from proxy.http.h2.stream import GRANTED_BYTES


def read(engine: ServerEngine, sent: bytes, size: int) -> None:
    for begin, end in pairwise([*range(0, len(sent), size), len(sent)]):
        buffer = bytearray(sent[begin:end])
        engine.receive(memoryview(buffer))
        buffer[:] = bytes(len(buffer))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1_000, 16_393, 40_000])
def test_bodies_are_the_same_however_they_are_cut(size: int) -> None:
    engine = greeted_server()
    bodies = {1: random.Random(1).randbytes(70_000), 3: random.Random(3).randbytes(100)}
    sent = b"".join(request(number, is_end=False) for number in bodies)
    for at in range(0, 70_000, 14_000):
        sent += frame(DATA, 0, 1, bodies[1][at : at + 14_000])
        sent += frame(DATA, 0, 3, bodies[3][at // 700 : at // 700 + 20])
        sent += frame(PING, 0, 0, b"12345678")
    read(engine, sent, size)
    for number, body in bodies.items():
        got = [event[2] for event in engine.events if event[:2] == ("data", number)]
        assert b"".join(got) == body
        assert all(isinstance(piece, bytes) for piece in got)


def test_frames_of_streams_in_turn_are_granted_as_those_of_one_are() -> None:
    engine = greeted_server()
    engine.receive(request(1, is_end=False) + request(3, is_end=False))
    piece = b"".join(frame(DATA, 0, number, bytes(1024)) for number in (1, 3))
    engine.receive(piece * (GRANTED_BYTES // 1024))
    assert engine.sent() == b""
    engine.receive(piece)
    assert engine.sent() == b"".join(
        window_update_frame(number, GRANTED_BYTES + 1024) for number in (1, 3)
    )
