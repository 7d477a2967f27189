"""The newest of each topic to every tab, whatever the sources and the tabs do."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from meshctl.dashboard import feed as feeding
from meshctl.dashboard.feed import MAX_TABS, Feed, TooManyTabs
from meshctl.dashboard.sources import Polled
from meshctl.errors import MeshError, RemoteFailure, Unreachable

PATIENCE_S = 20.0


def documents(event: bytes) -> dict[str, Any]:
    found = {}
    for each in event.decode().split("\n\n"):
        if each.startswith("event: "):
            name, _, data = each.removeprefix("event: ").partition("\ndata: ")
            found[name] = json.loads(data)
    return found


async def test_a_new_tab_first_gets_all_that_is_known() -> None:
    feed = Feed()
    feed.tell("view", {"a": 1})
    feed.tell("status", {"b": 2})
    async with aclosing(feed.events()) as events:
        first = documents(await anext(events))
    assert {name: each["data"] for name, each in first.items()} == {
        "view": {"a": 1},
        "status": {"b": 2},
    }


async def test_a_slow_tab_gets_the_newest_and_nothing_in_between() -> None:
    feed = Feed()
    async with aclosing(feed.events()) as events:
        feed.tell("view", 0)
        await anext(events)
        for number in range(1000):
            feed.tell("view", number)
        assert documents(await anext(events))["view"]["data"] == 999


async def test_after_a_failure_the_last_good_document_stays_beside_it() -> None:
    feed = Feed()
    feed.tell("status", {"hosts": 3})
    feed.tell("status", RemoteFailure("it broke", output="said so", hint="meshctl check"))
    async with aclosing(feed.events()) as events:
        told = documents(await anext(events))["status"]
    assert told["data"] == {"hosts": 3}
    assert told["at"] > 0
    expected = {"message": "it broke", "hint": "meshctl check", "output": "said so"}
    assert told["error"] == expected


async def test_tabs_are_bounded_and_a_closed_one_makes_room() -> None:
    feed = Feed()
    feed.tell("view", 1)
    open_ones = [feed.events() for _ in range(MAX_TABS)]
    for events in open_ones:
        await anext(events)
    with pytest.raises(TooManyTabs):
        await anext(feed.events())
    await open_ones.pop().aclose()
    open_ones.append(feed.events())
    await anext(open_ones[-1])
    for events in open_ones:
        await events.aclose()
    assert feed.tabs == 0


async def test_without_news_a_comment_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "QUIET_S", 0.01)
    async with aclosing(Feed().events()) as events:
        assert (await anext(events)).startswith(b":")


@dataclass
class Broken:
    """Fails in a way that nobody foresaw, then works."""

    topic: str = "view"
    tries: int = 0

    async def documents(self) -> AsyncGenerator[object, None]:
        self.tries += 1
        if self.tries == 1:
            raise ZeroDivisionError("a secret of ours")
        yield "well again"
        await asyncio.Event().wait()


async def test_a_source_that_breaks_is_told_of_and_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeding, "_AGAIN_S", 0.01)
    feed = Feed()
    running = asyncio.create_task(feed.run((Broken(),)))
    async with asyncio.timeout(PATIENCE_S), aclosing(feed.events()) as events:
        told = documents(await anext(events))["view"]
        if told["error"]:
            assert told["error"]["message"] == "this is a fault of meshctl: ZeroDivisionError"
            told = documents(await anext(events))["view"]
        assert told["data"] == "well again"
        assert told["error"] is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_is_polled_yields_failures_and_slowness_and_goes_on() -> None:
    answers: list[Any] = [Unreachable("no way"), "slow", "good"]

    async def read() -> object:
        answer = answers.pop(0)
        if isinstance(answer, MeshError):
            raise answer
        if answer == "slow":
            await asyncio.Event().wait()
        return answer

    polled = Polled(topic="status", every_s=0.0, deadline_s=0.05, read=read)
    async with asyncio.timeout(PATIENCE_S), aclosing(polled.documents()) as found:
        first, second, third = [await anext(found) for _ in range(3)]
    assert isinstance(first, Unreachable)
    assert isinstance(second, MeshError)
    assert "no answer within" in str(second)
    assert third == "good"
