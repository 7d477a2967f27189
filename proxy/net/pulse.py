"""How late an event loop is: what every request on it waits for besides its own work."""

import asyncio
from collections.abc import Callable

from proxy.core.metrics import Metrics

PULSE_S = 0.5


_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Lag:
    """The last one for a glance, and all of them, so that no reader misses one in between."""

    __slots__ = ("_all", "_last")

    def __init__(self, metrics: Metrics) -> None:
        self._last = metrics.gauge(
            "mesh_event_loop_lag_seconds",
            "How late the last timer of the event loop was; the slowest worker's.",
            combine="max",
        ).labels()
        self._all = metrics.histogram(
            "mesh_event_loop_delay_seconds",
            "How late the timers of the event loop were, twice a second in each worker.",
            buckets=_BUCKETS,
        ).labels()

    @property
    def value(self) -> float:
        """Seconds."""
        return self._last.value

    def saw(self, late_s: float) -> None:
        self._last.value = late_s
        self._all.observe(late_s)


def lag_gauge(metrics: Metrics) -> Lag:
    return Lag(metrics)


async def pulse(lag: Lag, beat: Callable[[], None], period_s: float = PULSE_S) -> None:
    """Measures, then calls ``beat``, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        before_s = loop.time()
        await asyncio.sleep(period_s)
        lag.saw(max(0.0, loop.time() - before_s - period_s))
        beat()
