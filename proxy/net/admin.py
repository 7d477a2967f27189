"""The admin port: a small HTTP server on loopback for people, systemd, Prometheus and meshctl.

Loopback is not a wall against a browser on the same host: a request is refused if it names a host
that is not loopback (DNS rebinding) or carries an Origin. Nor is it one against other users: what
changes anything, or shows what is not for everybody, is root's and the proxy's own user's alone.
One request a connection, no bodies, everything bounded.
"""

import asyncio
import functools
import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import httptools

from proxy.model.codec import encode
from proxy.net.sock_diag import SocketOwners, Unavailable

MAX_HEAD_BYTES = 16 * 1024
MAX_CONNECTIONS = 64
MAX_TRUSTED_CONNECTIONS = 128
"""Other users of the host can fill the first number, and must not lock root out by it."""
REQUEST_DEADLINE_S = 10.0
HANDLER_DEADLINE_S = 30.0

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    body: bytes | bytearray
    content_type: str = JSON
    status: int = 200
    encoding: str = ""
    """``gzip``, or nothing."""


def json_answer(value: object, status: int = 200) -> Answer:
    return Answer(body=encode(value) + b"\n", status=status)


def text_answer(text: str, status: int = 200) -> Answer:
    return Answer(body=f"{text}\n".encode(), content_type=TEXT, status=status)


Handler = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    handler: Handler
    is_private: bool = False
    """Only for root and the proxy's own user; whatever is not GET is so anyhow."""
    below: Callable[[str], Awaitable[Answer]] | None = None
    """For paths one below its own: gets that one segment, with its escapes."""
    accepting: Callable[[str], Awaitable[Answer]] | None = None
    """In place of ``handler``, where the form is the reader's to choose: gets ``Accept``."""


class Admin:
    """``routes`` by path; start and close once."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._open: set[Connection] = set()
        self._owners: SocketOwners | None = None

    async def start(self, host: str, port: int) -> int:
        """The port listened on (``port`` 0: any). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._owners is not None:
            self._owners.close()
            self._owners = None
        for connection in tuple(self._open):
            connection.abort()

    def _accept(self) -> "Connection":
        return Connection(self._routes, self._open, self._is_trusted)

    def _is_trusted(self, transport: asyncio.Transport) -> bool:
        """Whether the other end is root's or our own user's; what cannot be told is neither."""
        try:
            self._owners = self._owners or SocketOwners()
        except Unavailable as error:
            _log.error("the admin port cannot tell who asks", extra={"why": str(error)})
            return False
        uid = self._owners.uid(
            transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        )
        return uid in (0, os.geteuid())


class Connection(asyncio.Protocol):
    """One request and its answer, which ends it. ``net.scrape`` has one for other hosts."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        peers: "set[Connection]",
        is_trusted: Callable[[asyncio.Transport], bool],
    ) -> None:
        self._routes, self._peers, self._is_trusted = routes, peers, is_trusted
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._received = 0
        self._target = b""
        self._hosts: list[bytes] = []
        self._accepts: list[bytes] = []
        self._refusal: Answer | None = None
        self._is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour only
        self._peers.add(self)
        count = len(self._peers)
        if count > MAX_CONNECTIONS and (
            count > MAX_TRUSTED_CONNECTIONS or not self._is_trusted(self._transport)
        ):
            self._send(text_answer("too many connections to the admin port", 503))
            return
        self._timer = asyncio.get_running_loop().call_later(REQUEST_DEADLINE_S, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._is_answered or self._task is not None:
            return  # one request a connection; what follows it is not read as another
        self._received += len(data)
        if self._received > MAX_HEAD_BYTES:
            self._send(text_answer("the request is too large", 431))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._send(text_answer("nothing to upgrade to", 400))
        except httptools.HttpParserError:
            self._send(text_answer("the request is not valid HTTP", 400))

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.discard(self)
        self._is_answered = True
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Callbacks of httptools.

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"host":
                self._hosts.append(value)
            case b"accept":
                self._accepts.append(value)
            case b"origin":
                self._refusal = text_answer("requests from web pages are refused", 403)
            case b"transfer-encoding":
                self._refusal = text_answer("a body is not accepted here", 413)
            case b"content-length" if value.strip() != b"0":
                self._refusal = text_answer("a body is not accepted here", 413)

    def on_headers_complete(self) -> None:
        if self._is_answered or self._task is not None:
            return
        method = self._parser.get_method().decode("ascii", "replace")
        answer = self._refusal or self._check_host()
        if answer is not None:
            self._send(answer)
            return
        path = self._target.split(b"?", 1)[0].decode("ascii", "replace")
        route = self._routes.get(path)
        handler = route.handler if route is not None else None
        if route is not None and route.accepting is not None:
            handler = functools.partial(route.accepting, b",".join(self._accepts).decode("latin-1"))
        parent, _, segment = path.rpartition("/")
        above = self._routes.get(parent) if segment else None
        if route is None and above is not None and above.below is not None:
            route, handler = above, functools.partial(above.below, segment)
        if route is None or handler is None:
            self._send(text_answer("no such path; there are: " + " ".join(self._routes), 404))
        elif method not in ({"GET", "HEAD"} if route.method == "GET" else {route.method}):
            self._send(text_answer(f"use {route.method}", 405), f"Allow: {route.method}\r\n")
        elif (
            (route.is_private or route.method != "GET")
            and self._transport is not None
            and not self._is_trusted(self._transport)
        ):
            self._send(text_answer("only for root and the proxy's own user", 403))
        else:
            # Held here and bounded by its deadline; it is part of this connection, not of the
            # process, so the supervisor of long-lived tasks has no business with it.
            self._task = asyncio.get_running_loop().create_task(
                self._handle(handler, is_head=method == "HEAD"), name="admin-request"
            )

    def _check_host(self) -> Answer | None:
        if len(self._hosts) != 1:
            return text_answer("exactly one Host header is needed", 400)
        if not is_loopback_host(self._hosts[0].decode("ascii", "replace")):
            return text_answer("only for this host: the Host header must be loopback", 403)
        return None

    async def _handle(self, handler: Handler, *, is_head: bool) -> None:
        try:
            async with asyncio.timeout(HANDLER_DEADLINE_S):
                answer = await handler()
        except TimeoutError:
            answer = text_answer("took too long", 504)
        except Exception:
            _log.exception("an admin request failed")
            answer = text_answer("failed; see the log", 500)
        self._send(answer, is_head=is_head)

    def _send(self, answer: Answer, extra: str = "", *, is_head: bool = False) -> None:
        if self._is_answered or self._transport is None:
            return
        self._is_answered = True
        reason = HTTPStatus(answer.status).phrase
        if answer.encoding:
            extra += f"Content-Encoding: {answer.encoding}\r\n"
        head = (
            f"HTTP/1.1 {answer.status} {reason}\r\nContent-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\nCache-Control: no-store\r\n"
            f"X-Content-Type-Options: nosniff\r\nConnection: close\r\n{extra}\r\n"
        )
        self._transport.write(head.encode())
        if not is_head:
            self._transport.write(answer.body)  # by itself: a copy of megabytes takes its time
        self._transport.close()


def is_loopback_host(value: str) -> bool:
    """Of a Host header: ``localhost``, 127.0.0.0/8 or ``[::1]``, with or without a port."""
    host, colon, port = value.strip().rpartition(":")
    if not colon or value.endswith("]"):
        host, port = value.strip(), ""
    if colon and port and not (port.isascii() and port.isdecimal()):
        return False
    if host.lower() == "localhost":
        return True
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
