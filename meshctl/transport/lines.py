"""Bytes of a command that goes on, as lines for one reader: bounded, and slowed by its pace."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

MAX_LINE_BYTES = 16 * 2**20
"""Of one line: what all counters of a proxy need, several times over."""

AHEAD_BYTES = 2**20
"""Read before they are asked for; then the command has to wait."""


class LineTooLong(Exception):
    """The command printed more than a line may have."""


class Lines(AsyncIterator[bytes]):
    """``feed`` and ``end`` on one side, iteration on the other; lines come without their end.

    What is left after the last line break is a line too if the command ended well.
    """

    def __init__(self, *, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause, self._resume = pause, resume
        self._complete: deque[bytes] = deque()
        self._partial = bytearray()
        self._ahead_bytes = 0
        self._is_paused = False
        self._has_ended = False
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    def feed(self, data: bytes) -> None:
        """Raises LineTooLong, after which there is nothing to be had but the failure."""
        if self._has_ended:
            return
        *ends, rest = data.split(b"\n")
        for piece in ends:
            self._partial += piece
            self._complete.append(bytes(self._partial))
            self._ahead_bytes += len(self._partial) + 1
            self._partial.clear()
        self._partial += rest
        if len(self._partial) > MAX_LINE_BYTES:
            raise LineTooLong
        if ends:
            self._changed.set()
        if self._ahead_bytes > AHEAD_BYTES and not self._is_paused:
            self._is_paused = True
            self._pause()

    def end(self, failure: Exception | None = None) -> None:
        """Raised once the lines before it were read; the first of several counts."""
        if self._has_ended:
            return
        self._has_ended, self._failure = True, failure
        if self._partial and failure is None:
            self._complete.append(bytes(self._partial))
        self._changed.set()

    async def __anext__(self) -> bytes:
        while not self._complete:
            if self._has_ended:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        line = self._complete.popleft()
        self._ahead_bytes -= len(line) + 1
        if self._is_paused and self._ahead_bytes <= AHEAD_BYTES // 2:
            self._is_paused = False
            self._resume()
        return line
