"""Figures in words: short, and never better than they are."""

import pytest

from meshctl.telemetry import words
from meshctl.telemetry.counting import Requests


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.004, "<0.01"),
        (0.5, "0.50"),
        (0.999, "1.0"),
        (3.21, "3.2"),
        (99.94, "99.9"),
        (99.96, "100"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (1234.0, "1.2k"),
        (2_500_000.0, "2.5M"),
        (3e9, "3.0G"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.42, "0.4ms"), (9.96, "10ms"), (999.6, "1.0s"), (45_000.0, "45.0s"),
     (300_000.0, "5m")],
)  # fmt: skip
def test_times(value: float | None, text: str) -> None:
    assert words.milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (900.0, "900B"), (2048.0, "2.0KiB"), (3 * 2**30, "3.0GiB")]
)
def test_bytes(value: float, text: str) -> None:
    assert words.bytes_per_s(value) == text


@pytest.mark.parametrize(
    ("requests", "failures", "text"),
    [
        (0, 0, "-"),
        (10, 0, "100%"),
        (1_000_000, 1, "99.99%"),
        (10_000, 4, "99.96%"),
        (1000, 5, "99.5%"),
        (4, 3, "25.0%"),
        (4, 4, "0.0%"),
    ],
)
def test_success_is_never_rounded_up_to_all(requests: int, failures: int, text: str) -> None:
    counted = Requests()
    counted.count(requests - failures, 1.0, is_failure=False)
    counted.count(failures, 1.0, is_failure=True)
    assert words.success(counted.signals()) == text


@pytest.mark.parametrize(
    ("actual", "text"), [(10.0, "0%"), (10.12, "+1.2%"), (13.0, "+30%"), (10.001, "0%")]
)
def test_retry_load(actual: float, text: str) -> None:
    counted = Requests()
    counted.count(10, 1.0, is_failure=False)
    assert words.retries(actual, counted.signals()) == text
    assert words.retries(actual, None) == "-"
