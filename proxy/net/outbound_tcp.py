"""TCP sessions from a local workload: balanced and limited like requests, one try per endpoint."""

from collections.abc import Callable

from proxy.core.retry import MAX_TRIES
from proxy.http.ledger import Ledger
from proxy.model.endpoint import Endpoint
from proxy.model.flags import Flag
from proxy.model.policy import Timeouts
from proxy.net.cluster import Cluster
from proxy.net.dataplane_metrics import Reporter
from proxy.net.pool import EndpointPool
from proxy.net.relay import Relay

Choose = Callable[[bytes], tuple[Cluster | None, int]]
"""From the client's address to where its session goes."""


class OutboundSession(Relay):
    """Dials one endpoint after the other until one connects. Nothing was sent before that."""

    __slots__ = (
        "_choose",
        "_cluster",
        "_dialled_at",
        "_is_counted",
        "_key",
        "_last",
        "_pool",
        "_timeouts",
        "_tried",
    )

    _cluster: Cluster

    def __init__(
        self, ledger: Ledger, reporter: Reporter, timeouts: Timeouts, choose: Choose
    ) -> None:
        super().__init__(ledger, reporter, timeouts.stream_idle_s)
        self._choose = choose
        self._key = 0
        self._timeouts = timeouts
        self._pool: EndpointPool | None = None
        self._last: EndpointPool | None = None
        self._tried: tuple[EndpointPool, ...] = ()
        self._is_counted = False
        self._dialled_at = 0.0

    @property
    def endpoint(self) -> Endpoint | None:
        return self._last.endpoint if self._last is not None else None

    @property
    def attempts(self) -> int:
        return len(self._tried) + (self._pool is not None)

    def start(self) -> None:
        cluster, self._key = self._choose(self.near.peer())
        if cluster is None:
            self.refuse(Flag.DENIED, "a route leads to a service that the caller does not declare")
            return
        self._cluster = cluster
        refused = cluster.begin_session()
        if refused is not None:
            self.refuse(Flag.UPSTREAM_OVERFLOW, cluster.breaker.explain(refused))
            return
        self._is_counted = True
        self._try_next()

    def _try_next(self) -> None:
        if self.is_over:
            return
        pool = self._cluster.pick(self._tried, self._key)
        if pool is None or len(self._tried) >= MAX_TRIES:
            if self._tried:
                self.refuse(Flag.UPSTREAM_CONNECT_FAILURE, self.detail)
            else:
                self.refuse(Flag.NO_HEALTHY_UPSTREAM, "(0 in the registry)")
            return
        if pool.dialer.identity is None:
            self.refuse(
                Flag.UPSTREAM_CONNECT_FAILURE,
                f"this proxy has no usable identity for {self._cluster.caller}",
            )
            return
        if self._tried:
            self._cluster.count_retry()
        self._pool = self._last = pool
        pool.inflight += 1
        self._dialled_at = self._ledger.now
        endpoint = pool.endpoint
        self.dial(
            pool.dialer, endpoint.address, endpoint.port, self._timeouts.connect_s, self._failed
        )

    def _failed(self, detail: str) -> None:
        pool = self._pool
        assert pool is not None
        self.detail = detail
        self._pool = None
        pool.inflight -= 1
        self._cluster.dialled(pool, False, detail)
        self._cluster.judge(pool, True, Flag.UPSTREAM_CONNECT_FAILURE.value, detail)
        self._tried = (*self._tried, pool)
        self._try_next()

    def connected(self) -> None:
        super().connected()
        self.detail = ""  # of a try before
        pool = self._pool
        assert pool is not None
        self._cluster.dialled(pool, True)
        now = self._ledger.now
        self._cluster.balancer.observe(pool, now - self._dialled_at, False, now)
        self._cluster.judge(pool, False)

    def ended(self) -> None:
        if self._pool is not None:
            self._pool.inflight -= 1
            self._pool = None
        if self._is_counted:
            self._is_counted = False
            self._cluster.breaker.requests -= 1
