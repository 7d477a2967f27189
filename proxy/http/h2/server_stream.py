"""One stream of a client's connection in HTTP/2: a request, and its answer.

A request becomes an Exchange when all that came with its head in one read has been seen: a unary
call whose message is there already is one piece. What is not valid ends its stream, with an answer
where there is one to give (408, 431), else with RST_STREAM.
"""

from typing import TYPE_CHECKING

from proxy.http.exchange import Exchange
from proxy.http.fields import ProtocolError
from proxy.http.grpc import is_refusal, refusal_of
from proxy.http.h2.connection import Stream
from proxy.http.h2.frames import CANCEL, COMPRESSION_ERROR, INTERNAL_ERROR, PROTOCOL_ERROR
from proxy.http.h2.heads import parse_request, parse_trailers, response_block, trailers_block
from proxy.http.h2.hpack import HpackError
from proxy.http.h2.websocket import add_key
from proxy.http.head import CHUNKED, RequestHead, ResponseHead
from proxy.http.pace import HELD_BODY_BYTES, MIN_BYTES_PER_S, PATIENCE_S
from proxy.http.reply import REFUSAL_STATUS, make_reply
from proxy.http.tunnel import SWITCHING, refused_switch
from proxy.model.flags import Flag

if TYPE_CHECKING:
    from proxy.http.h2.server import Http2Server

_NO_TRAILERS: list[bytes] = []


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

    connection: "Http2Server"

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
            if 0 < head.length <= HELD_BODY_BYTES and not head.is_expecting:
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
        status = REFUSAL_STATUS.get(reason, 0)
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
                self._exchange = self._pieces = None
            if data:
                self.send_message(block, data)
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
            self._exchange = self._pieces = None
        if self._is_answered:
            return
        if is_end:
            self._is_answered = True
            self.send_data(data, True, trailers_block(trailers) if trailers else b"")
        elif data:
            self.send_data(data, False)

    def respond_whole(self, head: ResponseHead, data: bytes, trailers: list[bytes]) -> None:
        if head.flag or self._is_answered:
            self.respond(head, data, False)
            self.respond_data(b"", True, trailers)
            return
        self._has_begun = self._is_answered = True
        self._exchange = self._pieces = None
        self.send_message(response_block(head), data, trailers_block(trailers))

    def inform(self, head: ResponseHead) -> None:
        request = self._head
        if request is not None and request.is_expecting:
            request.is_expecting = False
            self._since = self.connection.ledger.now
        self.send_headers(response_block(head), False)

    def abandon(self) -> None:
        self._exchange = self._pieces = None
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
        if self.connection.is_read_paused:
            self._since, self._taken = now, 0
        elif head.is_expecting and not self._taken:
            self._since = now  # whoever should say 100 is waited for, not the client
        elif now - self._since > PATIENCE_S + self._taken / MIN_BYTES_PER_S:
            self._refuse("timeout", f"the body came below {MIN_BYTES_PER_S} bytes/s")
