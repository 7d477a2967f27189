"""What arrives besides messages: the rest of RFC 9113, section 6."""

from collections.abc import Callable
from typing import Final

from proxy.http.h2.floods import SMALL_UPDATE_BYTES, Flood
from proxy.http.h2.frames import (
    ACK,
    CONTINUATION,
    ENABLE_CONNECT_PROTOCOL,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_STREAM,
    MAX_WINDOW,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    frame,
    goaway_of,
    settings_of,
    u32_of,
)
from proxy.http.h2.messages import Messages
from proxy.http.h2.settings import ASSUMED_STREAMS, FRAME_BYTES, violation
from proxy.http.h2.states import CLOSED, MOVES, RECEIVED_RESET, RECEIVED_WINDOW_UPDATE


class Control(Messages):
    """The part of a connection that the peer governs it by."""

    __slots__ = (
        "_is_ping_unanswered",
        "_is_settled",
        "has_extended_connect",
        "is_going",
        "max_header_bytes",
        "max_streams",
        "peer_last",
    )

    def __init__(self) -> None:
        super().__init__()
        # The peer's settings; see also ``stream_credit`` and ``frame_bytes``
        self.max_streams = MAX_STREAM if self.is_server else ASSUMED_STREAMS
        """Streams that we may have open at a time."""
        self.max_header_bytes = MAX_STREAM
        """Of a head that the peer wishes to see, as RFC 9113 counts it; advice."""
        self.has_extended_connect = False
        """The peer is a server that takes ``:protocol`` (RFC 8441)."""
        self.is_going = False
        """GOAWAY was sent or received: no new streams from us."""
        self.peer_last = MAX_STREAM
        """The last stream of ours that the peer processes, from its GOAWAY."""
        self._is_settled = False
        """The peer has acknowledged our SETTINGS."""
        self._is_ping_unanswered = False

    # The owner

    def settings_acknowledged(self) -> None:
        """Hook: from now on the peer keeps to our SETTINGS."""

    def settings_changed(self) -> None:
        """Hook: the peer's SETTINGS have come."""

    def told_to_go(self, code: int) -> None:
        """Hook: GOAWAY has come, ``is_going`` is set, streams that are not processed are reset."""

    # Frames by their kind

    def control(self, kind: int, number: int, flags: int, payload: bytes) -> None:
        """One complete frame that is neither DATA nor HEADERS."""
        if kind > CONTINUATION:
            # "Implementations MUST ignore and discard frames of unknown types" (4.1).
            self._count(Flood.WASTE)
        else:
            _HANDLERS[kind](self, number, flags, payload)

    def _priority(self, number: int, flags: int, payload: bytes) -> None:
        if not number:
            self.fail(PROTOCOL_ERROR, "PRIORITY without a stream")
        if len(payload) != 5:
            # An error of the stream, which there may be none of to reset (6.3, 6.4).
            stream = self.streams.get(number)
            if stream is None:
                self.fail(FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
            self._stream_error(stream, FRAME_SIZE_ERROR)
        self._count(Flood.WASTE)

    def _rst_stream(self, number: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            self.fail(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        stream = self.streams.get(number)
        moved = MOVES[self._state(number) + RECEIVED_RESET]
        if moved < 0:
            self._violated(stream, moved, "RST_STREAM")
        if stream is None:
            self._count(Flood.WASTE)
            return
        code = u32_of(payload)
        stream.state = moved
        self.closed(stream)
        stream.was_reset(code, is_unprocessed=code == REFUSED_STREAM)
        if self.is_server:
            self._count(Flood.RESETS)

    def _settings(self, number: int, flags: int, payload: bytes) -> None:
        if number:
            self.fail(PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & ACK:
            if payload:
                self.fail(FRAME_SIZE_ERROR, "an acknowledgement with SETTINGS in it")
            if self._is_settled:
                self._count(Flood.SETTINGS)
                return
            self._is_settled = True
            self.settings_acknowledged()
            return
        if len(payload) % 6:
            self.fail(FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        self._count(Flood.SETTINGS, 1 + len(payload) // 256)
        for identifier, value in settings_of(payload):
            code = violation(identifier, value, is_server=self.is_server)
            if code:
                self.fail(code, "a setting has a value that is not allowed")
            if identifier == INITIAL_WINDOW_SIZE:
                self._resize_windows(value)
            elif identifier == MAX_FRAME_SIZE:
                self.frame_bytes = min(value, FRAME_BYTES)
            elif identifier == MAX_CONCURRENT_STREAMS:
                self.max_streams = value
            elif identifier == MAX_HEADER_LIST_SIZE:
                self.max_header_bytes = value
            elif identifier == ENABLE_CONNECT_PROTOCOL and not self.is_server:
                if self.has_extended_connect and not value:
                    # RFC 8441, section 3: not "after previously sending a value of 1".
                    self.fail(PROTOCOL_ERROR, "extended CONNECT was taken back")
                self.has_extended_connect = value == 1
        self.write(SETTINGS_ACK)
        self.settings_changed()

    def _resize_windows(self, value: int) -> None:
        """ "a receiver MUST adjust the size of all stream flow-control windows that it maintains by
        the difference between the new value and the old value" (6.9.2)."""
        change = value - self.stream_credit
        self.stream_credit = value
        if not change:
            return
        for stream in tuple(self.streams.values()):
            if stream.credit + change > MAX_WINDOW:
                self.fail(FLOW_CONTROL_ERROR, "a window is too large")
            stream.more(change)

    def _push_promise(self, number: int, flags: int, payload: bytes) -> None:
        self.fail(PROTOCOL_ERROR, "PUSH_PROMISE, which is not allowed")

    def _ping(self, number: int, flags: int, payload: bytes) -> None:
        if number:
            self.fail(PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            self.fail(FRAME_SIZE_ERROR, "PING of a wrong size")
        self._count(Flood.PINGS)
        if flags & ACK:
            self._is_ping_unanswered = False
        else:
            self.write(frame(PING, ACK, 0, payload))

    def _goaway(self, number: int, flags: int, payload: bytes) -> None:
        if number:
            self.fail(PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            self.fail(FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        last, code = goaway_of(payload)
        if last > self.peer_last:
            # "Endpoints MUST NOT increase the value they send in the last stream identifier" (6.8).
            self.fail(PROTOCOL_ERROR, "GOAWAY with a higher stream than before")
        self._count(Flood.WASTE)
        self.peer_last = last
        self.is_going = True
        if not self.is_server:
            for stream in tuple(self.streams.values()):
                if stream.number > last and stream.state < CLOSED:
                    stream.state = CLOSED
                    self._remember(stream.number)
                    self.closed(stream)
                    stream.was_reset(REFUSED_STREAM, is_unprocessed=True)
        self.told_to_go(code)

    def _window_update(self, number: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            self.fail(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        size = u32_of(payload) & MAX_WINDOW
        if not number:
            if not size:
                self.fail(PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            if self.credit + size > MAX_WINDOW:
                self.fail(FLOW_CONTROL_ERROR, "the connection's window is too large")
            self.credit += size
            if self.waiting:
                self.share()
        else:
            stream = self.streams.get(number)
            moved = MOVES[self._state(number) + RECEIVED_WINDOW_UPDATE]
            if moved < 0:
                self._violated(stream, moved, "WINDOW_UPDATE")
            if stream is None:
                self._count(Flood.WASTE)
                return
            if not size:
                self._stream_error(stream, PROTOCOL_ERROR)
            elif stream.credit + size > MAX_WINDOW:
                self._stream_error(stream, FLOW_CONTROL_ERROR)
            else:
                stream.more(size)
        if size < SMALL_UPDATE_BYTES:
            self._count(Flood.SMALL_UPDATES)


_Handler = Callable[[Control, int, int, bytes], None]
_HANDLERS: Final[dict[int, _Handler]] = {
    PRIORITY: Control._priority,
    RST_STREAM: Control._rst_stream,
    SETTINGS: Control._settings,
    PUSH_PROMISE: Control._push_promise,
    PING: Control._ping,
    GOAWAY: Control._goaway,
    WINDOW_UPDATE: Control._window_update,
    CONTINUATION: Control._continuation,
}
