"""Connections to one address, kept for the next request, and new ones when there is none.

A pool belongs to one cluster (or the local application) and one endpoint. Connections carry the
identity that they were made with; after a rotation those of the old one are used no more, but a
request that is on one of them finishes there.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random
from time import monotonic
from typing import cast

from proxy.core.balance import EndpointState
from proxy.core.metrics import Value
from proxy.core.retry import Failure
from proxy.http.exchange import Exchange
from proxy.http.ledger import Ledger
from proxy.http.shared import SharedConnection
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
                now = monotonic()
                exchange.queue_s += now - exchange.waits_since
                exchange.waits_since = 0.0
                return exchange, pool
        return None

    def forget_finished(self) -> None:
        if self.waiting:
            left = [each for each in self.waiting if not each[0].is_finished]
            self.pending -= len(self.waiting) - len(left)
            self.waiting = deque(left)


class Owner:
    """What a pool's connections and requests mean to the cluster; this one, nothing."""

    def dialled(self, pool: "EndpointPool", is_connected: bool, detail: str = "") -> None: ...

    def overflowed(self, exchange: Exchange, pool: "EndpointPool", detail: str) -> None:
        """There is room for neither the request nor its waiting."""
        exchange.refuse(Flag.UPSTREAM_OVERFLOW, detail)

    def moved(self, exchange: Exchange, before: "EndpointPool", now: "EndpointPool") -> None:
        """A request that waited for one endpoint is served by another one."""


class Attempt:
    """A connection being made, and the requests that wait for it."""

    __slots__ = ("connection", "dial", "shared", "waiting")

    dial: Dial

    def __init__(
        self, connection: UpstreamConnection, shared: SharedConnection | None, exchange: Exchange
    ) -> None:
        self.connection = connection
        self.shared = shared
        """In place of ``connection``, if the peer turns out to know how."""
        self.waiting = [exchange]

    def ended(self, now: float) -> None:
        """It is connected, or has failed."""
        for exchange in self.waiting:
            exchange.connect_s += now - exchange.waits_since
            exchange.waits_since = 0.0


Held = UpstreamConnection | SharedConnection | Attempt


