"""What is let through, what is charged, and what the caller is told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import ratelimit
from proxy.core.ratelimit import RateLimiter, compile_limits
from proxy.model.names import ServiceName
from proxy.model.resilience import RateLimit
from proxy.model.routing import Match

WEB, JOBS = ServiceName("web"), ServiceName("jobs")


class ByMethod:
    """Stands for the compiled match: the head is a method."""

    def __init__(self, match: Match) -> None:
        self.methods = match.methods

    def matches(self, head: str, source: ServiceName, /) -> bool:
        return head in self.methods


def limiter(*limits: RateLimit) -> RateLimiter[str]:
    return RateLimiter(limits, ByMethod)


def limit(name: str = "all", **fields: Any) -> RateLimit:
    return RateLimit(name=name, **fields)


def passed(
    of: RateLimiter[str], now: float, wanted: int, head: str = "GET", caller: ServiceName = WEB
) -> int:
    return sum(of.check(head, caller, now) is None for _ in range(wanted))


@pytest.mark.parametrize(
    ("fields", "at_once", "after_s", "more"),
    [
        ({"requests": 10}, 10, 0.5, 5),
        ({"requests": 10, "burst": 3}, 3, 0.15, 1),
        ({"requests": 10, "burst": 30}, 30, 1.0, 10),
        ({"requests": 600, "per_s": 60.0}, 600, 1.0, 10),
        ({"requests": 1, "per_s": 60.0}, 1, 59.9, 0),
        ({"requests": 1, "per_s": 60.0}, 1, 60.0, 1),
        ({"requests": 3, "per_s": 0.1}, 3, 10.0, 3),
    ],
)
def test_the_burst_goes_at_once_and_then_the_rate_holds(
    fields: dict[str, Any], at_once: int, after_s: float, more: int
) -> None:
    of = limiter(limit(**fields))
    assert passed(of, 1000.0, 1000) == at_once
    assert passed(of, 1000.0 + after_s, 1000) == more


def test_the_callers_share_a_limit_of_the_service() -> None:
    of = limiter(limit(requests=10))
    assert passed(of, 0.0, 7, caller=WEB) == 7
    assert passed(of, 0.0, 7, caller=JOBS) == 3


def test_each_caller_has_a_limit_by_caller_to_itself() -> None:
    of = limiter(limit(requests=10, by="caller"))
    assert passed(of, 0.0, 20, caller=WEB) == 10
    assert passed(of, 0.0, 20, caller=JOBS) == 10


def test_a_rule_concerns_only_what_it_matches() -> None:
    of = limiter(limit(requests=2, match=Match(methods=("POST",))))
    assert passed(of, 0.0, 50, "GET") == 50
    assert passed(of, 0.0, 50, "POST") == 2


def test_a_request_needs_all_its_rules_and_a_refused_one_is_charged_to_none() -> None:
    posts = limit("posts", requests=2, match=Match(methods=("POST",)))
    for rules in ((limit("all", requests=10), posts), (posts, limit("all", requests=10))):
        of = limiter(*rules)
        assert passed(of, 0.0, 50, "POST") == 2
        assert passed(of, 0.0, 50, "GET") == 8


def test_a_refused_request_is_not_charged_at_all() -> None:
    of = limiter(limit(requests=10))
    passed(of, 0.0, 1000)
    assert passed(of, 0.1, 1000) == 1


@pytest.mark.parametrize(
    ("fields", "now", "lines"),
    [
        (
            {"requests": 10},
            0.0,
            [
                b"retry-after: 1",
                b"ratelimit-limit: 10, 10;w=1",
                b"ratelimit-remaining: 0",
                b"ratelimit-reset: 1",
            ],
        ),
        (
            {"requests": 1, "per_s": 60.0},
            0.5,
            [
                b"retry-after: 60",
                b"ratelimit-limit: 1, 1;w=60",
                b"ratelimit-remaining: 0",
                b"ratelimit-reset: 60",
            ],
        ),
        (
            {"requests": 6, "per_s": 60.0, "burst": 2},
            8.9,
            [
                b"retry-after: 2",
                b"ratelimit-limit: 2, 6;w=60",
                b"ratelimit-remaining: 0",
                b"ratelimit-reset: 2",
            ],
        ),
        (
            {"requests": 1, "per_s": 2.5},
            0.0,
            [
                b"retry-after: 3",
                b"ratelimit-limit: 1",
                b"ratelimit-remaining: 0",
                b"ratelimit-reset: 3",
            ],
        ),
    ],
)
def test_a_refusal_says_what_the_limit_is_and_when_to_come_back(
    fields: dict[str, Any], now: float, lines: list[bytes]
) -> None:
    of = limiter(limit(**fields))
    passed(of, 0.0, 100)
    refusal = of.check("GET", WEB, now)
    assert refusal is not None
    assert refusal.name == "all"
    assert list(refusal.lines) == lines


def test_who_comes_back_when_told_is_let_in() -> None:
    of = limiter(limit(requests=7, per_s=3.0))
    passed(of, 0.0, 100)
    refusal = of.check("GET", WEB, 0.0)
    assert refusal is not None
    assert of.check("GET", WEB, refusal.retry_after_s - 0.001) is not None
    assert of.check("GET", WEB, refusal.retry_after_s) is None


def test_of_several_refusals_the_longest_is_told() -> None:
    short, long = limit("short", requests=1), limit("long", requests=1, per_s=60.0)
    for rules in ((short, long), (long, short)):
        of = limiter(*rules)
        assert of.check("GET", WEB, 0.0) is None
        refusal = of.check("GET", WEB, 0.0)
        assert refusal is not None
        assert refusal.name == "long"


def test_an_allowed_answer_tells_what_is_left_without_taking_it() -> None:
    of = limiter(limit(requests=10, per_s=10.0))
    passed(of, 0.0, 4)
    for _ in range(20):
        assert of.lines("GET", WEB, 0.0) == [
            b"ratelimit-limit: 10, 10;w=10",
            b"ratelimit-remaining: 6",
            b"ratelimit-reset: 4",
        ]
    assert of.lines("GET", WEB, 100.0)[1:] == [b"ratelimit-remaining: 10", b"ratelimit-reset: 0"]


def test_of_several_rules_the_tightest_is_told() -> None:
    posts = limit("posts", requests=5, match=Match(methods=("POST",)))
    for rules in ((limit(requests=9), posts), (posts, limit(requests=9))):
        of = limiter(*rules)
        assert of.lines("POST", WEB, 0.0)[1] == b"ratelimit-remaining: 5"
        assert of.lines("GET", WEB, 0.0)[1] == b"ratelimit-remaining: 9"


def test_where_no_rule_matches_nothing_is_told() -> None:
    assert limiter(limit(requests=5, match=Match(methods=("POST",)))).lines("GET", WEB, 0.0) == []


def test_the_callers_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratelimit, "MAX_CALLERS", 3)
    of = limiter(limit(requests=1, per_s=10.0, by="caller"))
    callers = [ServiceName(f"s{number}") for number in range(4)]
    assert [passed(of, float(at), 2, caller=callers[at]) for at in range(3)] == [1, 1, 1]
    # Nobody has paid back: the one that comes nearest to it is forgotten.
    assert passed(of, 3.0, 2, caller=callers[3]) == 1
    assert [passed(of, 3.0, 1, caller=caller) for caller in callers[1:]] == [0, 0, 0]
    assert len(of._rules[0].paid_at) == 3
    # Those who have are forgotten before those who have not.
    passed(of, 12.5, 1, caller=ServiceName("new"))
    assert set(of._rules[0].paid_at) == {callers[3], "new"}


def test_a_service_without_limits_has_no_limiter() -> None:
    assert compile_limits((), ByMethod) is None
    assert compile_limits((limit(requests=1),), ByMethod) is not None


def test_a_new_policy_is_no_amnesty_for_a_rule_that_stays() -> None:
    stays, changes = limit("stays", requests=5), limit("changes", requests=4)
    former = compile_limits((stays, changes), ByMethod)
    assert former is not None
    assert passed(former, 0.0, 3) == 3
    changed = limit("changes", requests=40)
    now = compile_limits((changed, stays), ByMethod, former)
    assert now is not None
    assert passed(now, 0.0, 100) == 2
    alone = compile_limits((changed,), ByMethod, former)
    assert alone is not None
    assert passed(alone, 0.0, 100) == 40


@given(
    requests=st.integers(1, 50),
    per_s=st.sampled_from([0.1, 1.0, 7.0, 60.0]),
    burst=st.integers(0, 60),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=150),
)
def test_in_any_window_no_more_pass_than_the_burst_and_the_rate_together(
    requests: int, per_s: float, burst: int, gaps: list[float]
) -> None:
    of = limiter(limit(requests=requests, per_s=per_s, burst=burst))
    now, times = 5000.0, []
    for gap in gaps:
        now += gap
        if of.check("GET", WEB, now) is None:
            times.append(now)
    size = burst or requests
    for first in range(len(times)):
        for last in range(first, len(times)):
            allowed = size + (times[last] - times[first]) * requests / per_s
            assert last - first + 1 <= allowed + 1e-3


def test_a_worker_allows_its_share_of_a_limit() -> None:
    of = RateLimiter((limit(requests=8, per_s=10.0),), ByMethod, share=0.25)
    assert passed(of, 100.0, 4) == 2
    assert passed(of, 105.0, 4) == 1
