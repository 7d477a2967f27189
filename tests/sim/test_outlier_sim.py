"""Outlier detection against endpoints that misbehave, second by second on a fake clock."""

from collections.abc import Callable, Iterator
from random import Random

import pytest

from proxy.core.balance import EndpointState, LoadBalancer
from proxy.core.outlier import Change, Event, OutlierDetector
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Balancing
from proxy.model.resilience import OutlierDetection

REQUESTS_PER_S = 100
SIZE = 10
SERVICE = ServiceName("api")
BAD = 0

Behaviour = Callable[[int, float, Random], bool]
"""(endpoint, now, rng) -> whether a request fails."""


class Upstream:
    """The real balancer over ten endpoints; each answers before the next request comes."""

    def __init__(self, fails: Behaviour, seed: int, **figures: float) -> None:
        self.rng = Random(seed)
        self.fails = fails
        self.states = [
            EndpointState(
                Endpoint(service=SERVICE, host=HostName(f"h{number}"), address="::1", port=number)
            )
            for number in range(SIZE)
        ]
        policy = OutlierDetection(**figures)  # type: ignore[arg-type]  # floats for its floats
        self.detector = OutlierDetector(policy)
        self.balancer: LoadBalancer[EndpointState] = LoadBalancer(
            Balancing(algorithm="random"), policy, "", self.rng
        )
        self.balancer.update(self.states, 0.0)
        self.events: list[tuple[float, Event]] = []
        self.failed = 0
        self.sent = 0
        self.panics = 0

    def run(self, seconds: int) -> "Upstream":
        for tick in range(seconds * REQUESTS_PER_S):
            now = tick / REQUESTS_PER_S
            if tick % REQUESTS_PER_S == 0:
                self.note(now, *self.detector.sweep(self.states, now, self.rng))
                self.balancer.refresh(now)
                self.panics += self.balancer.is_panicking
            state = self.balancer.pick((), now)
            assert state is not None
            is_failure = self.fails(state.endpoint.port, now, self.rng)
            self.sent += 1
            self.failed += is_failure
            self.balancer.observe(state, 0.001, is_failure, now)
            event = self.detector.observe(state, is_failure, now, self.states, self.rng)
            if event is not None:
                self.note(now, event)
                self.balancer.refresh(now)
        return self

    def note(self, now: float, *events: Event) -> None:
        self.events += [(now, event) for event in events]

    def ejections(self, number: int) -> Iterator[tuple[float, float]]:
        for now, event in self.events:
            if event.change is Change.EJECTED and event.endpoint.port == number:
                yield now, event.until


def only_bad(share: float) -> Behaviour:
    return lambda number, now, rng: number == BAD and rng.random() < share


@pytest.mark.parametrize("seed", range(5))
def test_a_dead_endpoint_costs_a_handful_of_requests_in_ten_minutes(seed: int) -> None:
    upstream = Upstream(only_bad(1.0), seed).run(600)
    # Five to see it, then one probe for each of its growing ejections: 30, 60, ... up to 300 s.
    assert 5 + 4 <= upstream.failed <= 5 + 7
    spans = [until - at for at, until in upstream.ejections(BAD)]
    assert 24 <= spans[0] <= 36
    assert spans[3] > 2 * spans[0]
    assert {event.endpoint.port for _, event in upstream.events} == {BAD}


@pytest.mark.parametrize("seed", range(5))
def test_it_is_seen_within_a_second(seed: int) -> None:
    upstream = Upstream(only_bad(1.0), seed).run(5)
    ((at, _),) = upstream.ejections(BAD)
    assert at < 1.5


def test_one_failure_in_five_is_seldom_an_outlier_and_constant_failure_always() -> None:
    def share_of_time(failing: float) -> float:
        upstreams = [Upstream(only_bad(failing), seed).run(600) for seed in range(10)]
        spans = [until - at for one in upstreams for at, until in one.ejections(BAD)]
        return sum(spans) / (10 * 600)

    # Five in a row are one in 3,000, and about 6,000 requests go to it in each run.
    assert share_of_time(0.2) < 0.35
    assert share_of_time(1.0) > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_an_endpoint_that_recovers_is_back_in_full_after_one_ejection(seed: int) -> None:
    def fails(number: int, now: float, rng: Random) -> bool:
        return number == BAD and now < 10

    upstream = Upstream(fails, seed).run(90)
    assert upstream.failed == 5
    assert [event.change for _, event in upstream.events] == [Change.EJECTED, Change.RETURNED]
    assert upstream.states[BAD].ejections == 0
    returned_at = upstream.events[1][0]
    assert 24 <= returned_at <= 38


@pytest.mark.parametrize("seed", range(5))
def test_an_endpoint_that_flaps_is_put_aside_for_longer_each_time(seed: int) -> None:
    def fails(number: int, now: float, rng: Random) -> bool:
        return number == BAD and now % 10 < 9

    upstream = Upstream(fails, seed).run(600)
    spans = [until - at for at, until in upstream.ejections(BAD)]
    assert max(spans) > 100
    assert upstream.failed < 60
    assert len(spans) < 15


@pytest.mark.parametrize("seed", range(3))
def test_when_all_fail_no_more_than_the_share_is_ejected_at_any_time(seed: int) -> None:
    upstream = Upstream(lambda number, now, rng: True, seed).run(60)
    assert sum(1 for state in upstream.states if state.ejected_until) == 1
    wide = Upstream(lambda number, now, rng: True, seed, max_ejected_percent=100.0).run(60)
    assert all(state.ejected_until for state in wide.states)
    assert upstream.panics == 0
    assert wide.panics > 50


@pytest.mark.parametrize("seed", range(3))
def test_after_a_failure_of_all_everyone_comes_back(seed: int) -> None:
    def fails(number: int, now: float, rng: Random) -> bool:
        return now < 20

    upstream = Upstream(fails, seed, max_ejected_percent=100.0).run(200)
    assert not any(state.ejected_until for state in upstream.states)
    assert all(state.ejections == 0 for state in upstream.states)


def test_two_runs_of_one_seed_are_equal() -> None:
    runs = [Upstream(only_bad(0.9), 7).run(120) for _ in range(2)]
    assert runs[0].events == runs[1].events
    assert runs[0].events
