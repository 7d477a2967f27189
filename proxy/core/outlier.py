"""Takes an endpoint that fails again and again out of use, and lets it come back. Pure.

    available --N failures in a row--> ejected --its time is over--> probing
        ^                                 ^                             |
        |                                 +---------a failure-----------+
        +-------------------------------------------a success-----------+

An ejected endpoint has ``ejected_until`` > 0 and gets no requests; once that time is over
``sweep`` marks it ``is_probing``, and the balancer gives it a request while it has none in
flight. Whatever comes of the next request decides, so that one which never ended (the client
left) costs nothing. Each proxy judges by what it sees itself, and by real requests only (Linkerd).

A failure is what ``resilience.OutlierDetection`` names; for TCP a failed connect, and a success
one that was made. Ejections are at most ``max_ejected_percent`` of the endpoints but at least one,
and be it the only one, as in Envoy: that is what lets a failover or the panic threshold decide
where its requests go, and these know more than the detector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Protocol

from proxy.model.endpoint import Endpoint
from proxy.model.resilience import OutlierDetection

FORGIVEN_AFTER_S = 10.0
"""In use that long without an ejection: the count of them goes down by one (Envoy's interval)."""

JITTER = 0.2
"""Of the ejection's time, both ways, so that the callers do not all probe in one moment."""


class Suspect(Protocol):
    """What is known of an endpoint; changed in place. ``balance.EndpointState`` is one."""

    @property
    def endpoint(self) -> Endpoint: ...

    consecutive_failures: int
    ejections: int
    """In a row: how much longer than the first one the next ejection is."""
    ejected_until: float
    """0: not ejected."""
    is_probing: bool
    """Still ejected, but the next request's outcome is the end of it, or a further ejection."""


class Change(StrEnum):
    EJECTED = "ejected"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """For the log and the metric; the balancer must be refreshed."""

    change: Change
    endpoint: Endpoint
    until: float
    """When it is probed, by the clock of ``now``; 0 if returned."""
    ejections: int
    """In a row."""


class OutlierDetector:
    """Judges the endpoints of one called service (or subset) for one calling workload."""

    __slots__ = ("_forgiven_at", "_policy")

    def __init__(self, policy: OutlierDetection) -> None:
        self._policy = policy
        self._forgiven_at: dict[int, float] = {}
        """By ``id`` of the endpoint's state: when its count of ejections next goes down."""

    def configure(self, policy: OutlierDetection) -> None:
        """New figures from now on; an ejection keeps its time, unless there are to be none."""
        self._policy = policy

    def observe(
        self,
        state: Suspect,
        is_failure: bool,
        now: float,
        states: Sequence[Suspect],
        rng: Random,
    ) -> Event | None:
        """Call once per try; ``states``: all endpoints, of which ``state`` is one."""
        if is_failure:
            return self._failed(state, now, states, rng)
        if state.consecutive_failures:
            state.consecutive_failures = 0
        if state.is_probing:
            return _return(state)
        return None

    def sweep(self, states: Sequence[Suspect], now: float, rng: Random) -> tuple[Event, ...]:
        """Call about once a second: lets be probed whose time is over, and forgives.

        The balancer must be refreshed after it if any became ``is_probing``, which is no event.
        """
        if not self._policy.consecutive_failures:
            self._forgiven_at.clear()
            return tuple(_return(state) for state in states if state.ejected_until)
        before, after = self._forgiven_at, dict[int, float]()
        for state in states:
            if state.ejected_until:
                if now >= state.ejected_until:
                    state.is_probing = True
            elif state.ejections:
                at = before.get(id(state))
                if at is None:
                    at = now + FORGIVEN_AFTER_S
                elif now >= at:
                    state.ejections -= 1
                    at += FORGIVEN_AFTER_S
                after[id(state)] = at
        self._forgiven_at = after
        return ()

    def _failed(
        self, state: Suspect, now: float, states: Sequence[Suspect], rng: Random
    ) -> Event | None:
        policy = self._policy
        if not policy.consecutive_failures:
            return None
        if state.ejected_until:
            # A request from before the ejection, or in panic: it was judged already.
            return self._eject(state, now, rng) if state.is_probing else None
        state.consecutive_failures += 1
        if state.consecutive_failures < policy.consecutive_failures:
            return None
        # Counted anew even if it may not be ejected, so that this is not gone through each time.
        state.consecutive_failures = 0
        ejected = sum(1 for other in states if other.ejected_until)
        if ejected >= max(1, int(len(states) * policy.max_ejected_percent / 100)):
            return None
        return self._eject(state, now, rng)

    def _eject(self, state: Suspect, now: float, rng: Random) -> Event:
        policy = self._policy
        state.ejections += 1
        state.is_probing = False
        state.consecutive_failures = 0
        # At the cap it is only shortened: the cap is a promise.
        draw = rng.random()
        state.ejected_until = now + min(
            policy.ejection_s * state.ejections * (1 - JITTER + 2 * JITTER * draw),
            policy.max_ejection_s * (1 - JITTER + JITTER * draw),
        )
        return Event(
            change=Change.EJECTED,
            endpoint=state.endpoint,
            until=state.ejected_until,
            ejections=state.ejections,
        )


def _return(state: Suspect) -> Event:
    state.ejected_until = 0.0
    state.is_probing = False
    state.consecutive_failures = 0
    return Event(
        change=Change.RETURNED, endpoint=state.endpoint, until=0.0, ejections=state.ejections
    )
