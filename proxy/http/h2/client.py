"""HTTP/2 as a client: many requests on one connection to an application that is known to speak it.

An ``Upstream`` for each exchange. What of an answer comes in one read is handed on in one piece.
A request that the application says it has not begun with, by REFUSED_STREAM or by a GOAWAY with a
lower last stream, fails as unprocessed and may be sent again on another connection.
"""

from typing import Any, ClassVar, Final

from proxy.core.retry import Failure
from proxy.http.exchange import Exchange
from proxy.http.fields import ProtocolError
from proxy.http.h2.connection import ConnectionBroken, Stream
from proxy.http.h2.frames import CANCEL, COMPRESSION_ERROR, PROTOCOL_ERROR, code_name
from proxy.http.h2.heads import parse_response, parse_trailers, request_block, trailers_block
from proxy.http.h2.hpack import HpackError
from proxy.http.h2.websocket import granted
from proxy.http.h2.wired import Wired
from proxy.http.head import ResponseHead
from proxy.http.shared import SharedPool
from proxy.model.flags import Flag

PING_AFTER_S: Final = 330.0
"""Without a byte from an application that requests are waiting for: is it still there? Servers of
gRPC take more than one PING in five minutes for an attack, and close (gRFC A8)."""
_MAX_INTERIM: Final = 16
_NO_TRAILERS: list[bytes] = []


class Http2Client(Wired):
    """To one application, owned by one pool."""

    __slots__ = (
        "_answered",
        "_is_ready",
        "_pool",
        "has_answered",
        "idle_since",
        "tag",
    )

    is_server: ClassVar[bool] = False
    ping_after_s: ClassVar[float] = PING_AFTER_S

    def __init__(self, pool: SharedPool, tag: object = None) -> None:
        super().__init__()
        self._pool = pool
        self.tag = tag
        """The pool's own: the identity that the connection was made with."""
        self.idle_since = 0.0
        self._answered: list[ClientStream] = []
        """Answers whose head has come, and of which more may have come with it."""
        self.has_answered = False
        self._is_ready = False

    @property
    def is_flowing(self) -> bool:
        """Whether a request that goes on it now will not have to wait behind another one's body."""
        return self.credit > 0 and not self.is_full

    def open(self, exchange: Exchange) -> None:
        """Sends the request as one more stream; only with room."""
        stream = ClientStream()
        self.begin(stream)
        exchange.attach(stream)

    def connection_made(self, transport: Any) -> None:
        if self.is_lost:
            transport.abort()
        else:
            super().connection_made(transport)

    def settings_changed(self) -> None:
        """The application speaks HTTP/2, and has said how many requests it takes at a time."""
        if not self._is_ready:
            self._is_ready = True
            if self.max_streams:
                self._pool.connected_shared(self)
            else:
                # Connected, it would be of no use, and the next one would be dialled at once.
                self._pool.failed_shared(self, "it takes no requests (MAX_CONCURRENT_STREAMS 0)")
                self.close()
        elif self.has_room:
            self._pool.stream_ended(self)  # there may be more room than before

    def abandon(self) -> None:
        """Nobody waits for it any more; nobody is told."""
        self._is_ready = True
        if self.is_connected:
            self.abort()
        else:
            self.is_lost = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self._is_ready:
            detail = str(exc) if exc is not None else "closed before a word of HTTP/2"
            self._pool.failed_shared(self, detail)
            return
        self._pool.lost_shared(self)
        is_refused = isinstance(exc, ConnectionRefusedError) and not self.has_answered
        self._fail_all(
            Failure.CONNECT if is_refused else Failure.RESET, str(exc) if exc is not None else ""
        )

    def _fail_all(self, failure: Failure, detail: str) -> None:
        streams, self.streams = self.streams, {}
        self._answered.clear()
        for stream in streams.values():
            assert isinstance(stream, ClientStream)
            stream.fail(failure, detail)

    def batch_ended(self) -> None:
        answered = self._answered
        if answered:
            self._answered = []
            for stream in answered:
                stream.hand_on()

    def stream_closed(self, stream: Stream) -> None:
        if self.is_lost:
            return
        if not self.is_going:
            self._pool.stream_ended(self)
        elif not self.streams:
            self._call_soon(self._close_if_done)  # its last words may be on their way to it

    def told_to_go(self, code: int) -> None:
        if not self.streams:
            self._call_soon(self._close_if_done)

    def _close_if_done(self) -> None:
        if self.is_going and not self.streams and not self.is_lost:
            self.close()

    def broken(self, error: ConnectionBroken) -> None:
        for stream in self.streams.values():
            assert isinstance(stream, ClientStream)
            stream.log(ProtocolError("http2", str(error)))
            break
        self.hang_up()
        if not self._is_ready:
            self._is_ready = True
            self._pool.failed_shared(self, f"not HTTP/2: {error.detail}")
        self._fail_all(Failure.PROTOCOL, str(error))

    def go(self, now: float = 0.0) -> None:
        """Closes as soon as nothing is in flight."""
        if not self.is_lost:
            super().go(now)
            self._close_if_done()

    def sweep(self, now: float) -> None:
        """About once a second."""
        if self.is_stuck(now):
            self.reset()
        else:
            super().sweep(now)

    # For its streams

    def answered(self, stream: "ClientStream") -> None:
        self._answered.append(stream)