class EndpointPool(EndpointState):
    """All connections to one endpoint.

    A peer that is a proxy of ours, and an application that speaks HTTP/2, carry many requests on
    one connection; any other one at a time.
    """

    __slots__ = (
        "_attempts",
        "_idle",
        "_is_retired",
        "_is_sharing",
        "_ledger",
        "_open",
        "_quota",
        "_shared",
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
        self._shared: tuple[SharedConnection, ...] = ()
        """With streams or without."""
        self._attempts: list[Attempt] = []
        self._open: set[Held] = set()
        """All, from the dial on: what the quota counts."""
        self._is_retired = False
        self._is_sharing = dialer.is_sharing
        """Believed until a handshake says otherwise."""

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        """Of these, how many nothing is on."""
        return len(self._idle) + sum(not shared.streams for shared in self._shared)

    def serve(self, exchange: Exchange, *, is_fresh: bool = False) -> None:
        """Sends the request on a connection that is there or on a new one.

        Only a request whose ``target`` this is may wait, for then any other endpoint would do.
        """
        identity = self.dialer.identity
        idle = self._idle
        if not is_fresh:
            for shared in self._shared:
                if shared.has_room and shared.tag is identity and shared.is_flowing:
                    shared.open(exchange)
                    return
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
        elif self._is_sharing and self._attempts:
            quota.pending += 1
            exchange.waits_since = monotonic()
            self._attempts[-1].waiting.append(exchange)
        elif quota.has_room():
            quota.pending += 1
            self._dial(exchange)
        elif (crowded := self._crowded(identity)) is not None:
            crowded.open(exchange)
        elif exchange.target is self:
            quota.pending += 1
            exchange.waits_since = monotonic()
            quota.waiting.append((exchange, self))
        else:
            self.owner.overflowed(exchange, self, f"({quota.limit} connections are open)")

    def _crowded(self, identity: object) -> SharedConnection | None:
        """A connection that is better than none."""
        for shared in self._shared:
            if shared.has_room and shared.tag is identity:
                return shared
        return None

    def _dial(self, exchange: Exchange) -> None:
        self._quota.gauge.value += 1
        exchange.waits_since = monotonic()
        connection = UpstreamConnection(self, self.dialer.identity)
        shared = self.dialer.shared(self)
        attempt = Attempt(connection, shared, exchange)
        self._open.add(attempt)
        self._attempts.append(attempt)
        attempt.dial = self.dialer.dial(
            self.endpoint.address,
            self.endpoint.port,
            exchange.timeouts.connect_s,
            connection,
            lambda detail: self._failed(attempt, detail),
            cast(asyncio.Protocol | None, shared),  # it is one, too
        )

    def connected(self, connection: UpstreamConnection) -> None:
        attempt = next((each for each in self._attempts if each.connection is connection), None)
        if attempt is None:  # given up in the same moment
            connection.abort()
            return
        waiting = self._made(attempt, connection)
        if attempt.shared is not None:
            self._is_sharing = False
        while waiting:
            exchange = waiting.pop(0)
            if not exchange.is_finished:
                exchange.attach(connection)
                break
        else:
            connection.is_reused = True
            self.release(connection)
        for exchange in waiting:
            if not exchange.is_finished:
                self.serve(exchange)

    def connected_shared(self, connection: SharedConnection) -> None:
        attempt = next((each for each in self._attempts if each.shared is connection), None)
        if attempt is None:
            connection.abort()
            return
        waiting = self._made(attempt, connection)
        self._is_sharing = True
        self._shared = (*self._shared, connection)
        connection.idle_since = self._ledger.now
        for exchange in waiting:
            if exchange.is_finished:
                continue
            if connection.has_room:
                connection.open(exchange)
            else:
                self.serve(exchange)

    def failed_shared(self, connection: SharedConnection, detail: str) -> None:
        attempt = next((each for each in self._attempts if each.shared is connection), None)
        if attempt is not None:
            attempt.dial.fail(detail)

    def _made(self, attempt: Attempt, connection: Held) -> list[Exchange]:
        attempt.dial.succeeded()
        self._attempts.remove(attempt)
        self._open.discard(attempt)
        self._open.add(connection)
        self._ledger.now = monotonic()  # the endpoint's latency is counted from here
        attempt.ended(self._ledger.now)
        self._quota.pending -= len(attempt.waiting)
        self.owner.dialled(self, True)
        return attempt.waiting

    def _failed(self, attempt: Attempt, detail: str) -> None:
        self._attempts.remove(attempt)
        attempt.ended(monotonic())
        self._quota.pending -= len(attempt.waiting)
        self._forget(attempt)
        self.owner.dialled(self, False, detail)
        endpoint = self.endpoint
        if endpoint.host:
            detail = f"{endpoint.host} at {endpoint.address}:{endpoint.port}: {detail}"
        for exchange in attempt.waiting:
            exchange.upstream_failed(Failure.CONNECT, detail)

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

    def stream_ended(self, connection: SharedConnection) -> None:
        connection.idle_since = self._ledger.now
        if self._is_retired or connection.tag is not self.dialer.identity:
            connection.go()
            return
        # Once, as a rule: but an application may have changed how many it takes at a time.
        while self._quota.waiting and connection.has_room:
            waited = self._quota.next()
            if waited is None:
                return
            exchange, pool = waited
            if pool is not self:
                self.owner.moved(exchange, pool, self)
            connection.open(exchange)

    def lost(self, connection: UpstreamConnection) -> None:
        self._forget(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def lost_shared(self, connection: SharedConnection) -> None:
        self._shared = tuple(each for each in self._shared if each is not connection)
        self._forget(connection)

    def drop_idle(self) -> bool:
        """Closes the connection that has been idle longest, if there is one."""
        connection: UpstreamConnection | SharedConnection
        if self._idle:
            connection = self._idle.popleft()
        else:
            for connection in self._shared:
                if not connection.streams and not connection.is_lost:
                    break
            else:
                return False
        connection.close()
        self._forget(connection, is_room_taken=True)
        return True

    def _forget(self, connection: Held, *, is_room_taken: bool = False) -> None:
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
        for shared in self._shared:
            if shared.streams or now - shared.idle_since <= self.idle_s:
                shared.sweep(now)
            else:
                shared.go()

    def retire_old_identity(self) -> None:
        """Closes the idle connections that were made with an identity no longer in force."""
        identity = self.dialer.identity
        for connection in [each for each in self._idle if each.tag is not identity]:
            self._idle.remove(connection)
            connection.close()
        for shared in self._shared:
            if shared.tag is not identity:
                shared.go()

    def retire(self) -> None:
        """The endpoint has left: what is in flight finishes, nothing is kept."""
        self._is_retired = True
        while self._idle:
            self._idle.pop().close()
        for shared in self._shared:
            shared.go()

    def close(self) -> None:
        """Now: whatever is in flight is cut."""
        self.retire()
        for attempt in self._attempts:
            attempt.dial.cancel()
            self._quota.pending -= len(attempt.waiting)
            self._forget(attempt, is_room_taken=True)
        self._attempts.clear()
        for connection in list(self._open):
            if not isinstance(connection, Attempt):
                connection.abort()


def jitter() -> Random:
    """The process's source of chance for things that only need to be spread."""
    return _rng
