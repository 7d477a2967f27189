"""Connections to one address, kept for the next request, and new ones when there is none.

A pool belongs to one cluster (or the local application) and one endpoint. Connections carry the
identity that they were made with; after a rotation those of the old one are used no more, but a
request that is on one of them finishes there.
"""

from collections import deque
from collections.abc import Sequence
from random import Random
from time import monotonic

from proxy.core.balance import EndpointState
from proxy.core.metrics import Value
from proxy.core.retry import Failure
from proxy.http.exchange import Exchange
from proxy.http.ledger import Ledger
from proxy.http.upstream import UpstreamConnection
from proxy.model.endpoint import Endpoint
from proxy.model.flags import Flag
from proxy.model.resilience import Limits
from proxy.net.pool_dial import Dial, Dialer

_rng = Random()  # noqa: S311  # spreads load in time; nothing secret


class Quota:
    """Of connections, shared by the pools of one upstream; and who waits for one."""

    __slots__ = ("gauge", "limit", "pending", "pending_limit", "pools", "waiting")

    def __init__(self, gauge: Value, limits: Limits | None = None) -> None:
        self.gauge = gauge
        """Open or being opened: what is measured is what is limited."""
        limits = limits or Limits()
        self.limit = limits.connections
        self.pending_limit = limits.pending
        self.pending = 0
        """Requests that wait for a connection, being made or not."""
        self.waiting: deque[tuple[Exchange, EndpointPool]] = deque()
        self.pools: Sequence[EndpointPool] = ()

    def apply(self, limits: Limits) -> None:
        self.limit, self.pending_limit = limits.connections, limits.pending

    def has_room(self) -> bool:
        """Perhaps at the cost of an idle connection to another endpoint."""
        if self.gauge.value < self.limit:
            return True
        return any(pool.drop_idle() for pool in self.pools)

    def next(self) -> "tuple[Exchange, EndpointPool] | None":
        """Whoever has waited longest and still does."""
        while self.waiting:
            exchange, pool = self.waiting.popleft()
            self.pending -= 1
            if not exchange.is_finished:
                return exchange, pool
        return None

    def forget_finished(self) -> None:
        if self.waiting:
            left = [each for each in self.waiting if not each[0].is_finished]
            self.pending -= len(self.waiting) - len(left)
            self.waiting = deque(left)


class Owner:
    """What a pool's connections and requests mean to the cluster; this one, nothing."""

    def dialled(self, pool: "EndpointPool", is_connected: bool) -> None: ...

    def overflowed(self, exchange: Exchange, pool: "EndpointPool", detail: str) -> None:
        """There is room for neither the request nor its waiting."""
        exchange.refuse(Flag.UPSTREAM_OVERFLOW, detail)

    def moved(self, exchange: Exchange, before: "EndpointPool", now: "EndpointPool") -> None:
        """A request that waited for one endpoint is served by another one."""


class EndpointPool(EndpointState):
    """All connections to one endpoint."""

    __slots__ = (
        "_connecting",
        "_idle",
        "_is_retired",
        "_ledger",
        "_open",
        "_quota",
        "dialer",
        "idle_s",
        "owner",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        dialer: Dialer,
        ledger: Ledger,
        quota: Quota,
        idle_s: float,
        owner: Owner,
    ) -> None:
        super().__init__(endpoint)
        self.dialer = dialer
        self._ledger = ledger
        self._quota = quota
        self.idle_s = idle_s
        self.owner = owner
        self._idle: deque[UpstreamConnection] = deque()
        self._connecting: dict[UpstreamConnection, tuple[Exchange, Dial]] = {}
        self._open: set[UpstreamConnection] = set()
        """All, from the dial on: what the quota counts."""
        self._is_retired = False

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def serve(self, exchange: Exchange, *, is_fresh: bool = False) -> None:
        """Sends the request on an idle connection or on a new one.

        Only a request whose ``target`` this is may wait, for then any other endpoint would do.
        """
        idle = self._idle
        if not is_fresh:
            identity = self.dialer.identity
            while idle:
                connection = idle.pop()
                if connection.is_lost:
                    continue
                if connection.tag is identity:
                    exchange.attach(connection)
                    return
                connection.close()
        quota = self._quota
        if quota.pending >= quota.pending_limit:
            self.owner.overflowed(exchange, self, f"({quota.pending} requests are waiting)")
        elif quota.has_room():
            quota.pending += 1
            self._dial(exchange)
        elif exchange.target is self:
            quota.pending += 1
            quota.waiting.append((exchange, self))
        else:
            self.owner.overflowed(exchange, self, f"({quota.limit} connections are open)")

    def _dial(self, exchange: Exchange) -> None:
        self._quota.gauge.value += 1
        connection = UpstreamConnection(self, self.dialer.identity)
        self._open.add(connection)
        dial = self.dialer.dial(
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
        self._ledger.now = monotonic()  # the endpoint's latency is counted from here
        self._quota.pending -= 1
        self.owner.dialled(self, True)
        if exchange.is_finished:
            connection.is_reused = True
            self.release(connection)
        else:
            exchange.attach(connection)

    def _failed(self, connection: UpstreamConnection, detail: str) -> None:
        exchange, _ = self._connecting.pop(connection)
        self._quota.pending -= 1
        self._forget(connection)
        self.owner.dialled(self, False)
        endpoint = self.endpoint
        at = f"{endpoint.address}:{endpoint.port}"
        exchange.upstream_failed(
            Failure.CONNECT, f"{endpoint.host} at {at}: {detail}" if endpoint.host else detail
        )

    def release(self, connection: UpstreamConnection) -> None:
        if self._is_retired or connection.tag is not self.dialer.identity:
            connection.close()
            return
        if self._quota.waiting and (waited := self._quota.next()) is not None:
            exchange, pool = waited
            if pool is not self:
                self.owner.moved(exchange, pool, self)
            exchange.attach(connection)
            return
        connection.idle_since = self._ledger.now
        self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        self._forget(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def drop_idle(self) -> bool:
        """Closes the connection that has been idle longest, if there is one."""
        if not self._idle:
            return False
        connection = self._idle.popleft()
        connection.close()
        self._forget(connection, is_room_taken=True)
        return True

    def _forget(self, connection: UpstreamConnection, *, is_room_taken: bool = False) -> None:
        if connection not in self._open:
            return
        self._open.discard(connection)
        quota = self._quota
        quota.gauge.value -= 1
        if quota.waiting and not is_room_taken and quota.gauge.value < quota.limit:
            waited = quota.next()
            if waited is not None:
                quota.pending += 1
                waited[1]._dial(waited[0])

    def sweep(self, now: float) -> None:
        idle = self._idle
        while idle and now - idle[0].idle_since > self.idle_s:
            idle.popleft().close()

    def retire_old_identity(self) -> None:
        """Closes the idle connections that were made with an identity no longer in force."""
        identity = self.dialer.identity
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
            self._quota.pending -= 1
            self._forget(connection, is_room_taken=True)
        self._connecting.clear()
        for connection in list(self._open):
            connection.abort()


def jitter() -> Random:
    """The process's source of chance for things that only need to be spread."""
    return _rng
