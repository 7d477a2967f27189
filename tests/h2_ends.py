"""The ends of an HTTP/2 conversation, as the h2 library sees it: a client, and an application.

Both speak plaintext with prior knowledge, and judge what the proxies in between do: what breaks
RFC 9113 is an exception of the library's.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Headers = list[tuple[str, str]]


@dataclass
class Message:
    """A request or a response, as it comes in."""

    number: int
    headers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: Headers = field(default_factory=list)
    interim: list[Headers] = field(default_factory=list)
    reset: h2.errors.ErrorCodes | None = None
    """With what the other end has ended it."""
    is_complete: bool = False

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def status(self) -> int:
        return int(self.get(":status") or 0)

    @property
    def is_over(self) -> bool:
        return self.is_complete or self.reset is not None


class End:
    """One connection: what comes is in ``messages``, by stream."""

    is_client: bool

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.messages: dict[int, Message] = {}
        self.is_reading = True
        """Whether credit is given back for what comes."""
        self.goaways: list[tuple[int | None, int]] = []
        """Last stream and code of each."""
        self.is_closed = False
        self.error: Exception | None = None
        self._changed = asyncio.Event()
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=self.is_client, header_encoding="latin-1")
        )

    def begin(self, settings: dict[int, int] | None = None) -> None:
        if settings:
            self.h2.local_settings = h2.settings.Settings(
                client=self.is_client, initial_values=settings
            )
        self.h2.initiate_connection()
        self.flush()
        self.task = asyncio.create_task(self._read())

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.writer.write(data)

    async def _read(self) -> None:
        held = b""
        left = 0 if self.is_client else len(PREFACE)
        try:
            while data := await self.reader.read(1 << 16):
                held += data
                while True:  # a frame at a time, so that none is behind a GOAWAY
                    size = left or (9 + int.from_bytes(held[:3]) if len(held) >= 9 else 9)
                    if len(held) < size:
                        break
                    for event in self.h2.receive_data(held[:size]):
                        self._take(event)
                    held, left = held[size:], 0
                self.flush()
                self._changed.set()
        except ConnectionError:
            pass
        except Exception as error:
            self.error = error
            self.flush()
        finally:
            self.is_closed = True
            self._changed.set()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, (h2.events.RequestReceived, h2.events.ResponseReceived)):
            message = self.messages.setdefault(event.stream_id, Message(event.stream_id))
            message.headers = list(event.headers)  # type: ignore[arg-type]  # decoded
            self.came(message)
        elif isinstance(event, h2.events.InformationalResponseReceived):
            message = self.messages.setdefault(event.stream_id, Message(event.stream_id))
            message.interim.append(list(event.headers))  # type: ignore[arg-type]
        elif isinstance(event, h2.events.TrailersReceived):
            self.messages[event.stream_id].trailers = list(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, h2.events.DataReceived):
            self.messages[event.stream_id].body += event.data
            if self.is_reading and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.messages[event.stream_id].is_complete = True
            self.ended(self.messages[event.stream_id])
        elif isinstance(event, h2.events.StreamReset):
            if event.stream_id in self.messages:
                self.messages[event.stream_id].reset = event.error_code  # type: ignore[assignment]
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append((event.last_stream_id, int(event.error_code or 0)))
            self.go_on()

    def go_on(self) -> None:
        """The library takes a GOAWAY for the end of everything; streams that are there go on."""
        states = h2.connection.ConnectionState
        self.h2.state_machine.state = states.CLIENT_OPEN if self.is_client else states.SERVER_OPEN

    def came(self, message: Message) -> None:
        """Its head is there."""

    def ended(self, message: Message) -> None:
        """It is complete."""

    async def until(self, condition: Callable[[], object], deadline_s: float = 5.0) -> None:
        """Of what has come."""
        async with asyncio.timeout(deadline_s):
            while not condition():
                assert not self.is_closed or condition(), f"closed: {self.error!r} {self.goaways}"
                self._changed.clear()
                await self._changed.wait()

    async def closed(self, deadline_s: float = 5.0) -> None:
        async with asyncio.timeout(deadline_s):
            await self.task

    async def send_body(self, number: int, data: bytes, *, is_end: bool = True) -> None:
        """As the windows allow."""
        at = 0
        while at < len(data):
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room <= 0:
                self._changed.clear()
                self.flush()
                await self._changed.wait()
                continue
            self.h2.send_data(number, data[at : at + room])
            at += room
            self.flush()
            await self.writer.drain()
        if is_end:
            self.h2.end_stream(number)
            self.flush()

    async def stop(self) -> None:
        self.writer.close()
        if hasattr(self, "task"):
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class H2Client(End):
    is_client = True

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        *,
        body: bytes | None = None,
        authority: str = "api",
        headers: Iterable[tuple[str, str]] = (),
        trailers: Headers | None = None,
        is_end: bool = True,
        protocol: str = "",
    ) -> Message:
        """Sends a request, with a small body; ``is_end`` False: more of it follows."""
        number = self.h2.get_next_available_stream_id()
        message = self.messages[number] = Message(number)
        first = [(":method", method), (":scheme", "http"), (":path", path)]
        if protocol:
            first.insert(1, (":protocol", protocol))
        first += [(":authority", authority), *headers]
        has_more = body is not None or trailers is not None or not is_end
        self.h2.send_headers(number, first, end_stream=not has_more)
        if body is not None:
            self.h2.send_data(number, body, end_stream=is_end and trailers is None)
        if trailers is not None:
            self.h2.send_headers(number, trailers, end_stream=True)
        self.flush()
        return message

    async def fetch(self, path: str = "/", method: str = "GET", **more: Any) -> Message:
        message = self.ask(path, method, **more)
        await self.until(lambda: message.is_over)
        return message

    def reset(self, message: Message, code: int = h2.errors.ErrorCodes.CANCEL) -> None:
        self.h2.reset_stream(message.number, code)
        self.flush()


async def connect(host: str, port: int, settings: dict[int, int] | None = None) -> H2Client:
    client = H2Client(*await asyncio.open_connection(host, port))
    client.begin(settings)
    return client


class H2AppConnection(End):
    is_client = False

    def __init__(
        self, app: "H2App", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._app = app
        super().__init__(reader, writer)

    def came(self, message: Message) -> None:
        self._app.heads.append(message)
        if self._app.script is not None:
            self._app.run(self._app.script(self, message))

    def ended(self, message: Message) -> None:
        self._app.requests.append(message)
        if self._app.script is None:
            self.answer(message, *self._app.answer(message))

    def answer(self, message: Message, status: int, body: bytes, headers: Headers = []) -> None:  # noqa: B006
        if message.reset is not None:
            return
        self.h2.send_headers(
            message.number, [(":status", str(status)), *headers], end_stream=not body
        )
        if body:
            self.h2.send_data(message.number, body, end_stream=True)
        self.flush()


Script = Callable[[H2AppConnection, Message], Awaitable[None]]


class H2App:
    """An application. ``answer`` makes status and body of a complete request; ``script`` is run as
    soon as a request's head has come, instead."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        """Complete ones."""
        self.heads: list[Message] = []
        self.answer: Callable[[Message], tuple[Any, ...]] = lambda _: (200, b"ok")
        self.script: Script | None = None
        self.settings: dict[int, int] = {}
        self.connections: list[H2AppConnection] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2AppConnection(self, reader, writer)
        self.connections.append(connection)
        connection.begin(self.settings)
        await asyncio.wait([connection.task])
        writer.close()

    def run(self, script: Awaitable[None]) -> None:
        task = asyncio.ensure_future(script)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            await connection.stop()
