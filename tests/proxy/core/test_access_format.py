"""What an operator may write as the form of a line."""

import re

import pytest

from proxy.core.access_format import FIELDS, MAX_FORMAT_CHARS, parse_format


def filled(text: str, *values: str) -> str:
    return parse_format(text).fill(list(values))


def test_fields_are_replaced_and_the_rest_is_kept() -> None:
    compiled = parse_format('[%ts%] "%method% %path%" 100%% %status%')
    assert compiled.names == ("ts", "method", "path", "status")
    assert compiled.fill(["t", "GET", "/", "200"]) == '[t] "GET /" 100% 200'


def test_every_field_can_be_named() -> None:
    assert parse_format(" ".join(f"%{name}%" for name in FIELDS)).names == FIELDS
    assert len(set(FIELDS)) == len(FIELDS)


def test_percent_signs_next_to_fields_are_told_apart() -> None:
    assert filled("%%%status%%%", "200") == "%200%"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ('a"b', r"a\x22b"),
        ("a\\b", r"a\x5cb"),
        ("a\nb\r\x1b[31m\x00", r"a\x0ab\x0d\x1b[31m\x00"),
        ("\x7f\x9b", r"\x7f\xc2\x9b"),
        ("é\u202e", r"\xc3\xa9\xe2\x80\xae"),
        ("%s %d", "%s %d"),
    ],
)
def test_a_value_cannot_be_taken_for_what_is_around_it(value: str, written: str) -> None:
    assert filled('"%path%"', value) == f'"{written}"'


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("%path% %nope%", "%nope% is no field; there are ts, "),
        ("%path% 100%", "a single %"),
        ("%path% 5% of %status%", "is no field"),
        ("no field", "names no field"),
        ("%path%\n%status%", "line break"),
        ("%path%\x1b[0m", "cannot be printed"),
        ("%path% \u2192 %status%", "not ASCII"),
        ("%path%" + "x" * MAX_FORMAT_CHARS, "longer than"),
        ("%ts%" * 51, "more than 50 fields"),
    ],
)
def test_what_is_wrong_is_said(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        parse_format(text)
