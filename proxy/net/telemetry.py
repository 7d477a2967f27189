"""What one process tells of single calls: the access log and the traces.

Both get a finished exchange on the path of the request, and take from it what they will write
later, when they are many: nothing here waits, and everything that waits to be written is bounded.
"""

from proxy.core.metrics import Metrics
from proxy.model.telemetry import Telemetry as Choice
from proxy.net.access_log import AccessLogs
from proxy.net.pair_log import PairLog
from proxy.net.tracing import Tracer

Log = PairLog
"""Gets a finished exchange and the time, monotonic seconds; decides whether it is logged."""


class Telemetry:
    def __init__(self, metrics: Metrics) -> None:
        self.logs = AccessLogs(metrics)
        self.tracer = Tracer(metrics)

    def apply(self, choice: Choice) -> None:
        self.logs.apply(choice)
        self.tracer.apply(choice)

    async def close(self) -> None:
        """Writes what waits, within a second or so."""
        await self.logs.close()
        await self.tracer.close()
