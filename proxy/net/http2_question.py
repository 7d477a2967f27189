"""The proxy's own small HTTP/2 client: one question on a connection of its own, a bounded answer.

The HTTP/2 side of ``proxy.net.exchange``, for health checks of applications that speak nothing
else; traffic never comes through here. What enters is a request's head and body, what leaves a
whole ``Answer``; one that is cut off, breaks the protocol or is larger than the limit is an error.
Deadlines are the caller's (``asyncio.timeout``).
"""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from proxy.http.fields import ProtocolError
from proxy.http.h2.connection import Connection, ConnectionBroken, Stream
from proxy.http.h2.frames import NO_ERROR, code_name
from proxy.http.h2.heads import parse_response, parse_trailers, request_block
from proxy.http.h2.hpack import Decoder, HpackError
from proxy.http.head import RequestHead
from proxy.net.exchange import Disconnected, ExchangeError, NotHttp, dial


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    lines: list[bytes]
    """Canonical, of the head and of the trailers; also what a proxy says for itself."""
    body: bytes


async def ask(
    host: str,
    port: int,
    head: RequestHead,
    body: bytes = b"",
    *,
    max_body_bytes: int,
    head_only: bool = False,
) -> Answer:
    """HTTP/2 with prior knowledge. ``head_only``: done when the head of the answer is complete.
    Raises ExchangeError."""
    waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    connection = await dial(lambda: _Connection(waiter, max_body_bytes, head_only), host, port)
    try:
        connection.ask(head, body)
        return await waiter
    finally:
        connection.close()


class _Question(Stream):
    """The one stream."""

    __slots__ = ("_body", "_head_only", "_limit", "_lines", "_method", "_owner", "_status")

    def __init__(self, owner: "_Connection", method: bytes, limit: int, head_only: bool) -> None:
        super().__init__()
        self._owner, self._method = owner, method
        self._limit, self._head_only = limit, head_only
        self._status = 0
        self._lines: list[bytes] = []
        self._body = b""

    def headers(self, block: bytes, is_end: bool) -> None:
        decoder = self._owner.decoder
        try:
            if self._status:
                self._lines += parse_trailers(decoder, block)
            else:
                head = parse_response(decoder, block, self._method, is_end)
                if head.status < 200 and not is_end:
                    return  # informational: the answer is still to come
                own = head.own_lines() if head.flag else []
                self._status, self._lines = head.status, own + head.lines
        except (ProtocolError, HpackError) as error:
            self._owner.fails(NotHttp(f"the answer is not HTTP/2: {error}"))
            return
        if is_end or self._head_only:
            self._end()

    def data(self, payload: bytes, is_end: bool) -> None:
        self._body += payload
        if len(self._body) > self._limit:
            self._owner.fails(NotHttp(f"the answer is larger than {self._limit} bytes"))
        elif is_end:
            self._end()

    def was_reset(self, code: int, *, is_unprocessed: bool) -> None:
        why = "refused" if is_unprocessed else "reset"
        self._owner.fails(
            Disconnected(f"it {why} the request ({code_name(code)})", was_answering=True)
        )

    def pressure_changed(self) -> None:
        """A question is smaller than any window."""

    def _end(self) -> None:
        self._owner.answered(Answer(status=self._status, lines=self._lines, body=self._body))


class _Connection(Connection, asyncio.Protocol):
    __slots__ = ("_head_only", "_limit", "_transport", "_waiter", "decoder")

    is_server: ClassVar[bool] = False

    def __init__(self, waiter: "asyncio.Future[Answer]", limit: int, head_only: bool) -> None:
        super().__init__()
        self._waiter, self._limit, self._head_only = waiter, limit, head_only
        self._transport: asyncio.Transport | None = None
        self.decoder = Decoder()

    def ask(self, head: RequestHead, body: bytes) -> None:
        if self.is_lost:
            return  # ``connection_lost`` has said so.
        stream = _Question(self, head.method, self._limit, self._head_only)
        self.begin(stream)
        stream.send_headers(request_block(head, head.authority or b""), not body)
        if body:
            stream.send_data(body, True)

    def answered(self, answer: Answer) -> None:
        if not self._waiter.done():
            self._waiter.set_result(answer)

    def fails(self, error: ExchangeError) -> None:
        if not self._waiter.done():
            self._waiter.set_exception(error)

    def close(self) -> None:
        """With a GOAWAY, so that the application does not take it for a fault."""
        if self._transport is not None and not self.is_lost:
            self.go(0.0)
            self.is_lost = True
            self._transport.close()

    # The engine

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.is_lost:
            self._transport.write(data)

    def settings_acknowledged(self) -> None:
        self.decoder.acknowledged()

    def block_skipped(self, block: bytes) -> None:
        try:
            self.decoder.decode(block)
        except HpackError as error:
            self.fails(NotHttp(f"the answer is not HTTP/2: {error}"))

    def told_to_go(self, code: int) -> None:
        if code != NO_ERROR:
            self.fails(NotHttp(f"it ended the connection ({code_name(code)})"))

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour only
        self.start()  # before any answer of ours to the server's own first bytes

    def data_received(self, data: bytes) -> None:
        if self.is_lost:
            return
        try:
            self.receive(data)
        except ConnectionBroken as error:
            self.fails(NotHttp(f"the answer is not HTTP/2: {error}"))

    def connection_lost(self, exc: Any) -> None:
        self.is_lost = True
        self.fails(
            Disconnected("the connection was closed before an answer came", was_answering=False)
        )