class ClientStream(Stream):
    """One request. An ``Upstream``."""

    __slots__ = ("_exchange", "_has_begun", "_has_head", "_head", "_interim", "_left", "_pieces")

    connection: Http2Client

    def __init__(self) -> None:
        super().__init__()
        self._exchange: Exchange | None = None
        self._has_begun = False
        """A part of a response has arrived."""
        self._has_head = False
        """The final one."""
        self._head: ResponseHead | None = None
        self._pieces: list[bytes] | None = None
        """Of the body, while the head waits for what has come with it; else None."""
        self._left = -1
        """Of the body, as the head says; below zero: it does not."""
        self._interim = 0

    # The request

    def send(self, exchange: Exchange) -> None:
        self._exchange = exchange
        if exchange.head.upgrade and not self.connection.has_extended_connect:
            self.cancel()
            exchange.refuse(
                Flag.UPSTREAM_PROTOCOL_ERROR, "it does not change the protocol in HTTP/2 (RFC 8441)"
            )
            return
        is_done = exchange.is_request_done
        block = request_block(exchange.head, exchange.handler.authority)
        body = exchange.take_body() if exchange.body_bytes else b""
        trailers = exchange.trailers
        if not is_done:
            self.send_headers(block, False)
            if body:
                self.send_data(body, False)
        elif body or trailers:
            self.send_message(block, body, trailers_block(trailers) if trailers else b"")
        else:
            self.send_headers(block, True)

    def send_data(self, data: bytes, is_end: bool, trailers: bytes | list[bytes] = b"") -> None:
        """Of the exchange, with trailers as lines; the engine itself has them as a block."""
        if trailers and trailers.__class__ is list:
            trailers = trailers_block(trailers)
        Stream.send_data(self, data, is_end, trailers or b"")  # type: ignore[arg-type]  # bytes by now

    def cancel(self) -> None:
        self._exchange = self._pieces = None
        self.send_reset(CANCEL)

    def pause_response(self) -> None:
        self.pause()

    def resume_response(self) -> None:
        self.resume()

    def pressure_changed(self) -> None:
        if self._exchange is not None:
            self._exchange.upstream_is_full(self.is_full)

    # The response

    def headers(self, block: bytes, is_end: bool) -> None:
        exchange = self._exchange
        connection = self.connection
        decoder = connection.decoder
        if exchange is None:
            connection.block_skipped(block)
            return
        try:
            if self._has_head:
                self._read_trailers(parse_trailers(decoder, block), is_end)
                return
            head = parse_response(decoder, block, exchange.head.method, is_end)
            if head.status < 200:
                self._read_interim(exchange, head, is_end)
                return
            if is_end and head.length > 0:
                raise ProtocolError("length", "the body is not as long as its head says")
        except ProtocolError as error:
            self._refuse(error)
            return
        except HpackError as error:
            # Ended by this very frame, it need not be among the connection's streams any more.
            self.fail(Failure.PROTOCOL, str(error))
            connection.fail(COMPRESSION_ERROR, str(error))
        self._has_begun = self._has_head = connection.has_answered = True
        if exchange.head.upgrade and head.status < 300:
            self._switch(exchange, granted(head, exchange.head), is_end)
            return
        if is_end:
            self._over()
            exchange.response_head(head, b"", True)
            return
        self._left = head.length
        self._head = head
        self._pieces = []
        connection.answered(self)

    def _switch(self, exchange: Exchange, head: ResponseHead, is_end: bool) -> None:
        """The tunnel begins: what comes from now on are bytes."""
        exchange.response_head(head, b"", False)
        if is_end and self._exchange is exchange:
            self._over()
            exchange.response_data(b"", True, _NO_TRAILERS)

    def _read_interim(self, exchange: Exchange, head: ResponseHead, is_end: bool) -> None:
        self._interim += 1
        if is_end or head.status == 101 or self._interim > _MAX_INTERIM:
            # RFC 9113, section 8.6: HTTP/2 has no 101.
            raise ProtocolError("status", "an interim response that was not asked for")
        self._has_begun = True
        exchange.inform(head)

    def _read_trailers(self, trailers: list[bytes], is_end: bool) -> None:
        if not is_end:  # RFC 9113, section 8.1
            raise ProtocolError("framing", "a second head that does not end the response")
        if self._left > 0:
            raise ProtocolError("length", "the body is not as long as its head says")
        exchange, head, pieces = self._exchange, self._head, self._pieces
        if exchange is not None and head is not None and pieces is not None:
            self._over()
            exchange.response_head(head, b"".join(pieces), True, trailers)
        elif exchange is not None:
            self._over()
            exchange.response_data(b"", True, trailers)

    def data(self, payload: bytes, is_end: bool) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if not self._has_head:
            self._refuse(ProtocolError("framing", "data before a head"))
            return
        if self._left >= 0:
            self._left -= len(payload)
            if self._left < 0 or (is_end and self._left):
                # RFC 9113, section 8.1.1
                self._refuse(ProtocolError("length", "the body is not as long as its head says"))
                return
        pieces = self._pieces
        if pieces is None:
            if is_end:
                self._over()
            exchange.response_data(payload, is_end, _NO_TRAILERS)
        elif is_end:
            head = self._head
            assert head is not None
            body = b"".join([*pieces, payload]) if pieces else payload
            self._over()
            exchange.response_head(head, body, True)
        else:
            pieces.append(payload)

    def hand_on(self) -> None:
        """The head, and what of the body has come with it."""
        exchange, head, pieces = self._exchange, self._head, self._pieces
        if exchange is not None and head is not None and pieces is not None:
            self._head = self._pieces = None
            exchange.response_head(head, b"".join(pieces), False)

    def _over(self) -> None:
        """The answer is complete."""
        self._exchange = self._head = self._pieces = None
        if not self.is_over:
            self.send_reset(CANCEL)  # the rest of the request is of no use

    # The end

    def was_reset(self, code: int, *, is_unprocessed: bool) -> None:
        failure = Failure.UNPROCESSED if is_unprocessed else Failure.RESET
        self.fail(failure, f"the stream was reset: {code_name(code)}")

    def _refuse(self, error: ProtocolError) -> None:
        """The answer is not valid; the connection is."""
        self.log(error)
        self.connection.stream_error(self, PROTOCOL_ERROR)
        self.fail(Failure.PROTOCOL, str(error))

    def log(self, error: ProtocolError) -> None:
        exchange = self._exchange
        if exchange is not None:
            subject, peer = exchange.handler.subject, self.connection.peer()
            exchange.ledger.upstream_error(error.reason, str(error), subject, peer)

    def fail(self, failure: Failure, detail: str) -> None:
        exchange = self._exchange
        self._exchange = self._head = self._pieces = None
        if exchange is not None:
            exchange.upstream_failed(
                failure,
                detail,
                has_begun=self._has_begun,
                is_reused=self.connection.has_answered,
            )
