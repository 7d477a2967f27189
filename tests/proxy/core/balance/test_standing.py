import pytest
from sim.simulation import server

from proxy.core.balance.standing import Standing, divide

NOW = 100.0


def test_each_endpoint_stands_in_one_place() -> None:
    ready, spare, avoided, probing, ejected, failing = states = [
        server(number, weight=0 if number == 1 else 1) for number in range(6)
    ]
    avoided.avoid_until = NOW + 1
    ejected.ejected_until = NOW + 1
    probing.ejected_until = NOW - 1
    probing.is_probing = True
    failing.is_failing = True
    standing = Standing(states, NOW, 50)
    assert (standing.ready, standing.spare, standing.avoided) == ([ready], [spare], [avoided])
    assert (standing.probing, standing.down) == ([probing], [ejected, failing])
    assert standing.available == 3


def test_an_endpoint_whose_ejection_is_over_waits_for_its_probe() -> None:
    state = server(0)
    state.ejected_until = NOW - 1
    assert Standing([state], NOW, 0).down == [state]


def test_a_failing_health_check_outweighs_a_probe() -> None:
    state = server(0)
    state.is_failing = state.is_probing = True
    assert Standing([state], NOW, 0).down == [state]


def test_an_avoided_endpoint_is_ready_when_its_time_is_over() -> None:
    state = server(0)
    state.avoid_until = NOW
    assert Standing([state], NOW, 50).ready == [state]


def test_weight_zero_is_used_before_an_endpoint_that_refuses_connections() -> None:
    spare, avoided = states = [server(0, weight=0), server(1)]
    assert Standing(states, NOW, 50).candidates(states, NOW) == [avoided]
    avoided.avoid_until = NOW + 1
    assert Standing(states, NOW, 50).candidates(states, NOW) == [spare]
    spare.is_failing = True
    assert Standing(states, NOW, 50).candidates(states, NOW) == [avoided]


@pytest.mark.parametrize(
    ("failing", "percent", "is_panicking"),
    [(0, 50, False), (2, 50, False), (3, 50, True), (4, 0, False), (1, 80, True), (0, 100, False)],
)
def test_panic_begins_below_its_percentage(
    failing: int, percent: float, is_panicking: bool
) -> None:
    states = [server(number) for number in range(4)]
    for state in states[:failing]:
        state.is_failing = True
    standing = Standing(states, NOW, percent)
    assert standing.is_panicking is is_panicking
    expected = states if is_panicking else states[failing:]
    assert standing.candidates(states, NOW) == expected


def test_panic_still_prefers_whoever_can_be_connected_to() -> None:
    states = [server(number) for number in range(3)]
    for state in states:
        state.is_failing = True
    states[0].avoid_until = NOW + 1
    standing = Standing(states, NOW, 50)
    assert standing.candidates(states, NOW) == states[1:]


def test_no_endpoint_is_no_panic() -> None:
    assert not Standing([], NOW, 50).is_panicking


@pytest.mark.parametrize(
    ("healthy", "share"), [(10, 1.0), (8, 1.0), (7, 0.98), (5, 0.7), (1, 0.14)]
)
def test_the_zones_share_is_its_healthy_share_with_a_reserve(healthy: int, share: float) -> None:
    here = [server(number, zone="a") for number in range(10)]
    there = [server(number, zone="b") for number in range(3)]
    near, far, got = divide(here[:healthy] + there, here + there, "a")
    assert near == here[:healthy]
    assert far == ([] if share == 1.0 else there)
    assert got == pytest.approx(share)


def test_with_one_zone_only_nothing_is_divided() -> None:
    here, there = [server(0, zone="a")], [server(1, zone="b")]
    assert divide(here, here + there, "a") == (here, [], 1.0)
    assert divide(there, here + there, "a") == (there, [], 1.0)
