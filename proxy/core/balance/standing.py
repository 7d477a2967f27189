"""Who may get a request right now: availability, panic, and how much stays in the own zone.

Read from the records once for each change or second, never for each request.

*Available*: neither failing its health check, nor ejected, nor being probed. Among these, whoever
could not be connected to lately comes last, and weight 0 last but one.

*Panic*: with less than ``panic_percent`` of the endpoints available, the judgement itself is more
likely wrong than most of the service is, and the rest would drown in the whole load: all are
used, in all zones. With 0 there is none, and what is not available is never used.

*Zones*: ``min(1, available_here / all_here * 1.4)`` of the requests stay in the caller's zone and
the rest goes to the other ones (1.4 is Envoy's overprovisioning factor: the zone is assumed to
run with that much in reserve, so up to 28 % of it may be lost before anything spills over).
Unlike Envoy we do not know where the other callers are; so a zone with few endpoints and many
callers is not relieved by this, but by ``zone: ignore`` or weights.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from proxy.core.balance.state import EndpointState

OVERPROVISIONING = 1.4
"""Envoy's ``overprovisioning_factor``."""

S = TypeVar("S", bound=EndpointState)


class Standing(Generic[S]):
    """A moment's division of the endpoints; each is in exactly one of the five lists."""

    __slots__ = ("avoided", "down", "is_panicking", "probing", "ready", "spare")

    def __init__(self, states: Sequence[S], now: float, panic_percent: float) -> None:
        self.ready: list[S] = []
        self.spare: list[S] = []
        """Of weight 0."""
        self.avoided: list[S] = []
        self.probing: list[S] = []
        self.down: list[S] = []
        for state in states:
            if state.is_failing:
                self.down.append(state)
            elif state.is_probing:
                self.probing.append(state)
            elif state.ejected_until:
                self.down.append(state)
            elif state.avoid_until > now:
                self.avoided.append(state)
            elif state.endpoint.weight:
                self.ready.append(state)
            else:
                self.spare.append(state)
        self.is_panicking = self.available * 100 < panic_percent * len(states)

    @property
    def available(self) -> int:
        return len(self.ready) + len(self.spare) + len(self.avoided)

    def candidates(self, states: Sequence[S], now: float) -> list[S]:
        """Those that share the requests; empty only if nothing may be used."""
        if self.is_panicking:
            untouched = [state for state in states if state.avoid_until <= now] or list(states)
            return [state for state in untouched if state.endpoint.weight] or untouched
        return self.ready or self.spare or self.avoided


def divide(candidates: list[S], states: Sequence[S], zone: str) -> tuple[list[S], list[S], float]:
    """Candidates in the own zone, those in other ones, and the share of the former.

    All are in the first list, with a share of 1, if there is nothing to choose between.
    """
    near = [state for state in candidates if state.endpoint.zone == zone]
    if not near or len(near) == len(candidates):
        return candidates, [], 1.0
    here = sum(1 for state in states if state.endpoint.zone == zone and state.endpoint.weight)
    share = min(1.0, len(near) / max(here, 1) * OVERPROVISIONING)
    if share == 1.0:
        return near, [], 1.0
    return near, [state for state in candidates if state.endpoint.zone != zone], share
