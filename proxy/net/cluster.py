"""The endpoints that requests of one caller to one destination are balanced over.

One cluster for a service, one more for each of its subsets. It keeps what is learned about the
endpoints (latency, failures, load), refuses what is beyond its limits, and survives a new table:
endpoints that stay keep their record and their connections.
"""

import logging
from collections.abc import Callable, Collection
from typing import Literal

from proxy.core.balance import Tiers
from proxy.core.breaker import Breaker, Reason
from proxy.core.metrics import Value
from proxy.core.outlier import Change, Event, OutlierDetector
from proxy.core.retry import RetryBudget
from proxy.core.table import ClusterSpec
from proxy.http.exchange import Exchange
from proxy.http.ledger import Ledger
from proxy.model.endpoint import Endpoint
from proxy.model.flags import Flag
from proxy.model.names import ServiceName
from proxy.model.status import ClusterState, EndpointState
from proxy.net.blame import sentence
from proxy.net.dataplane_metrics import DataPlaneMetrics
from proxy.net.endpoint_health import EndpointHealth
from proxy.net.pool import EndpointPool, Owner, Quota, jitter
from proxy.net.pool_dial import Dialer

_log = logging.getLogger(__name__)

Standing = Literal["available", "ejected", "probing", "failing", "avoided"]
DialerOf = Callable[[ServiceName], Dialer]
"""By service: what an endpoint must prove to be depends on nothing else."""


