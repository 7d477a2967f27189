"""Things that are opened once and used by many: the first to ask opens, the others wait for it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class SharedAttempts(Generic[K, V]):
    """At most one attempt per key at a time. A failure is told to all who waited for it and then
    forgotten, so that the next to ask tries again; so is a thing that is no longer usable.
    """

    def __init__(
        self, *, is_usable: Callable[[V], bool], close: Callable[[V], Awaitable[None]]
    ) -> None:
        self._is_usable = is_usable
        self._close = close
        self._attempts: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, open_one: Callable[[], Coroutine[Any, Any, V]]) -> V:
        attempt = self._attempts.get(key)
        if attempt is None or (attempt.done() and not self._is_good(attempt)):
            attempt = asyncio.create_task(open_one(), name=f"open {key}")
            attempt.add_done_callback(_retrieve)
            self._attempts[key] = attempt
        # Shielded: one caller's cancellation must not fail the others.
        return await asyncio.shield(attempt)

    async def close(self) -> None:
        """Ends attempts under way and closes what is open."""
        attempts, self._attempts = list(self._attempts.values()), {}
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        opened = [
            attempt.result()
            for attempt in attempts
            if not attempt.cancelled() and attempt.exception() is None
        ]
        await asyncio.gather(*(self._close(one) for one in opened))

    def _is_good(self, attempt: asyncio.Task[V]) -> bool:
        return (
            not attempt.cancelled()
            and attempt.exception() is None
            and self._is_usable(attempt.result())
        )


def _retrieve(attempt: asyncio.Task[Any]) -> None:
    """The waiters may all be gone; asyncio should not complain about a result nobody wants."""
    if not attempt.cancelled():
        attempt.exception()
