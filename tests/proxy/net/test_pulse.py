"""The lag of an event loop, measured from within."""

import asyncio
import time

from proxy.core.metrics import Metrics
from proxy.net.pulse import lag_gauge, pulse


async def test_a_loop_that_is_held_up_shows_by_how_much() -> None:
    lag = lag_gauge(Metrics())
    beats: list[float] = []
    task = asyncio.ensure_future(pulse(lag, lambda: beats.append(lag.value), 0.01))
    async with asyncio.timeout(5):
        while not beats:
            await asyncio.sleep(0.001)
        time.sleep(0.2)
        seen = len(beats)
        while len(beats) == seen:
            await asyncio.sleep(0.001)
    assert 0.15 < max(beats) < 2.0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
