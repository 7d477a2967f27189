"""Callers without an identity, on a port of their own, while a service moves into the mesh.

What the policy's ``mode`` says decides, for each request and each new TCP session: ``strict``
refuses with a sentence that says what to do, ``permissive`` serves. Whoever comes is remembered by
address, so that an operator sees when nobody does any more. Nothing that such a caller says of
itself is passed on as an identity, and the metrics call it ``unknown``.
"""

import asyncio
from collections import OrderedDict
from time import time
from typing import Final

from proxy.core.authorization import Authorizer, CallerRules
from proxy.http.downstream import DownstreamConnection
from proxy.http.exchange import Exchange
from proxy.http.ledger import Ledger
from proxy.model.authorization import UNKNOWN
from proxy.model.flags import Flag
from proxy.model.names import ServiceName
from proxy.model.observed import PlaintextCaller
from proxy.net.dataplane_metrics import DataPlaneMetrics, Reporter
from proxy.net.inbound import InboundRelay, InboundSession, InboundWorkload
from proxy.net.relay import Closed

MAX_CALLERS: Final = 1000
"""Remembered of one service; who has not come for longest is forgotten first."""


class PlaintextCallers:
    """Who has come to one service, by address."""

    __slots__ = ("_service", "_sources")

    def __init__(self, service: ServiceName) -> None:
        self._service = service
        self._sources: OrderedDict[str, tuple[int, float, float]] = OrderedDict()

    def saw(self, source: str) -> None:
        now = time()
        known = self._sources.get(source)
        if known is not None:
            self._sources[source] = known[0] + 1, known[1], now
            self._sources.move_to_end(source)
            return
        if len(self._sources) >= MAX_CALLERS:
            self._sources.popitem(last=False)
        self._sources[source] = 1, now, now

    def told(self) -> tuple[PlaintextCaller, ...]:
        return tuple(
            PlaintextCaller(
                service=self._service, source=source, count=count, first_at=first, last_at=last
            )
            for source, (count, first, last) in self._sources.items()
        )


class PlaintextListener:
    """Makes the protocols of connections to one workload's plaintext port."""

    def __init__(
        self, workload: InboundWorkload, ledger: Ledger, metrics: DataPlaneMetrics
    ) -> None:
        service = workload.route.service
        self._workload, self._ledger, self._metrics = workload, ledger, metrics
        self.callers = PlaintextCallers(service)
        self._reporter = Reporter(
            metrics, "destination", UNKNOWN, UNKNOWN, service, security="none"
        )
        workload.use_anonymous(self._reporter)

    def accept(self) -> asyncio.Protocol:
        ledger, workload = self._ledger, self._workload
        is_http = workload.route.protocol != "tcp"
        if ledger.is_flooded or (ledger.is_full and not is_http):
            self._metrics.overloads.labels("destination").value += 1
            return Closed()
        if is_http:
            return DownstreamConnection(
                ledger, PlaintextSession(workload, self._reporter, self.callers)
            )
        return PlaintextRelay(ledger, self._reporter, workload, self.callers).near


class PlaintextSession(InboundSession):
    """One connection."""

    is_anonymous = True

    def __init__(
        self, workload: InboundWorkload, reporter: Reporter, callers: PlaintextCallers
    ) -> None:
        super().__init__(workload, UNKNOWN, "a caller without an identity")
        self._reporter = reporter
        self._callers = callers
        self._xfcc = b""

    def _rules_of(self, authorizer: Authorizer) -> CallerRules:
        return authorizer.anonymous

    def dispatch(self, exchange: Exchange) -> None:
        self._callers.saw(exchange.client().decode("ascii", "replace"))
        exchange.head.timeout_ms = b""  # a word among proxies
        super().dispatch(exchange)


class PlaintextRelay(InboundRelay):
    """A TCP session."""

    __slots__ = ("_callers",)

    def __init__(
        self,
        ledger: Ledger,
        reporter: Reporter,
        workload: InboundWorkload,
        callers: PlaintextCallers,
    ) -> None:
        super().__init__(ledger, reporter, workload, UNKNOWN)
        self._callers = callers

    def _rules_of(self, authorizer: Authorizer) -> CallerRules:
        return authorizer.anonymous

    def start(self) -> None:
        workload = self._workload
        self._callers.saw(self.near.peer().decode("ascii", "replace"))
        decision = self._rules_of(workload.authorizer).session
        if decision.audited:
            workload.denials.audited(UNKNOWN, decision, self._ledger.now)
        if not decision.is_allowed:
            workload.denials.denied(UNKNOWN, decision, self._ledger.now)
            self.policy = decision.policy
            self.refuse(Flag.DENIED, decision.why)
            return
        super().start()
