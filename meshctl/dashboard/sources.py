"""What the dashboard shows, as streams: each source yields documents, or why there is none now."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from meshctl.errors import MeshError

Document = object
"""What ``msgspec`` can encode."""


class Source(Protocol):
    @property
    def topic(self) -> str:
        """The name of its events."""

    def documents(self) -> AsyncGenerator[Document | MeshError, None]:
        """Goes on for ever; a failure is yielded, and the next document may follow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """Asks, waits, asks again: for what is slow to find out and slow to change."""

    topic: str
    every_s: float
    """Between an answer and the next question."""
    deadline_s: float
    read: Callable[[], Awaitable[Document]]

    async def documents(self) -> AsyncGenerator[Document | MeshError, None]:
        while True:
            try:
                async with asyncio.timeout(self.deadline_s):
                    found: Document | MeshError = await self.read()
            except MeshError as error:
                found = error
            except TimeoutError:
                found = MeshError(
                    f"no answer within {self.deadline_s:g} s",
                    hint="meshctl status says which host is slow",
                )
            yield found
            await asyncio.sleep(self.every_s)
