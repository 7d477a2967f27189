"""What is counted, as somebody asks for it, without holding up the requests that are counted.

A host with many callers has tens of thousands of lines to write. They are written in pieces, and
between these the event loop serves whoever waits.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from time import perf_counter
from typing import Final, TypeVar

import msgspec

from proxy.core.exposition import END_OF_OPEN_METRICS, LabelTexts, Tally, pieces
from proxy.core.metrics import Metrics
from proxy.model.codec import encode
from proxy.net.admin import OPEN_METRICS, PROMETHEUS, Answer
from proxy.net.workers import Workers

HOLD_S: Final = 0.001
"""How long one piece of work takes at most, or little more: a request on its way waits so long."""
_OPEN: Final = "application/openmetrics-text"

T = TypeVar("T")


class Exposure:
    """Of the whole proxy."""

    def __init__(self, metrics: Metrics, workers: Workers) -> None:
        self._metrics, self._workers = metrics, workers
        self._texts = LabelTexts()

    async def tally(self) -> Tally:
        """Over all workers."""
        own = tuple([family async for family in in_pieces(self._metrics.tallies())])
        merging = await self._workers.tallies(own)
        return own if merging is None else tuple([family async for family in in_pieces(merging)])

    async def scraped(self, accept: str = "") -> Answer:
        """As text, in the form that the ``Accept`` header asks for."""
        is_open = wants_open_metrics(accept)
        tally = await self.tally()
        lines = (line for family in tally for line in pieces(family, self._texts, is_open=is_open))
        body = bytearray()  # grows where it is: to put megabytes together at the end takes long too
        async for line in in_pieces(lines):
            body += line.encode()
        self._texts.prune(sum(len(family.series) for family in tally))
        if is_open:
            body += END_OF_OPEN_METRICS
        content_type = OPEN_METRICS if is_open else PROMETHEUS
        return Answer(body=body, content_type=content_type)

    async def encoded(self) -> list[msgspec.Raw]:
        """As JSON, one of each metric."""
        tally = await self.tally()
        return [each async for each in in_pieces(msgspec.Raw(encode(each)) for each in tally)]


async def in_pieces(items: Iterable[T], hold_s: float = HOLD_S) -> AsyncIterator[T]:
    """The same items; after each that ends a piece of work, everybody else has a turn."""
    began = perf_counter()
    for item in items:
        yield item
        if perf_counter() - began > hold_s:
            await asyncio.sleep(0)
            began = perf_counter()


def wants_open_metrics(accept: str) -> bool:
    """Whether somebody who sends this header likes OpenMetrics no less than the older text.

    Who takes anything (``*/*``) gets the older text, which everything reads.
    """
    likes = {_OPEN: 0.0, "text/plain": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (each.strip() for each in part.split(";"))
        if kind in likes:
            weights = [each[2:] for each in parameters if each.startswith("q=")]
            likes[kind] = max(likes[kind], _weight(weights[0]) if weights else 1.0)
    return likes[_OPEN] > 0 and likes[_OPEN] >= likes["text/plain"]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
