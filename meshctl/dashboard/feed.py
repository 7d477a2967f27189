"""The newest document of each topic, encoded once, told to every open tab.

A tab that reads slowly gets the newest of each topic when it is ready, and never what came between:
nothing is queued, so nothing can grow.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager

import msgspec

from meshctl.dashboard.sources import Document, Source
from meshctl.errors import MeshError, RemoteFailure

MAX_TABS = 24
"""More than anybody looks at; each costs an encoded document in a socket's buffer."""
QUIET_S = 10.0
"""A comment is sent after so long without news, so that a dead connection shows."""
_AGAIN_S = 5.0
_log = logging.getLogger(__name__)


class TooManyTabs(Exception):
    """``MAX_TABS`` are open."""


class Feed:
    def __init__(self) -> None:
        self._events: dict[str, bytes] = {}
        self._good: dict[str, tuple[float, Document]] = {}
        self._tabs: set[_Tab] = set()

    @property
    def tabs(self) -> int:
        return len(self._tabs)

    def tell(self, topic: str, found: Document | MeshError) -> None:
        """After a failure the last good document stays, with the failure beside it."""
        now = time.time()
        error: dict[str, str] | None = None
        if isinstance(found, MeshError):
            error = {"message": str(found), "hint": found.hint, "output": _output(found)}
        else:
            self._good[topic] = (now, found)
        at, document = self._good.get(topic, (0.0, None))
        body = msgspec.json.encode({"at": at, "error": error, "data": document})
        self._events[topic] = b"event: %b\ndata: %b\n\n" % (topic.encode(), body)
        for tab in self._tabs:
            tab.wake(topic)

    async def run(self, sources: Iterable[Source]) -> None:
        """Until cancelled: each source in a task of its own, begun anew should it break."""
        async with asyncio.TaskGroup() as group:
            for source in sources:
                group.create_task(self._follow(source), name=f"dashboard {source.topic}")

    async def _follow(self, source: Source) -> None:
        while True:
            try:
                async with aclosing(source.documents()) as documents:
                    async for found in documents:
                        self.tell(source.topic, found)
            except MeshError as error:
                self.tell(source.topic, error)
            except Exception as error:
                # One page that cannot be shown must not take the others with it.
                _log.exception("the source of %s broke", source.topic)
                told = f"this is a fault of meshctl: {type(error).__name__}"
                self.tell(source.topic, MeshError(told, hint="see the terminal of the dashboard"))
            await asyncio.sleep(_AGAIN_S)

    @contextmanager
    def _open(self) -> Iterator["_Tab"]:
        if len(self._tabs) >= MAX_TABS:
            raise TooManyTabs
        tab = _Tab(self._events)
        self._tabs.add(tab)
        try:
            yield tab
        finally:
            self._tabs.discard(tab)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """As they go on the wire: first what is known of every topic, then the news.

        Raises TooManyTabs at the first step.
        """
        with self._open() as tab:
            while True:
                topics = await tab.news()
                yield b"".join(self._events[topic] for topic in topics) or b": still here\n\n"


class _Tab:
    __slots__ = ("_event", "_topics")

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics = dict.fromkeys(topics)
        self._event = asyncio.Event()
        if self._topics:
            self._event.set()

    def wake(self, topic: str) -> None:
        self._topics[topic] = None
        self._event.set()

    async def news(self) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(QUIET_S):
                await self._event.wait()
        except TimeoutError:
            return ()
        topics = tuple(self._topics)
        self._topics.clear()
        self._event.clear()
        return topics


def _output(error: MeshError) -> str:
    return error.output if isinstance(error, RemoteFailure) else ""
