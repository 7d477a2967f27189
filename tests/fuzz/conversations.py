"""HTTP/2 conversations, mostly valid, and what has to hold for an engine that hears one.

An engine may raise ``ConnectionBroken`` and nothing else; what its streams are told and what it
answers does not depend on where reads begin and end; its accounts are right at every moment.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from engines import ClientEngine, RecordingStream, ServerEngine, frames_of

from proxy.http.h2.connection import ConnectionBroken, Stream
from proxy.http.h2.frames import (
    CANCEL,
    GOAWAY,
    MAX_WINDOW,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    frame,
    goaway_frame,
    reset_frame,
    settings_frame,
    window_update_frame,
)
from proxy.http.h2.states import CLOSED
from proxy.http.h2.stream import WINDOW_BYTES

_BLOCKS = (b"\x82", b"\x88\x00\x01a\x01b", b"", b"x" * 300)
_SETTINGS = ((1, 0), (2, 0), (3, 10), (4, 0), (4, 9), (4, 70_000), (5, 16_384), (8, 0), (99, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    is_server: bool
    """We are."""
    wire: bytes
    cuts: tuple[int, ...]
    """Where reads end, going up."""
    is_responsive: bool
    """Streams send something back as soon as they hear their head."""

    def pieces(self) -> list[bytes]:
        ends = (*self.cuts, len(self.wire))
        return [self.wire[a:b] for a, b in zip((0, *self.cuts), ends, strict=True)]


def make(rng: Random) -> Conversation:
    is_server = rng.random() < 0.7
    wires = [PREFACE if is_server else b"", settings_frame(dict(rng.sample(_SETTINGS[:3], 2)))]
    wires += [SETTINGS_ACK] * (rng.random() < 0.8)
    numbers = [1, 3, 5, 7, 9]
    opened = 0 if is_server else len(numbers)
    for _ in range(rng.randrange(1, 25)):
        if is_server and (opened == 0 or rng.random() < 0.25) and opened < len(numbers):
            number = numbers[opened]
            opened += 1
            wires.append(_headers(rng, number))
        else:
            number = rng.choice(numbers[:opened]) if rng.random() < 0.97 else rng.randrange(12)
            wires.append(_frame(rng, number))
    wire = b"".join(wires)
    if rng.random() < 0.4:
        wire = _mutated(rng, wire)
    size = len(wire)
    cuts = sorted(rng.randrange(size + 1) for _ in range(rng.choice((0, 1, 3, 10, 40))))
    return Conversation(
        is_server=is_server, wire=wire, cuts=tuple(cuts), is_responsive=rng.random() < 0.6
    )


def _headers(rng: Random, number: int) -> bytes:
    block = rng.choice(_BLOCKS)
    end = int(rng.random() < 0.4)
    kind = rng.randrange(6)
    if kind == 0 and block:
        at = rng.randrange(len(block))
        return frame(1, end, number, block[:at]) + frame(9, 4, number, block[at:])
    if kind == 1:
        return frame(1, end | 0x2C, number, bytes([3, 0, 0, 0, 0, 9]) + block + bytes(3))
    return frame(1, end | 4, number, block)


def _frame(rng: Random, number: int) -> bytes:
    kind = rng.randrange(14)
    if kind < 5:
        size = rng.choice((0, 1, 5, 100, 3000, 20_000, 65_536))
        if kind == 0 and size:
            return frame(0, 8, number, bytes([rng.randrange(12)]) + bytes(size - 1))
        return frame(0, int(rng.random() < 0.15), number, bytes(size))
    if kind == 5:
        return _headers(rng, number)
    if kind < 8:
        size = rng.choice((0, 1, 10, 3000, MAX_WINDOW)) if rng.random() < 0.3 else 500
        return window_update_frame(rng.choice((0, number)), size)
    if kind == 8:
        return settings_frame(dict([rng.choice(_SETTINGS)]))
    if kind == 9:
        return reset_frame(number, rng.randrange(14))
    if kind == 10:
        return frame(6, rng.randrange(2), 0, bytes(8))
    if kind == 11:
        return goaway_frame(rng.choice((0, 3, MAX_WINDOW)), rng.randrange(14))
    if kind == 12:
        return frame(2, 0, number, bytes(5))
    return frame(rng.randrange(256), rng.randrange(256), number, rng.randbytes(rng.randrange(20)))


def _mutated(rng: Random, wire: bytes) -> bytes:
    changed = bytearray(wire)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed))
        how = rng.randrange(3)
        if how == 0:
            changed[at] = rng.randrange(256)
        elif how == 1:
            del changed[at : at + rng.randrange(1, 12)]
        else:
            changed[at:at] = rng.randbytes(rng.randrange(1, 12))
        if not changed:
            break
    return bytes(changed)


class _Responsive(RecordingStream):
    __slots__ = ("_has_answered",)

    def headers(self, block: bytes, is_end: bool) -> None:
        super().headers(block, is_end)
        if hasattr(self, "_has_answered"):
            return
        self._has_answered = True
        choice = self.number % 10
        if choice == 1:
            self.send_headers(b"\x88", False)
            self.send_data(bytes(100_000), True, b"trailers")
        elif choice == 3:
            self.send_headers(b"\x88", True)
        elif choice == 5:
            self.send_headers(b"\x88", False)
            self.send_data(b"part", False)
            self.pause()
        elif choice == 7:
            self.send_reset(CANCEL)


class _Server(ServerEngine):
    __slots__ = ()

    def new_stream(self, number: int) -> Stream:
        stream = self.all_streams[number] = _Responsive(self.events)
        return stream


def check(conversation: Conversation) -> int:
    """Raises AssertionError, or whatever the engine should not. Returns the code that the
    conversation ended with, or -1."""
    parts = _heard(conversation, conversation.pieces())
    whole = _heard(conversation, [conversation.wire])
    assert parts == whole, f"read at once:\n{_brief(whole)}\nin parts:\n{_brief(parts)}"
    return whole[1]


def _brief(heard: tuple[Any, ...]) -> str:
    events, code, sent, granted = heard
    lines = [
        str([f"{len(part)} bytes" if isinstance(part, bytes) else part for part in each])
        for each in (*events, *sent)
    ]
    return "\n".join([*lines, f"code {code}, granted {granted}"])


def _heard(conversation: Conversation, pieces: list[bytes]) -> tuple[Any, ...]:
    engine = _engine(conversation)
    code = -1
    try:
        for piece in pieces:
            engine.receive(piece)
            audit(engine)
    except ConnectionBroken as error:
        code = error.code
    wire = engine.sent()
    sent = frames_of(wire.removeprefix(PREFACE))
    if code >= 0:
        assert sent[-1][0] == GOAWAY
    # Whether a second window was granted depends on how often there was a grant.
    granted = {
        number: stream.taken - (stream.window - WINDOW_BYTES)
        for number, stream in engine.all_streams.items()
    }
    others = []
    for kind, flags, number, payload in sent:
        if kind == WINDOW_UPDATE and number:
            granted[number] += int.from_bytes(payload, "big")
        elif kind not in (SETTINGS,):
            others.append((kind, flags, number, payload))
    if any(kind == RST_STREAM for kind, *_ in others) or code >= 0:
        granted = {}
    return _joined(engine.events), code, others, granted


def _joined(events: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Without the notes of streams that closed, which stand before the last part of their data."""
    joined: list[tuple[Any, ...]] = []
    for event in events:
        last = joined[-1] if joined else ("",)
        if event[0] == "data" and last[:2] == event[:2] and not last[3]:
            joined[-1] = ("data", event[1], last[2] + event[2], event[3])
        elif event[0] != "closed":
            joined.append(event)
    return joined


