"""The language of ``--where``: what it selects, and where it says that something is wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.errors import InvalidInput
from meshctl.telemetry.where import MAX_DEPTH, parse

LINE: dict[str, Any] = {
    "status": 503, "caller": "web", "service": "api", "total_ms": 1700.5, "age_s": 90,
    "path": "/users/1?", "reason": "timed out (twice)", "flag": "UF", "is_new": True,
    "a": {"b": "x"}, "empty": "", "nothing": None, "text": "12",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "is_true"),
    [
        ("status = 503", True),
        ("status == 503", True),
        ("status = 503.0", True),
        ("status != 503", False),
        ("status = 5xx", True),
        ("status = 4XX", False),
        ("status >= 500 and caller = web", True),
        ("status>=500 and caller=shop", False),
        ("status < 500 or caller = web", True),
        ("caller = shop or caller = web and status = 200", False),
        ("(caller = web or caller = shop) and status = 503", True),
        ("not caller = shop", True),
        ("not (caller = web and status = 503)", False),
        ("not not caller = web", True),
        ("NOT caller = shop AND status = 503", True),
        ("total_ms > 1.5s", True),
        ("total_ms > 2s", False),
        ("total_ms <= 1700.5", True),
        ("age_s = 90", True),
        ("age_s >= 2m", False),
        ("text > 11", True),
        ("caller > 3", False),
        ("path = /users/*", True),
        ("path = /users/1?", True),
        ("path = /users/2?", False),
        ("path = '/users/*'", False),
        ("path ~ ^/users/[0-9]+", True),
        ("path ~ ^users", False),
        ("path !~ ^/users", False),
        ("reason ~ 'out \\(t'", True),
        ('reason = "timed out (twice)"', True),
        ("a.b = x", True),
        ("a.c = x", False),
        ("is_new = true", True),
        ("empty = ''", True),
        ("nothing = x", False),
        ("nothing != x", True),
        ("missing = 1", False),
        ("missing != 1", True),
        ("missing > 1", False),
        ("not missing > 1", True),
    ],
)
def test_a_line_is_taken_or_not(text: str, is_true: bool) -> None:
    assert parse(text)(LINE) is is_true


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ("", 1, "a comparison is missing"),
        ("status", 7, "compared with nothing"),
        ("status >=", 10, "a value is missing after >="),
        ("status >= many", 11, ">= needs a number"),
        ("caller > 3s", 10, "> needs a number"),
        ("(status = 1", 12, "the ( at character 1 is not closed"),
        ("status = 1)", 11, "nothing is open"),
        ("status = 1 caller = web", 12, "`and` or `or` is missing"),
        ("status = 1 or", 14, "a comparison is missing"),
        ("and", 1, "the name of a field is missing"),
        ("5 = 5", 1, "the name of a field is missing"),
        ("path ~ '('", 8, "not a regular expression"),
        ("caller = 'web", 10, "the quote is not closed"),
        ("caller = = web", 10, "a value is missing after ="),
        ("not " * MAX_DEPTH + "a = 1", 4 * MAX_DEPTH + 1, "deep"),
        ("a = 1 or " * 400 + "a = 1", 2001, "characters"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, at: int, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    (violation,) = caught.value.violations
    assert said in violation.message
    assert f"at character {at}:" in violation.message


NAMES = st.sampled_from(("status", "caller", "total_ms", "missing"))
VALUES = st.one_of(st.integers(0, 999).map(str), st.sampled_from(("web", "'a b'", "5xx", "w*")))
COMPARISONS = st.tuples(NAMES, st.sampled_from(("=", "!=", "~")), VALUES).map(" ".join)
EXPRESSIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]} and {two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} or {two[1]})"),
        inner.map(lambda one: f"not ({one})"),
    ),
    max_leaves=8,
)
LINES = st.fixed_dictionaries(
    {},
    optional={
        "status": st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none()),
        "caller": st.one_of(st.text(max_size=5), st.just("web"), st.lists(st.integers())),
        "total_ms": st.floats(),
    },
)


@given(EXPRESSIONS, EXPRESSIONS, LINES)
def test_logic_holds_for_every_line(one: str, two: str, line: dict[str, Any]) -> None:
    first, second = parse(one)(line), parse(two)(line)
    assert parse(f"{one} and {two}")(line) is (first and second)
    assert parse(f"({one}) or ({two})")(line) is (first or second)
    assert parse(f"not ({one})")(line) is (not first)
    assert parse(f"not ({one} or {two})")(line) is parse(f"not ({one}) and not ({two})")(line)


@given(st.text(max_size=60), LINES)
def test_any_text_is_understood_or_refused(text: str, line: dict[str, Any]) -> None:
    try:
        said = parse(text)(line)
    except InvalidInput as error:
        said = error.violations[0].message
    assert said in (True, False) or ("at character" in said and said.isprintable())
