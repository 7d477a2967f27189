from random import Random

import pytest
from sim.simulation import Server, server

from proxy.core.balance import Tiers
from proxy.model.policy import Balancing
from proxy.model.resilience import OutlierDetection

NOW = 100.0


def three_tiers(
    *, panic_percent: float = 50.0
) -> tuple[Tiers[Server], list[Server], list[Server], list[Server]]:
    here, there, far = ([server(number * 10 + each) for each in range(3)] for number in range(3))
    tiers: Tiers[Server] = Tiers(
        Balancing(), OutlierDetection(panic_percent=panic_percent), "", Random(2), 3
    )
    tiers.update([here, there, far], NOW)
    return tiers, here, there, far


def fail(tiers: Tiers[Server], *states: Server, is_failing: bool = True) -> None:
    for state in states:
        state.is_failing = is_failing
    tiers.refresh(NOW)


def picks(tiers: Tiers[Server]) -> set[Server | None]:
    return {tiers.pick((), NOW) for _ in range(60)}


def test_the_first_tier_serves_while_it_can() -> None:
    tiers, here, *_ = three_tiers()
    assert picks(tiers) == set(here)
    assert (tiers.active, tiers.available, tiers.total) == (0, 9, 9)
    fail(tiers, *here[:2])
    assert picks(tiers) & set(here) == picks(tiers)
    assert tiers.active == 0


def test_requests_go_to_the_next_tier_when_nothing_is_available_and_come_back() -> None:
    tiers, here, there, far = three_tiers()
    fail(tiers, *here)
    assert picks(tiers) == set(there)
    assert (tiers.active, tiers.is_panicking) == (1, False)
    fail(tiers, *there)
    assert picks(tiers) == set(far)
    assert tiers.active == 2
    fail(tiers, *here, is_failing=False)
    assert picks(tiers) == set(here)
    assert tiers.active == 0


def test_with_nothing_available_anywhere_the_first_tier_panics() -> None:
    tiers, here, there, far = three_tiers()
    fail(tiers, *here, *there, *far)
    assert picks(tiers) == set(here)
    assert (tiers.active, tiers.is_panicking) == (0, True)


def test_an_empty_tier_is_passed_over() -> None:
    tiers, _, there, far = three_tiers()
    tiers.update([[], there, far], NOW)
    assert picks(tiers) == set(there)
    tiers.update([[], [], far], NOW)
    fail(tiers, *far)
    assert picks(tiers) == set(far)
    assert tiers.active == 2
    tiers.update([[], [], []], NOW)
    assert tiers.pick((), NOW) is None
    assert (tiers.active, tiers.is_panicking) == (0, False)


def test_a_tier_that_cannot_be_connected_to_is_passed_over() -> None:
    tiers, here, there, far = three_tiers()
    for state in here:
        tiers.avoid(state, NOW)
    tiers.pick((), NOW)  # takes it in
    assert picks(tiers) == set(there)
    assert tiers.active == 1
    for state in (*there, *far):
        tiers.avoid(state, NOW)
    tiers.refresh(NOW)
    assert picks(tiers) == set(here)
    tiers.forgive(there[0])
    tiers.refresh(NOW)
    assert picks(tiers) == {there[0]}


def test_hard_to_connect_to_is_better_than_unavailable() -> None:
    tiers, here, there, far = three_tiers()
    fail(tiers, *here, *far)
    for state in there:
        tiers.avoid(state, NOW)
    tiers.refresh(NOW)
    assert picks(tiers) == set(there)
    assert tiers.active == 1


def test_a_retry_goes_through_all_tiers_and_never_twice_to_one() -> None:
    tiers, here, there, far = three_tiers()
    fail(tiers, here[0])
    tried: list[Server] = []
    while (state := tiers.pick(tried, NOW)) is not None:
        assert state not in tried
        tried.append(state)
    assert set(tried) == {*here, *there, *far}
    assert set(tried[:2]) == set(here[1:])
    assert set(tried[2:5]) == set(there)
    assert set(tried[5:8]) == set(far)
    assert tried[8] is here[0]


def test_without_panic_the_unavailable_are_never_used() -> None:
    tiers, here, there, far = three_tiers(panic_percent=0)
    fail(tiers, *here, *there, *far)
    assert tiers.pick((), NOW) is None


def test_a_probe_brings_a_tier_back() -> None:
    tiers, here, there, _ = three_tiers()
    for state in here:
        state.ejected_until = NOW + 30
    here[0].is_probing = True
    tiers.refresh(NOW)
    assert tiers.pick(there[:1], NOW) in there[1:]
    assert tiers.pick((), NOW) is here[0]
    here[0].inflight = 1
    assert picks(tiers) == set(there)
    here[0].inflight = 0
    tiers.observe(here[0], 0.01, False, NOW)
    here[0].is_probing, here[0].ejected_until = False, 0.0
    tiers.refresh(NOW)
    assert here[0] in picks(tiers)


def test_an_outcome_goes_to_the_tier_of_its_endpoint() -> None:
    tiers, here, there, far = three_tiers()
    for tier, cost_s in ((here, 0.001), (there, 0.05), (far, 0.1)):
        for state in tier:
            tiers.observe(state, cost_s, False, NOW)
    tiers.refresh(NOW)
    tiers.observe(there[0], 0.0001, True, NOW)
    assert there[0].cost_s == pytest.approx(0.2)
    tiers.observe(here[0], 0.0001, True, NOW)
    assert here[0].cost_s == pytest.approx(0.004)


def test_an_endpoint_in_two_tiers_counts_in_the_first() -> None:
    tiers, here, there, far = three_tiers()
    tiers.update([here, [*there, here[0]], far], NOW)
    assert here[0].tier == 0


def test_as_many_tiers_as_were_said() -> None:
    tiers, here, there, _ = three_tiers()
    with pytest.raises(ValueError):
        tiers.update([here, there], NOW)
