"""The sending side of a connection: what its streams share."""

from typing import TYPE_CHECKING, ClassVar, Final

from proxy.http.h2.frames import DEFAULT_FRAME_BYTES, DEFAULT_WINDOW

if TYPE_CHECKING:
    from proxy.http.h2.stream import Stream

CROWDED_BYTES: Final = 8 * 1024 * 1024
"""Held back for want of credit by all streams of a connection: then all of them are asked to
pause, also those that have sent nothing yet, until it is half."""


class Output:
    """The sending side of a connection, as its streams share it."""

    __slots__ = (
        "bulk",
        "credit",
        "frame_bytes",
        "held_bytes",
        "is_crowded",
        "is_full",
        "is_lost",
        "is_new",
        "is_write_paused",
        "pieces",
        "stream_credit",
        "streams",
        "waiting",
        "withheld",
    )

    is_server: ClassVar[bool]

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.credit = DEFAULT_WINDOW
        """Bytes that all streams together may still send."""
        self.stream_credit = DEFAULT_WINDOW
        """That a new stream may send: the peer's INITIAL_WINDOW_SIZE."""
        self.frame_bytes = DEFAULT_FRAME_BYTES
        """Of payload in one frame: the peer's MAX_FRAME_SIZE, within our own limit."""
        self.waiting: dict[Stream, None] = {}
        """Streams that have credit while the connection has none, in the order of their turns."""
        self.held_bytes = 0
        """In all backlogs."""
        self.pieces = 0
        """Of DATA for paused streams."""
        self.withheld = 0
        """Of all paused streams (``Stream.withheld``)."""
        self.bulk = 0
        """Open streams with a large body, either way (``Stream.is_bulk``)."""
        self.is_new = True
        """No header block has been sent."""
        self.is_write_paused = False
        self.is_crowded = False
        self.is_full = False
        """For the streams: one of the two."""
        self.is_lost = False
        """Nothing is read or written any more: set by the owner, or by the engine's end."""

    # The owner

    def write(self, data: bytes) -> None:
        """Frames. The owner overrides: collects what is written in one turn of the loop."""
        raise NotImplementedError

    def write_frame(self, header: bytes, payload: bytes) -> None:
        """HOT. The same, of one: an owner overrides it that can do without the copy."""
        self.write(header + payload)

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """The same, of much: an owner overrides it that can do without the copy."""
        self.write(b"".join(parts))

    def stream_closed(self, stream: "Stream") -> None:
        """Hook: ``stream`` has just left ``streams``, for whatever reason, once; before its last
        ``headers``, ``data`` or ``was_reset`` is called."""

    def pause_writing(self) -> None:
        """From the transport."""
        self.is_write_paused = self.is_full = True
        self._tell()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self.is_full = self.is_crowded
        self._tell()

    def _tell(self) -> None:
        for stream in tuple(self.streams.values()):
            stream.tell()

    # For the streams

    def hold(self, size: int) -> None:
        """So much more waits for credit, or less."""
        held = self.held_bytes = self.held_bytes + size
        is_crowded = held > (CROWDED_BYTES // 2 if self.is_crowded else CROWDED_BYTES)
        if is_crowded is not self.is_crowded:
            self.is_crowded = is_crowded
            self.is_full = is_crowded or self.is_write_paused
            self._tell()

    def ease(self, stream: "Stream") -> None:
        """What has come for ``stream`` while it was paused is being taken, or is for nobody."""
        self.pieces -= stream.pieces
        self.withheld -= stream.withheld
        stream.pieces = stream.withheld = 0

    def closed(self, stream: "Stream") -> None:
        """``stream`` is over, except for what the owner may still be told of it."""
        raise NotImplementedError

    def share(self) -> None:
        """The connection has credit: streams that wait for it take turns, a frame each."""
        waiting = self.waiting
        while waiting and self.credit > 0 and not self.is_lost:
            stream = next(iter(waiting))
            del waiting[stream]
            stream.pump(self.frame_bytes)
