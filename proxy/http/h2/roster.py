"""Which streams a connection has, had, and will not have; how an error ends one of them, or all.

A breach of RFC 9113 is an error of one stream (section 5.4.2: RST_STREAM, and its half is told by
``was_reset``) or of the connection (5.4.1: GOAWAY, and ``ConnectionBroken`` is raised).
"""

from typing import Final, NoReturn

from proxy.http.h2.floods import LIMITS as FLOOD_LIMITS
from proxy.http.h2.floods import Flood, Floods
from proxy.http.h2.frames import ENHANCE_YOUR_CALM, PROTOCOL_ERROR, code_name, goaway_frame
from proxy.http.h2.output import Output
from proxy.http.h2.states import CLOSED, CONNECTION, IDLE, RESET
from proxy.http.h2.stream import Stream

_RESETS_KNOWN: Final = 1024
"""Streams that we have reset last: what still comes for them was under way."""
_GAPS_KNOWN: Final = 16
"""Whose numbers were left out; it makes a difference in an error's code alone."""


class ConnectionBroken(Exception):
    """The connection cannot go on; GOAWAY is written. ``code``: the error code that it carries."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail} ({code_name(self.code)})"


class Roster(Output):
    """Streams by their numbers."""

    __slots__ = ("_floods", "_gaps", "_last", "_next", "_reset")

    def __init__(self) -> None:
        super().__init__()
        self._next = 1
        """The next number of ours."""
        self._last = 0
        """The highest of the peer's."""
        self._gaps: list[tuple[int, int]] = []
        """Numbers that the peer has left out, from and to: such streams are closed, and never
        were open."""
        self._reset: dict[int, None] = {}
        self._floods = Floods()

    # The owner

    def fail(self, code: int, detail: str) -> NoReturn:
        """Ends the connection for an error of the peer's."""
        self.write(goaway_frame(self._last, code, detail.encode()))
        raise ConnectionBroken(code, detail)

    def stream_error(self, stream: Stream, code: int) -> None:
        """Ends ``stream`` for an error of the peer's, as far as the peer is concerned; counted, as
        ``send_reset`` is not. The half need not be told."""
        stream.send_reset(code)
        self._count(Flood.RESETS_MADE)

    # For the streams

    def closed(self, stream: Stream) -> None:
        if self.streams.pop(stream.number, None) is None:
            return
        stream.drop()
        if stream.withheld:
            self.ease(stream)
        self.bulk -= stream.is_bulk
        if stream.state == RESET:
            self._remember(stream.number)
        self.stream_closed(stream)

    # For the engine

    def _remember(self, number: int) -> None:
        """That it was reset by us."""
        reset = self._reset
        reset[number] = None
        if len(reset) > _RESETS_KNOWN:
            del reset[next(iter(reset))]

    def _skip_numbers(self, number: int) -> None:
        """The peer's next stream is ``number``, which is not the next number."""
        if len(self._gaps) < _GAPS_KNOWN:
            self._gaps.append((self._last + 1, number - 1))

    def _was_skipped(self, number: int) -> bool:
        return any(low <= number <= high for low, high in self._gaps)

    def _state(self, number: int) -> int:
        """Of the stream ``number``, which need not be there any more, or yet."""
        stream = self.streams.get(number)
        if stream is not None:
            return stream.state
        if not number & 1 or (number > self._last if self.is_server else number >= self._next):
            return IDLE
        return RESET if number in self._reset else CLOSED

    def _violated(self, stream: Stream | None, moved: int, name: str) -> None:
        """What the table says of a frame that was not allowed."""
        if moved <= -CONNECTION:
            detail = "a stream that has not begun" if moved == -CONNECTION - PROTOCOL_ERROR else ""
            self.fail(-moved - CONNECTION, f"{name} for {detail or 'a stream that is closed'}")
        assert stream is not None
        self._stream_error(stream, -moved)

    def _stream_error(self, stream: Stream, code: int) -> None:
        """Of the peer's doing, and the half is told."""
        stream.send_reset(code)
        stream.was_reset(code, is_unprocessed=False)
        self._count(Flood.RESETS_MADE)

    def _count(self, flood: Flood, number: int = 1) -> None:
        if self._floods.count(flood, number):
            self.fail(ENHANCE_YOUR_CALM, FLOOD_LIMITS[flood][1])
