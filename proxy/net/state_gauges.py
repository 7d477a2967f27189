"""Gauges of what is so now: endpoints, limits, connections. Set when somebody asks, not before.

Each is written as a whole, so that what no longer exists is no longer shown.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, get_args

from proxy.core.breaker import Reason
from proxy.core.metrics import Metrics
from proxy.http.exchange import Exchange
from proxy.http.ledger import Ledger
from proxy.net.cluster import Cluster, Standing, state_of
from proxy.net.inbound import InboundWorkload

_STATES: Final[tuple[str, ...]] = get_args(Standing)
_DESTINATION: Final = ("source_workload", "destination_service")


class StateGauges:
    """``clusters``, ``workloads`` and ``ledgers``, these by side, are read at each question."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        clusters: Callable[[], Iterable[Cluster]],
        workloads: Iterable[InboundWorkload],
        ledgers: Mapping[str, Ledger],
    ) -> None:
        self._clusters, self._workloads, self._ledgers = clusters, workloads, ledgers
        highest = partial(metrics.gauge, combine="max")
        self._upstream_connections = metrics.gauge(
            "mesh_upstream_connections",
            "Connections open or being opened to a service, or to the local application.",
            ("reporter", *_DESTINATION),
        )
        self._idle = metrics.gauge(
            "mesh_upstream_connections_idle",
            "Of these, how many nothing is on.",
            ("reporter", *_DESTINATION),
        )
        self._pending = metrics.gauge(
            "mesh_upstream_pending_requests", "Requests that wait for a connection.", _DESTINATION
        )
        self._requests = metrics.gauge(
            "mesh_upstream_requests", "Requests and TCP sessions under way.", _DESTINATION
        )
        self._budget = metrics.gauge(
            "mesh_retry_budget_left", "Retries that are allowed at this moment.", _DESTINATION
        )
        self._panic = highest(
            "mesh_panic", "1: so few endpoints are available that all are used.", _DESTINATION
        )
        self._tier = highest(
            "mesh_failover_tier",
            "Where requests go: 0 the service itself, 1 its first failover, and so on.",
            _DESTINATION,
        )
        self._states = highest(
            "mesh_endpoint_states",
            "Endpoints of a service by what the caller's proxy thinks of them.",
            (*_DESTINATION, "state"),
        )
        self._breakers = highest(
            "mesh_breaker_open",
            "1: a limit of the called service is reached, and what comes is refused.",
            (*_DESTINATION, "limit"),
        )
        self._downstream_connections = metrics.gauge(
            "mesh_downstream_connections",
            "Connections open from callers: of this host (source) or of the mesh (destination).",
            ("reporter",),
        )
        self._downstream_requests = metrics.gauge(
            "mesh_downstream_requests", "Requests and TCP sessions in flight.", ("reporter",)
        )
        self._tunnels = metrics.gauge(
            "mesh_tunnels_open",
            "Requests that changed their protocol, such as WebSockets, and go on.",
            ("reporter", *_DESTINATION),
        )
        metrics.observers.append(self._show)

    def _show(self) -> None:
        connections: dict[tuple[str, ...], float] = {}
        idle: dict[tuple[str, ...], float] = {}
        for workload in self._workloads:
            key = ("destination", "", str(workload.route.service))
            connections[key] = workload.pool.open_connections
            idle[key] = workload.pool.idle_connections
        clusters: _Clusters = {(str(each.caller), each.name): each for each in self._clusters()}
        for pair, cluster in clusters.items():
            connections[("source", *pair)] = cluster.quota.gauge.value
            idle[("source", *pair)] = sum(pool.idle_connections for pool in cluster.pools)
        self._upstream_connections.show(connections)
        self._idle.show(idle)
        self._pending.show({pair: each.quota.pending for pair, each in clusters.items()})
        self._requests.show({pair: each.breaker.requests for pair, each in clusters.items()})
        self._budget.show({pair: each.retries_left() for pair, each in clusters.items()})
        self._panic.show({pair: each.balancer.is_panicking for pair, each in clusters.items()})
        self._tier.show({pair: each.balancer.active for pair, each in clusters.items()})
        self._states.show(_states(clusters))
        self._breakers.show(_breakers(clusters))
        ledgers = self._ledgers.items()
        self._downstream_connections.show({(s,): len(each.connections) for s, each in ledgers})
        self._downstream_requests.show({(s,): len(each.exchanges) for s, each in ledgers})
        self._tunnels.show(_tunnels(self._ledgers))


_Clusters = Mapping[tuple[str, ...], Cluster]


def _tunnels(ledgers: Mapping[str, Ledger]) -> dict[tuple[str, ...], float]:
    shown: dict[tuple[str, ...], float] = {}
    for side, ledger in ledgers.items():
        for each in ledger.exchanges:
            if isinstance(each, Exchange) and each.is_tunnel:
                caller, _, service = each.handler.subject.partition(" -> ")
                key = (side, caller, service)
                shown[key] = shown.get(key, 0) + 1
    return shown


def _states(clusters: _Clusters) -> dict[tuple[str, ...], float]:
    shown: dict[tuple[str, ...], float] = {}
    for pair, cluster in clusters.items():
        counts = dict.fromkeys(_STATES, 0)
        now = cluster.now
        for pool in cluster.pools:
            counts[state_of(pool, now)] += 1
        shown.update({(*pair, state): count for state, count in counts.items()})
    return shown


def _breakers(clusters: _Clusters) -> dict[tuple[str, ...], float]:
    shown: dict[tuple[str, ...], float] = {}
    for pair, cluster in clusters.items():
        breaker, quota = cluster.breaker, cluster.quota
        for limit, used, most in (
            (Reason.CONNECTIONS, quota.gauge.value, quota.limit),
            (Reason.PENDING, quota.pending, quota.pending_limit),
            (Reason.REQUESTS, breaker.requests, breaker.max_requests),
            (Reason.RETRIES, breaker.retries, breaker.max_retries),
        ):
            shown[(*pair, limit.value)] = used >= most
    return shown
