"""A port in front of another, where HTTP/2 without TLS is looked at as it goes by: which frames."""

import asyncio
import contextlib

PING, GOAWAY, ACK = 6, 7, 1
PREFACE_BYTES = 24


class Wire:
    """One direction of a connection: how many frames of each kind there were."""

    def __init__(self, skipped: int) -> None:
        self._held = b""
        self._skipped = skipped
        self.kinds: list[tuple[int, int]] = []

    def feed(self, data: bytes) -> None:
        skipped = min(self._skipped, len(data))
        self._skipped -= skipped
        held = self._held + data[skipped:]
        while len(held) >= 9 and len(held) >= (size := 9 + int.from_bytes(held[:3])):
            self.kinds.append((held[3], held[4] & ACK))
            held = held[size:]
        self._held = held


class Tap:
    """A port that is another one, where HTTP/2 without TLS is looked at as it goes by."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.there: list[Wire] = []
        """By connection: what clients say."""
        self.back: list[Wire] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there, back = Wire(PREFACE_BYTES), Wire(0)
        self.there.append(there)
        self.back.append(back)
        up_reader, up_writer = await asyncio.open_connection(*self._to)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, up_writer, there))
                group.create_task(self._copy(up_reader, writer, back))
        finally:
            writer.close()
            up_writer.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Wire) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                wire.feed(data)
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    @staticmethod
    def count(wires: list[Wire], kind: int, ack: int = 0) -> int:
        return sum(wire.kinds.count((kind, ack)) for wire in wires)

    async def until_pings(self, number: int, deadline_s: float = 60.0) -> None:
        """They have come from the client, and are answered."""
        async with asyncio.timeout(deadline_s):
            while self.count(self.there, PING) < number or self.count(self.back, PING, ACK) < (
                number
            ):
                await asyncio.sleep(0.01)
