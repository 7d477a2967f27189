"""The algorithms without a hash: each makes, from slots, a function that picks an endpoint.

HOT: what is returned runs for every request. It touches one or two endpoints however many there
are, draws one random number, and allocates nothing that stays.

*peak_ewma* and *least_request* are the power of two choices: two slots at random, the better one
wins. Two are enough to keep the longest queue at O(log log n), and nobody herds towards a single
best endpoint (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"). With
weights both slots may be of the same endpoint, which is what makes its share its weight's; such a
pair is won by another endpoint only if that one is far better, so that weight alone does not hold
traffic on an endpoint that is going bad.
"""

from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from random import Random
from typing import TypeVar

from proxy.core.balance.state import EndpointState

FAR_BETTER = 4.0
"""Twice two: beyond the noise of a cost and of an odd request in flight."""

S = TypeVar("S", bound=EndpointState)

Choose = Callable[[int], S | None]
"""Takes the request's hash, which only ring_hash and maglev look at."""


def nothing(_key: int) -> None:
    """There is no endpoint that may be used."""


def only(state: S) -> Choose[S]:
    return lambda _key: state


def peak_ewma(slots: tuple[S, ...], rng: Random) -> Choose[S]:
    """Latency times what is in flight: an estimate of how long one more request takes there."""
    if _is_weighted(slots):
        return _peak_ewma_weighted(slots, rng)
    random = rng.random
    rest = len(slots) - 1
    pairs = len(slots) * rest

    def choose(_key: int) -> S:
        # One number for both: which slot, and how far behind it the second one is, never 0.
        draw = int(random() * pairs)
        first = draw // rest
        one = slots[first]
        two = slots[first - 1 - draw % rest]
        if one.cost_s * (one.inflight + 1) <= two.cost_s * (two.inflight + 1):
            return one
        return two

    return choose


def _peak_ewma_weighted(slots: tuple[S, ...], rng: Random) -> Choose[S]:
    random = rng.random
    rest = len(slots) - 1
    pairs = len(slots) * rest
    other = _others(slots)
    lightness = _lightness(slots)

    def choose(_key: int) -> S:
        draw = int(random() * pairs)
        first = draw // rest
        second = first - 1 - draw % rest
        one = slots[first]
        two = slots[second]
        margin = 1.0
        if one is two:
            second = other[first]
            two = slots[second]
            margin = FAR_BETTER
        if one.cost_s * (one.inflight * lightness[first] + 1) <= margin * two.cost_s * (
            two.inflight * lightness[second] + 1
        ):
            return one
        return two

    return choose


def least_request(slots: tuple[S, ...], rng: Random) -> Choose[S]:
    """Fewest in flight, in relation to the weight."""
    if _is_weighted(slots):
        return _least_request_weighted(slots, rng)
    random = rng.random
    rest = len(slots) - 1
    pairs = len(slots) * rest

    def choose(_key: int) -> S:
        draw = int(random() * pairs)
        first = draw // rest
        one = slots[first]
        two = slots[first - 1 - draw % rest]
        return one if one.inflight <= two.inflight else two

    return choose


def _least_request_weighted(slots: tuple[S, ...], rng: Random) -> Choose[S]:
    random = rng.random
    rest = len(slots) - 1
    pairs = len(slots) * rest
    other = _others(slots)
    lightness = _lightness(slots)

    def choose(_key: int) -> S:
        draw = int(random() * pairs)
        first = draw // rest
        second = first - 1 - draw % rest
        one = slots[first]
        two = slots[second]
        margin = 1.0
        if one is two:
            second = other[first]
            two = slots[second]
            margin = FAR_BETTER
        if one.inflight * lightness[first] + 1 <= margin * (two.inflight * lightness[second] + 1):
            return one
        return two

    return choose


def round_robin(slots: tuple[S, ...], rng: Random) -> Choose[S]:
    """In turn, from a random place on, so that many callers do not march in step."""
    turn = islice(cycle(slots), int(rng.random() * len(slots)), None)
    return lambda _key: next(turn)


def at_random(slots: tuple[S, ...], rng: Random) -> Choose[S]:
    random = rng.random
    count = len(slots)
    return lambda _key: slots[int(random() * count)]


def divided(near: Choose[S], far: Choose[S], share: float, rng: Random) -> Choose[S]:
    """``share`` of the requests to ``near``; first the zone, then the endpoint in it, or the
    better latency nearby would win every comparison and nothing would spill over."""
    random = rng.random
    return lambda key: near(key) if random() < share else far(key)


def _is_weighted(slots: tuple[S, ...]) -> bool:
    return len(set(slots)) < len(slots)


def _lightness(slots: tuple[S, ...]) -> tuple[float, ...]:
    """For each slot how much one request weighs on its endpoint, on average 1: loads compare by
    weight, and endpoints without any load are equals, whatever they weigh."""
    counts = Counter(slots)
    mean = len(slots) / len(counts)
    return tuple(mean / counts[state] for state in slots)


def _others(slots: tuple[S, ...]) -> tuple[int, ...]:
    """For each slot the next one, around, that is of another endpoint."""
    count = len(slots)
    following = [0] * count
    after = 0
    for index in range(2 * count - 1, -1, -1):
        if slots[index % count] is not slots[(index + 1) % count]:
            after = (index + 1) % count
        following[index % count] = after
    return tuple(following)
