"""Tasks that follow hosts for as long as somebody looks: whether one has failed, and their end."""

import asyncio
from collections.abc import Iterable

Tasks = Iterable[asyncio.Task[None]]


def raise_failed(tasks: Tasks) -> None:
    """A mistake of ours in a task is not waited for until nobody looks any more."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error from None


async def end(tasks: Tasks) -> None:
    ended = tuple(tasks)
    for task in ended:
        task.cancel()
    await asyncio.gather(*ended, return_exceptions=True)
