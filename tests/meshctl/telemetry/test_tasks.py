"""Tasks that follow hosts: a mistake in one is told, and none outlives who looks."""

import asyncio

import pytest

from meshctl.telemetry.tasks import end, raise_failed


async def forever() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise KeyError("ours")


async def test_a_task_that_failed_is_told_of_and_one_that_runs_or_was_cancelled_is_not() -> None:
    running, cancelled = asyncio.create_task(forever()), asyncio.create_task(forever())
    cancelled.cancel()
    await asyncio.wait((cancelled,))
    raise_failed((running, cancelled))
    failed = asyncio.create_task(broken())
    await asyncio.wait((failed,))
    with pytest.raises(KeyError, match="ours"):
        raise_failed((running, cancelled, failed))
    running.cancel()


async def test_at_the_end_none_runs_whatever_became_of_the_others() -> None:
    tasks = [asyncio.create_task(forever()), asyncio.create_task(broken())]
    await asyncio.sleep(0)
    await end(tasks)
    assert all(task.done() for task in tasks)
