"""The engine: one HTTP/2 connection, either role. Bytes in, bytes out; no clock, no socket.

``receive`` takes what has arrived and calls the streams; what is to be sent goes to ``write``. A
breach of RFC 9113 ends one stream (``was_reset``) or raises ``ConnectionBroken`` when the GOAWAY is
written: the owner flushes and closes. Header blocks go through as they are: unpacking them is the
owner's.
"""

from typing import Final

from proxy.http.h2.control import Control
from proxy.http.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    FRAME_SIZE_ERROR,
    HEADER_BYTES,
    HEADERS,
    MAX_STREAM,
    MAX_WINDOW,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    SETTINGS,
    SETTINGS_TIMEOUT,
    frame,
    goaway_frame,
    settings_frame,
    unpack_header,
    window_update_frame,
)
from proxy.http.h2.roster import ConnectionBroken
from proxy.http.h2.settings import ACKNOWLEDGED_S, CLIENT, FRAME_BYTES, SERVER
from proxy.http.h2.states import MOVES, RECEIVED_DATA
from proxy.http.h2.stream import GRANTED_BYTES, LocalViolation, Stream

__all__ = ["Connection", "ConnectionBroken", "LocalViolation", "Stream"]

GOING_S: Final = 1.0
"""From the first GOAWAY to the real one: what was sent before the peer knew has arrived by then."""
PONG_S: Final = 10.0
"""Then a peer that has not answered a PING, nor sent anything, is not there."""
_HELD_PIECES: Final = 64
"""A frame that comes byte by byte is put together now and then: a piece takes 40 bytes itself."""


