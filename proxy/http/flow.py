"""Flow control of one stream: what may be sent and waits for credit, what may still arrive.

What a sender was granted and has not used, and what the receiver has taken and not yet granted
again, are together always ``WINDOW_BYTES``. So a sender without credit means a receiver that has
taken more than half, and that grants it as soon as it does not have to pause: nobody waits for
ever.
"""

from typing import Protocol

from proxy.http.fields import ProtocolError
from proxy.http.frames import (
    DATA,
    DATA_END,
    MAX_DATA,
    PIECE_BYTES,
    TRAILERS_END,
    WINDOW_BYTES,
    credit_frame,
    frame,
    header,
)


class Output(Protocol):
    is_write_paused: bool

    def write(self, data: bytes) -> None:
        """One frame or several."""


class Sender:
    """One direction of one stream: what may be sent, and what waits for credit."""

    __slots__ = ("_credit", "_number", "_output", "_unsent")

    def __init__(self, output: Output, number: int) -> None:
        self._output = output
        self._number = number
        self._credit = WINDOW_BYTES
        self._unsent: list[tuple[bytes, int, bool, list[bytes]]] = []
        """Pieces, each from an offset on. Whoever sends is asked to pause with the first one, so
        that it is no more than what arrives in one turn of the loop."""

    def takes(self, size: int) -> bool:
        """Whether so much may go out with the head; counts it if so."""
        if not size:
            return True
        if size > MAX_DATA:
            return False
        self._credit -= size + PIECE_BYTES
        return True

    def send(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        """Body, or what there is credit for of it; the rest follows."""
        if self._unsent:
            self._unsent.append((data, 0, is_end, trailers))
        else:
            self._send(data, 0, is_end, trailers)

    def _send(self, data: bytes, at: int, is_end: bool, trailers: list[bytes]) -> bool:
        """False: not all of it."""
        number = self._number
        parts: list[bytes | memoryview] = []
        size = len(data)
        view = memoryview(data)
        is_last = is_end and not trailers
        while at < size:
            end = min(at + MAX_DATA, at + self._credit - PIECE_BYTES, size)
            if end <= at:
                self._unsent.append((data, at, is_end, trailers))
                break
            self._credit -= end - at + PIECE_BYTES
            kind = DATA_END if is_last and end == size else DATA
            parts += (header(number, kind, end - at), view[at:end])
            at = end
        else:
            if trailers:
                lines = b"".join([line + b"\r\n" for line in trailers])
                parts.append(frame(number, TRAILERS_END, lines))
            elif is_end and not size:
                parts.append(frame(number, DATA_END))
        if parts:
            self._output.write(b"".join(parts))
        return not self._unsent

    def more(self, size: int) -> None:
        """Credit has come."""
        self._credit += size
        if not size or self._credit > WINDOW_BYTES:
            raise ProtocolError("frame", "credit for what was not sent")
        unsent, self._unsent = self._unsent, []
        for index, piece in enumerate(unsent, 1):
            if not self._send(*piece):
                self._unsent += unsent[index:]
                return

    @property
    def is_empty(self) -> bool:
        """Whether all has been sent."""
        return not self._unsent

    @property
    def is_full(self) -> bool:
        """Whether whoever sends should wait."""
        return bool(self._unsent) or self._output.is_write_paused


class Receiver:
    """The other direction: how much the peer may still send."""

    __slots__ = ("_is_paused", "_number", "_output", "_taken", "_window", "has_granted")

    def __init__(self, output: Output, number: int) -> None:
        self._output = output
        self._number = number
        self._window = WINDOW_BYTES
        self._taken = 0
        self._is_paused = False
        self.has_granted = False
        """More than half a window has arrived."""

    def count(self, size: int, is_end: bool) -> None:
        """So much has arrived and is passed on."""
        if not size:
            if is_end:
                return
            raise ProtocolError("frame", "a piece of nothing")
        size += PIECE_BYTES
        self._window -= size
        if self._window < 0:
            raise ProtocolError("frame", "more data than there was credit for")
        self._taken += size
        if self._taken > WINDOW_BYTES // 2 and not (self._is_paused or is_end):
            self._grant()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        if self._taken > WINDOW_BYTES // 2:
            self._grant()

    def _grant(self) -> None:
        self.has_granted = True
        size, self._taken = self._taken, 0
        self._window += size
        self._output.write(credit_frame(self._number, size))
