from math import exp

import pytest
from sim.simulation import server

from proxy.core.balance.latency import assume, decay, penalise, usual


def test_a_failure_costs_four_times_the_usual_or_its_own_latency() -> None:
    state = server(0)
    state.cost_s = 0.001
    penalise(state, 0.0001, 0.01, 5.0)
    assert (state.cost_s, state.stamp_s) == (0.04, 5.0)
    penalise(state, 0.0001, 0.01, 6.0)
    assert state.cost_s == pytest.approx(0.16)


def test_failures_add_up_to_sixty_four_times_the_usual_and_no_further() -> None:
    state = server(0)
    for _ in range(10):
        penalise(state, 0.0001, 0.01, 5.0)
    assert state.cost_s == pytest.approx(0.64)


def test_a_failure_that_took_long_costs_what_it_took() -> None:
    state = server(0)
    penalise(state, 15.0, 0.01, 5.0)
    assert state.cost_s == 15.0


def test_a_failure_never_makes_cheaper() -> None:
    state = server(0)
    state.cost_s = 5.0
    penalise(state, 0.0001, 0.01, 5.0)
    assert state.cost_s == 5.0


def test_an_endpoint_without_requests_becomes_cheap_again() -> None:
    state = server(0)
    state.cost_s, state.stamp_s = 1.0, 100.0
    for second in range(1, 21):
        decay([state], 0.1, 100.0 + second)
    assert state.cost_s == pytest.approx(exp(-2))


def test_the_usual_cost_is_the_median_of_those_measured() -> None:
    states = [server(number) for number in range(6)]
    for state, cost_s in zip(states, (9.0, 0.03, 0.01, 0.02, 50.0), strict=False):
        state.cost_s, state.is_measured = cost_s, True
    states[5].cost_s = 0.0001
    assert usual(states, 0.5) == 0.03
    assert usual(states[5:], 0.5) == 0.5
    assert usual(states[:2], 0.5) == 0.03


def test_the_usual_cost_of_thousands_is_sampled() -> None:
    states = [server(number) for number in range(5000)]
    for number, state in enumerate(states):
        state.cost_s, state.is_measured = number / 5000, True
    assert usual(states, 0.5) == pytest.approx(0.5, abs=0.05)


def test_whoever_is_not_measured_is_taken_for_one_of_its_equals() -> None:
    new, failed = server(0), server(1)
    new.cost_s = failed.cost_s = 0.03
    penalise(failed, 0.0001, 0.03, 5.0)
    assume([new, failed], 0.001)
    assert new.cost_s == 0.001
    assert failed.cost_s == pytest.approx(0.12)