class Connection(Control):
    """One connection. The owner derives, implements ``write`` and the hooks, and calls ``start``
    when there is a transport, ``receive`` for what arrives and ``sweep`` once a second."""

    __slots__ = (
        "_going_since",
        "_has_heard",
        "_has_settings",
        "_held",
        "_needed",
        "_ping_since",
        "_preface",
        "_settings_since",
        "is_final",
    )

    def __init__(self) -> None:
        super().__init__()
        self.is_final = False
        """A GOAWAY is sent that is true; without streams the connection may be closed."""
        self._preface = PREFACE if self.is_server else b""
        """What is still to come of it."""
        self._has_settings = False
        """The peer's have begun to come."""
        self._held: list[bytes] = []
        """The beginning of a frame that is not complete."""
        self._needed = 0
        """Bytes until it is, or until its length is known."""
        self._has_heard = False
        self._settings_since = 0.0
        self._ping_since = 0.0
        self._going_since = 0.0

    # The owner implements (``write`` and the hooks of the parts too)

    def batch_ended(self) -> None:
        """Hook: what came with one ``receive`` has been passed on."""

    # Out

    def start(self) -> None:
        """The first bytes."""
        settings = settings_frame(SERVER if self.is_server else CLIENT)
        preface = b"" if self.is_server else PREFACE
        self.write(preface + settings + window_update_frame(0, MAX_WINDOW - DEFAULT_WINDOW))

    @property
    def has_room(self) -> bool:
        """Whether one more stream may be opened (client)."""
        return len(self.streams) < self.max_streams and not (self.is_going or self.is_lost)

    def begin(self, stream: Stream) -> None:
        """Client: gives ``stream`` its number. Its ``send_headers`` has to follow before another's,
        because numbers go up on the wire (or ``send_reset``, which then sends nothing)."""
        number = self._next
        if number >= MAX_STREAM - 1:
            self.is_going = True
        self._next = number + 2
        stream.connection = self
        stream.number = number
        stream.credit = self.stream_credit
        self.streams[number] = stream

    def ping(self) -> None:
        """Asks the peer whether it is there; ``sweep`` sees to the answer."""
        if not self._is_ping_unanswered:
            self._is_ping_unanswered = True
            self._ping_since = 0.0
            self.write(frame(PING, 0, 0, b"meshctl."))

    def go(self, now: float) -> None:
        """Asks the peer to open no more streams. A server says so first without refusing any, since
        some may be under way, and a second later (``sweep``, or the next call) for good
        (RFC 9113, section 6.8)."""
        if self.is_final:
            return
        if self.is_server and not self._going_since:
            self._going_since = now or 1.0
            self.is_going = True
            self.write(goaway_frame(MAX_STREAM, NO_ERROR))
            return
        self.is_going = self.is_final = True
        self._goaway_last = self._last
        self.write(goaway_frame(self._last, NO_ERROR))

    def sweep(self, now: float) -> None:
        """About once a second. Raises ConnectionBroken for what has not come in time."""
        self._floods.sweep()
        if not self._is_settled:
            if not self._settings_since:
                self._settings_since = now
            elif now - self._settings_since > ACKNOWLEDGED_S:
                self.fail(SETTINGS_TIMEOUT, "SETTINGS were not acknowledged")
        if self._is_ping_unanswered:
            if self._has_heard or not self._ping_since:
                self._ping_since = now
            elif now - self._ping_since > PONG_S:
                self.fail(NO_ERROR, "a PING was not answered")
        self._has_heard = False
        if self._going_since and not self.is_final and now - self._going_since >= GOING_S:
            self.go(now)

    # In

    def receive(self, data: bytes | memoryview) -> None:
        """What has arrived, in pieces of any size; of a view nothing is kept. Raises
        ConnectionBroken."""
        self._has_heard = True
        held = self._held
        if held:
            held.append(bytes(data))
            self._needed -= len(data)
            if self._needed > 0:
                if len(held) > _HELD_PIECES:
                    self._held = [b"".join(held)]
                return
            data = b"".join(held)
            held.clear()
        at = 0
        size = len(data)
        if not self._has_settings:
            at = self._greet(data)
        elif self._rest:
            at = self._more_data(data)
        needed = HEADER_BYTES
        streams = self.streams
        while size - at >= HEADER_BYTES:
            word, flags, number = unpack_header(data, at)
            length = word >> 8
            if not (word & 0xFF or flags) and (stream := streams.get(number)) is not None:
                # HOT. DATA as most small messages come: one whole frame, and the next is for
                # another stream.
                begin = at + HEADER_BYTES
                end = begin + length
                if (
                    end <= size
                    and 0 < length <= stream.window - stream.taken
                    and length <= FRAME_BYTES
                    and not stream.is_paused
                    and MOVES[stream.state + RECEIVED_DATA] >= 0
                    and not self._block_number
                    and data[end + 5 : end + HEADER_BYTES] != data[at + 5 : begin]
                ):
                    at = end
                    window = self._window = self._window - length
                    if window < MAX_WINDOW // 2:
                        self._charge(0)
                    taken = stream.taken = stream.taken + length
                    stream.data(bytes(data[begin:end]), False)
                    if taken > GRANTED_BYTES and not stream.is_paused:
                        stream.grant()
                    if self.is_lost:
                        return
                    continue
            kind = word & 0xFF
            number &= MAX_STREAM
            if length > FRAME_BYTES:
                self.fail(FRAME_SIZE_ERROR, "a frame is too large")
            end = at + HEADER_BYTES + length
            if self._block_number and (kind != CONTINUATION or number != self._block_number):
                self.fail(PROTOCOL_ERROR, "a header block was interrupted")
            if kind == DATA:
                if flags & PADDED and end > size:
                    needed = end - at
                    break
                at = self._data(data, at, length, flags, number)
            elif end > size:
                needed = end - at
                break
            else:
                payload = bytes(data[at + HEADER_BYTES : end])
                at = end
                if kind == HEADERS:
                    self._headers(number, flags, payload)
                else:
                    self.control(kind, number, flags, payload)
            if self.is_lost:
                return
        if at < size:
            self._held.append(bytes(data[at:]))
            self._needed = needed - (size - at)
        self.batch_ended()

    def _greet(self, data: bytes | memoryview) -> int:
        """The preface, and that SETTINGS come first (section 3.4). Returns what has been read."""
        at = 0
        preface = self._preface
        if preface:
            at = min(len(data), len(preface))
            if data[:at] != preface[:at]:
                self.fail(PROTOCOL_ERROR, "the connection does not begin with the preface")
            self._preface = preface[at:]
        if len(data) - at >= HEADER_BYTES:
            word, flags, _ = unpack_header(data, at)
            if word & 0xFF != SETTINGS or flags & ACK:
                self.fail(PROTOCOL_ERROR, "the connection does not begin with SETTINGS")
            self._has_settings = True
        return at
