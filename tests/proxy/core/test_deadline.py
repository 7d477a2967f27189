"""The caller's patience, on the wire and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.deadline import HEADER, parse, render, tighten


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1500", 1.5),
        (b"1", 0.001),
        (b"0", 0.001),
        (b"000", 0.001),
        (b"0150", 0.15),
        (b"999999999", 999_999.999),
        (b"1000000000", None),
        (b"0000000001", None),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b"1_0", None),
        (b" 1", None),
        (b"1 ", None),
        (b"1.5", None),
        (b"0x10", None),
        (b"1, 2", None),
        ("\u0661".encode(), None),
        (b"\xb2", None),
    ],
)
def test_only_plain_digits_are_a_deadline(value: bytes, expected: float | None) -> None:
    assert parse(value) == expected


@pytest.mark.parametrize(
    ("own_s", "asked_s", "expected"),
    [
        (15.0, None, 15.0),
        (15.0, 3.0, 3.0),
        (3.0, 15.0, 3.0),
        (0.0, 3.0, 3.0),
        (0.0, None, 0.0),
        (15.0, 0.001, 0.001),
    ],
)
def test_the_shorter_one_holds(own_s: float, asked_s: float | None, expected: float) -> None:
    assert tighten(own_s, asked_s) == expected


@pytest.mark.parametrize(
    ("remaining_s", "line"),
    [
        (14.9999, b"x-mesh-timeout-ms: 14999"),
        (0.0004, b"x-mesh-timeout-ms: 1"),
        (-3.0, b"x-mesh-timeout-ms: 1"),
        (1e12, b"x-mesh-timeout-ms: 999999999"),
    ],
)
def test_it_is_rounded_down_but_never_to_nothing(remaining_s: float, line: bytes) -> None:
    assert render(remaining_s) == line


@given(st.floats(0.001, 999_999))
def test_the_next_hop_never_waits_longer(remaining_s: float) -> None:
    name, _, value = render(remaining_s).partition(b": ")
    assert name == HEADER
    got = parse(value)
    assert got is not None
    assert remaining_s - 0.0011 <= got <= remaining_s + 1e-9
