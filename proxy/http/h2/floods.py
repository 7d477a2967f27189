"""What a peer may do in a second that costs us something and gives it nothing.

Each of these is allowed by RFC 9113 frame by frame, and has been an attack in large numbers
(section 10.5). One beyond its limit, the connection is ended with ENHANCE_YOUR_CALM.
"""

from enum import IntEnum
from typing import Final


class Flood(IntEnum):
    RESETS = 0
    RESETS_MADE = 1
    SETTINGS = 2
    PINGS = 3
    EMPTY_DATA = 4
    SMALL_UPDATES = 5
    WASTE = 6


LIMITS: Final[dict[Flood, tuple[int, str]]] = {
    # RST_STREAM for requests that had begun ("rapid reset"). Each has cost a whole request, some
    # 20 us or more; a client whose deadline passes gives up all it has under way, a few hundred.
    Flood.RESETS: (1_000, "too many requests were given up"),
    # RST_STREAM that the peer makes us send (the same, by way of errors). A client that does not
    # know our MAX_CONCURRENT_STREAMS yet has a few hundred refused at most.
    Flood.RESETS_MADE: (500, "too many streams were in error"),
    # Each may touch all streams; well-behaved peers send a handful in the life of a connection.
    Flood.SETTINGS: (100, "too many SETTINGS"),
    # Peers that measure the bandwidth send one a round trip while data flows, so thousands on a
    # fast network; each costs about 2 us and 17 bytes of answer.
    Flood.PINGS: (5_000, "too many PINGs"),
    # DATA of nothing, which no window holds back. Some senders end a message with one: END_STREAM
    # is not counted.
    Flood.EMPTY_DATA: (1_000, "too many empty DATA frames"),
    # WINDOW_UPDATEs of a few bytes, each of which may call for a DATA frame of a few bytes. Peers
    # that give credit back message by message send some.
    Flood.SMALL_UPDATES: (10_000, "too many small WINDOW_UPDATEs"),
    # Frames that change nothing: PRIORITY, unknown kinds, those of streams that are gone. What is
    # under way when we reset a stream is a window: 256 frames of 1 KiB.
    Flood.WASTE: (10_000, "too many frames that mean nothing"),
}

SMALL_UPDATE_BYTES: Final = 1024
MOST_CONTINUATIONS: Final = 64
"""For one header block, whatever their size: 64 KiB take four frames."""
MOST_BLOCK_BYTES: Final = 64 * 1024
"""Of one header block as it comes; what it unpacks to is the decoder's to limit."""
MOST_PIECES: Final = 32_768
"""DATA that arrived for streams that are paused, in pieces: each costs 100 bytes besides its own,
so a window of single bytes would take 60 times its size."""

_MOST: Final = tuple(LIMITS[flood][0] for flood in Flood)


class Floods:
    """Counts since the last sweep, a second ago."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * len(_MOST)

    def count(self, flood: Flood, number: int = 1) -> bool:
        """Whether it is beyond the limit."""
        self._counts[flood] += number
        return self._counts[flood] > _MOST[flood]

    def sweep(self) -> None:
        self._counts = [0] * len(_MOST)
