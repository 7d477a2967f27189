"""Spans of time read as a person would say them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from meshctl.cli import when

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(days=30), "in 30 d"),
        (timedelta(hours=47), "in 47 h"),
        (timedelta(hours=1), "in 60 min"),
        (timedelta(seconds=90), "in 90 s"),
        (timedelta(seconds=1), "in 1 s"),
        (timedelta(0), "0 s ago"),
        (timedelta(days=-4), "4 d ago"),
    ],
)
def test_what_is_left_is_said_in_the_largest_unit_that_says_enough(
    span: timedelta, text: str
) -> None:
    assert when.remaining(NOW + span, NOW) == text


def test_moments_are_written_in_utc() -> None:
    elsewhere = datetime(2026, 6, 15, 14, 30, tzinfo=timezone(timedelta(hours=2)))
    assert when.text(elsewhere) == "2026-06-15T12:30:00Z"
