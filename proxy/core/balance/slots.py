"""Weights as repetition: a flat tuple in which each endpoint stands as often as its share says.

Whoever draws a slot evenly draws an endpoint by weight, at the price of an index, so that no
algorithm needs to know of weights or of slow start. The repetitions are spread as evenly as they
go, so that reading the tuple from front to end is a smooth weighted round robin.
"""

from collections.abc import Sequence
from math import gcd
from typing import TypeVar

from proxy.core.balance.state import EndpointState

INITIAL_SHARE = 0.1
"""Of a new endpoint in slow start (Envoy's ``min_weight_percent``)."""

_STEPS = 20
"""Of the smallest weight while shares are growing: steps of 5 %."""

_SLOTS_LEAST = 1024
_SLOTS_MOST = 16384
_SLOTS_EACH = (4, 16)
"""Weights are kept exactly up to 16 slots for each endpoint on average (or 1024 in all; 4 if there
are thousands, for this is done again each second of a slow start); beyond that they are rounded,
none to nothing."""

S = TypeVar("S", bound=EndpointState)


def growth(state: EndpointState, now: float, slow_start_s: float) -> float:
    """0.1 when it joined, 1 from ``slow_start_s`` later on."""
    age = now - state.joined_s
    if age >= slow_start_s:
        return 1.0
    return INITIAL_SHARE + (1 - INITIAL_SHARE) * max(age, 0.0) / slow_start_s


def lay_out(states: Sequence[S], now: float, slow_start_s: float) -> tuple[S, ...]:
    """``states`` are all of weight 0 (then they are equals) or all of more."""
    weights = [state.endpoint.weight or 1 for state in states]
    if slow_start_s:
        growths = [growth(state, now, slow_start_s) for state in states]
        if min(growths, default=1.0) < 1.0:
            weights = [
                max(1, round(weight * share * _STEPS))
                for weight, share in zip(weights, growths, strict=True)
            ]
    if len(set(weights)) <= 1:
        return tuple(states)
    divisor = gcd(*weights)
    fewest, many = (each * len(states) for each in _SLOTS_EACH)
    most = max(_SLOTS_LEAST, fewest, min(many, _SLOTS_MOST))
    total = sum(weights)
    if total // divisor <= most:
        counts = [weight // divisor for weight in weights]
    else:
        counts = [max(1, round(weight / total * most)) for weight in weights]
    placed = [
        ((turn + 0.5) / count, index) for index, count in enumerate(counts) for turn in range(count)
    ]
    placed.sort()
    return tuple([states[index] for _, index in placed])
