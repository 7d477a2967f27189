"""Counting in and out, and what is refused at the limit."""

from collections.abc import Callable

import pytest

from proxy.core.breaker import Breaker, Reason
from proxy.model.resilience import Limits

COUNTED: list[tuple[str, str, Callable[[Breaker], bool]]] = [
    ("connections", "(2 connections are open)", Breaker.try_connection),
    ("pending", "(2 requests wait for a connection)", Breaker.try_pending),
    ("requests", "(2 requests are in flight)", Breaker.try_request),
    ("retries", "(2 retries are in flight)", Breaker.try_retry),
]


@pytest.mark.parametrize(("field", "sentence", "try_one"), COUNTED)
def test_each_limit_refuses_the_next_one_and_says_which_it_was(
    field: str, sentence: str, try_one: Callable[[Breaker], bool]
) -> None:
    breaker = Breaker(Limits(**{field: 2}))
    assert [try_one(breaker) for _ in range(4)] == [True, True, False, False]
    assert getattr(breaker, field) == 2
    assert {reason: n for reason, n in breaker.refused.items() if n} == {Reason(field): 2}
    assert breaker.explain(Reason(field)) == sentence


@pytest.mark.parametrize(("field", "_sentence", "try_one"), COUNTED)
def test_what_is_counted_out_makes_room(
    field: str, _sentence: str, try_one: Callable[[Breaker], bool]
) -> None:
    breaker = Breaker(Limits(**{field: 1}))
    assert try_one(breaker)
    setattr(breaker, field, getattr(breaker, field) - 1)
    assert try_one(breaker)
    assert not try_one(breaker)


@pytest.mark.parametrize(("field", "_sentence", "try_one"), COUNTED)
def test_a_limit_says_nothing_about_the_others(
    field: str, _sentence: str, try_one: Callable[[Breaker], bool]
) -> None:
    breaker = Breaker(Limits(**{field: 0}))
    assert not try_one(breaker)
    assert all(other(breaker) for name, _, other in COUNTED if name != field)


def test_new_limits_hold_for_what_comes_and_not_for_what_is_under_way() -> None:
    breaker = Breaker(Limits(requests=4))
    for _ in range(4):
        breaker.try_request()
    breaker.apply(Limits(requests=2))
    assert breaker.requests == 4
    breaker.requests -= 2
    assert not breaker.try_request()
    breaker.requests -= 1
    assert breaker.try_request()
    breaker.apply(Limits(requests=100))
    assert breaker.try_request()


def sessions(breaker: Breaker, now: float, wanted: int) -> int:
    return sum(breaker.try_new_connection(now) for _ in range(wanted))


def test_new_connections_come_at_the_rate_with_a_burst_of_one_second() -> None:
    breaker = Breaker(Limits(new_connections_per_s=10))
    assert sessions(breaker, 100.0, 50) == 10
    assert sessions(breaker, 100.5, 50) == 5
    assert breaker.refused[Reason.NEW_CONNECTIONS] == 85
    assert breaker.explain(Reason.NEW_CONNECTIONS) == "(10 new connections a second)"


def test_a_rate_below_one_a_second_lets_one_through() -> None:
    breaker = Breaker(Limits(new_connections_per_s=0.1))
    assert [sessions(breaker, now, 2) for now in (0.0, 5.0, 10.5)] == [1, 0, 1]


def test_a_rate_of_zero_is_no_limit() -> None:
    assert sessions(Breaker(Limits()), 0.0, 5000) == 5000


def test_other_limits_do_not_refill_the_rate() -> None:
    breaker = Breaker(Limits(new_connections_per_s=10))
    assert sessions(breaker, 100.0, 10) == 10
    breaker.apply(Limits(new_connections_per_s=10, requests=7))
    assert sessions(breaker, 100.0, 10) == 0
    breaker.apply(Limits(new_connections_per_s=3))
    assert sessions(breaker, 100.0, 10) == 3
    breaker.apply(Limits())
    assert sessions(breaker, 100.0, 100) == 100
