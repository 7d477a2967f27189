"""Quantiles and sums of what several proxies counted."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.telemetry.counting import Requests, quantile

BOUNDS = (1.0, 5.0, 10.0)
counts = st.lists(st.integers(0, 1000), min_size=4, max_size=4)


@pytest.mark.parametrize(
    ("share", "counted", "expected"),
    [
        (0.5, [0, 0, 0, 0], None),
        (0.5, [10, 0, 0, 0], 0.5),
        (0.5, [0, 10, 0, 0], 3.0),
        (0.9, [50, 50, 0, 0], 4.2),
        (0.5, [50, 50, 0, 0], 1.0),
        (1.0, [1, 1, 2, 0], 10.0),
        (0.99, [0, 0, 0, 7], 10.0),
    ],
)
def test_a_quantile_lies_within_its_bucket(
    share: float, counted: list[int], expected: float | None
) -> None:
    found = quantile(share, BOUNDS, counted)
    assert found == (None if expected is None else pytest.approx(expected))


@given(counts)
def test_quantiles_rise_with_the_share_and_stay_within_the_bounds(counted: list[int]) -> None:
    found = [quantile(share / 20, BOUNDS, counted) for share in range(1, 21)]
    if not sum(counted):
        assert set(found) == {None}
        return
    told = [value for value in found if value is not None]
    assert len(told) == 20
    assert all(one <= other for one, other in pairwise(told))
    assert told[0] >= 0
    assert told[-1] <= BOUNDS[-1]


@given(counts, counts)
def test_what_is_added_is_what_was_observed_together(one: list[int], other: list[int]) -> None:
    together, apart, rest = Requests(), Requests(), Requests()
    for figures in (one, other):
        together.observe(BOUNDS, [*figures, 10.0])
    apart.observe(BOUNDS, [*one, 10.0])
    rest.observe(BOUNDS, [*other, 10.0])
    apart.add(rest)
    assert apart.signals() == together.signals()


def test_other_buckets_than_the_first_are_left_out() -> None:
    requests = Requests()
    requests.observe(BOUNDS, [1, 0, 0, 0, 0.5])
    requests.observe((1.0, 2.0), [9, 9, 9, 99.0])
    assert requests.counts == [1, 0, 0, 0]
    assert requests.signals().mean_ms == 0.5
