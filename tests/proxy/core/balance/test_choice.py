from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from sim.simulation import Server, server

from proxy.core.balance import EndpointState, choice
from proxy.core.balance.slots import lay_out

TWO_CHOICES = [choice.peak_ewma, choice.least_request]


def choose_many(
    make: Callable[..., Any], states: list[Server], times: int = 4000
) -> Counter[Server]:
    choose = make(lay_out(states, 0.0, 0), Random(5))
    return Counter(choose(0) for _ in range(times))


def measured(*costs_s: float) -> list[Server]:
    states = [server(number) for number in range(len(costs_s))]
    for state, cost_s in zip(states, costs_s, strict=True):
        state.cost_s = cost_s
    return states


@pytest.mark.parametrize("make", TWO_CHOICES)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_two_are_never_the_same_and_each_pair_is_as_likely(
    make: Callable[..., Any], count: int
) -> None:
    states = measured(*[0.01] * count)
    for number, state in enumerate(states):
        state.inflight = number
    counts = choose_many(make, states, 12_000)
    pairs = count * (count - 1) / 2
    for number, state in enumerate(states):
        # It wins against those busier than itself.
        share = (count - 1 - number) / pairs
        assert counts[state] / 12_000 == pytest.approx(share, abs=0.02)


def test_peak_ewma_compares_cost_times_one_more_request() -> None:
    fast, slow = states = measured(0.01, 0.035)
    fast.inflight = 2
    assert choose_many(choice.peak_ewma, states)[slow] == 0
    fast.inflight = 3
    assert choose_many(choice.peak_ewma, states)[fast] == 0


def test_least_request_knows_no_latency() -> None:
    fast, slow = states = measured(0.01, 10.0)
    fast.inflight = 1
    assert choose_many(choice.least_request, states)[slow] == 4000


@pytest.mark.parametrize("make", TWO_CHOICES)
def test_loads_compare_by_weight(make: Callable[..., Any]) -> None:
    light, heavy = states = [server(0, weight=1), server(1, weight=3)]
    for state in states:
        state.cost_s = 0.01
    assert choose_many(make, states)[heavy] / 4000 == pytest.approx(0.75, abs=0.03)
    light.inflight, heavy.inflight = 2, 4
    assert choose_many(make, states)[light] == 0


@pytest.mark.parametrize("make", TWO_CHOICES)
def test_weight_alone_does_not_win_against_a_far_better_one(make: Callable[..., Any]) -> None:
    light, heavy = states = [server(0, weight=1), server(1, weight=9)]
    light.cost_s, heavy.cost_s = 0.01, 1.0
    heavy.inflight = 50
    assert choose_many(make, states)[light] == 4000


def test_round_robin_is_smooth_and_exact() -> None:
    states = [server(number, weight=number + 1) for number in range(3)]
    choose = choice.round_robin(lay_out(states, 0.0, 0), Random(1))
    picked = [choose(0) for _ in range(12)]
    assert picked[:6] == picked[6:]
    assert [picked[:6].count(state) for state in states] == [1, 2, 3]


def test_round_robins_of_different_callers_begin_at_different_places() -> None:
    slots = tuple(server(number) for number in range(10))
    first = {choice.round_robin(slots, Random(seed))(0) for seed in range(30)}
    assert len(first) > 5


def test_random_goes_by_weight() -> None:
    states = [server(0, weight=1), server(1, weight=4)]
    assert choose_many(choice.at_random, states)[states[1]] / 4000 == pytest.approx(0.8, abs=0.03)


class Watched(EndpointState):
    """Counts who looks at its load."""

    __slots__ = ("load", "looks")

    def __init__(self, like: EndpointState) -> None:
        self.load = self.looks = 0
        super().__init__(like.endpoint)

    @property
    def inflight(self) -> int:
        self.looks += 1
        return self.load

    @inflight.setter
    def inflight(self, value: int) -> None:
        self.load = value


@pytest.mark.parametrize("make", TWO_CHOICES)
def test_a_choice_looks_at_two_of_a_thousand(make: Callable[..., Any]) -> None:
    states = tuple(Watched(server(number)) for number in range(1000))
    make(states, Random(1))(0)
    assert sum(state.looks for state in states) == 2
