"""What both ends of a connection of many streams have in common: frames in and out, credit.

Frames that are made in one turn of the loop go out together: one record, one system call.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from proxy.http.downstream import WRITE_HIGH_BYTES, Wire
from proxy.http.fields import ProtocolError
from proxy.http.frames import (
    DATA,
    DATA_END,
    GOAWAY,
    HEADER_BYTES,
    MAX_PAYLOAD,
    TRAILERS_END,
    WINDOW_BYTES,
    credit_frame,
    frame,
    unpack_header,
)

MOST_CREDIT = 1 << 30


class Stream(Protocol):
    """One request, at one end of the connection."""

    def pressure_changed(self) -> None:
        """What is sent may have to wait, or not any more: ``Sender.is_full``."""


class Sender:
    """One direction of one stream: what may be sent, and what waits for credit."""

    __slots__ = ("_channel", "_credit", "_number", "_unsent")

    def __init__(self, channel: "Channel", number: int) -> None:
        self._channel = channel
        self._number = number
        self._credit = WINDOW_BYTES
        self._unsent: list[tuple[bytes, bool, list[bytes]]] = []

    def takes(self, size: int) -> bool:
        """Whether so much may go out at once; counts it if so."""
        if self._unsent or size > self._credit:
            return False
        self._credit -= size
        return True

    def send(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        """Body, or what there is credit for of it; the rest follows."""
        if self._unsent:
            self._unsent.append((data, is_end, trailers))
        else:
            self._send(data, is_end, trailers)

    def _send(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        credit = self._credit
        if len(data) > credit:
            if credit:
                self._credit = 0
                self._channel.write(frame(self._number, DATA, data[:credit]))
            self._unsent.insert(0, (data[credit:], is_end, trailers))
            return
        self._credit = credit - len(data)
        if not is_end:
            self._channel.write(frame(self._number, DATA, data))
        elif not trailers:
            self._channel.write(frame(self._number, DATA_END, data))
        else:
            if data:
                self._channel.write(frame(self._number, DATA, data))
            lines = b"".join([line + b"\r\n" for line in trailers])
            self._channel.write(frame(self._number, TRAILERS_END, lines))

    def more(self, size: int) -> None:
        """Credit has come."""
        self._credit += size
        if self._credit > MOST_CREDIT:
            raise ProtocolError("frame", "more credit than there can be")
        unsent, self._unsent = self._unsent, []
        for at, piece in enumerate(unsent):
            self._send(*piece)
            if self._unsent:
                self._unsent += unsent[at + 1 :]
                return

    @property
    def is_empty(self) -> bool:
        """Whether all has been sent."""
        return not self._unsent

    @property
    def is_full(self) -> bool:
        """Whether whoever sends should wait."""
        return bool(self._unsent) or self._channel.is_write_paused


class Receiver:
    """The other direction: how much the peer may still send."""

    __slots__ = ("_channel", "_is_paused", "_number", "_taken", "_window")

    def __init__(self, channel: "Channel", number: int) -> None:
        self._channel = channel
        self._number = number
        self._window = WINDOW_BYTES
        self._taken = 0
        self._is_paused = False

    def count(self, size: int) -> None:
        """So much has arrived and been passed on."""
        self._window -= size
        if self._window < 0:
            raise ProtocolError("frame", "more data than there was credit for")
        self._taken += size
        if self._taken > WINDOW_BYTES // 2 and not self._is_paused:
            self._grant()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        if self._taken > WINDOW_BYTES // 2:
            self._grant()

    def _grant(self) -> None:
        size, self._taken = self._taken, 0
        self._window += size
        self._channel.write(credit_frame(self._number, size))


class Channel(asyncio.Protocol):
    """One connection. The subclass knows its streams."""

    __slots__ = (
        "_call_soon",
        "_held",
        "_is_flush_due",
        "_out",
        "_transport",
        "is_lost",
        "is_write_paused",
    )

    _transport: Wire

    def __init__(self) -> None:
        self._held = b""
        self._out: list[bytes] = []
        self._is_flush_due = False
        self.is_write_paused = False
        self.is_lost = False

    # The subclass

    def all_streams(self) -> Iterable[Stream]:
        raise NotImplementedError

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

    def data_received(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
            self._held = b""
        at = 0
        size = len(data)
        try:
            while size - at >= HEADER_BYTES:
                length, number, kind = unpack_header(data, at)
                if length > MAX_PAYLOAD:
                    raise ProtocolError("frame", "a frame is too large")
                end = at + HEADER_BYTES + length
                if end > size:
                    break
                payload = data[at + HEADER_BYTES : end]
                at = end
                if kind == GOAWAY:
                    self.told_to_go()
                else:
                    self.stream_frame(number, kind, payload)
                if self.is_lost:
                    return
        except ProtocolError as error:
            self.abort()
            self.broken(error)
            return
        self._held = data[at:] if at else data

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self._tell()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._tell()

    def _tell(self) -> None:
        for stream in tuple(self.all_streams()):
            stream.pressure_changed()

    # Out

    def write(self, data: bytes) -> None:
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
        self._transport.abort()
