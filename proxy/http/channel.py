"""What both ends of a connection of many streams have in common: frames in and out.

Frames that are made in one turn of the loop go out together: one record, one system call.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from proxy.http.fields import ProtocolError
from proxy.http.frames import GOAWAY, HEADER_BYTES, MAX_PAYLOAD, unpack_header
from proxy.http.pace import MIN_BYTES_PER_S, PATIENCE_S, acked_bytes
from proxy.http.wire import WRITE_HIGH_BYTES, Wire

MOST_WASTED: Final = 20_000
"""Frames between two sweeps, a second apart, that mean nothing any more. What is still under way
when a stream ends is a window: five frames."""
_HELD_PIECES = 64
"""A frame that comes byte by byte is put together now and then: a piece takes 40 bytes itself."""
UNACKED_S: Final = 5
"""Then the kernel gives a connection up. By itself it tries for a quarter of an hour, and all
that time the requests of many callers would be put on a connection to nowhere."""


class Stream(Protocol):
    """One request, at one end of the connection."""

    def pressure_changed(self) -> None:
        """What is sent may have to wait, or not any more: ``Sender.is_full``."""


S = TypeVar("S", bound=Stream)


class Channel(asyncio.Protocol, Generic[S]):
    """One connection."""

    __slots__ = (
        "_acked",
        "_call_soon",
        "_held",
        "_is_flush_due",
        "_needed",
        "_out",
        "_stuck_since",
        "_transport",
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
        self._out: list[bytes] = []
        self._is_flush_due = False
        self._wasted = 0
        self._acked = -1
        """What the peer had acknowledged at ``_stuck_since``; -1: it takes what is written."""
        self._stuck_since = 0.0
        self.is_write_paused = False
        self.is_lost = False

    # The subclass

    def stream_frame(self, number: int, kind: int, payload: bytes) -> None:
        """Raises ProtocolError to end the connection."""
        raise NotImplementedError

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
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_S * 1000)

    def data_received(self, data: bytes) -> None:
        held = self._held
        if held:
            held.append(data)
            self._needed -= len(data)
            if self._needed > 0:
                if len(held) > _HELD_PIECES:
                    self._held = [b"".join(held)]
                return
            data = b"".join(held)
            held.clear()
        at = 0
        size = len(data)
        needed = HEADER_BYTES
        try:
            while size - at >= HEADER_BYTES:
                length, number, kind = unpack_header(data, at)
                if length > MAX_PAYLOAD:
                    raise ProtocolError("frame", "a frame is too large")
                end = at + HEADER_BYTES + length
                if end > size:
                    needed = end - at
                    break
                payload = data[at + HEADER_BYTES : end]
                at = end
                if 0 < kind < GOAWAY:
                    self.stream_frame(number, kind, payload)
                elif kind == GOAWAY:
                    self.waste()
                    self.told_to_go()
                else:
                    raise ProtocolError("frame", "a frame of an unknown kind")
                if self.is_lost:
                    return
        except ProtocolError as error:
            self.abort()
            self.broken(error)
            return
        if at < size:
            self._held.append(data[at:] if at else data)
            self._needed = needed - (size - at)

    def waste(self) -> None:
        """A frame that changes nothing: some are unavoidable."""
        self._wasted += 1
        if self._wasted > MOST_WASTED:
            raise ProtocolError("frame", "too many frames that mean nothing")

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self._acked = -1
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
            self._call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        out = self._out
        if out and not self.is_lost:
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])
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
        if not self.is_write_paused:
            return False
        acked = acked_bytes(self._transport)
        if self._acked < 0 or acked - self._acked >= PATIENCE_S * MIN_BYTES_PER_S:
            self._acked = acked
            self._stuck_since = now
            return False
        return now - self._stuck_since > PATIENCE_S

    def reset(self) -> None:
        """Aborts, and lets the kernel forget what it still holds for the peer."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()
