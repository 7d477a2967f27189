"""An application that believes nothing: it writes down what reaches it, and who disagrees."""

import asyncio
from dataclasses import dataclass
from typing import Any

from fuzz.judge import Llhttp, Message, first_by_h11

PLANTED = (b"URI=y", b"UF")
"""Values of identity headers in the grammar: none may arrive."""
NEVER_TUNNELLED = (b"h2c", b"http", b"tls")


@dataclass(slots=True)
class Seen:
    """One request that began to arrive."""

    number: int
    message: Message


class Backend:
    """One per proxy under test and worker, so that whatever arrives belongs to its case."""

    def __init__(self, *, is_strict: bool) -> None:
        self._is_strict = is_strict
        self.seen: list[Seen] = []
        self.faults: list[str] = []
        self.count = 0
        self.activity = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.transport.abort()

    def begin(self) -> None:
        """What comes from now on belongs to the next case."""
        self.seen, self.faults = [], []

    def add(self, message: Message) -> Seen:
        self.count += 1
        seen = Seen(self.count, message)
        self.seen.append(seen)
        return seen

    def judge(self, raw: bytes, message: Message) -> None:
        if not self._is_strict:
            return
        other, rest = first_by_h11(raw)
        if other is None:
            self.faults.append(f"h11 refuses {raw[:300]!r}")
        elif other.boundaries != message.boundaries:
            self.faults.append(f"h11 reads {other} where llhttp reads {message}")
        elif rest:
            self.faults.append(f"{rest[:300]!r} is left after the request")
        for name, value in message.headers:
            if name in (b"x-forwarded-client-cert", b"x-mesh-flag") and value.endswith(PLANTED):
                self.faults.append(f"{name!r} from outside arrived")
            if name == b"upgrade" and (
                message.method != b"GET"
                or message.body
                or b"," in value
                or value.startswith(NEVER_TUNNELLED)
            ):
                self.faults.append(f"an upgrade to {value!r} arrived")


class _Connection(asyncio.Protocol):
    transport: Any

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._raw = b""
        self._reader = Llhttp()
        self._seen: Seen | None = None
        self._is_answered = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._backend._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._backend._connections.discard(self)
        self._backend.activity += 1

    def data_received(self, data: bytes) -> None:
        backend, reader = self._backend, self._reader
        backend.activity += 1
        self._raw += data
        fault = reader.feed(data)
        if fault and backend._is_strict:
            backend.faults.append(f"llhttp refuses {self._raw[:300]!r}: {fault}")
        for message in reader.messages:
            if self._seen is None:
                self._seen = backend.add(message)
            elif message is not self._seen.message:
                backend.faults.append(f"a second request in {self._raw[:300]!r}")
        if fault:
            self.transport.abort()
            return
        if (seen := self._seen) is None:
            return
        message = seen.message
        is_due = message.is_complete or (message.method and b"early" in message.target)
        if is_due and not self._is_answered:
            self._is_answered = True
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-saw: %d\r\nx-target: %b\r\n\r\n"
                % (seen.number, message.target)
            )
        if message.is_complete:
            backend.judge(self._raw, message)
            if not reader.is_kept:
                self.transport.close()
            self._raw, self._seen, self._is_answered = b"", None, False
            self._reader = Llhttp()
