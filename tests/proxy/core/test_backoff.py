"""Waiting after failures, and the rate of answers that come at once."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.backoff import Backoff, TokenBucket


class Highest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


class Lowest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return a


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    backoff = Backoff(base_s=0.1, cap_s=1.0)
    waits = [backoff.next_s(Highest()) for _ in range(6)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_luckiest_draw_is_still_a_wait() -> None:
    backoff = Backoff(base_s=0.1, cap_s=1.0)
    assert [backoff.next_s(Lowest()) for _ in range(3)] == pytest.approx([0.01] * 3)


def test_success_starts_over() -> None:
    backoff = Backoff(base_s=0.1, cap_s=1.0)
    for _ in range(5):
        backoff.next_s(Highest())
    backoff.reset()
    assert backoff.attempts == 0
    assert backoff.next_s(Highest()) == pytest.approx(0.1)


def test_a_thousand_failures_do_not_overflow() -> None:
    backoff = Backoff(base_s=0.1, cap_s=30.0)
    waits = [backoff.next_s(random.Random(1)) for _ in range(2000)]
    assert all(0.01 <= wait <= 30.0 for wait in waits)


@pytest.mark.parametrize(("base_s", "cap_s"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_senseless_bounds_are_refused(base_s: float, cap_s: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(base_s=base_s, cap_s=cap_s)


def test_a_burst_is_free_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(rate=2.0, burst=3)
    assert [bucket.take_s(100.0) for _ in range(5)] == pytest.approx([0, 0, 0, 0.5, 1.0])


def test_tokens_come_back_with_time_but_never_above_the_burst() -> None:
    bucket = TokenBucket(rate=2.0, burst=3)
    for _ in range(3):
        assert bucket.try_take(100.0)
    assert not bucket.try_take(100.0)
    assert bucket.try_take(100.5)
    assert [bucket.try_take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_bucket_that_lets_nothing_through_is_refused() -> None:
    with pytest.raises(ValueError, match="token bucket"):
        TokenBucket(rate=0, burst=1)


@given(st.lists(st.floats(0, 5), max_size=200))
def test_the_rate_is_never_exceeded(gaps: list[float]) -> None:
    bucket = TokenBucket(rate=4.0, burst=10)
    now = 0.0
    starts = []
    for gap in gaps:
        now += gap
        now += bucket.take_s(now)
        starts.append(now)
    for first in range(0, len(starts), 7):
        for last in range(first, len(starts)):
            count = last - first + 1
            assert count <= 10 + 4.0 * (starts[last] - starts[first]) + 1e-6
