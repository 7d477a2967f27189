"""How late an event loop is: what every request on it waits for besides its own work."""

import asyncio
from collections.abc import Callable

from proxy.core.metrics import Metrics, Value

PULSE_S = 0.5


def lag_gauge(metrics: Metrics) -> Value:
    return metrics.gauge(
        "mesh_event_loop_lag_seconds",
        "How late the last timer of the event loop was; the slowest worker's.",
        combine="max",
    ).labels()


async def pulse(lag: Value, beat: Callable[[], None], period_s: float = PULSE_S) -> None:
    """Measures, then calls ``beat``, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        before_s = loop.time()
        await asyncio.sleep(period_s)
        lag.value = max(0.0, loop.time() - before_s - period_s)
        beat()
