"""One line for each call that policy wants logged, in batches, to the journal or a file."""

from collections.abc import Callable

from proxy.core.metrics import Metrics
from proxy.http.exchange import Exchange
from proxy.model.telemetry import AccessLog, Telemetry


class AccessLogs:
    """Of one process."""

    def __init__(self, metrics: Metrics) -> None:
        pass

    def apply(self, choice: Telemetry) -> None:
        pass

    def logger(
        self, side: str, caller: str, principal: str, service: str, policy: AccessLog
    ) -> Callable[[Exchange, float], None] | None:
        """For one pair of services as one side sees it; None: nothing is ever logged."""
        return None

    async def close(self) -> None:
        pass
