"""The metrics as their readers get them: in which form, and that nobody waits for it."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.metrics import Metrics
from proxy.net.exposure import Exposure, in_pieces, wants_open_metrics

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_OLD = "text/plain;version=0.0.4;q=1,*/*;q=0.1"


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_OLD, False),
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("application/openmetrics-text", True),
        ("APPLICATION/OpenMetrics-Text; q=0.3", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.3", False),
        ("application/openmetrics-text;q=x", False),
        (";;,,q=1;", False),
    ],
)
def test_open_metrics_goes_to_who_likes_it_no_less_than_the_older_text(
    accept: str, is_open: bool
) -> None:
    assert wants_open_metrics(accept) is is_open


class Alone:
    """As with ``workers: 1``."""

    async def tallies(self, own: object) -> None:
        return None


def exposure(metrics: Metrics) -> Exposure:
    alone: Any = Alone()
    return Exposure(metrics, alone)


async def test_both_forms_say_which_they_are() -> None:
    metrics = Metrics()
    metrics.counter("c_total", "").labels()
    made = exposure(metrics)
    older, newer = await made.scraped(), await made.scraped(PROMETHEUS_2)
    assert older.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert older.body == metrics.render()
    assert newer.content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert newer.body == b"# HELP c \n# TYPE c counter\nc_total 0\n# EOF\n"


async def test_everybody_else_has_a_turn_between_the_pieces() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    seen = []
    async for item in in_pieces(range(50), hold_s=0.0):
        seen.append((item, turns))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert [item for item, _ in seen] == list(range(50))
    assert [turn for _, turn in seen] == list(range(50))


async def test_a_large_answer_is_made_in_pieces() -> None:
    metrics = Metrics()
    family = metrics.histogram("h", "", ("who",))
    for number in range(1000):
        family.labels(f"caller-{number}").observe(number)
    turns = 0
    is_done = SimpleNamespace(value=False)

    async def others() -> None:
        nonlocal turns
        while not is_done.value:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    answer = await exposure(metrics).scraped()
    is_done.value = True
    await task
    assert answer.body == metrics.render()
    assert turns > 2
