"""What arrives for streams: HEADERS with their CONTINUATIONs, and DATA (RFC 9113, sections 6.1,
6.2, 6.10).

The windows of streams bound what arrives. The connection's own is granted on arrival and without
limit in effect: were it held back by one stream that is not read, the others would wait for it.
"""

from typing import NoReturn

from proxy.http.h2.floods import MOST_BLOCK_BYTES, MOST_CONTINUATIONS, MOST_PIECES, Flood
from proxy.http.h2.frames import (
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HAS_PRIORITY,
    HEADER_BYTES,
    MAX_STREAM,
    MAX_WINDOW,
    PADDED,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    reset_frame,
    unpack_header,
    window_update_frame,
)
from proxy.http.h2.roster import Roster
from proxy.http.h2.settings import FRAME_BYTES, MAX_STREAMS
from proxy.http.h2.states import CLOSED, IDLE, MOVES, RECEIVED_DATA
from proxy.http.h2.stream import GRANTED_BYTES, Stream


class Messages(Roster):
    """The part of a connection that its streams hear of."""

    __slots__ = (
        "_block",
        "_block_end",
        "_block_number",
        "_goaway_last",
        "_rest",
        "_rest_is_end",
        "_rest_stream",
        "_window",
    )

    def __init__(self) -> None:
        super().__init__()
        self._goaway_last = MAX_STREAM
        """The highest of the peer's streams that we have said to process."""
        self._rest = 0
        """Bytes of a DATA frame that are still to come; those before are passed on."""
        self._rest_stream: Stream | None = None
        """Whose it is; None: nobody's, or there is no rest."""
        self._rest_is_end = 0
        self._block: list[bytes] = []
        """Of a header block, until END_HEADERS."""
        self._block_number = 0
        """The stream that it is for; 0: there is none."""
        self._block_end = 0
        self._window = MAX_WINDOW
        """Bytes that the peer may still send on all streams together."""

    # The owner

    def new_stream(self, number: int) -> Stream:
        """Server: the half's stream; ``headers`` is called next."""
        raise NotImplementedError

    def block_skipped(self, block: bytes) -> None:
        """Hook: a header block that no stream gets. The decoder has to see it while the peer may
        use a table."""

    # DATA

    def _data(self, data: bytes | memoryview, at: int, length: int, flags: int, number: int) -> int:
        """The DATA frame at ``at``, whose payload need not be complete, and those of the same
        stream behind it. Returns what has been read of ``data``."""
        stream = self.streams.get(number)
        if stream is None or MOVES[stream.state + RECEIVED_DATA + (flags & END_STREAM)] < 0:
            return self._stray_data(data, at, length, flags, number)
        size = len(data)
        room = stream.window - stream.taken
        pieces: list[tuple[int, int]] = []
        total = empty = is_end = 0
        while True:
            begin = at + HEADER_BYTES
            end = stop = begin + length
            if length > room:
                if not total:
                    self._charge(length)
                    self._stream_error(stream, FLOW_CONTROL_ERROR)
                    return self._skip(end, size)
                break
            if flags & PADDED:
                begin += 1
                stop -= data[begin - 1] if length else 0
                if stop < begin:
                    if total:
                        break
                    self._bad_padding(length)
            is_end = flags & END_STREAM
            room -= length
            total += length
            if end > size:
                # A later read brings the rest; this much need not wait for it.
                self._rest = end - size
                self._rest_stream = stream
                self._rest_is_end = is_end
                is_end = 0
                at = stop = size
            else:
                at = end
            if stop > begin:
                pieces.append((begin, stop))
            elif not is_end and not self._rest:
                empty += 1
            if is_end or size - at < HEADER_BYTES:
                break
            word, flags, following = unpack_header(data, at)
            length = word >> 8
            if word & 0xFF or following & MAX_STREAM != number or length > FRAME_BYTES:
                break
            if flags & PADDED and at + HEADER_BYTES + length > size:
                break
        self._charge(total)
        stream.taken += total
        if len(pieces) == 1:
            begin, stop = pieces[0]
            payload = bytes(data[begin:stop])
        elif pieces:
            view = memoryview(data)
            payload = b"".join([view[begin:stop] for begin, stop in pieces])
        else:
            payload = b""
        self._deliver(stream, payload, is_end)
        if empty:
            self._count(Flood.EMPTY_DATA, empty)
        return at

    def _deliver(self, stream: Stream, payload: bytes, is_end: int) -> None:
        if is_end:
            state = stream.state = MOVES[stream.state + RECEIVED_DATA + END_STREAM]
            if state == CLOSED:
                self.closed(stream)
            stream.data(payload, True)
            return
        if payload:
            if stream.is_paused:
                stream.pieces += 1
                self.pieces += 1
                stream.withheld += len(payload)
                self.withheld += len(payload)
                if self.pieces > MOST_PIECES:
                    self.fail(ENHANCE_YOUR_CALM, "too many small DATA frames")
            stream.data(payload, False)
        if stream.taken > GRANTED_BYTES and not stream.is_paused:
            stream.grant()

    def _more_data(self, data: bytes | memoryview) -> int:
        """The rest of a DATA frame. Returns what has been read."""
        rest = self._rest
        size = min(rest, len(data))
        self._rest = rest - size
        stream = self._rest_stream
        if size < rest:
            is_end = 0
        else:
            is_end = self._rest_is_end
            self._rest_stream = None
        if stream is not None and stream.number in self.streams:
            self._deliver(stream, bytes(data[:size]), is_end)
        return size

    def _skip(self, end: int, size: int) -> int:
        """A DATA frame's payload up to ``end`` goes to nobody."""
        if end <= size:
            return end
        self._rest = end - size
        return size

    def _stray_data(
        self, data: bytes | memoryview, at: int, length: int, flags: int, number: int
    ) -> int:
        """For a stream that takes none."""
        self._charge(length)
        stream = self.streams.get(number)
        moved = MOVES[self._state(number) + RECEIVED_DATA + (flags & END_STREAM)]
        if moved < 0:
            self._violated(stream, moved, "DATA")
        else:
            self._count(Flood.WASTE)
        return self._skip(at + HEADER_BYTES + length, len(data))

    def _charge(self, size: int) -> None:
        """To the connection's window: also DATA that nobody takes counts (6.9)."""
        window = self._window = self._window - size
        if window < MAX_WINDOW // 2:
            self._window = MAX_WINDOW
            self.write(window_update_frame(0, MAX_WINDOW - window))

    # HEADERS and CONTINUATION

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        if flags & (PADDED | HAS_PRIORITY):
            payload = self._stripped(flags, payload)
        if flags & END_HEADERS:
            self._head(number, flags & END_STREAM, payload)
        else:
            if not number:
                self.fail(PROTOCOL_ERROR, "HEADERS without a stream")
            self._block = [payload]
            self._block_number = number
            self._block_end = flags & END_STREAM

    def _stripped(self, flags: int, payload: bytes) -> bytes:
        """Without padding and the old priority."""
        begin = 0
        end = len(payload)
        if flags & PADDED:
            begin = 1
            end -= payload[0] if payload else 0
        if flags & HAS_PRIORITY:
            begin += 5
        if end < begin:
            self._bad_padding(len(payload))
        return payload[begin:end]

    def _bad_padding(self, length: int) -> NoReturn:
        if not length:
            self.fail(FRAME_SIZE_ERROR, "a padded frame of nothing")
        # "If the length of the padding is the length of the frame payload or greater, the recipient
        # MUST treat this as a connection error of type PROTOCOL_ERROR." (6.1, 6.2)
        self.fail(PROTOCOL_ERROR, "more padding than frame")

    def _continuation(self, number: int, flags: int, payload: bytes) -> None:
        block = self._block
        if not self._block_number:
            self.fail(PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.append(payload)
        if len(block) > MOST_CONTINUATIONS or sum(map(len, block)) > MOST_BLOCK_BYTES:
            self.fail(ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & END_HEADERS:
            self._block = []
            self._block_number = 0
            self._head(number, self._block_end, b"".join(block))

    def _head(self, number: int, is_end: int, block: bytes) -> None:
        """A complete header block."""
        stream = self.streams.get(number)
        if stream is None:
            self._first_head(number, is_end, block)
            return
        state = stream.state
        moved = MOVES[state + is_end]
        if moved < 0:
            self.block_skipped(block)
            self._violated(stream, moved, "HEADERS")
        elif self.is_server and not is_end:
            # Trailers that do not end the message are malformed (8.1), so an error of the stream.
            self.block_skipped(block)
            self._stream_error(stream, PROTOCOL_ERROR)
        elif state == IDLE:
            self.fail(PROTOCOL_ERROR, "an answer to a stream that has not begun")
        else:
            stream.state = moved
            if moved == CLOSED:
                self.closed(stream)
            stream.headers(block, bool(is_end))

    def _first_head(self, number: int, is_end: int, block: bytes) -> None:
        """For a stream that is not there."""
        if number <= self._last or not self.is_server or not number & 1:
            state = self._state(number)
            if state == IDLE or self._was_skipped(number):
                # "An endpoint that receives an unexpected stream identifier MUST respond with a
                # connection error (Section 5.4.1) of type PROTOCOL_ERROR." (5.1.1)
                self.fail(PROTOCOL_ERROR, "HEADERS for a stream that cannot be opened")
            self.block_skipped(block)
            moved = MOVES[state + is_end]
            if moved < 0:
                self._violated(None, moved, "HEADERS")
            self._count(Flood.WASTE)
            return
        if number - self._last > 2:
            self._skip_numbers(number)
        self._last = number
        if number > self._goaway_last:
            # "the sender can discard frames for streams initiated by the receiver with identifiers
            # higher than the identified last stream" (6.8); the table's part is the decoder's.
            self.block_skipped(block)
            self._remember(number)
            self._count(Flood.WASTE)
            return
        if len(self.streams) >= MAX_STREAMS:
            self.block_skipped(block)
            self.write(reset_frame(number, REFUSED_STREAM))
            self._remember(number)
            self._count(Flood.RESETS_MADE)
            return
        stream = self.new_stream(number)
        stream.connection = self
        stream.number = number
        stream.credit = self.stream_credit
        stream.state = MOVES[IDLE + is_end]
        self.streams[number] = stream
        stream.headers(block, bool(is_end))
