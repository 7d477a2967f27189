"""HTTP/2 as a server: one connection from a client, a ``Downstream`` for each of its streams.

A request becomes an Exchange when all that came with its head in one read has been seen: a unary
call whose message is there already is one piece. What is not valid ends its stream, with an answer
where there is one to give (408, 431), else with RST_STREAM; what breaks the rules of the connection
ends that, as the engine decides. A client that keeps the proxy waiting is dealt with as in HTTP/1.1
(docs/decisions/0008).
"""

from typing import Any, ClassVar, Final

from proxy.http.exchange import Exchange, Handler
from proxy.http.fields import ProtocolError
from proxy.http.grpc import is_refusal, refusal_of
from proxy.http.h2.connection import ConnectionBroken, Stream
from proxy.http.h2.frames import (
    CANCEL,
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    PROTOCOL_ERROR,
)
from proxy.http.h2.heads import parse_request, parse_trailers, response_block, trailers_block
from proxy.http.h2.hpack import HpackError
from proxy.http.h2.websocket import add_key
from proxy.http.h2.wired import Wired
from proxy.http.head import CHUNKED, RequestHead, ResponseHead
from proxy.http.ledger import Ledger
from proxy.http.pace import MIN_BYTES_PER_S, PATIENCE_S
from proxy.http.reply import make_reply
from proxy.http.tunnel import SWITCHING, refused_switch
from proxy.model.flags import Flag

LINGER_S: Final = 2.0
"""How long a closed connection is still read, so that the last frames are not lost to a reset."""
_LINGER_BYTES: Final = 1024 * 1024
_HELD_BODY_BYTES: Final = 16 * 1024
"""A body of at most this length goes upstream in one piece: whoever sends it slowly then holds
nothing there."""
_STATUS_OF: Final = {"timeout": 408, "too_large": 431}
"""Refusals that are answered, by their reason."""

_NO_TRAILERS: list[bytes] = []


class Http2Server(Wired):
    """From a client to wherever ``handler`` sends its requests."""

    __slots__ = (
        "_arrived",
        "_asked_at",
        "_handler",
        "_is_closing",
        "_ledger",
        "_lingered_bytes",
        "_received",
        "_since",
        "_unfinished_since",
    )

    is_server: ClassVar[bool] = True
    ping_after_s: ClassVar[float] = 60.0

    def __init__(self, ledger: Ledger, handler: Handler) -> None:
        super().__init__()
        self._ledger = ledger
        self._handler = handler
        self._arrived: list[ServerStream] = []
        """Requests that may begin once all that was read has been seen."""
        self._is_closing = False
        """Nothing more is served; what the client still sends is read and forgotten."""
        self._asked_at = 0.0
        """When the client was asked to go; 0: it was not."""
        self._received = 0
        """Bytes since ``_unfinished_since``."""
        self._unfinished_since = 0.0
        """At every sweep since then a frame or a header block was not complete; 0: it was."""
        self._lingered_bytes = 0
        self._since = ledger.now
        """Idle, or closing, since then."""

    # The connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._ledger.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._ledger.connections.discard(self)
        self._end_all()

    def _end_all(self) -> None:
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.was_reset(CANCEL, is_unprocessed=False)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > _LINGER_BYTES:
                self._transport.abort()
            return
        self._received += len(data)
        super().data_received(data)

    def new_stream(self, number: int) -> Stream:
        return ServerStream()

    def batch_ended(self) -> None:
        arrived = self._arrived
        if arrived:
            self._arrived = []
            for stream in arrived:
                stream.begin()

    def stream_closed(self, stream: Stream) -> None:
        if not self.streams:
            self._since = self._ledger.now

    def broken(self, error: ConnectionBroken) -> None:
        self.log("http2", str(error))
        self._end_all()
        self._linger()

    def log(self, reason: str, detail: str) -> None:
        self._ledger.refused(
            reason,
            detail,
            self._handler.subject,
            self.peer(),
            self._transport.get_extra_info("sockname"),
        )

    def told_to_go(self, code: int) -> None:
        if not self.streams:
            self._go(self._ledger.now)

    def _linger(self) -> None:
        """Closes when the client does, or soon (RFC 9112, section 9.6: the same reset)."""
        self._is_closing = self.is_lost = True
        self._since = self._ledger.now
        if self._is_read_paused:
            self._is_read_paused = False
            self._transport.resume_reading()
        self._transport.write_eof()

    # As the ledger sees it

    def sweep(self, now: float) -> None:
        if self._is_closing:
            if now - self._since > LINGER_S:
                self.reset()
            return
        if self.is_stuck(now):
            self.log("slow_reader", "does not take what is sent")
            self.reset()
            return
        super().sweep(now)
        if not self.is_lost:
            self._sweep_input(now)
        if self.is_lost:
            return
        timeouts = self._handler.timeouts
        for stream in tuple(self.streams.values()):
            assert isinstance(stream, ServerStream)
            stream.sweep(now, timeouts.stream_idle_s)
        is_idle = not self.streams and now - self._since > timeouts.connection_idle_s
        if self.is_going or is_idle or self._ledger.is_draining:
            self._go(now)

    def _sweep_input(self, now: float) -> None:
        """A header block, like any frame, is held until it is whole: not for long."""
        if not (self._held or self._block_number):
            self._unfinished_since = 0.0
        elif not self._unfinished_since or self._received >= PATIENCE_S * MIN_BYTES_PER_S:
            self._unfinished_since = now
            self._received = 0
        elif now - self._unfinished_since > PATIENCE_S:
            self.end(ENHANCE_YOUR_CALM, f"a frame came below {MIN_BYTES_PER_S} bytes/s")

    @property
    def handler(self) -> Handler:
        return self._handler

    def dismiss(self) -> None:
        """No further request: closes when what is under way is answered."""
        if not self.is_lost:
            self._go(self._ledger.now)

    def close_if_idle(self) -> None:
        if not self.is_lost and (self._ledger.is_draining or not self.streams):
            self._go(self._ledger.now)

    def _go(self, now: float) -> None:
        """Asks the client to open no more streams; closes, if there are none and none can be on
        their way."""
        if not self._asked_at:
            self._asked_at = now
            self.go(now)
        elif self.is_final and not self.streams:
            self._flush()
            self._linger()

    # For its streams

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def arrived(self, stream: "ServerStream") -> None:
        self._arrived.append(stream)

    def client(self) -> bytes:
        peer = self.peer()
        return peer[0].encode() if peer else b""


