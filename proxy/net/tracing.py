"""Spans of the calls that are traced, and their way out: OTLP over HTTP, in batches."""

from proxy.core.metrics import Metrics
from proxy.http.exchange import Exchange
from proxy.model.telemetry import Telemetry, Tracing


class Sampler:
    """For one pair of services as one side sees it."""

    def begin(self, exchange: Exchange) -> None:
        """HOT. Before the request is sent on. If the call is traced: sets ``exchange.span``, whose
        ``ended(exchange, now)`` is called once it is finished, and its context in the head."""


class Tracer:
    """Of one process."""

    def __init__(self, metrics: Metrics) -> None:
        pass

    def apply(self, choice: Telemetry) -> None:
        pass

    def sampler(self, side: str, caller: str, service: str, policy: Tracing) -> Sampler | None:
        """None: nothing is ever traced."""
        return None

    async def close(self) -> None:
        pass
