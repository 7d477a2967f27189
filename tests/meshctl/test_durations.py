"""Durations as operators write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl import durations
from meshctl.durations import InvalidDuration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("15s", 15.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1.5s", 1.5),
        ("24h", 86400.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("-0s", 0.0),
        (0, 0.0),
    ],
)
def test_a_duration_is_seconds(text: object, seconds: float) -> None:
    assert durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (15, "15 has no unit"),
        (1.5, "1.5 has no unit"),
        (-1, "-1 has no unit"),
        ("15", "'15' is not a duration"),
        ("-1s", "'-1s' is negative"),
        ("25h", "'25h' is longer than 24h"),
        ("999999999999h", "longer than 24h"),
        ("1 s", "is not a duration"),
        ("1s ", "is not a duration"),
        ("1m30s", "is not a duration"),
        ("1d", "is not a duration"),
        ("s", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("\N{ARABIC-INDIC DIGIT ONE}s", "is not a duration"),
        ("", "is not a duration"),
        (None, "None is not a duration"),
        (True, "True is not a duration"),
        (False, "False is not a duration"),
        ("9" * 10_000 + "s", "... is not a duration"),
    ],
)
def test_what_is_wrong_is_said(text: object, reason: str) -> None:
    with pytest.raises(InvalidDuration) as caught:
        durations.parse(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (0.25, "250ms"), (1, "1s"), (90, "90s"), (300, "5m"), (3600, "1h"), (1.5, "1500ms")],
)
def test_a_duration_is_shown_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert durations.show(seconds) == text


@given(st.integers(0, 86_400_000))
def test_what_is_shown_reads_back(milliseconds: int) -> None:
    assert durations.parse(durations.show(milliseconds / 1000)) == pytest.approx(
        milliseconds / 1000
    )
