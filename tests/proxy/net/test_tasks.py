"""No task dies unnoticed."""

import asyncio

import pytest

from proxy.net.tasks import Tasks


async def forever() -> None:
    await asyncio.Event().wait()


async def dies() -> None:
    raise RuntimeError("a bug")


async def ends() -> None:
    return


@pytest.mark.parametrize("work", [dies, ends])
async def test_a_task_that_ends_by_itself_is_a_failure(
    work: object, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = Tasks()
    tasks.start("steady", forever())
    tasks.start("sick", work())  # type: ignore[operator]
    assert await asyncio.wait_for(tasks.failed, 2) == "sick"
    assert "task sick died" in caplog.text
    await tasks.stop()


async def test_a_cancellation_nobody_asked_for_is_a_failure() -> None:
    tasks = Tasks()
    tasks.start("victim", forever())
    await asyncio.sleep(0)
    next(task for task in asyncio.all_tasks() if task.get_name() == "victim").cancel()
    assert await asyncio.wait_for(tasks.failed, 2) == "victim"


async def test_a_stop_is_not(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    for name in ("a", "b", "c"):
        tasks.start(name, forever())
    await asyncio.sleep(0)
    await tasks.stop("a")
    await tasks.stop()
    assert not tasks.failed.done()
    assert caplog.text == ""


async def test_a_name_is_used_once() -> None:
    tasks = Tasks()
    tasks.start("a", forever())
    with pytest.raises(ValueError, match="already"):
        tasks.start("a", forever())
    await tasks.stop()
