"""HTTP/1.1 as a client: one pooled connection to an endpoint or to the local application.

One exchange at a time. The connection goes back to its pool only when nothing about it is in
doubt: request and response complete, kept alive by the server, not a byte too many.
"""

import asyncio
from typing import Any, Protocol

from proxy.core.retry import Failure
from proxy.http.chunked import ChunkedDecoder, encode_chunk, encode_end
from proxy.http.exchange import Exchange
from proxy.http.fields import MAX_HEAD_BYTES, ProtocolError
from proxy.http.head import (
    CHUNKED,
    UNTIL_CLOSE,
    ResponseHead,
    parse_response,
    serialize_request,
)
from proxy.http.tunnel import SWITCHING, accept, with_upgrade
from proxy.http.wire import WRITE_HIGH_BYTES, Wire, forget_unsent

_MAX_INTERIM = 16
"""Responses 1xx to one request; a server that goes on is broken or hostile."""
_NO_TRAILERS: list[bytes] = []


class Pool(Protocol):
    def connected(self, connection: "UpstreamConnection") -> None: ...
    def release(self, connection: "UpstreamConnection") -> None:
        """The connection is idle and sound."""

    def lost(self, connection: "UpstreamConnection") -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """To one endpoint, owned by one pool."""

    __slots__ = (
        "_decoder",
        "_exchange",
        "_has_begun",
        "_held",
        "_interim",
        "_is_keep",
        "_is_paused",
        "_is_reading_body",
        "_is_request_open",
        "_is_write_paused",
        "_left",
        "_pool",
        "_scanned",
        "_transport",
        "idle_since",
        "is_lost",
        "is_reused",
        "tag",
    )

    _transport: Wire

    def __init__(self, pool: Pool, tag: object = None) -> None:
        self._pool = pool
        self.tag = tag
        """The pool's own: the identity that the connection was made with."""
        self._exchange: Exchange | None = None
        self._held = b""
        self._scanned = 0
        self._is_reading_body = False
        self._left = 0
        self._decoder: ChunkedDecoder | None = None
        self._is_keep = True
        self._has_begun = False
        self._interim = 0
        self._is_request_open = False
        self.is_reused = False
        """Has been idle: the other side may close it in the moment it is used again."""
        self._is_paused = False
        self._is_write_paused = False
        self.is_lost = False
        self.idle_since = 0.0

    # The connection

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES)
        self._pool.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._pool.lost(self)
        exchange = self._exchange
        if exchange is None:
            return
        if exc is None and self._is_reading_body and self._left == UNTIL_CLOSE:
            self._exchange = None
            exchange.response_data(b"", True, _NO_TRAILERS)
        elif isinstance(exc, ConnectionRefusedError) and not self._has_begun:
            self._fail(Failure.CONNECT, str(exc))
        elif self.is_reused and not self._has_begun:
            self._fail(Failure.RESET, "a kept connection was closed before any answer")
        else:
            self._fail(Failure.RESET, str(exc) if exc is not None else "")

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._is_write_paused = True
        if self._exchange is not None:
            self._exchange.upstream_is_full(True)

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._exchange is not None:
            self._exchange.upstream_is_full(False)

    def close(self) -> None:
        """Only when idle."""
        self.is_lost = True
        self._transport.close()

    def abort(self) -> None:
        self.is_lost = True
        self._transport.abort()

    # The request

    def send(self, exchange: Exchange) -> None:
        self._exchange = exchange
        head = exchange.head
        data = serialize_request(head, exchange.handler.authority)
        is_done = exchange.is_request_done
        self._is_request_open = not is_done
        if head.length == 0 and is_done:
            self._transport.write(data)
            return
        if head.upgrade:
            data = with_upgrade(data, head.upgrade)
        body = exchange.take_body()
        if head.length == CHUNKED:
            if body:
                body = encode_chunk(body)
            if is_done:
                body += encode_end(exchange.trailers)
        self._transport.write(data + body if body else data)

    def send_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.head.length == CHUNKED:
            if data:
                data = encode_chunk(data)
            if is_end:
                data += encode_end(trailers)
        if data:
            self._transport.write(data)
        if is_end:
            self._is_request_open = False
            if exchange.is_tunnel:
                self._transport.write_eof()

    def cancel(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.is_tunnel:
            forget_unsent(self._transport)  # an orderly end would say that this was all
        self.abort()

    def pause_response(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()

    def resume_response(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    # The response

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            # Bytes that answer no request: whatever they are, they may not be the next answer.
            self.abort()
            return
        try:
            if self._is_reading_body:
                self._read_body(exchange, data)
            else:
                self._read_head(exchange, data)
        except ProtocolError as error:
            peer = self._transport.get_extra_info("peername")
            exchange.ledger.upstream_error(error.reason, str(error), exchange.handler.subject, peer)
            self._fail(Failure.PROTOCOL, str(error))

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        if self._held:
            data = self._held + data
        while True:
            end = data.find(b"\r\n\r\n", self._scanned)
            if end < 0 or end > MAX_HEAD_BYTES:
                if end > 0 or len(data) > MAX_HEAD_BYTES:
                    raise ProtocolError("too_large", "the head exceeds 60 KiB")
                self._held = data
                self._scanned = max(0, len(data) - 3)
                self._has_begun = self._has_begun or bool(data)
                return
            self._scanned = 0
            block = data[:end]
            head = parse_response(block, exchange.head.method)
            data = data[end + 4 :]
            if head.status >= 200:
                break
            self._interim += 1
            if head.status == SWITCHING:
                self._switch(exchange, accept(head, block, exchange.head.upgrade), data)
                return
            if self._interim > _MAX_INTERIM:
                raise ProtocolError("status", "an interim response that was not asked for")
            self._has_begun = True
            exchange.inform(head)
            if self._exchange is None:
                return
        self._held = b""
        self._is_keep = head.is_keep_alive
        length = head.length
        if length == len(data):
            self._complete(b"")
            exchange.response_head(head, data, True)
        elif length >= 0:
            if len(data) > length:
                self._complete(data[length:])
                exchange.response_head(head, data[:length], True)
            else:
                self._has_begun = True
                self._is_reading_body = True
                self._left = length - len(data)
                exchange.response_head(head, data, False)
        else:
            self._has_begun = self._is_reading_body = True
            self._left = length
            if length == CHUNKED:
                self._decoder = ChunkedDecoder()
            self._begin_unmeasured(exchange, head, data)

    def _switch(self, exchange: Exchange, head: ResponseHead, data: bytes) -> None:
        """Begins a tunnel, which lasts as long as the connection; ``data``: its first bytes."""
        self._held = b""
        self._has_begun = self._is_reading_body = True
        self._is_keep = False
        self._left = UNTIL_CLOSE
        exchange.response_head(head, b"", False)
        if data and self._exchange is exchange:
            exchange.response_data(data, False, _NO_TRAILERS)

    def _begin_unmeasured(self, exchange: Exchange, head: ResponseHead, data: bytes) -> None:
        decoder = self._decoder
        if decoder is None:
            self._is_keep = False
            exchange.response_head(head, data, False)
            return
        payload, is_end, rest = decoder.feed(data)
        if is_end and not decoder.trailers:
            self._complete(rest)
            exchange.response_head(head, payload, True)
            return
        exchange.response_head(head, payload, False)
        if is_end and self._exchange is exchange:
            self._complete(rest)
            exchange.response_data(b"", True, decoder.trailers)

    def _read_body(self, exchange: Exchange, data: bytes) -> None:
        decoder = self._decoder
        if decoder is not None:
            payload, is_end, rest = decoder.feed(data)
            if is_end:
                self._complete(rest)
                exchange.response_data(payload, True, decoder.trailers)
            elif payload:
                exchange.response_data(payload, False, _NO_TRAILERS)
        elif self._left == UNTIL_CLOSE:
            exchange.response_data(data, False, _NO_TRAILERS)
        elif len(data) < self._left:
            self._left -= len(data)
            exchange.response_data(data, False, _NO_TRAILERS)
        else:
            rest = data[self._left :]
            payload = data[: self._left] if rest else data
            self._complete(rest)
            exchange.response_data(payload, True, _NO_TRAILERS)

    def _complete(self, rest: bytes) -> None:
        """The response has ended; ``rest`` came after it and should not be there."""
        self._exchange = None
        if (
            not self._is_keep
            or rest
            or self._is_request_open
            or self._is_write_paused
            or self.is_lost
        ):
            self.close()
            return
        self._is_reading_body = False
        self._decoder = None
        self._has_begun = False
        self._interim = 0
        self.is_reused = True
        if self._is_paused:
            self.resume_response()
        self._pool.release(self)

    def _fail(self, failure: Failure, detail: str) -> None:
        exchange, self._exchange = self._exchange, None
        if not self.is_lost:
            self.abort()
        if exchange is not None:
            exchange.upstream_failed(
                failure, detail, has_begun=self._has_begun, is_reused=self.is_reused
            )
