"""The one place where tasks are made: each has a name, and none dies unnoticed."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger(__name__)


class Tasks:
    """Long-lived tasks of a process. One that ends, or raises, while nobody stopped it is a bug:
    it is logged and ``failed`` is set, so that the process ends and systemd starts it anew."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the name of the task, when one has died."""

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Names are unique."""
        if name in self._tasks:
            work.close()
            raise ValueError(f"there is a task {name} already")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(self._ended)

    async def stop(self, *names: str) -> None:
        """Cancels these, or all, and waits until they have ended."""
        chosen = [self._tasks.pop(name) for name in names or tuple(self._tasks)]
        for task in chosen:
            task.cancel()
        # Awaited together: what they raise has been logged by ``_ended``.
        await asyncio.gather(*chosen, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        name = task.get_name()
        if task.cancelled() and self._tasks.get(name) is not task:
            return
        error = None if task.cancelled() else task.exception()
        if error is None and self._tasks.get(name) is not task:
            return
        _log.critical("task %s died", name, exc_info=error)
        if not self.failed.done():
            self.failed.set_result(name)
