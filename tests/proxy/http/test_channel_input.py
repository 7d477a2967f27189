"""What a connection between two proxies makes of what is read, however it is cut."""

import random
from itertools import pairwise
from typing import Any

import pytest

from proxy.http.channel import Channel
from proxy.http.fields import ProtocolError
from proxy.http.frames import DATA, DATA_END, GOAWAY, HEADER_BYTES, MAX_PAYLOAD, frame, header

from .conftest import Transport


class Recording(Channel[Any]):
    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[int, int, bytes]] = []
        self.errors: list[str] = []
        self.batches = self.asked = 0
        self.connection_made(Transport())

    def stream_frame(self, number: int, kind: int, payload: bytes) -> None:
        assert isinstance(payload, bytes)
        self.frames.append((number, kind, payload))

    def told_to_go(self) -> None:
        self.asked += 1

    def broken(self, error: ProtocolError) -> None:
        self.errors.append(error.reason)


FRAMES = [
    (1, DATA, random.Random(1).randbytes(60_000)),
    (2, DATA, b"x"),
    (3, DATA_END, b""),
    (1, DATA_END, random.Random(2).randbytes(3_000)),
]
SENT = b"".join([frame(number, kind, payload) for number, kind, payload in FRAMES])


@pytest.mark.parametrize("size", [1, 5, 8, 9, 10, 1_000, 30_000, 60_009, 60_010, 70_000])
async def test_frames_are_the_same_however_they_are_cut(size: int) -> None:
    channel = Recording()
    for begin, end in pairwise([*range(0, len(SENT), size), len(SENT)]):
        read = bytearray(SENT[begin:end])
        channel.data_received(memoryview(read))
        read[:] = bytes(len(read))  # what was lent is used for the next read
    assert channel.frames == FRAMES
    assert not channel._held


@pytest.mark.parametrize("cut", [1, 8, 9])
async def test_a_frame_that_is_too_large_is_refused_before_it_is_here(cut: int) -> None:
    channel = Recording()
    sent = header(1, DATA, MAX_PAYLOAD + 1)
    channel.data_received(sent[:cut])
    channel.data_received(sent[cut:] + b"x")
    assert channel.errors == ["frame"]
    assert channel.is_lost


@pytest.mark.parametrize("cut", range(1, HEADER_BYTES))
async def test_a_frame_of_the_connection_s_own_may_be_cut_too(cut: int) -> None:
    channel = Recording()
    sent = frame(0, GOAWAY)
    channel.data_received(sent[:cut])
    channel.data_received(sent[cut:])
    assert channel.asked == 1
    channel.data_received(frame(0, 77)[:cut])
    channel.data_received(frame(0, 77)[cut:] + SENT)
    assert channel.errors == ["frame"]
    assert not channel.frames
