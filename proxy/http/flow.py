"""Flow control of one stream: what may be sent and waits for credit, what may still arrive.

What a sender was granted and has not used, and what the receiver has taken and not yet granted
again, are together always ``WINDOW_BYTES``, or twice as much once the receiver has said so. So a
sender without credit means a receiver that has taken more than a quarter, and that grants it as
soon as all that was read is passed on and it does not have to pause: nobody waits for ever.
"""

from typing import Final, Protocol

from proxy.http.fields import ProtocolError
from proxy.http.frames import (
    DATA,
    DATA_END,
    HEADER_BYTES,
    MAX_DATA,
    PIECE_BYTES,
    WINDOW_BYTES,
    credit_frame,
    frame,
    header,
    pack_header,
    trailers_frame,
)

_JOINED_BYTES: Final = 16 * 1024
"""Less is cheaper to copy than to send in parts."""
_FIRST_BYTES: Final = 16 * 1024 - HEADER_BYTES
"""Of a frame's data, in one TLS record with its header."""
_MOST_DATA: Final = MAX_DATA - HEADER_BYTES
"""So that a frame is four whole records."""


MOST_WIDE: Final = 4
"""Streams of a connection that are granted a second window because they go on carrying much: half
the turns of the loop for the same bytes. Each is as much more for a reader that stands still."""
_GRANTED_BYTES: Final = WINDOW_BYTES // 4
"""Credit is given back in steps of at least this: below, there is none for most answers."""


class Output(Protocol):
    is_write_paused: bool

    def write(self, data: bytes) -> None:
        """One frame or several."""

    def write_frame(self, header: bytes, payload: bytes) -> None:
        """HOT. One frame."""

    def grant_later(self, receiver: "Receiver") -> None:
        """Its ``grant`` is called when all that has been read is passed on."""

    def has_few(self) -> bool:
        """Whether few streams are on it: at most ``MOST_WIDE``."""

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """The same, of much."""


class Sender:
    """One direction of one stream: what may be sent, and what waits for credit."""

    __slots__ = ("_credit", "_most", "_number", "_output", "_unsent")

    def __init__(self, output: Output, number: int) -> None:
        self._output = output
        self._number = number
        self._credit = WINDOW_BYTES
        self._most = WINDOW_BYTES
        """Of credit: twice as much with a second window, which only a larger grant can bring."""
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

    def send(self, data: bytes, is_end: bool, trailers: list[bytes]) -> bool:
        """HOT. Body, or what there is credit for of it; the rest follows. Returns ``is_full``."""
        size = len(data)
        if 0 < size <= _JOINED_BYTES and not (self._unsent or trailers):
            credit = self._credit - size - PIECE_BYTES
            if credit >= 0:
                self._credit = credit
                kind = DATA_END if is_end else DATA
                output = self._output
                output.write_frame(pack_header(size, self._number, kind), data)
                return output.is_write_paused
        if self._unsent:
            self._unsent.append((data, 0, is_end, trailers))
        else:
            self._send(data, 0, is_end, trailers)
        return self.is_full

    def _send(self, data: bytes, at: int, is_end: bool, trailers: list[bytes]) -> bool:
        """False: not all of it."""
        number = self._number
        parts: list[bytes | memoryview] = []
        size = len(data)
        view = memoryview(data)
        is_last = is_end and not trailers
        begin = at
        while at < size:
            end = min(at + _MOST_DATA, at + self._credit - PIECE_BYTES, size)
            if end <= at:
                self._unsent.append((data, at, is_end, trailers))
                break
            self._credit -= end - at + PIECE_BYTES
            kind = DATA_END if is_last and end == size else DATA
            first = min(at + _FIRST_BYTES, end)
            # Header and data in one record; what else the frame has is not copied.
            parts.append(b"".join((header(number, kind, end - at), view[at:first])))
            if first < end:
                parts.append(view[first:end])
            at = end
        else:
            if trailers:
                parts.append(trailers_frame(number, trailers))
            elif is_end and not size:
                parts.append(frame(number, DATA_END))
        if at - begin > _JOINED_BYTES:
            self._output.write_parts(parts)
        elif parts:
            self._output.write(b"".join(parts) if len(parts) > 1 else bytes(parts[0]))
        return not self._unsent

    def more(self, size: int) -> None:
        """Credit has come."""
        self._credit += size
        if size > WINDOW_BYTES:
            self._most = 2 * WINDOW_BYTES
        if not size or self._credit > self._most:
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

    __slots__ = (
        "_has_begun",
        "_is_due",
        "_is_paused",
        "_is_wide",
        "_number",
        "_output",
        "_taken",
        "_window",
        "is_bulk",
    )

    def __init__(self, output: Output, number: int) -> None:
        self._output = output
        self._number = number
        self._window = WINDOW_BYTES
        self._taken = 0
        self._is_wide = False
        """A second window was granted."""
        self._is_paused = False
        self._is_due = False
        """It is to grant when all that was read is passed on."""
        self.is_bulk = False
        """More than half a window has arrived."""
        self._has_begun = False
        """There has been a grant."""

    def count(self, size: int, is_end: bool) -> None:
        """So much has arrived and is passed on."""
        if not size:
            if is_end:
                return
            raise ProtocolError("frame", "a piece of nothing")
        size += PIECE_BYTES
        window = self._window = self._window - size
        if window < 0:
            raise ProtocolError("frame", "more data than there was credit for")
        taken = self._taken = 0 if is_end else self._taken + size
        if taken > _GRANTED_BYTES:
            if taken > WINDOW_BYTES // 2:
                self.is_bulk = True
            if not self._is_due:
                self._is_due = True
                self._output.grant_later(self)

    def grant(self) -> None:
        """All that was read has been passed on: one grant for it, as large as can be, so that the
        sender may send as much in one piece."""
        self._is_due = False
        if self._taken and not self._is_paused:
            self._grant()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        if self._taken > _GRANTED_BYTES and not self._is_due:
            self._grant()

    def _grant(self) -> None:
        size, self._taken = self._taken, 0
        if self._has_begun:
            self.is_bulk = True
            if not self._is_wide and self._output.has_few():
                self._is_wide = True
                size += WINDOW_BYTES
        self._has_begun = True
        self._window += size
        self._output.write(credit_frame(self._number, size))
