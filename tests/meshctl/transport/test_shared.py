"""Opened once, used by many."""

import asyncio

import pytest

from meshctl.transport.shared import SharedAttempts


class Thing:
    def __init__(self) -> None:
        self.is_open = True


class Opener:
    def __init__(self, *, failures: int = 0) -> None:
        self.opened: list[Thing] = []
        self.attempts = 0
        self.gate = asyncio.Event()
        self._failures = failures

    async def open(self) -> Thing:
        self.attempts += 1
        await self.gate.wait()
        if self.attempts <= self._failures:
            raise OSError("closed")
        self.opened.append(Thing())
        return self.opened[-1]


async def close(thing: Thing) -> None:
    thing.is_open = False


@pytest.fixture
def shared() -> SharedAttempts[str, Thing]:
    return SharedAttempts(is_usable=lambda thing: thing.is_open, close=close)


async def test_all_who_ask_at_once_get_the_same(shared: SharedAttempts[str, Thing]) -> None:
    opener = Opener()
    waiting = [asyncio.create_task(shared.get("a", opener.open)) for _ in range(3)]
    await asyncio.sleep(0)
    opener.gate.set()

    things = await asyncio.gather(*waiting)

    assert opener.attempts == 1
    assert len({id(thing) for thing in things}) == 1
    assert await shared.get("a", opener.open) is things[0]


async def test_other_keys_are_other_things(shared: SharedAttempts[str, Thing]) -> None:
    opener = Opener()
    opener.gate.set()

    assert await shared.get("a", opener.open) is not await shared.get("b", opener.open)


async def test_a_failure_is_told_to_all_and_tried_again_by_the_next(
    shared: SharedAttempts[str, Thing],
) -> None:
    opener = Opener(failures=1)
    waiting = [asyncio.create_task(shared.get("a", opener.open)) for _ in range(2)]
    await asyncio.sleep(0)
    opener.gate.set()

    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [OSError, OSError]
    assert (await shared.get("a", opener.open)).is_open


async def test_one_that_broke_is_opened_anew(shared: SharedAttempts[str, Thing]) -> None:
    opener = Opener()
    opener.gate.set()
    first = await shared.get("a", opener.open)
    first.is_open = False

    assert await shared.get("a", opener.open) is not first


async def test_the_cancellation_of_one_does_not_fail_the_others(
    shared: SharedAttempts[str, Thing],
) -> None:
    opener = Opener()
    leaving = asyncio.create_task(shared.get("a", opener.open))
    staying = asyncio.create_task(shared.get("a", opener.open))
    await asyncio.sleep(0)
    leaving.cancel()
    opener.gate.set()

    assert (await staying).is_open
    assert leaving.cancelled()


async def test_close_closes_what_is_open_and_ends_what_is_under_way(
    shared: SharedAttempts[str, Thing],
) -> None:
    ready, stuck = Opener(), Opener()
    ready.gate.set()
    thing = await shared.get("a", ready.open)
    waiting = asyncio.create_task(shared.get("b", stuck.open))
    await asyncio.sleep(0)

    await shared.close()

    assert not thing.is_open
    with pytest.raises(asyncio.CancelledError):
        await waiting
