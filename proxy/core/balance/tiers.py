"""Failover: groups of endpoints in order, of which the first that can serve gets the requests.

The first group is where a request wants to go, the others are another subset, service or
datacenter. A request goes to the first with an endpoint that is available and can be connected
to; if there is none in any, to the first with one that is available at all; and if there is not
even that, to the first that has any endpoint, for then nobody knows better (panic). A retry that
has tried all of one group goes on to the next.
"""

from collections.abc import Collection, Sequence
from random import Random
from typing import Generic, TypeVar

from proxy.core.balance.balancer import LoadBalancer
from proxy.core.balance.state import EndpointState
from proxy.model.policy import Balancing
from proxy.model.resilience import OutlierDetection

S = TypeVar("S", bound=EndpointState)


class Tiers(Generic[S]):
    """As one balancer."""

    __slots__ = ("_tiers", "first")

    def __init__(
        self,
        balancing: Balancing,
        outlier: OutlierDetection,
        zone: str,
        rng: Random,
        count: int = 1,
    ) -> None:
        self._tiers: tuple[LoadBalancer[S], ...] = tuple(
            LoadBalancer(balancing, outlier, zone, rng) for _ in range(max(1, count))
        )
        self.first = self._tiers[0]

    def update(self, tiers: Sequence[Sequence[S]], now: float) -> None:
        """As many as there were said to be."""
        for number, (balancer, states) in reversed(
            tuple(enumerate(zip(self._tiers, tiers, strict=True)))
        ):
            for state in states:
                state.tier = number
            balancer.update(states, now)

    def pick(self, tried: Collection[S], now: float, key: int = 0) -> S | None:
        """HOT. None only if nothing is left that may be used."""
        first = self.first
        if first.ready and not tried:
            return first.pick(tried, now, key)
        return self._pick_in_turn(tried, now, key)

    def _pick_in_turn(self, tried: Collection[S], now: float, key: int) -> S | None:
        for tier in self._tiers:
            if tier.ready or (tier.is_probe_due and not tried):
                state = tier.pick_ready(tried, now, key)
                if state is not None:
                    return state
        for is_available in (True, False):
            for tier in self._tiers:
                if tier.available or not is_available:
                    state = tier.pick(tried, now, key)
                    if state is not None:
                        return state
        return None

    def observe(self, state: S, elapsed_s: float, is_failure: bool, now: float) -> None:
        """HOT. See ``LoadBalancer.observe``."""
        self._tiers[state.tier].observe(state, elapsed_s, is_failure, now)

    def avoid(self, state: S, now: float) -> None:
        self._tiers[state.tier].avoid(state, now)

    def forgive(self, state: S) -> None:
        self._tiers[state.tier].forgive(state)

    def refresh(self, now: float) -> None:
        for tier in self._tiers:
            tier.refresh(now)

    @property
    def active(self) -> int:
        """Which tier the next request goes to; for a gauge."""
        for serves in (_is_ready, _is_available, _is_there):
            for number, tier in enumerate(self._tiers):
                if serves(tier):
                    return number
        return 0

    @property
    def is_panicking(self) -> bool:
        """The active one."""
        return self._tiers[self.active].is_panicking

    @property
    def available(self) -> int:
        """In all tiers."""
        return sum(tier.available for tier in self._tiers)

    @property
    def total(self) -> int:
        return sum(tier.total for tier in self._tiers)


def _is_ready(tier: LoadBalancer[S]) -> bool:
    return tier.ready > 0


def _is_available(tier: LoadBalancer[S]) -> bool:
    return tier.available > 0


def _is_there(tier: LoadBalancer[S]) -> bool:
    return tier.total > 0
