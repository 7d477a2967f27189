from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim.simulation import server

from proxy.core.balance.slots import growth, lay_out

NOW = 100.0


def test_equals_have_one_slot_each_whatever_they_weigh() -> None:
    states = [server(number, weight=7) for number in range(3)]
    assert lay_out(states, NOW, 0) == tuple(states)
    unwanted = [server(number, weight=0) for number in range(3)]
    assert lay_out(unwanted, NOW, 0) == tuple(unwanted)


def test_weights_are_reduced_and_spread_evenly() -> None:
    states = [server(number, weight=weight) for number, weight in enumerate((10, 20, 30))]
    slots = [states.index(state) for state in lay_out(states, NOW, 0)]
    assert slots == [2, 1, 0, 2, 1, 2]


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=40))
def test_slots_are_bounded_and_leave_nobody_out(weights: list[int]) -> None:
    states = [server(number, weight=weight) for number, weight in enumerate(weights)]
    slots = lay_out(states, NOW, 0)
    counts = Counter(slots)
    assert set(counts) == set(states)
    assert len(slots) <= 1024 + 2 * len(states)
    total = sum(weights)
    for state in states:
        exact = state.endpoint.weight / total
        assert counts[state] / len(slots) == pytest.approx(exact, abs=0.05 * exact + 2 / 1024)


def test_many_endpoints_do_not_make_slots_without_end() -> None:
    states = [server(number, weight=1 + number % 100) for number in range(5000)]
    assert len(lay_out(states, NOW, 0)) < 5 * len(states)


def test_growth_is_linear_from_a_tenth() -> None:
    state = server(0)
    state.joined_s = NOW
    at = [growth(state, NOW + age, 10) for age in (-1, 0, 5, 10, 11)]
    assert at == pytest.approx([0.1, 0.1, 0.55, 1.0, 1.0])


def test_slow_start_is_a_smaller_share() -> None:
    old, new = states = [server(0, weight=2), server(1, weight=2)]
    old.joined_s = float("-inf")
    new.joined_s = NOW
    counts = Counter(lay_out(states, NOW, 10))
    assert counts[new] * 10 == counts[old]
    assert lay_out(states, NOW + 10, 10) == (old, new)
