from random import Random

import pytest

from proxy.core.balance import AVOID_S, EndpointState, RoundRobin
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName


def states(count: int) -> tuple[EndpointState, ...]:
    return tuple(
        EndpointState(
            Endpoint(
                service=ServiceName("api"),
                host=HostName(f"h{number}"),
                address="10.0.0.1",
                port=number,
            )
        )
        for number in range(count)
    )


def test_each_endpoint_gets_the_same_share() -> None:
    candidates = states(3)
    balancer: RoundRobin[EndpointState] = RoundRobin()
    picked = [balancer.pick(candidates, (), 0.0) for _ in range(9)]
    assert [picked.count(state) for state in candidates] == [3, 3, 3]
    assert picked[:3] == picked[3:6]


def test_nothing_to_pick_from_is_none() -> None:
    assert RoundRobin[EndpointState]().pick((), (), 0.0) is None


def test_what_was_tried_is_never_picked_again() -> None:
    candidates = states(3)
    balancer: RoundRobin[EndpointState] = RoundRobin()
    tried: tuple[EndpointState, ...] = ()
    for _ in range(3):
        state = balancer.pick(candidates, tried, 0.0)
        assert state is not None
        assert state not in tried
        tried = (*tried, state)
    assert balancer.pick(candidates, tried, 0.0) is None


def test_an_endpoint_that_failed_comes_last_and_returns_in_time() -> None:
    candidates = states(3)
    balancer: RoundRobin[EndpointState] = RoundRobin()
    balancer.failed(candidates[0], 100.0, Random(1))
    soon = [balancer.pick(candidates, (), 101.0) for _ in range(12)]
    assert candidates[0] not in soon
    assert soon.count(candidates[1]) > 0 < soon.count(candidates[2])
    assert balancer.pick(candidates, candidates[1:], 101.0) is candidates[0]
    late = [balancer.pick(candidates, (), 100.0 + 2 * AVOID_S) for _ in range(12)]
    assert late.count(candidates[0]) == 4


def test_when_all_have_failed_the_one_that_failed_first_is_tried() -> None:
    candidates = states(2)
    balancer: RoundRobin[EndpointState] = RoundRobin()
    balancer.failed(candidates[1], 100.0, Random(1))
    balancer.failed(candidates[0], 110.0, Random(1))
    assert balancer.pick(candidates, (), 101.0) is candidates[1]


def test_a_success_clears_the_mark() -> None:
    candidates = states(2)
    balancer: RoundRobin[EndpointState] = RoundRobin()
    balancer.failed(candidates[0], 100.0, Random(1))
    balancer.succeeded(candidates[0])
    assert candidates[0] in [balancer.pick(candidates, (), 100.0) for _ in range(2)]


@pytest.mark.parametrize("seed", range(20))
def test_the_time_of_avoidance_is_spread(seed: int) -> None:
    (state,) = states(1)
    RoundRobin[EndpointState]().failed(state, 0.0, Random(seed))
    assert AVOID_S * 0.5 <= state.avoid_until <= AVOID_S * 1.5
