"""When an endpoint is put aside and how it comes back."""

from random import Random

import pytest

from proxy.core.balance import EndpointState
from proxy.core.outlier import Change, Event, OutlierDetector
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.resilience import OutlierDetection


def endpoint(number: int) -> Endpoint:
    return Endpoint(
        service=ServiceName("api"), host=HostName(f"h{number}"), address="::1", port=number
    )


class Middle(Random):
    """No jitter, but at the cap a tenth less."""

    def random(self) -> float:
        return 0.5


class Playbook:
    """An upstream of ``size`` endpoints; what happens to the first is told step by step."""

    def __init__(self, size: int = 10, policy: OutlierDetection | None = None) -> None:
        self.states = [EndpointState(endpoint(number)) for number in range(size)]
        self.first = self.states[0]
        self.detector = OutlierDetector(policy or OutlierDetection())
        self.now = 1000.0
        self.rng: Random = Middle()

    def result(self, is_failure: bool, state: EndpointState | None = None) -> Event | None:
        return self.detector.observe(
            state or self.first, is_failure, self.now, self.states, self.rng
        )

    def fail(self, times: int, state: EndpointState | None = None) -> Event | None:
        event = None
        for _ in range(times):
            event = self.result(True, state)
        return event

    def wait(self, seconds: float) -> tuple[Event, ...]:
        self.now += seconds
        return self.detector.sweep(self.states, self.now, self.rng)

    def eject(self) -> Event:
        """Until it is; from any state."""
        for _ in range(5):
            event = self.result(True)
            if event is not None:
                assert event.change is Change.EJECTED
                return event
        raise AssertionError("five failures in a row ejected nobody")


def test_the_fifth_failure_in_a_row_ejects() -> None:
    play = Playbook()
    assert play.fail(4) is None
    event = play.fail(1)
    assert event == Event(
        change=Change.EJECTED, endpoint=play.first.endpoint, until=1030.0, ejections=1
    )
    assert play.first.ejected_until == 1030.0


def test_a_success_starts_the_count_over() -> None:
    play = Playbook()
    play.fail(4)
    assert play.result(False) is None
    assert play.fail(4) is None
    assert play.fail(1) is not None


def test_the_others_are_not_touched() -> None:
    play = Playbook()
    play.eject()
    assert all(not s.ejected_until and not s.consecutive_failures for s in play.states[1:])


def test_what_was_under_way_at_the_ejection_changes_nothing() -> None:
    play = Playbook()
    play.eject()
    assert play.fail(20) is None
    assert play.result(False) is None
    assert (play.first.ejected_until, play.first.ejections) == (1030.0, 1)


def test_it_is_probed_when_its_time_is_over_and_not_before() -> None:
    play = Playbook()
    play.eject()
    seen = []
    for seconds in (29.9, 0.1):
        play.wait(seconds)
        seen.append((play.first.is_probing, play.first.ejected_until > 0))
    assert seen == [(False, True), (True, True)]


def test_one_success_as_probe_brings_it_back() -> None:
    play = Playbook()
    play.eject()
    play.wait(30)
    event = play.result(False)
    assert event == Event(
        change=Change.RETURNED, endpoint=play.first.endpoint, until=0.0, ejections=1
    )
    assert (play.first.ejected_until, play.first.is_probing) == (0.0, False)
    assert play.fail(4) is None


def test_one_failure_as_probe_ejects_for_longer() -> None:
    play = Playbook()
    play.eject()
    play.wait(30)
    event = play.result(True)
    assert event is not None
    assert (event.change, event.until, event.ejections) == (Change.EJECTED, play.now + 60, 2)
    assert not play.first.is_probing


def test_ejections_in_a_row_grow_to_the_cap() -> None:
    play = Playbook()
    spans = []
    for _ in range(12):
        event = play.eject()
        spans.append(event.until - play.now)
        play.wait(event.until - play.now)
    assert spans[:4] == pytest.approx([30, 60, 90, 120])
    assert spans[-1] == pytest.approx(270)
    assert max(spans) == pytest.approx(270)


def test_the_time_has_jitter_and_never_passes_the_cap() -> None:
    spans, capped = [], []
    for seed in range(300):
        play = Playbook()
        play.rng = Random(seed)
        spans.append(play.eject().until - play.now)
        play.first.ejected_until, play.first.ejections = 0.0, 50
        capped.append(play.eject().until - play.now)
    assert 24 <= min(spans) < 25
    assert 35 < max(spans) <= 36
    assert 240 <= min(capped) < 243
    assert 297 < max(capped) <= 300


def test_time_in_use_is_forgiving() -> None:
    play = Playbook()
    for _ in range(3):
        event = play.eject()
        play.wait(event.until - play.now)
    play.result(False)
    assert play.first.ejections == 3
    for _ in range(10):
        play.wait(1)
    assert play.first.ejections == 3
    play.wait(1)
    assert play.first.ejections == 2
    for _ in range(20):
        play.wait(1)
    assert play.first.ejections == 0


def test_an_ejection_begins_the_forgiving_interval_anew() -> None:
    play = Playbook()
    play.eject()
    play.wait(30)
    play.result(False)
    play.wait(1)
    play.wait(8)
    play.eject()
    play.wait(60)
    play.result(False)
    play.wait(1)
    play.wait(9)
    assert play.first.ejections == 2
    play.wait(1)
    assert play.first.ejections == 1


@pytest.mark.parametrize(
    ("size", "percent", "most"),
    [(1, 10.0, 1), (2, 10.0, 1), (10, 10.0, 1), (19, 10.0, 1), (20, 10.0, 2), (4, 100.0, 4)],
)
def test_at_most_a_share_but_at_least_one_is_ejected(size: int, percent: float, most: int) -> None:
    play = Playbook(size, OutlierDetection(max_ejected_percent=percent))
    for _ in range(4):
        for state in play.states:
            play.fail(5, state)
    assert sum(1 for state in play.states if state.ejected_until) == most


def test_a_probed_one_still_counts_as_ejected() -> None:
    play = Playbook()
    play.eject()
    play.wait(30)
    assert play.fail(5, play.states[1]) is None
    play.result(False)
    assert play.fail(5, play.states[1]) is not None


def test_zero_failures_means_never() -> None:
    play = Playbook(policy=OutlierDetection(consecutive_failures=0))
    assert play.fail(100) is None
    assert not play.first.ejected_until


def test_switching_it_off_returns_everyone() -> None:
    play = Playbook()
    play.eject()
    play.detector.configure(OutlierDetection(consecutive_failures=0))
    (event,) = play.wait(1)
    assert (event.change, event.endpoint) == (Change.RETURNED, play.first.endpoint)
    assert play.states[0].ejected_until == 0.0
    assert play.wait(1) == ()
