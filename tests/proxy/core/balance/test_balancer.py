from collections.abc import Sequence
from math import exp
from random import Random

import pytest
from sim.simulation import Server, server

from proxy.core.balance import AVOID_S, LoadBalancer
from proxy.model.policy import Algorithm, Balancing
from proxy.model.resilience import OutlierDetection

NOW = 100.0
ALGORITHMS: tuple[Algorithm, ...] = (
    "peak_ewma",
    "least_request",
    "round_robin",
    "random",
    "ring_hash",
    "maglev",
)


def balancer_of(
    states: Sequence[Server],
    balancing: Balancing | None = None,
    *,
    panic_percent: float = 50.0,
    zone: str = "",
) -> LoadBalancer[Server]:
    balancer: LoadBalancer[Server] = LoadBalancer(
        balancing or Balancing(), OutlierDetection(panic_percent=panic_percent), zone, Random(4)
    )
    balancer.update(states, NOW)
    return balancer


def servers(count: int) -> list[Server]:
    return [server(number) for number in range(count)]


def picks(balancer: LoadBalancer[Server], times: int = 60, now: float = NOW) -> list[Server | None]:
    keys = Random(8)
    return [balancer.pick((), now, keys.getrandbits(64)) for _ in range(times)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestWhateverTheAlgorithm:
    def test_nothing_to_pick_from_is_none(self, algorithm: Algorithm) -> None:
        balancer = balancer_of([], Balancing(algorithm=algorithm))
        assert balancer.pick((), NOW, 7) is None
        assert (balancer.total, balancer.available, balancer.is_panicking) == (0, 0, False)

    def test_a_single_endpoint_gets_all(self, algorithm: Algorithm) -> None:
        states = servers(1)
        assert set(picks(balancer_of(states, Balancing(algorithm=algorithm)))) == {states[0]}

    def test_what_was_tried_is_avoided_until_nothing_is_left(self, algorithm: Algorithm) -> None:
        states = servers(5)
        states[3].avoid_until = NOW + 1
        states[4].is_failing = True
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        tried: list[Server] = []
        for _ in states:
            state = balancer.pick(tried, NOW, 7)
            assert state is not None
            assert state not in tried
            tried.append(state)
        assert tried[3:] == states[3:]
        assert balancer.pick(tried, NOW, 7) is None

    def test_unavailable_endpoints_get_nothing(self, algorithm: Algorithm) -> None:
        states = servers(6)
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        states[0].is_failing = True
        states[1].ejected_until = NOW + 30
        balancer.refresh(NOW)
        assert (balancer.available, balancer.total) == (4, 6)
        assert set(picks(balancer)) == set(states[2:])
        states[0].is_failing = False
        states[1].ejected_until = 0.0
        balancer.refresh(NOW)
        assert set(picks(balancer)) == set(states)

    def test_panic_uses_all_and_ends(self, algorithm: Algorithm) -> None:
        states = servers(4)
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        for state in states[:3]:
            state.is_failing = True
        balancer.refresh(NOW)
        assert balancer.is_panicking
        assert set(picks(balancer)) == set(states)
        states[0].is_failing = False
        balancer.refresh(NOW)
        assert not balancer.is_panicking
        assert set(picks(balancer)) == {states[0], states[3]}

    def test_without_panic_the_unavailable_are_never_used(self, algorithm: Algorithm) -> None:
        states = servers(2)
        balancer = balancer_of(states, Balancing(algorithm=algorithm), panic_percent=0)
        for state in states:
            state.is_failing = True
        balancer.refresh(NOW)
        assert balancer.pick((), NOW, 7) is None
        assert balancer.pick(states[:1], NOW, 7) is None

    def test_an_avoided_endpoint_comes_last_and_returns_in_time(self, algorithm: Algorithm) -> None:
        states = servers(3)
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        balancer.avoid(states[0], NOW)
        assert set(picks(balancer)) == set(states[1:])
        assert balancer.pick(states[1:], NOW, 7) is states[0]
        balancer.refresh(NOW + 2 * AVOID_S)
        assert set(picks(balancer, now=NOW + 2 * AVOID_S)) == set(states)

    def test_a_connection_made_ends_the_avoidance(self, algorithm: Algorithm) -> None:
        states = servers(3)
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        balancer.avoid(states[0], NOW)
        balancer.forgive(states[0])
        assert set(picks(balancer)) == set(states)

    def test_if_all_are_avoided_all_are_used(self, algorithm: Algorithm) -> None:
        states = servers(3)
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        for state in states:
            balancer.avoid(state, NOW)
        assert set(picks(balancer)) == set(states)

    def test_weight_zero_is_for_when_nothing_else_is_there(self, algorithm: Algorithm) -> None:
        states = [server(0), server(1), server(2, weight=0), server(3, weight=0)]
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        assert set(picks(balancer)) == set(states[:2])
        assert balancer.pick(states[:2], NOW, 7) in states[2:]
        for state in states[:2]:
            state.is_failing = True
        balancer.refresh(NOW)
        assert set(picks(balancer)) == set(states[2:])

    def test_endpoints_that_leave_get_nothing_and_new_ones_do(self, algorithm: Algorithm) -> None:
        states = servers(4)
        balancer = balancer_of(states[:3], Balancing(algorithm=algorithm))
        picks(balancer)
        balancer.update(states[1:], NOW)
        assert set(picks(balancer)) == set(states[1:])
        balancer.update([], NOW)
        assert picks(balancer, 1) == [None]

    def test_a_probing_endpoint_gets_exactly_one_request(self, algorithm: Algorithm) -> None:
        states = servers(4)
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        probing = states[0]
        probing.ejected_until, probing.is_probing = NOW - 1, True
        balancer.refresh(NOW)
        assert balancer.is_probe_due
        assert balancer.available == 3
        assert balancer.pick(states[1:2], NOW, 7) in states[2:]  # not the last try of a request
        assert balancer.pick((), NOW, 7) is probing
        assert probing.probe_out
        probing.inflight = 1
        assert probing not in picks(balancer)
        balancer.refresh(NOW)
        assert probing not in picks(balancer)
        balancer.observe(probing, 0.01, False, NOW)
        probing.inflight = 0
        probing.ejected_until, probing.is_probing = 0.0, False
        balancer.refresh(NOW)
        assert probing in picks(balancer)

    def test_a_probe_that_came_to_nothing_is_repeated(self, algorithm: Algorithm) -> None:
        states = servers(4)
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        states[0].is_probing = True
        balancer.refresh(NOW)
        assert picks(balancer).count(states[0]) == 1
        balancer.refresh(NOW + 1)
        assert picks(balancer).count(states[0]) == 1

    def test_a_failed_probe_leaves_the_endpoint_out(self, algorithm: Algorithm) -> None:
        states = servers(4)
        balancer = balancer_of(states, Balancing(algorithm=algorithm))
        states[0].is_probing = True
        balancer.refresh(NOW)
        assert balancer.pick((), NOW, 7) is states[0]
        balancer.observe(states[0], 0.01, True, NOW)
        states[0].is_probing, states[0].ejected_until = False, NOW + 30
        balancer.refresh(NOW)
        assert states[0] not in picks(balancer)
        assert not states[0].probe_out


def test_what_is_refreshed_without_a_change_keeps_its_turn() -> None:
    states = servers(5)
    balancer = balancer_of(states, Balancing(algorithm="round_robin"))
    picked = []
    for second in range(10):
        balancer.refresh(NOW + second)
        picked.append(balancer.pick((), NOW + second))
    assert picked[:5] == picked[5:]
    assert set(picked) == set(states)


@pytest.mark.parametrize("seed", range(20))
def test_the_time_of_avoidance_is_spread(seed: int) -> None:
    states = servers(2)
    balancer: LoadBalancer[Server] = LoadBalancer(Balancing(), OutlierDetection(), "", Random(seed))
    balancer.update(states, NOW)
    balancer.avoid(states[0], NOW)
    assert NOW + AVOID_S * 0.5 <= states[0].avoid_until <= NOW + AVOID_S * 1.5


def test_many_failed_connects_to_many_endpoints_are_taken_in_together() -> None:
    states = servers(1000)
    balancer = balancer_of(states, Balancing(algorithm="random"))
    balancer.avoid(states[0], NOW)
    balancer.pick((), NOW)
    assert balancer.ready == 1000
    for state in states[:900]:
        balancer.avoid(state, NOW)
    balancer.pick((), NOW + 0.1)
    assert balancer.ready == 100
    assert not set(picks(balancer, now=NOW + 0.1)) & set(states[:900])


def test_the_own_zone_first_and_another_for_a_retry() -> None:
    here, there = server(0, zone="a"), server(1, zone="b")
    balancer = balancer_of([here, there], zone="a")
    assert set(picks(balancer)) == {here}
    assert balancer.pick([here], NOW) is there


def test_panic_knows_no_zones() -> None:
    here = [server(number, zone="a") for number in range(2)]
    there = [server(number + 2, zone="b") for number in range(4)]
    for state in here + there[:2]:
        state.is_failing = True
    balancer = balancer_of(here + there, Balancing(algorithm="round_robin"), zone="a")
    assert balancer.is_panicking
    assert set(picks(balancer)) == set(here + there)


def test_a_hash_knows_no_zones() -> None:
    here, there = server(0, zone="a"), server(1, zone="b")
    balancer = balancer_of([here, there], Balancing(algorithm="ring_hash"), zone="a")
    assert set(picks(balancer)) == {here, there}


class TestPeakEwma:
    def test_an_unmeasured_endpoint_costs_the_default(self) -> None:
        states = servers(2)
        balancer_of(states, Balancing(default_rtt_s=0.2))
        assert [state.cost_s for state in states] == [0.2, 0.2]

    def test_the_first_measurement_replaces_the_default(self) -> None:
        (state,) = states = servers(1)
        balancer_of(states).observe(state, 0.001, False, NOW)
        assert state.cost_s == 0.001

    def test_a_newcomer_is_assumed_no_worse_than_its_equals(self) -> None:
        states = servers(3)
        balancer = balancer_of(states[:2])
        for state in states[:2]:
            balancer.observe(state, 0.001, False, NOW)
        balancer.refresh(NOW)
        balancer.update(states, NOW)
        assert states[2].cost_s == 0.001

    def test_the_cost_rises_to_a_peak_at_once(self) -> None:
        (state,) = states = servers(1)
        balancer = balancer_of(states)
        balancer.observe(state, 0.001, False, NOW)
        balancer.observe(state, 0.5, False, NOW + 0.001)
        assert state.cost_s == 0.5

    @pytest.mark.parametrize("pause_s", [0.001, 0.1, 0.5, 2.0, 30.0])
    def test_the_cost_comes_down_exponentially_in_time(self, pause_s: float) -> None:
        (state,) = states = servers(1)
        balancer = balancer_of(states, Balancing(decay_s=10))
        balancer.observe(state, 1.0, False, NOW)
        now = NOW
        while now < NOW + 30:
            now += pause_s
            balancer.observe(state, 0.01, False, now)
        expected = 0.01 + 0.99 * exp(-(now - NOW) / 10)
        assert state.cost_s == pytest.approx(expected, rel=0.1)

    def test_two_answers_in_one_moment_weigh_as_one_moment(self) -> None:
        (state,) = states = servers(1)
        balancer = balancer_of(states)
        balancer.observe(state, 1.0, False, NOW)
        for _ in range(1000):
            balancer.observe(state, 0.01, False, NOW)
        assert state.cost_s == 1.0

    def test_a_failure_makes_dearer_however_fast_it_was(self) -> None:
        states = servers(3)
        balancer = balancer_of(states)
        for state in states:
            balancer.observe(state, 0.01, False, NOW)
        balancer.refresh(NOW)
        balancer.observe(states[0], 0.0001, True, NOW)
        assert states[0].cost_s == pytest.approx(0.04)
        assert states[0] not in picks(balancer)

    def test_a_probe_that_succeeds_ends_the_old_cost(self) -> None:
        states = servers(3)
        balancer = balancer_of(states)
        balancer.observe(states[0], 9.0, False, NOW)
        states[0].is_probing = True
        balancer.refresh(NOW)
        assert balancer.pick((), NOW) is states[0]
        balancer.observe(states[0], 0.01, False, NOW)
        assert states[0].cost_s == 0.01

    def test_a_decay_of_nothing_remembers_nothing(self) -> None:
        (state,) = states = servers(1)
        balancer = balancer_of(states, Balancing(decay_s=0))
        balancer.observe(state, 1.0, False, NOW)
        balancer.observe(state, 0.01, False, NOW)
        balancer.observe(state, 0.01, False, NOW + 1)
        assert state.cost_s == pytest.approx(0.01)


class TestSlowStart:
    balancing = Balancing(algorithm="round_robin", slow_start_s=10)

    def share(self, balancer: LoadBalancer[Server], state: Server, now: float) -> float:
        balancer.refresh(now)
        return picks(balancer, 2200, now).count(state) / 2200

    def test_whoever_was_there_at_first_has_its_whole_share(self) -> None:
        states = servers(2)
        balancer = balancer_of(states, self.balancing)
        assert self.share(balancer, states[0], NOW) == pytest.approx(0.5, abs=0.01)

    def test_a_newcomer_grows_and_is_grown(self) -> None:
        states = servers(2)
        balancer = balancer_of(states[:1], self.balancing)
        balancer.update(states, NOW + 5)
        for age, growth in ((0, 0.1), (5, 0.55), (10, 1.0), (50, 1.0)):
            share = self.share(balancer, states[1], NOW + 5 + age)
            assert share == pytest.approx(growth / (1 + growth), abs=0.02)

    def test_an_update_does_not_begin_it_again(self) -> None:
        states = servers(3)
        balancer = balancer_of(states[:1], self.balancing)
        balancer.update(states[:2], NOW + 5)
        balancer.update(states, NOW + 15)
        assert states[1].joined_s == NOW + 5

    def test_when_all_leave_while_growing_nothing_is_left(self) -> None:
        states = servers(2)
        balancer = balancer_of(states[:1], self.balancing)
        balancer.update(states, NOW + 5)
        balancer.update([], NOW + 6)
        assert balancer.pick((), NOW + 6) is None
