"""The admin port's answers about calls looked at for a while, plaintext callers, and token keys."""

from proxy.net.admin import Answer, Route, json_answer, text_answer
from proxy.net.dataplane import DataPlane
from proxy.net.observation import MAX_SECONDS
from proxy.net.workers import Workers


class Observing:
    """Asks this process and its workers."""

    def __init__(self, plane: DataPlane, workers: Workers) -> None:
        self._plane, self._workers = plane, workers

    def routes(self) -> dict[str, Route]:
        """All for root and the proxy's own user: they say who calls what."""
        return {
            "/observe": Route(method="POST", handler=self._how, below=self._observe),
            "/observed": Route(method="GET", handler=self._observed, is_private=True),
            "/plaintext": Route(method="GET", handler=self._plaintext, is_private=True),
            "/tokens": Route(method="GET", handler=self._tokens, is_private=True),
        }

    async def _how(self) -> Answer:
        return text_answer(f"use POST /observe/SECONDS, 0 to {MAX_SECONDS:g}", 400)

    async def _observe(self, seconds: str) -> Answer:
        if not (seconds.isascii() and seconds.isdecimal()) or int(seconds) > MAX_SECONDS:
            return await self._how()
        self._plane.observe(int(seconds))
        return json_answer(
            await self._workers.observed(self._plane.observed(), seconds=int(seconds))
        )

    async def _observed(self) -> Answer:
        return json_answer(await self._workers.observed(self._plane.observed()))

    async def _plaintext(self) -> Answer:
        whole = await self._workers.observed(self._plane.observed())
        return json_answer({"plaintext": whole.plaintext})

    async def _tokens(self) -> Answer:
        return json_answer(self._plane.tokens.describe())
