"""The caller's side: one loopback listener for each service that a local workload calls."""

import asyncio
from collections.abc import Collection
from typing import cast

from proxy.core.balance import RoundRobin
from proxy.core.retry import MAX_TRIES, Verdict
from proxy.core.table import OutboundRoute
from proxy.http.downstream import DownstreamConnection
from proxy.http.exchange import Exchange
from proxy.http.ledger import Ledger
from proxy.model.endpoint import Endpoint
from proxy.model.flags import Flag
from proxy.model.names import TrustDomain
from proxy.model.policy import Timeouts
from proxy.net.dataplane_metrics import DataPlaneMetrics, Reporter
from proxy.net.pool import EndpointPool, Quota, jitter
from proxy.net.pool_dial import MeshDialer
from proxy.net.relay import Closed, Relay
from proxy.net.tls_identity import Identity

Pools = tuple[EndpointPool, ...]


class OutboundService:
    """Everything that requests from one workload to one service share. An HTTP Handler."""

    trusts_flag = True

    def __init__(
        self,
        route: OutboundRoute,
        domain: TrustDomain,
        ledger: Ledger,
        metrics: DataPlaneMetrics,
    ) -> None:
        self.route = route
        self.subject = route.subject
        self.authority = route.service.encode()
        self.timeouts: Timeouts = route.timeouts
        self._ledger = ledger
        self._metrics = metrics
        self._dialer = MeshDialer(domain, route.server_name, route.expected_identity)
        self._quota = Quota(
            metrics.upstream_connections.labels("source", route.caller, route.service)
        )
        self._retries = metrics.retries.labels(route.caller, route.service)
        self._reporter = Reporter(
            metrics, "source", route.caller, route.caller_identity, route.service
        )
        self.finished = self._reporter.answered
        self._balancer: RoundRobin[EndpointPool] = RoundRobin()
        self._by_endpoint: dict[Endpoint, EndpointPool] = {}
        self._pools: Pools = ()
        self.apply(route)

    def apply(self, route: OutboundRoute) -> None:
        """Requests that have begun keep the endpoints that they began with."""
        self.route = route
        self.timeouts = route.timeouts
        known = self._by_endpoint
        now_known: dict[Endpoint, EndpointPool] = {}
        for endpoint in route.endpoints:
            pool = known.pop(endpoint, None)
            if pool is None:
                pool = EndpointPool(
                    endpoint,
                    self._dialer,
                    self._ledger,
                    self._quota,
                    route.timeouts.pool_idle_s,
                    self._dialled,
                )
            pool.idle_s = route.timeouts.pool_idle_s
            now_known[endpoint] = pool
        for pool in known.values():
            pool.retire()
        self._by_endpoint = now_known
        self._pools = tuple(now_known.values())

    def use_identity(self, identity: Identity | None) -> None:
        """For new connections."""
        self._dialer.identity = identity
        for pool in self._pools:
            pool.retire_old_identity()

    def accept(self) -> asyncio.Protocol:
        """The protocol of one more connection from the workload."""
        ledger = self._ledger
        is_http = self.route.protocol == "http"
        if ledger.is_full:
            self._metrics.overloads.labels("source").value += 1
            # A moment's answer for a few; nothing at all for a flood.
            is_flood = len(ledger.connections) > ledger.max_connections * 11 // 10
            if is_http and not is_flood:
                return DownstreamConnection(ledger, Shed(self))
            return Closed()
        if is_http:
            return DownstreamConnection(ledger, self)
        return Relay(
            self._ledger, self._reporter, self.timeouts.stream_idle_s, self._start_relay
        ).near

    # HTTP

    def dispatch(self, exchange: Exchange) -> None:
        exchange.plan = pools = self._pools
        head = exchange.head
        if not head.has_request_id:
            head.has_request_id = True
            head.lines.append(b"x-request-id: %032x" % jitter().getrandbits(128))
        pool = self._balancer.pick(pools, (), self._ledger.now)
        if pool is None:
            exchange.refuse(Flag.NO_HEALTHY_UPSTREAM, "(0 in the registry)")
        elif self._dialer.identity is None:
            exchange.refuse(Flag.UPSTREAM_CONNECT_FAILURE, self._no_identity())
        else:
            exchange.tries = 1
            exchange.target = pool
            pool.serve(exchange)

    def retry(self, exchange: Exchange, verdict: Verdict) -> bool:
        last = cast(EndpointPool, exchange.target)
        exchange.tried = tried = (*exchange.tried, last)
        pool = self._balancer.pick(
            cast(Pools, exchange.plan),
            cast(Collection[EndpointPool], tried),
            self._ledger.now,
        )
        if pool is None:
            if verdict is not Verdict.FRESH_CONNECTION:
                return False
            pool = last
        if self._dialer.identity is None:
            return False
        self._retries.value += 1
        exchange.tries += 1
        exchange.target = pool
        pool.serve(exchange, is_fresh=verdict is Verdict.FRESH_CONNECTION)
        return True

    def _dialled(self, pool: EndpointPool, is_connected: bool) -> None:
        if is_connected:
            self._balancer.succeeded(pool)
        else:
            self._balancer.failed(pool, self._ledger.now, jitter())

    def _no_identity(self) -> str:
        return f"this proxy has no usable identity for {self.route.caller}"

    # TCP

    def _start_relay(self, relay: Relay) -> None:
        if self._dialer.identity is None:
            relay.refuse(Flag.UPSTREAM_CONNECT_FAILURE)
            return
        self._dial_relay(relay, self._pools, ())

    def _dial_relay(self, relay: Relay, pools: Pools, tried: tuple[EndpointPool, ...]) -> None:
        if relay.is_over:
            return
        pool = self._balancer.pick(pools, tried, self._ledger.now)
        if pool is None or len(tried) >= MAX_TRIES:
            flag = Flag.UPSTREAM_CONNECT_FAILURE if tried else Flag.NO_HEALTHY_UPSTREAM
            relay.refuse(flag)
            return

        def failed(_detail: str) -> None:
            self._dialled(pool, False)
            self._retries.value += 1
            self._dial_relay(relay, pools, (*tried, pool))

        relay.dial(
            self._dialer,
            pool.endpoint.address,
            pool.endpoint.port,
            self.timeouts.connect_s,
            failed,
        )

    def sweep(self, now: float) -> None:
        for pool in self._pools:
            pool.sweep(now)

    def close(self) -> None:
        for pool in self._pools:
            pool.close()


class Shed:
    """A Handler that refuses: the proxy has too many connections."""

    trusts_flag = False

    def __init__(self, of: OutboundService) -> None:
        self.subject = of.subject
        self.authority = of.authority
        self.timeouts = of.timeouts
        self.finished = of.finished

    def dispatch(self, exchange: Exchange) -> None:
        exchange.refuse(Flag.OVERLOAD, "too many connections")

    def retry(self, exchange: Exchange, verdict: Verdict) -> bool:
        return False