class Cluster(Owner):
    """What is in flight is in ``breaker``."""

    def __init__(
        self,
        caller: ServiceName,
        spec: ClusterSpec,
        zone: str,
        dialer_of: DialerOf,
        ledger: Ledger,
        metrics: DataPlaneMetrics,
    ) -> None:
        self.caller = caller
        self._dialer_of = dialer_of
        self._ledger = ledger
        self._metrics = metrics
        self._zone = zone
        self._labels = labels = (caller, spec.name)
        policy = spec.policy
        self.spec = spec
        self.quota = Quota(Value(), policy.limits)
        self._retries = metrics.retries.labels(*labels)
        self._dials = metrics.dials.labels(*labels)
        metrics.pairs.add(labels)
        self.breaker = Breaker(policy.limits)
        self.budget = RetryBudget(policy.retries.budget_percent, policy.retries.budget_min_per_s)
        self._outlier = OutlierDetector(policy.outlier_detection)
        self.pools: tuple[EndpointPool, ...] = ()
        self._by_endpoint: dict[Endpoint, EndpointPool] = {}
        self.balancer: Tiers[EndpointPool] = self._make_balancer()
        self._health = EndpointHealth(caller, ledger, self.refresh)
        self._use(spec, ledger.now)

    @property
    def name(self) -> str:
        return self.spec.name

    def apply(self, spec: ClusterSpec) -> None:
        """Requests in flight stay where they are."""
        before = self.spec
        if spec == before:
            return
        self.spec = spec
        policy = spec.policy
        self.quota.apply(policy.limits)
        self.breaker.apply(policy.limits)
        self.budget.configure(policy.retries.budget_percent, policy.retries.budget_min_per_s)
        self._outlier.configure(policy.outlier_detection)
        if (
            (policy.balancing, policy.outlier_detection)
            != (before.policy.balancing, before.policy.outlier_detection)
        ) or len(spec.tiers) != len(before.tiers):
            self.balancer = self._make_balancer()
        self._use(spec, self._ledger.now)

    def _make_balancer(self) -> Tiers[EndpointPool]:
        policy = self.spec.policy
        return Tiers(
            policy.balancing, policy.outlier_detection, self._zone, jitter(), len(self.spec.tiers)
        )

    def _use(self, spec: ClusterSpec, now: float) -> None:
        known = self._by_endpoint
        idle_s = spec.policy.timeouts.pool_idle_s
        now_known: dict[Endpoint, EndpointPool] = {}
        tiers = []
        for tier in spec.tiers:
            pools = []
            for endpoint in tier:
                pool = now_known.get(endpoint) or known.pop(endpoint, None)
                if pool is None:
                    pool = EndpointPool(
                        endpoint,
                        self._dialer_of(endpoint.service),
                        self._ledger,
                        self.quota,
                        idle_s,
                        self,
                    )
                pool.idle_s = idle_s
                now_known[endpoint] = pool
                pools.append(pool)
            tiers.append(tuple(pools))
        for pool in known.values():
            pool.retire()
        self._by_endpoint = now_known
        self.pools = self.quota.pools = tuple(now_known.values())
        self.balancer.update(tiers, now)
        self._health.use(spec.policy.health_check, self.pools)

    # Requests

    def begin(self, exchange: Exchange) -> None:
        """The first try of a request."""
        now = self._ledger.now
        breaker = self.breaker
        if breaker.requests >= breaker.max_requests:
            self._refuse(exchange, Reason.REQUESTS)
            return
        breaker.requests += 1
        self.budget.request(now)
        first = self.balancer.first
        pool = (
            first.choose(exchange.key)
            if first.ready and not first.is_unusual
            else self.balancer.pick((), now, exchange.key)
        )
        if pool is None:
            breaker.requests -= 1
            exchange.refuse(Flag.NO_HEALTHY_UPSTREAM, "(0 in the registry)")
            return
        exchange.tries = 1
        exchange.target = pool
        pool.inflight += 1
        pool.serve(exchange)

    def again(
        self,
        exchange: Exchange,
        last: EndpointPool,
        *,
        may_be_same: bool,
    ) -> EndpointPool | None:
        """The endpoint of one more try, which is counted in; None: none left or not allowed."""
        now = self._ledger.now
        tried = (*exchange.tried, last)
        pool = self.balancer.pick(tried, now, exchange.key)  # type: ignore[arg-type]
        if pool is None:
            if not may_be_same:
                return None
            pool = last
        breaker = self.breaker
        if exchange.tries == 1 and not breaker.try_retry():
            self._metrics.overflows.labels(*self._labels, Reason.RETRIES.value).value += 1
            return None
        if not self.budget.try_take(now):
            self._metrics.budget_exhausted.labels(*self._labels).value += 1
            if exchange.tries == 1:
                breaker.retries -= 1
            return None
        self._retries.value += 1
        exchange.tried = tried
        exchange.tries += 1
        exchange.target = pool
        last.inflight -= 1
        pool.inflight += 1
        return pool

    def over(self, exchange: Exchange, pool: EndpointPool) -> None:
        """The request is over, whatever came of it; ``judge`` says what."""
        pool.inflight -= 1
        self.breaker.requests -= 1
        if exchange.tries > 1:
            self.breaker.retries -= 1

    def judge(
        self, pool: EndpointPool, is_failure: bool, reason: str = "", detail: str = ""
    ) -> None:
        """One try's outcome, for outlier detection; of a failure ``blame`` says what it was."""
        event = self._outlier.observe(pool, is_failure, self._ledger.now, self.pools, jitter())
        if event is not None:
            pool.why = sentence(reason, detail) if is_failure else ""
            self._happened(event, reason, pool.why)

    def _happened(self, event: Event, reason: str = "", why: str = "") -> None:
        ends_in_s = max(0.0, event.until - self._ledger.now)
        if event.change is Change.EJECTED:
            self._metrics.ejections.labels(*self._labels, reason).value += 1
        else:
            self._metrics.returns.labels(*self._labels).value += 1
        _log.warning(
            "endpoint %s",
            event.change.value,
            extra={
                "caller": self.caller,
                "service": self.name,
                "endpoint": f"{event.endpoint.host} {event.endpoint.address}:{event.endpoint.port}",
                "ejections": event.ejections,
                "for_s": round(ends_in_s, 1),
            }
            | ({"why": why} if why else {}),
        )
        self.refresh()

    def refresh(self) -> None:
        """After a change in what is known of an endpoint."""
        self.balancer.refresh(self._ledger.now)

    def _refuse(self, exchange: Exchange, reason: Reason) -> None:
        self._metrics.overflows.labels(*self._labels, reason.value).value += 1
        exchange.refuse(Flag.UPSTREAM_OVERFLOW, self.breaker.explain(reason))

    # For its pools

    def dialled(self, pool: EndpointPool, is_connected: bool, detail: str = "") -> None:
        self._dials.value += 1
        if is_connected:
            self.balancer.forgive(pool)
        else:
            self._metrics.dial_failures.labels(*self._labels).value += 1
            if not pool.ejected_until:
                pool.why = sentence(Flag.UPSTREAM_CONNECT_FAILURE.value, detail)
            self.balancer.avoid(pool, self._ledger.now)

    def overflowed(self, exchange: Exchange, pool: EndpointPool, detail: str) -> None:
        if exchange.target is pool:
            self.over(exchange, pool)
            exchange.target = None
        self._metrics.overflows.labels(*self._labels, Reason.PENDING.value).value += 1
        exchange.refuse(Flag.UPSTREAM_OVERFLOW, detail)

    def moved(self, exchange: Exchange, before: EndpointPool, now: EndpointPool) -> None:
        before.inflight -= 1
        now.inflight += 1
        exchange.target = now

    # TCP

    def begin_session(self) -> Reason | None:
        """Counts a session in, or says why not."""
        if not self.breaker.try_new_connection(self._ledger.now):
            reason = Reason.NEW_CONNECTIONS
        elif not self.breaker.try_request():
            reason = Reason.REQUESTS
        else:
            return None
        self._metrics.overflows.labels(*self._labels, reason.value).value += 1
        return reason

    def pick(self, tried: Collection[EndpointPool], key: int = 0) -> EndpointPool | None:
        return self.balancer.pick(tried, self._ledger.now, key)

    def count_retry(self) -> None:
        self._retries.value += 1

    def mirrored(self, status: int, flag: str) -> None:
        self._metrics.mirrored.labels(*self._labels, str(status), flag or "-").value += 1

    # For people

    @property
    def now(self) -> float:
        return self._ledger.now

    def retries_left(self) -> int:
        """What the budget allows at this moment."""
        return self.budget.left(self._ledger.now)

    def describe(self) -> ClusterState:
        now = self._ledger.now
        return ClusterState(
            caller=self.caller,
            name=self.name,
            algorithm=self.spec.policy.balancing.algorithm,
            active_tier=self.balancer.active,
            is_panicking=self.balancer.is_panicking,
            requests=self.breaker.requests,
            pending=self.quota.pending,
            endpoints=tuple(_describe(pool, now) for pool in self.pools),
        )

    # Time

    def sweep(self, now: float) -> None:
        """About once a second."""
        for pool in self.pools:
            pool.sweep(now)
        self.quota.forget_finished()
        for event in self._outlier.sweep(self.pools, now, jitter()):
            self._happened(event)
        self.balancer.refresh(now)

    def retire_old_identity(self) -> None:
        for pool in self.pools:
            pool.retire_old_identity()

    def retire(self) -> None:
        self._health.stop()
        self._metrics.pairs.discard(self._labels)
        for pool in self.pools:
            pool.retire()

    def close(self) -> None:
        self._health.stop()
        for pool in self.pools:
            pool.close()


def state_of(pool: EndpointPool, now: float) -> Standing:
    if pool.is_failing:
        return "failing"
    if pool.is_probing:
        return "probing"
    if pool.ejected_until:
        return "ejected"
    return "avoided" if pool.avoid_until > now else "available"


def _describe(pool: EndpointPool, now: float) -> EndpointState:
    endpoint = pool.endpoint
    state = state_of(pool, now)
    return EndpointState(
        host=endpoint.host,
        address=endpoint.address,
        port=endpoint.port,
        version=endpoint.version,
        zone=endpoint.zone,
        tier=pool.tier,
        state=state,
        ejected_for_s=max(0.0, pool.ejected_until - now) if pool.ejected_until else 0.0,
        ejections=pool.ejections,
        in_flight=pool.inflight,
        connections=pool.open_connections,
        latency_ms=round(pool.cost_s * 1000, 3),
        why=pool.why if state != "available" else "",
        service=endpoint.service,
    )
