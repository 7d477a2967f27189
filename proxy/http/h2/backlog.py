"""What of one stream waits for credit."""

from collections import deque
from typing import Final

_COALESCED_BYTES: Final = 4096
"""Pieces below wait joined, so that many small ones do not cost many times their size."""


class Backlog:
    """What waits for credit."""

    __slots__ = ("at", "is_end", "pieces", "size", "tail", "trailers")

    def __init__(self) -> None:
        self.pieces: deque[bytes] = deque()
        self.at = 0
        """Of the first piece, so much has been sent."""
        self.tail = bytearray()
        """Small pieces behind the others."""
        self.size = 0
        """Bytes in all."""
        self.is_end = False
        self.trailers = b""

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if len(data) < _COALESCED_BYTES:
            self.tail += data
            if len(self.tail) < _COALESCED_BYTES:
                return
            data = b""
        if self.tail:
            self.pieces.append(bytes(self.tail))
            self.tail.clear()
        if data:
            self.pieces.append(data)

    def first(self) -> bytes:
        """The piece whose turn it is; ``size`` is not 0."""
        if not self.pieces:
            self.pieces.append(bytes(self.tail))
            self.tail.clear()
        return self.pieces[0]
