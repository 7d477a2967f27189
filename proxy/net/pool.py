"""Connections to one address, kept for the next request, and new ones when there is none.

A pool belongs to one upstream (or the local application) and one endpoint. Connections carry
the identity that they were made with; after a rotation those of the old one are used no more,
but a request that is on one of them finishes there.
"""

from collections import deque
from collections.abc import Callable
from random import Random

from proxy.core.balance import EndpointState
from proxy.core.metrics import Value
from proxy.core.retry import Failure
from proxy.http.exchange import Exchange
from proxy.http.ledger import Ledger
from proxy.http.upstream import UpstreamConnection
from proxy.model.endpoint import Endpoint
from proxy.model.flags import Flag
from proxy.net.pool_dial import Dial, Dialer

MAX_CONNECTIONS = 1024
"""To one upstream, over all its endpoints (Envoy's default for a cluster)."""

_rng = Random()  # noqa: S311  # spreads load in time; nothing secret


class Quota:
    """Of connections, shared by the pools of one upstream."""

    __slots__ = ("gauge", "limit")

    def __init__(self, gauge: Value, limit: int = MAX_CONNECTIONS) -> None:
        self.gauge = gauge
        """Open or being opened: what is measured is what is limited."""
        self.limit = limit


class EndpointPool(EndpointState):
    """All connections to one endpoint."""

    __slots__ = (
        "_connecting",
        "_dialer",
        "_idle",
        "_is_retired",
        "_ledger",
        "_on_outcome",
        "_open",
        "_quota",
        "idle_s",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        dialer: Dialer,
        ledger: Ledger,
        quota: Quota,
        idle_s: float,
        on_outcome: Callable[["EndpointPool", bool], None],
    ) -> None:
        """``on_outcome`` hears of each dial whether it connected."""
        super().__init__(endpoint)
        self._dialer = dialer
        self._ledger = ledger
        self._quota = quota
        self.idle_s = idle_s
        self._on_outcome = on_outcome
        self._idle: deque[UpstreamConnection] = deque()
        self._connecting: dict[UpstreamConnection, tuple[Exchange, Dial]] = {}
        self._open: set[UpstreamConnection] = set()
        """All, from the dial on: what the quota counts."""
        self._is_retired = False

    def serve(self, exchange: Exchange, *, is_fresh: bool = False) -> None:
        """Sends the request on an idle connection or on a new one."""
        identity = self._dialer.identity
        idle = self._idle
        if not is_fresh:
            while idle:
                connection = idle.pop()
                if connection.is_lost:
                    continue
                if connection.tag is identity:
                    exchange.attach(connection)
                    return
                connection.close()
        quota = self._quota
        if quota.gauge.value >= quota.limit:
            exchange.refuse(Flag.UPSTREAM_OVERFLOW, f"({quota.limit} connections are open)")
            return
        quota.gauge.value += 1
        connection = UpstreamConnection(self, identity)
        self._open.add(connection)
        dial = self._dialer.dial(
            self.endpoint.address,
            self.endpoint.port,
            exchange.timeouts.connect_s,
            connection,
            lambda detail: self._failed(connection, detail),
        )
        self._connecting[connection] = (exchange, dial)

    def connected(self, connection: UpstreamConnection) -> None:
        waiting = self._connecting.pop(connection, None)
        if waiting is None:  # given up in the same moment
            connection.abort()
            return
        exchange, dial = waiting
        dial.succeeded()
        self._on_outcome(self, True)
        if exchange.is_finished:
            connection.is_reused = True
            self.release(connection)
        else:
            exchange.attach(connection)

    def _failed(self, connection: UpstreamConnection, detail: str) -> None:
        exchange, _ = self._connecting.pop(connection)
        self._forget(connection)
        self._on_outcome(self, False)
        endpoint = self.endpoint
        at = f"{endpoint.address}:{endpoint.port}"
        exchange.upstream_failed(
            Failure.CONNECT, f"{endpoint.host} at {at}: {detail}" if endpoint.host else detail
        )

    def release(self, connection: UpstreamConnection) -> None:
        if self._is_retired or connection.tag is not self._dialer.identity:
            connection.close()
            return
        connection.idle_since = self._ledger.now
        self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        self._forget(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _forget(self, connection: UpstreamConnection) -> None:
        if connection in self._open:
            self._open.discard(connection)
            self._quota.gauge.value -= 1

    def sweep(self, now: float) -> None:
        idle = self._idle
        while idle and now - idle[0].idle_since > self.idle_s:
            idle.popleft().close()

    def retire_old_identity(self) -> None:
        """Closes the idle connections that were made with an identity no longer in force."""
        identity = self._dialer.identity
        for connection in [each for each in self._idle if each.tag is not identity]:
            self._idle.remove(connection)
            connection.close()

    def retire(self) -> None:
        """The endpoint has left: what is in flight finishes, nothing is kept."""
        self._is_retired = True
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Now: whatever is in flight is cut."""
        self.retire()
        for connection, (_, dial) in list(self._connecting.items()):
            dial.cancel()
            self._forget(connection)
        self._connecting.clear()
        for connection in list(self._open):
            connection.abort()


def jitter() -> Random:
    """The process's source of chance for things that only need to be spread."""
    return _rng
