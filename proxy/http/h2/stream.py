"""One stream as its half sees it, and how what it sends waits for credit.

A stream sends at once what both windows and the socket's owner allow; the rest stays in its
``Backlog`` until credit comes, and whoever sends is asked to pause (``is_full``). So a backlog is
no more than what arrives in one turn of the loop.
"""

from typing import Final

from proxy.http.flow import MOST_WIDE
from proxy.http.h2.backlog import Backlog
from proxy.http.h2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NO_ERROR,
    header,
    headers_frames,
    pack_header,
    reset_frame,
    window_update_frame,
)
from proxy.http.h2.output import Output
from proxy.http.h2.states import (
    CLOSED,
    HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE,
    IDLE,
    MOVES,
    OURS,
    RESET,
    SENT_DATA,
    SENT_DATA_END,
    SENT_HEADERS,
    SENT_HEADERS_END,
    SENT_RESET,
)

WINDOW_BYTES: Final = 240 * 1024
"""That a peer may have in flight per stream: what a reader that stands still costs. The default of
64 KiB would be 1.3 MB/s where a round trip takes 50 ms. With what frames add it goes into one read,
and into the window of the next hop (``proxy.http.frames``): else the rest is a turn of its own, at
both ends, for each window."""
GRANTED_BYTES: Final = WINDOW_BYTES // 2
"""Credit is given back in steps of this: a unary call costs no WINDOW_UPDATE."""
MOST_FRAME_BYTES: Final = 64 * 1024
"""Of DATA in one frame of ours, if the peer takes as much: streams take turns by it."""
_JOINED_BYTES: Final = 16 * 1024
"""Less is cheaper to copy than to send in parts."""
_NO_TABLE: Final = b"\x20"
"""HPACK: our encoder's dynamic table has no size (RFC 7541, section 4.2). A peer that sets the size
to nothing expects to read so in the next block; said once in the first block, it holds for all."""


class LocalViolation(Exception):
    """We would have broken the rules of a stream: a bug of the half."""


