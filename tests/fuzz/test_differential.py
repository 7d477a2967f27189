"""The same bytes through a real Envoy and through ours (``scripts/fuzz`` runs many more)."""

import asyncio
import json
import os
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fuzz.compare import Outcome, Passage, compare, sentinel
from fuzz.envoy import Unavailable, binary
from fuzz.grammar import KINDS, Case, make
from fuzz.ours import LISTENERS
from fuzz.run import SEED, Result, lanes, run

CASES = {"outbound": 8000, "inbound": 2000}
FOUND = Path(__file__).resolve().parents[1] / "cases" / "http1" / "disagreements.json"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def _needs_envoy() -> None:
    try:
        binary()
    except Unavailable as error:
        if os.environ.get("MESHCTL_REQUIRE_ENVOY"):
            raise
        pytest.skip(str(error))


def on_a_loop(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def shown(result: Result) -> str:
    return "\n".join(
        f"case {each.case.number} ({each.case.kind}): {each.text}\n  {each.case.wire!r}\n"
        f"  ours {each.ours}\n  envoy {each.envoy}"
        for each in result.disagreements[:5]
    )


@pytest.mark.parametrize("listener", LISTENERS)
def test_nobody_disagrees_with_envoy_about_where_a_request_ends(
    listener: str, tmp_path: Path
) -> None:
    count = CASES.get(listener, 2000)
    cases = [make(SEED, number) for number in range(count)]
    result = on_a_loop(run(cases, tmp_path, listener=listener))
    assert result.disagreements == [], shown(result)
    assert sum(result.outcomes.values()) == count
    # Every legal request is forwarded, and every class has some that are refused by both.
    legal = sum(case.kind == "legal" for case in cases)
    assert result.outcomes["legal", Outcome.BOTH_ACCEPT] == legal
    for kind in set(KINDS) - {"legal"}:
        assert result.outcomes[kind, Outcome.BOTH_REFUSE], kind


def found() -> Iterable[dict[str, Any]]:
    return json.loads(FOUND.read_text(encoding="utf-8"))


@pytest.mark.parametrize("listener", LISTENERS)
def test_disagreements_that_were_found_are_gone(listener: str, tmp_path: Path) -> None:
    async def work() -> None:
        result = Result()
        async with lanes(tmp_path, 1, listener) as (lane,):
            for number, each in enumerate(found()):
                wire = each["wire"].encode("latin-1")
                await lane.run(Case(number=number, kind=each["what"], wire=wire), listener, result)
                assert len(lane.reached) == each["reached"], each["what"]
        assert result.disagreements == [], shown(result)

    on_a_loop(work())


def passage(*requests: tuple[bytes, bytes, bytes, bytes] | None, **more: Any) -> Passage:
    said: dict[str, Any] = {
        "partial": 0,
        "is_closed": False,
        "is_accepted": True,
        "statuses": (),
        "faults": (),
    }
    return Passage(requests=requests, **(said | more))


ONE = (b"GET", b"/", b"api", b"")
LONGER = (b"GET", b"/", b"api", b"x")
REFUSED = passage(is_closed=True, is_accepted=False)
LEGAL = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n" + sentinel(0)


@pytest.mark.parametrize(
    ("ours", "envoy", "outcome"),
    [
        (passage(ONE), passage(ONE), Outcome.BOTH_ACCEPT),
        (passage(ONE), passage(LONGER), Outcome.DISAGREE),
        (passage(ONE), passage(ONE, ONE), Outcome.DISAGREE),
        (passage(ONE, ONE), passage(ONE), Outcome.DISAGREE),
        (passage(ONE, is_closed=True), passage(ONE, ONE), Outcome.BOTH_ACCEPT),
        (passage(ONE), passage(None), Outcome.BOTH_ACCEPT),
        (REFUSED, REFUSED, Outcome.BOTH_REFUSE),
        (REFUSED, passage(ONE), Outcome.OURS_REFUSES),
        (passage(ONE), REFUSED, Outcome.OURS_ALONE),
        (passage(LONGER), REFUSED, Outcome.DISAGREE),
        (passage(ONE, faults=("a second request",)), passage(ONE), Outcome.DISAGREE),
    ],
)
def test_a_disagreement_is_one_about_boundaries(
    ours: Passage, envoy: Passage, outcome: Outcome
) -> None:
    assert compare(LEGAL, ours, envoy)[0] is outcome


def test_what_every_other_parser_refuses_may_not_be_accepted_by_ours_alone() -> None:
    outcome, why = compare(b"\0" + LEGAL, passage(ONE), REFUSED)
    assert outcome is Outcome.DISAGREE
    assert "llhttp and h11 refuse" in why


def test_cases_are_the_same_for_a_seed_and_cover_every_class() -> None:
    made = [make(7, number) for number in range(200)]
    assert made == [make(7, number) for number in range(200)]
    assert {case.kind for case in made} == set(KINDS)
    assert len({case.wire for case in made}) > 150