def _engine(conversation: Conversation) -> ServerEngine | ClientEngine:
    engine: ServerEngine | ClientEngine
    if conversation.is_server:
        engine = _Server() if conversation.is_responsive else ServerEngine()
        engine.start()
        return engine
    engine = ClientEngine()
    engine.start()
    for number in range(5):
        stream = engine.opened()
        stream.send_headers(b"\x82", number == 0)
        if conversation.is_responsive and number:
            stream.send_data(bytes(30_000), number == 1)
    return engine


def audit(engine: ServerEngine | ClientEngine) -> None:
    """The accounts."""
    streams = engine.streams.values()
    assert engine.held_bytes == sum(stream.waiting_bytes for stream in streams)
    assert engine.pieces == sum(stream.pieces for stream in streams)
    assert engine.bulk == sum(stream.is_bulk for stream in streams)
    assert set(engine.waiting) <= set(streams)
    assert engine.credit >= 0
    for number, stream in engine.streams.items():
        assert stream.number == number
        assert stream.state < CLOSED
        assert 0 <= stream.taken <= stream.window <= 2 * WINDOW_BYTES
        assert stream.credit <= MAX_WINDOW
        if stream.waiting_bytes:
            # What waits waits for a reason.
            assert stream.credit <= 0 or engine.credit <= 0
            assert stream.is_full
    for number, stream in engine.all_streams.items():
        assert (number in engine.streams) is (stream.state < CLOSED)
