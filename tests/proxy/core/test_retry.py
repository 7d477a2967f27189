"""What may be repeated, after how long, and how many of it at all."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.retry import (
    CompiledRetries,
    Failure,
    RetryBudget,
    Verdict,
    backoff_s,
    compile_retries,
    decide,
    decide_status,
    is_exhausted,
)
from proxy.model.resilience import Retries, RetryOn

DEFAULT = compile_retries(Retries())
GIVE_UP = Verdict.GIVE_UP
OTHER = Verdict.OTHER_ENDPOINT
FRESH = Verdict.FRESH_CONNECTION


def on(*conditions: RetryOn, **changes: Any) -> CompiledRetries:
    return compile_retries(Retries(on=conditions, **changes))


def verdict(policy: CompiledRetries, failure: Failure, **changes: Any) -> Verdict:
    request: dict[str, Any] = {
        "method": b"GET",
        "tries": 1,
        "is_reused": False,
        "is_replayable": True,
        "has_begun": False,
    }
    return decide(policy, failure, **(request | changes))


@pytest.mark.parametrize(
    ("failure", "changes", "expected"),
    [
        (Failure.CONNECT, {}, OTHER),
        (Failure.CONNECT, {"method": b"POST"}, OTHER),
        (Failure.REFUSED_BY_PEER, {"method": b"POST"}, OTHER),
        (Failure.UNPROCESSED, {"method": b"POST"}, FRESH),
        (Failure.UNPROCESSED, {"has_begun": True}, GIVE_UP),
        (Failure.RESET, {}, GIVE_UP),
        (Failure.RESET, {"is_reused": True}, FRESH),
        (Failure.RESET, {"is_reused": True, "method": b"PUT"}, FRESH),
        (Failure.RESET, {"is_reused": True, "method": b"POST"}, GIVE_UP),
        (Failure.RESET, {"is_reused": True, "method": b"PATCH"}, GIVE_UP),
        (Failure.RESET, {"is_reused": True, "method": b"get"}, GIVE_UP),
        (Failure.RESET, {"is_reused": True, "has_begun": True}, GIVE_UP),
        (Failure.RESET, {"is_reused": True, "is_replayable": False}, GIVE_UP),
        (Failure.CONNECT, {"is_replayable": False}, GIVE_UP),
        (Failure.PROTOCOL, {"is_reused": True}, GIVE_UP),
        (Failure.TIMEOUT, {"is_reused": True}, GIVE_UP),
        (Failure.PER_TRY_TIMEOUT, {"is_reused": True}, GIVE_UP),
    ],
)
def test_by_default_only_what_provably_never_reached_the_application_is_repeated(
    failure: Failure, changes: dict[str, Any], expected: Verdict
) -> None:
    assert verdict(DEFAULT, failure, **changes) is expected


@pytest.mark.parametrize(
    ("conditions", "failure", "expected"),
    [
        (("reset",), Failure.RESET, FRESH),
        (("per-try-timeout",), Failure.PER_TRY_TIMEOUT, FRESH),
        (("gateway-error",), Failure.RESET, FRESH),
        (("gateway-error",), Failure.PER_TRY_TIMEOUT, FRESH),
        (("5xx",), Failure.RESET, FRESH),
        (("reset",), Failure.CONNECT, GIVE_UP),
        (("reset",), Failure.REFUSED_BY_PEER, GIVE_UP),
        (("reset",), Failure.PER_TRY_TIMEOUT, GIVE_UP),
        (("refused",), Failure.CONNECT, GIVE_UP),
        (("connect-failure",), Failure.REFUSED_BY_PEER, GIVE_UP),
        (("per-try-timeout",), Failure.RESET, GIVE_UP),
        (("retriable-4xx",), Failure.RESET, GIVE_UP),
        (("5xx", "reset", "per-try-timeout"), Failure.TIMEOUT, GIVE_UP),
        (("5xx", "reset", "per-try-timeout"), Failure.PROTOCOL, GIVE_UP),
        ((), Failure.CONNECT, GIVE_UP),
    ],
)
def test_each_condition_allows_its_own_failure_and_no_other(
    conditions: tuple[RetryOn, ...], failure: Failure, expected: Verdict
) -> None:
    policy = on(*conditions)
    assert verdict(policy, failure) is expected
    if failure is not Failure.CONNECT:
        assert verdict(policy, failure, method=b"POST") is GIVE_UP
    assert verdict(policy, failure, has_begun=True) is GIVE_UP
    assert verdict(policy, failure, is_replayable=False) is GIVE_UP


@pytest.mark.parametrize(
    ("attempts", "tries", "expected"),
    [(2, 1, OTHER), (2, 2, OTHER), (2, 3, GIVE_UP), (1, 2, GIVE_UP), (0, 1, GIVE_UP)],
)
def test_attempts_count_the_tries_after_the_first(
    attempts: int, tries: int, expected: Verdict
) -> None:
    policy = compile_retries(Retries(attempts=attempts))
    assert verdict(policy, Failure.CONNECT, tries=tries) is expected


def test_the_methods_of_the_policy_decide_what_may_be_done_twice() -> None:
    policy = on("reset", methods=("POST",))
    assert verdict(policy, Failure.RESET, method=b"POST") is FRESH
    assert verdict(policy, Failure.RESET, method=b"GET") is GIVE_UP


@pytest.mark.parametrize(
    ("policy", "retried", "passed_on"),
    [
        (on("gateway-error"), {502, 503, 504}, {200, 409, 500, 501, 505}),
        (on("5xx"), {500, 502, 503, 599}, {200, 404, 409, 499, 600}),
        (on("retriable-4xx"), {409}, {400, 404, 408, 429, 503}),
        (on("statuses", statuses=(418, 503)), {418, 503}, {200, 502}),
        (on("reset", statuses=(418,)), set(), {418, 503}),
        (on("5xx", "retriable-4xx"), {409, 503}, {404}),
        (on("5xx", attempts=0), set(), {503}),
        (DEFAULT, set(), {409, 500, 502, 503, 504}),
    ],
)
def test_an_answer_is_repeated_only_where_the_policy_names_its_status(
    policy: CompiledRetries, retried: set[int], passed_on: set[int]
) -> None:
    def of(status: int, **changes: Any) -> Verdict:
        request: dict[str, Any] = {"method": b"GET", "tries": 1, "is_replayable": True}
        return decide_status(policy, status, **(request | changes))

    assert policy.may_retry_status is bool(retried)
    assert {status for status in retried | passed_on if of(status) is not GIVE_UP} == retried
    for status in retried:
        assert of(status) is Verdict.ANY_ENDPOINT
        assert of(status, method=b"POST") is GIVE_UP
        assert of(status, is_replayable=False) is GIVE_UP
        assert of(status, tries=2) is Verdict.ANY_ENDPOINT
        assert of(status, tries=3) is GIVE_UP


@pytest.mark.parametrize(
    ("status", "method", "tries", "expected"),
    [
        (503, b"GET", 3, True),
        (503, b"GET", 2, False),
        (503, b"POST", 3, False),
        (404, b"GET", 3, False),
    ],
)
def test_only_an_answer_that_was_repeated_to_the_end_is_exhausted(
    status: int, method: bytes, tries: int, expected: bool
) -> None:
    assert is_exhausted(on("5xx"), status, method=method, tries=tries) is expected


def test_without_retries_no_body_is_kept_and_nothing_is_exhausted() -> None:
    for policy in (compile_retries(Retries(attempts=0)), on()):
        assert policy.body_limit_bytes == 0
        assert not is_exhausted(policy, 503, method=b"GET", tries=1)
    assert DEFAULT.body_limit_bytes == 65536


class Highest(Random):
    def random(self) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("failure", "tries", "expected"),
    [
        (Failure.CONNECT, 1, 0.0),
        (Failure.REFUSED_BY_PEER, 1, 0.0),
        (Failure.RESET, 1, 0.0),
        (Failure.PER_TRY_TIMEOUT, 1, 0.025),
        (None, 1, 0.025),
        (Failure.CONNECT, 2, 0.05),
        (None, 2, 0.05),
        (None, 3, 0.1),
        (None, 5, 0.25),
        (None, 5000, 0.25),
    ],
)
def test_the_wait_doubles_to_its_cap_and_a_failure_to_connect_costs_none(
    failure: Failure | None, tries: int, expected: float
) -> None:
    assert backoff_s(DEFAULT, tries, Highest(), failure) == pytest.approx(expected)


def test_the_wait_has_full_jitter() -> None:
    rng = Random(1)
    waits = [backoff_s(DEFAULT, 3, rng) for _ in range(2000)]
    assert min(waits) < 0.002
    assert max(waits) > 0.098
    assert sum(waits) / len(waits) == pytest.approx(0.05, rel=0.05)


def granted(budget: RetryBudget, now: float, wanted: int) -> int:
    return sum(budget.try_take(now) for _ in range(wanted))


def test_the_budget_is_a_share_of_the_requests_on_top_of_its_floor() -> None:
    budget = RetryBudget(percent=20, min_per_s=1)
    assert granted(budget, 100.0, 1000) == 10
    for _ in range(1000):
        budget.request(100.5)
    assert granted(budget, 100.9, 1000) == 200


def test_a_floor_of_zero_leaves_the_share_alone() -> None:
    budget = RetryBudget(percent=20, min_per_s=0)
    assert not budget.try_take(0.0)
    for _ in range(5):
        budget.request(0.0)
    assert granted(budget, 0.0, 10) == 1


def test_retries_and_requests_are_forgotten_after_ten_seconds() -> None:
    budget = RetryBudget(percent=20, min_per_s=1)
    for _ in range(100):
        budget.request(50.0)
    assert granted(budget, 50.0, 100) == 30
    assert granted(budget, 58.9, 100) == 0
    assert granted(budget, 60.1, 100) == 10


def test_a_steady_load_gets_its_share_each_second() -> None:
    budget = RetryBudget(percent=10, min_per_s=0)
    taken = []
    for second in range(60):
        for part in range(100):
            budget.request(second + part / 100)
        taken.append(granted(budget, second + 0.995, 100))
    assert sum(taken[-20:]) == pytest.approx(200, abs=10)


def test_new_figures_apply_to_what_was_counted() -> None:
    budget = RetryBudget(percent=0, min_per_s=0)
    for _ in range(100):
        budget.request(0.0)
    assert not budget.try_take(0.0)
    budget.configure(percent=10, min_per_s=0)
    assert granted(budget, 0.0, 100) == 10


@given(
    st.lists(
        st.tuples(st.floats(0, 4), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=60
    ),
    st.sampled_from([0.0, 20.0, 100.0]),
    st.sampled_from([0.0, 1.0]),
)
def test_no_retry_is_granted_beyond_a_naive_count_of_the_window(
    steps: list[tuple[float, int, int]], percent: float, min_per_s: float
) -> None:
    budget = RetryBudget(percent, min_per_s)
    now = 0.0
    requests: list[float] = []
    retries: list[float] = []
    for wait_s, asked, wanted in steps:
        now += wait_s
        requests += [now] * asked
        for _ in range(asked):
            budget.request(now)
        taken = granted(budget, now, wanted)
        retries += [now] * taken
        if taken:
            # The buckets hold nine to ten seconds.
            recent = sum(at > now - 9 for at in retries)
            assert recent <= sum(at >= now - 10 for at in requests) * percent / 100 + min_per_s * 10


def test_a_budget_says_how_much_of_it_is_left() -> None:
    budget = RetryBudget(20, 0.1)
    assert budget.left(100.0) == 1
    for _ in range(10):
        budget.request(100.0)
    assert budget.left(100.0) == 3
    assert budget.try_take(100.0)
    assert budget.left(100.0) == 2
    assert budget.left(200.0) == 1
