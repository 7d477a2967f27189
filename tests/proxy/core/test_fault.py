"""Which requests are hurt on purpose, and that it ends."""

import time
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

import pytest

from proxy.core.fault import FaultInjector, Injection, compile_faults
from proxy.model.names import ServiceName
from proxy.model.resilience import Fault
from proxy.model.routing import Match

WEB = ServiceName("web")
UNTIL = datetime(2030, 1, 1, tzinfo=UTC)
END = UNTIL.timestamp()
BEFORE = END - 1


class ByMethod:
    """Stands for the compiled match: the head is a method."""

    def __init__(self, match: Match) -> None:
        self.match = match

    def matches(self, head: str, source: ServiceName, /) -> bool:
        sources = self.match.sources
        return head in self.match.methods and (not sources or source in sources)


def fault(name: str = "f", **fields: Any) -> Fault:
    given: dict[str, Any] = {"name": name, "until": UNTIL, "abort_status": 503}
    return Fault(**(given | fields))


def hit(
    *faults: Fault,
    head: str = "GET",
    source: ServiceName = WEB,
    now: float = BEFORE,
    rng: Random | None = None,
) -> str | None:
    injection = FaultInjector(faults, ByMethod).decide(head, source, rng or Random(1), now)
    return injection.name if injection is not None else None


def test_a_fault_says_what_is_to_happen() -> None:
    injector = FaultInjector((fault(delay_s=0.5, abort_status=418),), ByMethod)
    assert injector.decide("GET", WEB, Random(1), BEFORE) == Injection(
        name="f", delay_s=0.5, abort_status=418
    )


@pytest.mark.parametrize("percent", [0.0, 1.0, 25.0, 100.0])
def test_the_lot_hits_the_given_share(percent: float) -> None:
    injector = FaultInjector((fault(percent=percent),), ByMethod)
    rng = Random(7)
    hits = sum(injector.decide("GET", WEB, rng, BEFORE) is not None for _ in range(20_000))
    assert hits / 200 == pytest.approx(percent, abs=0.5 if 0 < percent < 100 else 0)


class Lowest(Random):
    def random(self) -> float:
        return 0.0


def test_no_draw_is_low_enough_for_zero_percent() -> None:
    assert hit(fault(percent=0.0), rng=Lowest()) is None


def test_a_time_without_zone_is_utc_wherever_the_host_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        naive = FaultInjector((fault(until=UNTIL.replace(tzinfo=None)),), ByMethod)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert naive.has_any(END - 1)
    assert not naive.has_any(END)


def test_only_what_matches_is_hit() -> None:
    posts = fault(match=Match(methods=("POST",), sources=(WEB,)))
    assert hit(posts, head="POST") == "f"
    assert hit(posts, head="GET") is None
    assert hit(posts, head="POST", source=ServiceName("jobs")) is None


@pytest.mark.parametrize(
    ("until", "now", "expected"),
    [
        (UNTIL, END - 0.001, "f"),
        (UNTIL, END, None),
        (UNTIL, END + 1e9, None),
        (UNTIL.astimezone(timezone(timedelta(hours=5))), END - 1, "f"),
        (UNTIL.astimezone(timezone(timedelta(hours=5))), END, None),
        (UNTIL.replace(tzinfo=None), END - 1, "f"),
        (UNTIL.replace(tzinfo=None), END, None),
    ],
)
def test_it_ends_by_itself(until: datetime, now: float, expected: str | None) -> None:
    assert hit(fault(until=until), now=now) == expected


def test_the_first_that_applies_is_taken() -> None:
    over = fault("over", until=UNTIL - timedelta(days=1))
    posts = fault("posts", match=Match(methods=("POST",)))
    never = fault("never", percent=0.0)
    rest = fault("rest")
    assert hit(over, posts, never, rest) == "rest"
    assert hit(over, posts, never, rest, head="POST") == "posts"
    assert hit(over, posts, never) is None


@pytest.mark.parametrize(("asked", "given"), [(0.0, 0.0), (60.0, 60.0), (3600.0, 60.0)])
def test_a_delay_is_bounded(asked: float, given: float) -> None:
    injector = FaultInjector((fault(delay_s=asked),), ByMethod)
    injection = injector.decide("GET", WEB, Random(1), BEFORE)
    assert injection is not None
    assert injection.delay_s == given


def test_once_all_are_over_nothing_is_left_of_them() -> None:
    later = fault("later", until=UNTIL + timedelta(seconds=60))
    injector = FaultInjector((fault(), later), ByMethod)
    assert injector.has_any(END + 59)
    assert not injector.has_any(END + 60)
    assert not FaultInjector((), ByMethod).has_any(0.0)
    assert compile_faults((), ByMethod, 0.0) is None
    assert compile_faults((fault(),), ByMethod, END) is None
    assert compile_faults((fault(), later), ByMethod, END) is not None
