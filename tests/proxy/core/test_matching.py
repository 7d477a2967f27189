"""A match without conditions is none at all."""

import pytest

from proxy.core.matching import compile_unless_any
from proxy.core.routing import compile_match
from proxy.model.routing import Match, PathMatch


def test_a_match_without_conditions_costs_one_test() -> None:
    assert compile_unless_any(Match(), compile_match) is None


@pytest.mark.parametrize("match", [Match(methods=("GET",)), Match(path=PathMatch(prefix="/"))])
def test_any_condition_is_compiled(match: Match) -> None:
    assert compile_unless_any(match, compile_match) is not None