class Stream:
    """One stream. Halves derive from it, and implement the first four methods.

    ``connection`` and ``number`` are set by ``Connection.begin``, or before the first ``headers``.
    """

    __slots__ = (
        "_backlog",
        "_was_full",
        "connection",
        "credit",
        "is_bulk",
        "is_paused",
        "number",
        "pieces",
        "state",
        "taken",
        "window",
        "withheld",
    )

    connection: Output

    def __init__(self) -> None:
        self.number = 0
        self.state = IDLE
        self.credit = 0
        """Bytes that may be sent; below zero after the peer has made its windows smaller."""
        self.taken = 0
        """Bytes that have arrived and are not granted again; at most ``window``."""
        self.window = WINDOW_BYTES
        """Or a second one more."""
        self.pieces = 0
        """Of DATA since it was paused."""
        self.withheld = 0
        """Bytes that may wait for whoever has paused it: those, and what was not granted again."""
        self.is_bulk = False
        """More than half a window has come, or something had to wait for credit."""
        self._backlog: Backlog | None = None
        self.is_paused = False
        self._was_full = False

    # The half

    def headers(self, block: bytes, is_end: bool) -> None:
        """A complete header block: the head, also an interim one, or trailers."""
        raise NotImplementedError

    def data(self, payload: bytes, is_end: bool) -> None:
        """Without padding. Frames may come joined, and one frame in several parts."""
        raise NotImplementedError

    def was_reset(self, code: int, *, is_unprocessed: bool) -> None:
        """By the peer, or by us for an error of the peer's; the stream is gone.
        ``is_unprocessed``: the peer has done nothing for it, it may be sent again."""
        raise NotImplementedError

    def pressure_changed(self) -> None:
        """``is_full`` has changed; or it is still so and more was sent, perhaps by somebody who has
        not been asked to pause. May be called from within ``send_...``."""
        raise NotImplementedError

    # Out

    @property
    def is_full(self) -> bool:
        """Whether whoever sends should wait: for credit, or for the socket."""
        return self._backlog is not None or self.connection.is_full

    @property
    def is_over(self) -> bool:
        """Nothing can be sent or will arrive any more."""
        return self.state >= CLOSED

    @property
    def is_ended_by_peer(self) -> bool:
        return self.state == HALF_CLOSED_REMOTE or self.state >= CLOSED

    @property
    def waiting_bytes(self) -> int:
        """Sent by the half, and waiting for credit."""
        return self._backlog.size if self._backlog is not None else 0

    def send_headers(self, block: bytes, is_end: bool) -> None:
        """A complete header block. For nothing if the stream is over."""
        if self._backlog is not None:
            if is_end:
                self.send_data(b"", True, block)
                return
            raise LocalViolation("headers behind data that do not end the stream")
        state = MOVES[self.state + (SENT_HEADERS_END if is_end else SENT_HEADERS)]
        if state < 0 or self.state >= CLOSED:
            if state == OURS:
                raise LocalViolation("headers on a stream that was ended")
            return
        connection = self.connection
        if connection.is_new:
            connection.is_new = False
            block = _NO_TABLE + block
        size = len(block)
        if size <= connection.frame_bytes:
            flags = END_HEADERS | END_STREAM if is_end else END_HEADERS
            connection.write(pack_header(size << 8 | HEADERS, flags, self.number) + block)
        else:
            flags = END_STREAM if is_end else 0
            connection.write(headers_frames(self.number, block, flags, connection.frame_bytes))
        self.state = state
        if is_end:
            self._ended(state)
        elif connection.is_full:
            self._remind()

    def send_data(self, data: bytes, is_end: bool, trailers: bytes = b"") -> None:
        """``data``: of any size; ``trailers``: a header block, only with ``is_end``. For nothing if
        the stream is over."""
        state = MOVES[self.state + (SENT_DATA_END if is_end else SENT_DATA)]
        if state < 0 or self.state >= CLOSED:
            if state == OURS:
                raise LocalViolation("data on a stream that was not begun, or was ended")
            return
        connection = self.connection
        size = len(data)
        most = connection.frame_bytes
        if (
            self._backlog is not None
            or (size and (size > self.credit or size > connection.credit or size > most))
            or len(trailers) > most
        ):
            self._hold(data, is_end, trailers)
            return
        number = self.number
        if trailers:
            flags = END_HEADERS | END_STREAM
            last = pack_header(len(trailers) << 8 | HEADERS, flags, number) + trailers
            if size:
                self.credit -= size
                connection.credit -= size
                last = b"%b%b%b" % (pack_header(size << 8, 0, number), data, last)
            connection.write(last)
        elif size or is_end:
            self.credit -= size
            connection.credit -= size
            connection.write_frame(pack_header(size << 8, is_end, number), data)
        self.state = state
        if is_end:
            self._ended(state)
        elif connection.is_full:
            self._remind()

    def send_message(self, block: bytes, data: bytes, trailers: bytes = b"") -> None:
        """HOT. Head, body and trailers of a whole message; at least one of the last two."""
        connection = self.connection
        state = MOVES[self.state + SENT_HEADERS]
        size, most = len(data), connection.frame_bytes
        if (
            state < 0
            or self.state >= CLOSED
            or connection.is_new
            or size > self.credit
            or size > connection.credit
            or size > most
            or len(block) > most
            or len(trailers) > most
            or self._backlog is not None
        ):
            self.send_headers(block, False)
            self.send_data(data, True, trailers)
            return
        number = self.number
        whole = pack_header(len(block) << 8 | HEADERS, END_HEADERS, number) + block
        if size:
            self.credit -= size
            connection.credit -= size
            whole += pack_header(size << 8, not trailers, number) + data
        if trailers:
            flags = END_HEADERS | END_STREAM
            whole += pack_header(len(trailers) << 8 | HEADERS, flags, number) + trailers
        connection.write(whole)
        state = self.state = MOVES[state + SENT_DATA_END]
        self._ended(state)

    def send_reset(self, code: int) -> None:
        """Gives the stream up. For nothing if it is over."""
        was, state = self.state, MOVES[self.state + SENT_RESET]
        if was >= CLOSED:
            return
        self.state = state
        if state == RESET:
            self.connection.write(reset_frame(self.number, code))
        self.connection.closed(self)

    def _hold(self, data: bytes, is_end: bool, trailers: bytes) -> None:
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = Backlog()
        elif backlog.is_end:
            raise LocalViolation("data on a stream that was ended")
        backlog.add(data)
        backlog.is_end = is_end
        backlog.trailers = trailers
        connection = self.connection
        connection.held_bytes += len(data)
        was_full = self._was_full
        self.pump()
        connection.hold(0)
        if self._backlog is None:
            return
        if not self.is_bulk:
            self.is_bulk = True
            connection.bulk += 1
        if was_full and not is_end:
            self._remind()

    def pump(self, most: int = 1 << 40) -> None:
        """Sends what there is credit for, at most ``most`` bytes of body."""
        backlog = self._backlog
        if backlog is None:
            return
        connection = self.connection
        number = self.number
        budget = min(self.credit, connection.credit, most)
        frame_bytes = connection.frame_bytes
        is_data_last = backlog.is_end and not backlog.trailers
        parts: list[bytes | memoryview] = []
        sent = 0
        while sent < backlog.size and sent < budget:
            piece = backlog.first()
            at = backlog.at
            view = memoryview(piece)
            end = min(len(piece), at + budget - sent)
            while at < end:
                size = min(end - at, frame_bytes)
                sent += size
                is_last = is_data_last and sent == backlog.size
                parts += (pack_header(size << 8, is_last, number), view[at : at + size])
                at += size
            if at == len(piece):
                backlog.pieces.popleft()
                at = 0
            backlog.at = at
        is_end_sent = is_data_last and bool(sent) and sent == backlog.size
        backlog.size -= sent
        self.credit -= sent
        connection.credit -= sent
        if backlog.size:
            if self.credit > 0:
                connection.waiting[self] = None
        else:
            self._backlog = None
            if backlog.trailers:
                parts.append(headers_frames(number, backlog.trailers, END_STREAM, frame_bytes))
            elif backlog.is_end and not is_end_sent:
                parts.append(header(0, DATA, END_STREAM, number))
        if sent > _JOINED_BYTES:
            connection.write_parts(parts)
        elif parts:
            connection.write(b"".join(parts))
        connection.hold(-sent)
        if self._backlog is None and backlog.is_end:
            state = self.state = MOVES[self.state + SENT_DATA_END]
            self._ended(state)
        else:
            self.tell()

    def more(self, size: int) -> None:
        """Credit for it has come, or was taken away by the peer's SETTINGS."""
        self.credit += size
        if self._backlog is not None:
            self.pump()

    def tell(self) -> None:
        is_full = self._backlog is not None or self.connection.is_full
        if is_full is not self._was_full and self.state < CLOSED:
            self._was_full = is_full
            self.pressure_changed()

    def _remind(self) -> None:
        self._was_full = True
        self.pressure_changed()

    def _ended(self, state: int) -> None:
        """Our side is."""
        connection = self.connection
        if state == HALF_CLOSED_LOCAL:
            if not connection.is_server:
                return
            # Answered without the rest of the request (section 8.1): "a server MAY request that
            # the client abort transmission of a request without error by sending a RST_STREAM with
            # an error code of NO_ERROR after sending a complete response".
            self.state = RESET
            connection.write(reset_frame(self.number, NO_ERROR))
        connection.closed(self)

    def drop(self) -> None:
        """What waits is not going to be sent."""
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            self.connection.waiting.pop(self, None)
            if backlog.size:
                self.connection.hold(-backlog.size)

    # In

    def pause(self) -> None:
        """No more credit, so that at most ``window`` arrives."""
        if not self.is_paused:
            self.is_paused = True
            self.withheld = self.taken
            self.connection.withheld += self.taken

    def resume(self) -> None:
        self.is_paused = False
        if self.withheld:
            self.connection.ease(self)
        if self.taken > GRANTED_BYTES:
            self.grant()

    def grant(self) -> None:
        if self.state >= CLOSED or self.state == HALF_CLOSED_REMOTE:
            return
        size, self.taken = self.taken, 0
        if not self.is_bulk:
            self.is_bulk = True
            self.connection.bulk += 1
        elif self.window == WINDOW_BYTES and self.connection.bulk <= MOST_WIDE:
            self.window += WINDOW_BYTES
            size += WINDOW_BYTES
        self.connection.write(window_update_frame(self.number, size))
