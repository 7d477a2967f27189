"""Header blocks that came before, by their exact bytes, with what was made of them.

Most messages of one sender have the same fields as its last one. Then one lookup replaces the
parsing, and nothing can be read differently, because not a byte is different. What comes only
once is not kept, and so does not push out what comes often.
"""

from typing import Final, Generic, TypeVar

KEPT: Final = 512
SEEN: Final = 4096
BLOCK_BYTES: Final = 1024
"""At most half a megabyte of blocks for each memo, and as much for the lines they consist of."""

T = TypeVar("T")


class Blocks(Generic[T]):
    """A memo, bounded in number and bytes; emptied when full, which costs less than an order."""

    __slots__ = ("_known", "_seen", "get")

    def __init__(self) -> None:
        self._known: dict[bytes, T] = {}
        self._seen: set[int] = set()
        self.get = self._known.get
        """HOT."""

    def is_due(self, block: bytes) -> bool:
        """Whether it should be kept: seen before, and not too long."""
        if len(block) > BLOCK_BYTES:
            return False
        key = hash(block)
        if key in self._seen:
            return True
        if len(self._seen) >= SEEN:
            self._seen.clear()
        self._seen.add(key)
        return False

    def keep(self, block: bytes, made: T) -> None:
        if len(self._known) >= KEPT:
            self._known.clear()
        self._known[block] = made

    def __len__(self) -> int:
        return len(self._known)
