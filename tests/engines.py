"""HTTP/2 engines that write down what they are told, for tests and the fuzz."""

import struct
from collections.abc import Callable
from typing import Any, ClassVar

from proxy.http.h2.connection import Connection, ConnectionBroken, Stream
from proxy.http.h2.frames import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    SETTINGS_ACK,
    frame,
)

Frame = tuple[int, int, int, bytes]
"""Kind, flags, stream, payload."""


def frames_of(wire: bytes) -> list[Frame]:
    """By the figure of RFC 9113, section 4.1, without the product's own unpacking."""
    frames = []
    at = 0
    while at < len(wire):
        high, low, kind, flags, number = struct.unpack_from(">BHBBI", wire, at)
        end = at + 9 + (high << 16 | low)
        assert end <= len(wire), "a frame is cut off"
        frames.append((kind, flags, number, wire[at + 9 : end]))
        at = end
    return frames


class RecordingStream(Stream):
    __slots__ = ("events", "on_pressure")

    def __init__(self, events: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self.events = events
        self.on_pressure: Callable[[], object] = lambda: None

    def headers(self, block: bytes, is_end: bool) -> None:
        self.events.append(("headers", self.number, block, is_end))

    def data(self, payload: bytes, is_end: bool) -> None:
        """Joined to what came directly before, because parts are nobody's business."""
        last = self.events[-1] if self.events else ("",)
        if last[:2] == ("data", self.number) and not last[3]:
            self.events[-1] = ("data", self.number, last[2] + payload, is_end)
        else:
            self.events.append(("data", self.number, payload, is_end))

    def was_reset(self, code: int, *, is_unprocessed: bool) -> None:
        self.events.append(("reset", self.number, code, is_unprocessed))

    def pressure_changed(self) -> None:
        self.events.append(("full" if self.is_full else "free", self.number))
        self.on_pressure()


class _Recording(Connection):
    __slots__ = ("all_streams", "batches", "events", "on_batch", "out", "skipped")

    def __init__(self) -> None:
        super().__init__()
        self.out: list[bytes] = []
        self.events: list[tuple[Any, ...]] = []
        self.skipped: list[bytes] = []
        self.batches = 0
        self.all_streams: dict[int, RecordingStream] = {}
        self.on_batch: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        self.out.append(data)

    def new_stream(self, number: int) -> Stream:
        stream = self.all_streams[number] = RecordingStream(self.events)
        return stream

    def opened(self) -> RecordingStream:
        stream = RecordingStream(self.events)
        self.begin(stream)
        self.all_streams[stream.number] = stream
        return stream

    def stream_closed(self, stream: Stream) -> None:
        self.events.append(("closed", stream.number))

    def block_skipped(self, block: bytes) -> None:
        self.skipped.append(block)

    def settings_acknowledged(self) -> None:
        self.events.append(("acknowledged",))

    def settings_changed(self) -> None:
        self.events.append(("settings",))

    def told_to_go(self, code: int) -> None:
        self.events.append(("go", code))

    def batch_ended(self) -> None:
        self.batches += 1
        self.on_batch()

    def sent(self) -> bytes:
        """What was written since the last call."""
        wire = b"".join(self.out)
        self.out.clear()
        return wire

    def sent_frames(self) -> list[Frame]:
        return frames_of(self.sent())


class ServerEngine(_Recording):
    __slots__ = ()
    is_server: ClassVar[bool] = True


class ClientEngine(_Recording):
    __slots__ = ()
    is_server: ClassVar[bool] = False


def greeted_server(settings: bytes = b"") -> ServerEngine:
    """A server after both sides' SETTINGS."""
    engine = ServerEngine()
    engine.start()
    engine.receive(PREFACE + frame(SETTINGS, 0, 0, settings) + SETTINGS_ACK)
    engine.out.clear()
    engine.events.clear()
    return engine


def greeted_client(settings: bytes = b"") -> ClientEngine:
    engine = ClientEngine()
    engine.start()
    engine.receive(frame(SETTINGS, 0, 0, settings) + SETTINGS_ACK)
    engine.out.clear()
    engine.events.clear()
    engine.is_new = False
    return engine


def request(number: int, *, is_end: bool = True, block: bytes = b"\x82") -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if is_end else 0), number, block)


def pump(one: _Recording, other: _Recording) -> None:
    """What each has written goes to the other, until nobody has anything to say."""
    for _ in range(100_000):
        there, back = one.sent(), other.sent()
        if not there and not back:
            return
        if there:
            other.receive(there)
        if back:
            one.receive(back)
    raise AssertionError("they never come to an end")


def outcome(engine: _Recording, pieces: list[bytes]) -> tuple[list[tuple[Any, ...]], int]:
    """What the streams were told of a conversation, and the code it ended with or -1."""
    try:
        for piece in pieces:
            engine.receive(piece)
    except ConnectionBroken as error:
        return engine.events, error.code
    return engine.events, -1