class ServerStream(Stream):
    """One request. A ``Downstream``."""

    __slots__ = (
        "_exchange",
        "_has_begun",
        "_head",
        "_is_answered",
        "_left",
        "_pieces",
        "_since",
        "_taken",
        "_trailers",
        "_untaken",
    )

    connection: Http2Server

    def __init__(self) -> None:
        super().__init__()
        self._exchange: Exchange | None = None
        self._head: RequestHead | None = None
        self._pieces: list[bytes] | None = None
        """Of the body, until the exchange is begun; None: it is, or never will be."""
        self._trailers = _NO_TRAILERS
        self._left = -1
        """Of the body, as its head says; below zero: it does not."""
        self._has_begun = False
        """The response has."""
        self._is_answered = False
        """Completely; what still comes of an answer is nobody's."""
        self._since = 0.0
        """Owes a body, or does not take an answer, since then."""
        self._taken = 0
        """Bytes of the body since then."""
        self._untaken = -1
        """How much of the answer waited for the client when it was last looked at."""

    # The request

    def headers(self, block: bytes, is_end: bool) -> None:
        connection = self.connection
        if self._head is not None:
            self._read_trailers(block, is_end)
            return
        try:
            head = parse_request(connection.decoder, block, is_end)
        except ProtocolError as error:
            self._refuse(error.reason, str(error))
            return
        except HpackError as error:
            connection.fail(COMPRESSION_ERROR, str(error))
        self._head = head
        self._pieces = []
        if head.length != CHUNKED and not head.upgrade:
            self._left = head.length
        connection.arrived(self)

    def _read_trailers(self, block: bytes, is_end: bool) -> None:
        try:
            trailers = parse_trailers(self.connection.decoder, block)
            if not is_end:  # RFC 9113, section 8.1
                raise ProtocolError("framing", "a second head that does not end the request")
            if self._left > 0:
                raise ProtocolError("length", "the body is not as long as its head says")
        except ProtocolError as error:
            self._refuse(error.reason, str(error))
            return
        except HpackError as error:
            self.connection.fail(COMPRESSION_ERROR, str(error))
        self._end(b"", trailers)

    def data(self, payload: bytes, is_end: bool) -> None:
        if self._left >= 0:
            self._left -= len(payload)
            if self._left < 0 or (is_end and self._left):
                # RFC 9113, section 8.1.1
                self._refuse("length", "the body is not as long as its head says")
                return
        self._taken += len(payload)
        if is_end:
            self._end(payload, _NO_TRAILERS)
        elif self._pieces is not None:
            self._pieces.append(payload)
        elif self._exchange is not None:
            self._exchange.request_data(payload, False, _NO_TRAILERS)

    def _end(self, data: bytes, trailers: list[bytes]) -> None:
        if self._pieces is not None:
            self._pieces.append(data)
            self._trailers = trailers
            self.connection.arrived(self)
        elif self._exchange is not None:
            self._exchange.request_data(data, True, trailers)

    def begin(self) -> None:
        """All that came in one read has been seen."""
        head, pieces = self._head, self._pieces
        if pieces is None or head is None or self._exchange is not None:
            return  # refused or given up in the meantime, or a tunnel
        is_end = self.is_ended_by_peer
        connection = self.connection
        if not is_end:
            self._since = connection.ledger.now
            if 0 < head.length <= _HELD_BODY_BYTES and not head.is_expecting:
                return
        exchange = self._exchange = Exchange(self, head, connection.handler, connection.ledger)
        if head.upgrade or head.method == b"CONNECT":
            self._begin_switch(exchange, head)
            return
        self._pieces = None
        body = b"".join(pieces) if pieces else b""
        exchange.begin(body, is_end, self._trailers)

    def _begin_switch(self, exchange: Exchange, head: RequestHead) -> None:
        """What comes behind the request waits for its answer (``proxy.http.tunnel``)."""
        what = refused_switch(head)
        if what:
            self._pieces = None
            self.connection.log("upgrade", what)
            exchange.refuse(Flag.DOWNSTREAM_PROTOCOL_ERROR, f"{what} is not supported", 501)
            return
        self.pause()
        add_key(head)
        exchange.begin(b"", False, _NO_TRAILERS)

    def _switch(self, exchange: Exchange) -> None:
        """The tunnel has begun."""
        pieces, self._pieces = self._pieces, None
        self.resume()
        is_end = self.is_ended_by_peer
        if pieces or is_end:
            exchange.request_data(b"".join(pieces or ()), is_end, _NO_TRAILERS)

    def pause_request(self) -> None:
        self.pause()

    def resume_request(self) -> None:
        self._since = self.connection.ledger.now
        self._taken = 0
        self.resume()

    def was_reset(self, code: int, *, is_unprocessed: bool) -> None:
        self._pieces = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.downstream_gone()

    def client(self) -> bytes:
        return self.connection.client()

    # The response

    def _refuse(self, reason: str, detail: str) -> None:
        """A request that is not valid, or too slow."""
        self.connection.log(reason, detail)
        self._pieces = None
        status = _STATUS_OF.get(reason, 0)
        exchange = self._exchange
        if exchange is not None and (self._has_begun or status):
            exchange.refuse(Flag.DOWNSTREAM_PROTOCOL_ERROR, detail, status)
        elif exchange is not None:
            self._exchange = None
            self.connection.stream_error(self, PROTOCOL_ERROR)
            exchange.downstream_gone()
        elif status:
            subject = self.connection.handler.subject
            self.respond(*make_reply(subject, Flag.DOWNSTREAM_PROTOCOL_ERROR, detail, status), True)
        else:
            self.connection.stream_error(self, PROTOCOL_ERROR)

    def respond(self, head: ResponseHead, data: bytes, is_end: bool) -> None:
        self._has_begun = True
        if head.flag:
            request = self._head
            if request is not None and is_refusal(request, head):
                head, data = refusal_of(head, data), b""
                self._is_answered = True
        block = response_block(head)
        if is_end or self._is_answered:
            self._is_answered = True
            if is_end:
                self._exchange = None
            if data:
                self.send_headers(block, False)
                self.send_data(data, True)
            else:
                self.send_headers(block, True)
            return
        self.send_headers(block, False)
        if data:
            self.send_data(data, False)
        elif head.status == SWITCHING and self._exchange is not None:
            self._switch(self._exchange)

    def respond_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        if is_end:
            self._exchange = None
        if self._is_answered:
            return
        if is_end:
            self._is_answered = True
            self.send_data(data, True, trailers_block(trailers) if trailers else b"")
        elif data:
            self.send_data(data, False)

    def inform(self, head: ResponseHead) -> None:
        request = self._head
        if request is not None and request.is_expecting:
            request.is_expecting = False
            self._since = self.connection.ledger.now
        self.send_headers(response_block(head), False)

    def abandon(self) -> None:
        self._exchange = None
        self.send_reset(INTERNAL_ERROR)

    def pressure_changed(self) -> None:
        if self._exchange is not None:
            self._exchange.downstream_is_full(self.is_full)

    # From the sweeper

    def sweep(self, now: float, idle_s: float) -> None:
        """Once a second: what the client owes, and what it does not take."""
        if self._exchange is None and self._is_answered:
            untaken = self.waiting_bytes
            if untaken != self._untaken:
                self._untaken = untaken
                self._since = now
            elif now - self._since > idle_s:
                self.send_reset(CANCEL)
            return
        head = self._head
        if head is None or self._has_begun or self.is_ended_by_peer or self.is_paused:
            return
        if head.is_grpc or head.upgrade:
            return  # a stream may be silent for as long as both like: stream_idle_s
        if head.is_expecting and not self._taken:
            self._since = now  # whoever should say 100 is waited for, not the client
        elif now - self._since > PATIENCE_S + self._taken / MIN_BYTES_PER_S:
            self._refuse("timeout", f"the body came below {MIN_BYTES_PER_S} bytes/s")
