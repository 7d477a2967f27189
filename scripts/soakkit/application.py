"""The called application: answers ``/s/STATUS/...`` with that status, and sometimes not at all."""

import asyncio
import random
from contextlib import suppress

_HEAD_LIMIT = 64 * 1024
_IDLE_S = 30.0
_STOP_S = 5.0
_MAX_BODY = 4096
_MAX_DELAY_S = 0.02
_RESET_SHARE = 0.002
_SLOW_SHARE = 0.05


class Application:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._serving:
            writer.close()
        if tasks := [task for task in self._serving.values() if task is not None]:
            await asyncio.wait(tasks, timeout=_STOP_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving[writer] = asyncio.current_task()
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            del self._serving[writer]
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(_IDLE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            await reader.readexactly(length)
        chance = self._rng.random()
        if chance < _RESET_SHARE:
            return False
        if chance < _SLOW_SHARE:
            await asyncio.sleep(self._rng.uniform(0, _MAX_DELAY_S))
        method, target, _ = head.split(b" ", 2)
        status = 200
        with suppress(ValueError, IndexError):
            status = int(target.split(b"/")[2])
        body = b"x" * self._rng.randrange(_MAX_BODY)
        if status in (204, 304):
            body = b""
        fields = b"" if status in (204, 304) else b"content-length: %d\r\n" % len(body)
        writer.write(b"HTTP/1.1 %d Soak\r\n%b\r\n" % (status, fields))
        if method != b"HEAD":
            writer.write(body)
        await writer.drain()
        return True
