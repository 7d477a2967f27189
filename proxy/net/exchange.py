"""The proxy's own small HTTP/1.1 client: one question at a time, bounded answers.

For Consul and for health checks; traffic never comes through here. What enters is the bytes of a
request, what leaves is a whole ``Response``; an answer that is cut off, is not HTTP, or is larger
than the limit is an error and never a short answer. Deadlines are the caller's
(``asyncio.timeout``): a cancelled question closes its connection.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import httptools

MAX_HEAD_BYTES = 64 * 1024

P = TypeVar("P", bound=asyncio.Protocol)


class ExchangeError(Exception):
    """The question got no usable answer; the text says why."""


class Disconnected(ExchangeError):
    """No connection, or it ended before the answer did."""

    def __init__(self, message: str, *, was_answering: bool) -> None:
        super().__init__(message)
        self.was_answering = was_answering
        """False: not a byte of the answer had come, so that a stale connection may be the cause."""


class NotHttp(ExchangeError):
    """What came back is not an HTTP answer, or is beyond the limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int
    headers: dict[bytes, bytes]
    """Names in lower case; of repeated ones the last."""
    body: bytes


class Connection(asyncio.Protocol):
    """One TCP connection; made by ``connect``."""

    def __init__(self, max_body_bytes: int) -> None:
        self._limit = max_body_bytes
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._is_head_enough = False
        self._is_head_complete = False
        self._received = 0
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Another question may be asked."""
        return self._is_open

    async def ask(self, request: bytes, *, head_only: bool = False) -> Response:
        """``head_only``: done when the headers are complete; the connection is closed then."""
        if not self._is_open or self._transport is None or self._waiter is not None:
            raise Disconnected("the connection is closed or in use", was_answering=False)
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._body, self._received = {}, bytearray(), 0
        self._is_head_complete = False
        self._is_head_enough = head_only
        self._waiter = asyncio.get_running_loop().create_future()
        is_done = False
        try:
            self._transport.write(request)
            response = await self._waiter
            is_done = True
            return response
        finally:
            self._waiter = None
            if not is_done or head_only:
                self.close()

    def close(self) -> None:
        self._is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour only
        self._is_open = True

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done() or self._parser is None:
            self.close()  # bytes nobody asked for: what follows could not be trusted either
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(NotHttp(f"the answer is not HTTP: {error or type(error).__name__}"))
            return
        limit = self._limit + MAX_HEAD_BYTES if self._is_head_complete else MAX_HEAD_BYTES
        if self._waiter is not None and not self._waiter.done() and self._received > limit:
            self._fail(NotHttp(f"the answer is larger than {limit} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_open = False
        self._fail(
            Disconnected(
                "the connection was closed "
                + ("in the middle of the answer" if self._received else "before an answer came"),
                was_answering=self._received > 0,
            )
        )

    # Callbacks of httptools.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            return  # informational: the answer is still to come
        self._is_head_complete = True
        if self._is_head_enough:
            self._finish(status)

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > self._limit:
            self._fail(NotHttp(f"the answer is larger than {self._limit} bytes"))

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if not self._is_head_complete:
            self._headers = {}
            return
        if not self._parser.should_keep_alive():
            self._is_open = False
        self._finish(self._parser.get_status_code())
        if not self._is_open and self._transport is not None:
            self._transport.close()

    def _finish(self, status: int) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(
                Response(status=status, headers=self._headers, body=bytes(self._body))
            )

    def _fail(self, error: ExchangeError) -> None:
        self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


async def connect(
    host: str, port: int, *, max_body_bytes: int, tls: ssl.SSLContext | None = None
) -> Connection:
    """``tls``: the server has to prove that it is ``host``. Raises Disconnected."""
    return await dial(lambda: Connection(max_body_bytes), host, port, tls=tls)


async def dial(
    make: Callable[[], P], host: str, port: int, *, tls: ssl.SSLContext | None = None
) -> P:
    """A connection with the protocol that ``make`` makes. Raises Disconnected."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(make, host, port, ssl=tls)
    except (OSError, UnicodeError) as error:
        raise Disconnected(_reason(error), was_answering=False) from error
    return connection


def _reason(error: OSError | UnicodeError) -> str:
    """The system's own words; event loops differ in theirs."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the host name cannot be resolved"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason}"
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
