"""The calling applications: no request is like the one before."""

import asyncio
import random
import string
from collections import Counter
from collections.abc import Sequence

_TASKS = 12
_ANSWER_S = 20.0
_HEAD_LIMIT = 64 * 1024
_MAX_BODY = 2048
_USUAL = (200, 200, 200, 200, 200, 200, 201, 204, 301, 304, 400, 401, 404, 409, 429, 500, 503)
_ANY_STATUS_SHARE = 0.03
_UNKNOWN_HOST_SHARE = 0.03
_CLOSE_SHARE = 0.05
_ABANDON_SHARE = 0.01
_METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")
_WORD = string.ascii_lowercase + string.digits


class Callers:
    """Call through the ports ``ports``, one for each calling service, by Host."""

    def __init__(
        self, ports: Sequence[int], hosts: Sequence[str], rate_per_s: float, rng: random.Random
    ) -> None:
        self._ports, self._hosts = ports, hosts
        self._pause_s = _TASKS / rate_per_s
        self._rng = rng
        self.answers: Counter[int] = Counter()
        """By status."""
        self.unanswered: Counter[str] = Counter()
        """By what happened instead; what was abandoned on purpose is not in it."""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_TASKS):
                group.create_task(self._call_on())

    async def _call_on(self) -> None:
        connections: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        try:
            while True:
                await asyncio.sleep(self._rng.expovariate(1 / self._pause_s))
                port = self._rng.choice(self._ports)
                try:
                    async with asyncio.timeout(_ANSWER_S):
                        if port not in connections:
                            connections[port] = await asyncio.open_connection(
                                "127.0.0.1", port, limit=_HEAD_LIMIT
                            )
                        keeps = await self._call(*connections[port])
                except (OSError, EOFError, TimeoutError, ValueError) as error:
                    self.unanswered[type(error).__name__] += 1
                    keeps = False
                if not keeps and port in connections:
                    connections.pop(port)[1].close()
        finally:
            for _, writer in connections.values():
                writer.close()

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        method, request = self._request()
        writer.write(request)
        if self._rng.random() < _ABANDON_SHARE:
            return False
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        self.answers[status] += 1
        fields = head.lower()
        length = 0
        for line in fields.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if b"transfer-encoding:" in fields:
            return False
        if method != "HEAD" and status not in (204, 304):
            await reader.readexactly(length)
        is_kept = b"connection: close" not in fields
        return is_kept and self._rng.random() >= _CLOSE_SHARE

    def _request(self) -> tuple[str, bytes]:
        rng = self._rng
        method = rng.choice(_METHODS)
        status = rng.choice(_USUAL)
        if rng.random() < _ANY_STATUS_SHARE:
            status = rng.randrange(200, 600)
        host = rng.choice(self._hosts)
        if rng.random() < _UNKNOWN_HOST_SHARE:
            host = f"{self._word(12)}.example"
        target = f"/s/{status}/" + "/".join(self._word(8) for _ in range(rng.randrange(4)))
        if rng.random() < 0.3:
            target += f"?{self._word(4)}={self._word(16)}"
        body = b"y" * (rng.randrange(_MAX_BODY) if method in ("POST", "PUT", "PATCH") else 0)
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: {host}",
            f"Content-Length: {len(body)}",
            f"User-Agent: {self._word(10)}",
            f"X-{self._word(6)}: {self._word(20)}",
            *self._ids(),
        ]
        return method, "\r\n".join([*lines, "", ""]).encode() + body

    def _ids(self) -> list[str]:
        """A request id and a trace context of one of the kinds that there are, or none."""
        rng = self._rng
        found = [f"X-Request-Id: {self._word(24)}"] if rng.random() < 0.5 else []
        trace, span = f"{rng.getrandbits(128):032x}", f"{rng.getrandbits(64):016x}"
        match rng.randrange(6):
            case 0:
                found.append(f"traceparent: 00-{trace}-{span}-01")
                found.append(f"tracestate: {self._word(4)}={self._word(8)}")
            case 1:
                found.append(f"traceparent: 00-{trace}-{span}-00")
            case 2:
                found.append(f"traceparent: {self._word(30)}")
            case 3:
                found.append(f"b3: {trace}-{span}-{rng.randrange(2)}")
            case _:
                pass
        return found

    def _word(self, length: int) -> str:
        return "".join(self._rng.choices(_WORD, k=length))
