"""What both ends of a connection of many streams have in common: frames in and out.

Frames that are made in one turn of the loop, or two, go out together: one record, one system call,
and the other end wakes up once. What has become readable meanwhile has its part in it.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from proxy.http.fields import ProtocolError
from proxy.http.flow import MOST_WIDE, Receiver
from proxy.http.frames import DATA, GOAWAY, HEADER_BYTES, MAX_PAYLOAD, unpack_header
from proxy.http.pace import Uptake
from proxy.http.wire import WRITE_HIGH_BYTES, Wire, forget_unsent

MOST_WASTED: Final = 20_000
"""Frames between two sweeps, a second apart, that mean nothing any more. What is still under way
when a stream ends is a window: five frames."""
_HELD_PIECES = 64
"""A frame that comes byte by byte is put together now and then: a piece takes 40 bytes itself."""
UNACKED_S: Final = 5
"""Then the kernel gives a connection up. By itself it tries for a quarter of an hour, and all
that time the requests of many callers would be put on a connection to nowhere."""


_NO_TRAILERS: list[bytes] = []


class Stream(Protocol):
    """One request, at one end of the connection."""

    def read_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        """HOT. Raises ProtocolError to end the connection."""

    def pressure_changed(self) -> None:
        """What is sent may have to wait, or not any more: ``Sender.is_full``."""


S = TypeVar("S", bound=Stream)


class Channel(asyncio.Protocol, Generic[S]):
    """One connection."""

    __slots__ = (
        "_call_soon",
        "_granting",
        "_held",
        "_is_flush_due",
        "_is_out_large",
        "_needed",
        "_out",
        "_transport",
        "_uptake",
        "_waiting",
        "_wasted",
        "is_lost",
        "is_write_paused",
        "streams",
    )

    _transport: Wire

    def __init__(self) -> None:
        self.streams: dict[int, S] = {}
        self._held: list[bytes] = []
        """The beginning of a frame that is not complete."""
        self._needed = 0
        """Bytes until it is, or until its length is known."""
        self._out: list[bytes | memoryview] = []
        self._is_out_large = False
        """Too large to be copied once more."""
        self._is_flush_due = False
        self._granting: list[Receiver] = []
        """Those that grant credit when all that was read is passed on."""
        self._wasted = 0
        self._waiting: list[S] = []
        """Streams whose head waits for what may have come with it."""
        self._uptake = Uptake()
        self.is_write_paused = False
        self.is_lost = False

    # The subclass

    def stream_frame(self, number: int, kind: int, payload: bytes) -> None:
        """Any but DATA for a stream that is there, mostly: what is held for its rest comes here
        too. Raises ProtocolError to end the connection."""
        raise NotImplementedError

    def batch_ended(self) -> None:
        """All of one read has been seen, and some streams wait for that."""

    def told_to_go(self) -> None:
        raise NotImplementedError

    def broken(self, error: ProtocolError) -> None:
        """The peer broke the rules; the connection is being aborted."""
        raise NotImplementedError

    # In

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES)
        self._call_soon = asyncio.get_running_loop().call_soon
        hand_views = getattr(transport, "hand_views", None)
        if hand_views is not None:
            hand_views(self.data_received)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_S * 1000)

    def data_received(self, data: bytes | memoryview) -> None:
        """A view is valid during the call only."""
        at = 0
        size = len(data)
        needed = HEADER_BYTES
        try:
            if self._held:
                at = self._complete(data)
            while size - at >= HEADER_BYTES:
                length, number, kind = unpack_header(data, at)
                if length > MAX_PAYLOAD:
                    raise ProtocolError("frame", "a frame is too large")
                end = at + HEADER_BYTES + length
                if end > size:
                    needed = end - at
                    break
                payload = bytes(data[at + HEADER_BYTES : end])
                at = end
                if kind == DATA and (stream := self.streams.get(number)) is not None:
                    stream.read_data(payload, False, _NO_TRAILERS)
                elif 0 < kind < GOAWAY:
                    self.stream_frame(number, kind, payload)
                else:
                    self._control(kind)
                if self.is_lost:
                    return
        except ProtocolError as error:
            self.abort()
            self.broken(error)
            return
        if at < size:
            self._held.append(bytes(data[at:]))
            self._needed = needed - (size - at)
        if self._waiting:
            self.batch_ended()
        if self._granting:
            granting, self._granting = self._granting, []
            for receiver in granting:
                receiver.grant()

    def _complete(self, data: bytes | memoryview) -> int:
        """The frame that is held, with what is missing of it: that much is copied, and not all
        that has come with it. Returns what has been read of ``data``."""
        at = 0
        size = len(data)
        while (held := self._held) and at < size:
            piece = bytes(data[at : at + self._needed])
            at += len(piece)
            held.append(piece)
            self._needed -= len(piece)
            if self._needed:
                if len(held) > _HELD_PIECES:
                    self._held = [b"".join(held)]
                continue
            whole = b"".join(held)
            length, number, kind = unpack_header(whole)
            if length > MAX_PAYLOAD:
                raise ProtocolError("frame", "a frame is too large")
            self._needed = HEADER_BYTES + length - len(whole)
            self._held = [whole] if self._needed else []
            if self._needed:
                continue
            if 0 < kind < GOAWAY:
                self.stream_frame(number, kind, whole[HEADER_BYTES:])
            else:
                self._control(kind)
            if self.is_lost:
                return size
        return at

    def _control(self, kind: int) -> None:
        """A frame of the connection's own."""
        if kind != GOAWAY:
            raise ProtocolError("frame", "a frame of an unknown kind")
        self.waste()
        self.told_to_go()

    def waste(self) -> None:
        """A frame that changes nothing: some are unavoidable."""
        self._wasted += 1
        if self._wasted > MOST_WASTED:
            raise ProtocolError("frame", "too many frames that mean nothing")

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self._uptake.forget()
        self._tell()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._tell()

    def _tell(self) -> None:
        for stream in tuple(self.streams.values()):
            stream.pressure_changed()

    # Out

    def write(self, data: bytes) -> None:
        if len(self.streams) < 2 and not self._out:
            # Nobody else has anything to add: a turn of the loop would be for nothing.
            if not self.is_lost:
                self._transport.write(data)
            return
        self._out.append(data)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._call_soon(self._call_soon, self._flush)

    def write_frame(self, header: bytes, payload: bytes) -> None:
        out = self._out
        if len(self.streams) < 2 and not out:
            if not self.is_lost:
                self._transport.write(header + payload)
            return
        out.append(header)
        out.append(payload)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._call_soon(self._call_soon, self._flush)

    def grant_later(self, receiver: Receiver) -> None:
        self._granting.append(receiver)

    def has_few(self) -> bool:
        return len(self.streams) <= MOST_WIDE

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """Frames, in parts of which some are large."""
        if len(self.streams) < 2 and not self._out:
            if not self.is_lost:
                self._transport.writelines(parts)
            return
        self._out += parts
        if not self._is_out_large:
            # Much does not wait for more: whoever sends it learns only then that it is too much.
            self._is_out_large = self._is_flush_due = True
            self._call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        out = self._out
        if out and not self.is_lost:
            if self._is_out_large:
                self._transport.writelines(out)
            else:
                self._transport.write(b"".join(out) if len(out) > 1 else bytes(out[0]))
        self._is_out_large = False
        out.clear()

    def close(self) -> None:
        """After what is written."""
        self._flush()
        self.is_lost = True
        self._transport.close()

    def abort(self) -> None:
        self.is_lost = True
        self._held.clear()
        self._transport.abort()

    # From the sweeper

    def is_stuck(self, now: float) -> bool:
        """Whether the peer does not take what is written, and has had time to. Once a second."""
        self._wasted = 0
        return self.is_write_paused and self._uptake.is_stuck(self._transport, now)

    def reset(self) -> None:
        """Aborts, and lets the kernel forget what it still holds for the peer."""
        forget_unsent(self._transport)
        self.abort()
