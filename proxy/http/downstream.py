"""HTTP/1.1 as a server: one connection from a client, its requests one after the other.

Protocol callbacks only. A request becomes an Exchange once its head is complete; what a client
has pipelined behind it waits, up to a limit, until the response has ended. Invalid requests are
answered 4xx and the connection is closed: after a framing error nothing on it can be trusted.
A client that keeps the proxy waiting is closed (docs/decisions/0008).
"""

import asyncio
import re
from typing import Any

from proxy.http.chunked import ChunkedDecoder, encode_chunk, encode_end
from proxy.http.exchange import Exchange, Handler
from proxy.http.fields import MAX_HEAD_BYTES, ProtocolError
from proxy.http.h2.frames import PREFACE
from proxy.http.h2.server import Http2Server
from proxy.http.head import CHUNKED, RequestHead, ResponseHead, parse_request
from proxy.http.ledger import Ledger
from proxy.http.pace import (
    HELD_BODY_BYTES,
    LEAST_TAKEN_BYTES,
    LINGER_BYTES,
    LINGER_S,
    MIN_BYTES_PER_S,
    PATIENCE_S,
    Uptake,
    queued_bytes,
)
from proxy.http.reply import REFUSAL_STATUS, make_reply
from proxy.http.tunnel import SWITCHING, grant, refused_switch
from proxy.http.wire import WRITE_HIGH_BYTES, Wire, forget_unsent
from proxy.model.flags import Flag

_PIPELINE_BYTES = 64 * 1024

_ENDLESS = 1 << 62
"""In place of the bytes left of a body: a tunnel. Counted down like these, never reached."""

_BARE_LF = re.compile(rb"(?<!\r)\n")
_NO_TRAILERS: list[bytes] = []
_NONE_YET = RequestHead(b"", b"", None, False)
"""In place of a connection's current request before its first one."""


class DownstreamConnection(asyncio.Protocol):
    """From a client to wherever ``handler`` sends its requests."""

    __slots__ = (
        "_decoder",
        "_exchange",
        "_handler",
        "_has_ended",
        "_head",
        "_held",
        "_is_body_held",
        "_is_body_open",
        "_is_body_paused",
        "_is_chunking",
        "_is_closing",
        "_is_input_paused",
        "_is_keep",
        "_is_paced",
        "_is_pumping",
        "_is_write_paused",
        "_ledger",
        "_left",
        "_lingered_bytes",
        "_scanned",
        "_since",
        "_taken",
        "_taken_since",
        "_transport",
        "_uptake",
    )

    _transport: Wire

    def __init__(self, ledger: Ledger, handler: Handler) -> None:
        self._ledger = ledger
        self._handler = handler
        self._held = b""
        """Received and not yet consumed."""
        self._scanned = 0
        self._exchange: Exchange | None = None
        self._head: RequestHead | None = _NONE_YET
        """Of the current request; None between two."""
        self._is_body_open = False
        self._is_body_held = False
        """A part of it is here, and nothing is dispatched until the whole is."""
        self._left = 0
        self._decoder: ChunkedDecoder | None = None
        self._is_keep = True
        self._is_chunking = False
        self._has_ended = False
        """The client sends no more."""
        self._is_closing = False
        self._is_pumping = False
        self._is_input_paused = False
        """By what is pipelined behind the current request."""
        self._is_body_paused = False
        """By the current request's upstream."""
        self._is_write_paused = False
        self._is_paced = False
        """Owes a request's body, and nobody but the client is waited for."""
        self._lingered_bytes = 0
        self._since = ledger.now
        """Idle, reading a head, reading a body, or lingering since then."""
        self._taken = 0
        """Bytes of a body since then."""
        self._taken_since = self._since
        """If equal to ``_since``: nothing that was sent before is left in the kernel."""
        self._uptake = Uptake()
        """Of what waits to be sent."""

    # The connection

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES)
        self._ledger.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._held = b""
        self._ledger.connections.discard(self)
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            exchange.downstream_gone()

    def eof_received(self) -> bool:
        """A client may end its side and still wait for the answer to a complete request."""
        exchange = self._exchange
        if exchange is None or self._is_closing:
            return False
        if self._is_body_open:
            if not exchange.is_tunnel:
                return False
            exchange.request_data(b"", True, _NO_TRAILERS)
        self._is_keep = False
        self._has_ended = True
        return True

    def pause_writing(self) -> None:
        self._is_write_paused = True
        if self._exchange is not None:
            self._exchange.downstream_is_full(True)

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._exchange is not None:
            self._exchange.downstream_is_full(False)
        else:
            self._since = self._ledger.now
            self._pump()

    def sweep(self, now: float) -> None:
        if self._transport.get_write_buffer_size():
            self._sweep_output(now, LEAST_TAKEN_BYTES)
            return
        if self._is_something_untaken():
            # In the kernel alone. While a response goes on it may just be on its way, again and
            # again, a few bytes at a time.
            self._sweep_output(now, 1 if self._exchange is not None else LEAST_TAKEN_BYTES)
            return
        if self._uptake.is_awaited:
            self._uptake.forget()
            if self._is_closing:
                self._since = now  # the last response has only now gone
        waited = now - self._since
        if self._is_closing:
            if waited > LINGER_S:
                self._transport.abort()
        elif self._exchange is not None:
            if self._is_paced and not self._is_body_paused:
                self._sweep_body(now)
        elif self._held:
            if waited > PATIENCE_S:
                self._refuse("timeout", f"the head was not complete in {PATIENCE_S:g} s")
        elif waited > self._handler.timeouts.connection_idle_s:
            self._transport.close()

    def _sweep_body(self, now: float) -> None:
        assert self._head is not None
        if self._head.is_expecting and not self._taken:
            self._since = now  # whoever should say 100 is waited for, not the client
        elif now - self._since > PATIENCE_S + self._taken / MIN_BYTES_PER_S:
            self._refuse_body("timeout", f"the body came below {MIN_BYTES_PER_S} bytes/s")

    def _is_something_untaken(self) -> bool:
        """Whether the client has left to the kernel what it asked for; megabytes, maybe."""
        since = self._since
        if self._taken_since == since or self._is_closing or self._is_paced:
            return False
        if queued_bytes(self._transport):
            return True
        if self._exchange is None:
            self._taken_since = since
        return False

    def _sweep_output(self, now: float, least: int) -> None:
        """Something waits for the client to take what was sent before it."""
        if self._uptake.is_stuck(self._transport, now, least):
            self._log_refusal("slow_reader", f"took less than {least} bytes in {PATIENCE_S:g} s")
            self._reset()

    @property
    def handler(self) -> Handler:
        return self._handler

    def dismiss(self) -> None:
        """No further request: closes after the answer that is under way, or now."""
        if self._exchange is not None:
            self._is_keep = False
        elif not self._is_closing:
            self._held = b""
            self.close_if_idle()

    def abort(self) -> None:
        self._transport.abort()

    def close_if_idle(self) -> None:
        if self._exchange is None and not self._held and not self._is_closing:
            self._is_closing = True
            self._transport.close()

    # Requests

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > LINGER_BYTES:
                self._transport.abort()
            return
        if self._held:
            self._held += data
        else:
            self._held = data
            if self._exchange is None:
                self._since = self._ledger.now
        if self._is_body_open:
            self._read_body()
        elif self._exchange is None:
            self._pump()
        elif len(self._held) > _PIPELINE_BYTES:
            self._is_input_paused = True
            self._transport.pause_reading()

    def _pump(self) -> None:
        """Takes requests from what is held, until one has to wait."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while (
                self._held
                and self._exchange is None
                and not self._is_closing
                and not self._is_write_paused
                and self._read_head()
            ):
                pass
        finally:
            self._is_pumping = False
        if self._is_input_paused and len(self._held) <= _PIPELINE_BYTES and not self._is_closing:
            self._is_input_paused = False
            self._transport.resume_reading()

    def _read_head(self) -> bool:
        """Begins one exchange; False if the head is not complete."""
        held = self._held
        end = held.find(b"\r\n\r\n", self._scanned)
        if end < 0 or end > MAX_HEAD_BYTES:
            if held.startswith(b"\r\n"):  # RFC 9112, section 2.2: ignore an empty line
                self._held = held[2:]
                return True
            if end > 0 or len(held) > MAX_HEAD_BYTES:
                self._refuse("too_large", "the head exceeds 60 KiB")
            elif _BARE_LF.search(held, self._scanned) is not None:
                self._refuse("field", "a line ends without a carriage return")
            self._scanned = max(0, len(held) - 3)
            return False
        self._scanned = 0
        try:
            head = parse_request(held[:end])
        except ProtocolError as error:
            if held.startswith(b"\r\n"):
                self._held = held[2:]
                return True
            if self._head is _NONE_YET and held.startswith(PREFACE[: end + 4]):
                self._hand_over(held)
                return False
            self._refuse(error.reason, str(error))
            return False
        self._head = head
        self._is_keep = head.is_keep_alive
        self._is_chunking = False
        exchange = self._exchange = Exchange(self, head, self._handler, self._ledger)
        length = head.length
        self._held = held[end + 4 :]
        self._is_body_open = length != 0
        if head.upgrade or head.method == b"CONNECT":
            self._begin_switch(exchange)
            return True
        if length == 0:
            exchange.begin(b"", True, _NO_TRAILERS)
            return True
        if length == CHUNKED:
            self._decoder = ChunkedDecoder()
        else:
            self._left = length
        self._taken = 0
        self._since = self._ledger.now
        self._is_paced = True
        if len(self._held) < length <= HELD_BODY_BYTES and not head.is_expecting:
            self._is_body_held = True
            self._taken = len(self._held)
            return False
        self._read_body(is_first=True)
        return True

    def _begin_switch(self, exchange: Exchange) -> None:
        """What comes behind the request waits for the answer, and is no request, whatever that
        is: if the protocol is not changed, the connection ends with the answer."""
        self._is_keep = False
        what = refused_switch(exchange.head)
        if not what:
            exchange.begin(b"", False, _NO_TRAILERS)
            return
        self._log_refusal("upgrade", what)
        exchange.refuse(Flag.DOWNSTREAM_PROTOCOL_ERROR, f"{what} is not supported", 501)

    def _switch(self, head: ResponseHead) -> None:
        """The tunnel begins: from here on the connection is one body without an end."""
        request, exchange = self._head, self._exchange
        assert request is not None
        assert exchange is not None
        self._transport.write(grant(head, request.upgrade))
        self._is_body_open = True
        self._left = _ENDLESS
        if self._held:
            self._read_body()
        if self._has_ended:
            exchange.request_data(b"", True, _NO_TRAILERS)
        elif self._is_input_paused:
            self._is_input_paused = False
            if not self._is_body_paused:
                self._transport.resume_reading()

    def _read_body(self, is_first: bool = False) -> None:
        exchange = self._exchange
        assert exchange is not None
        held = self._held
        if self._is_body_held:
            if len(held) < self._left:
                self._taken = len(held)
                return
            self._is_body_held = False
            is_first = True
        if held:
            self._taken += len(held)
        trailers = _NO_TRAILERS
        decoder = self._decoder
        if decoder is not None:
            try:
                data, is_end, self._held = decoder.feed(held)
            except ProtocolError as error:
                self._refuse_body(error.reason, str(error))
                return
            if is_end:
                self._decoder = None
                trailers = decoder.trailers
        else:
            left = self._left
            if len(held) <= left:
                data = held
                self._held = b""
            else:
                data = held[:left]
                self._held = held[left:]
            self._left = left = left - len(data)
            is_end = left == 0
        if is_end:
            self._is_body_open = self._is_paced = False
        if is_first:
            exchange.begin(data, is_end, trailers)
        elif data or is_end:
            exchange.request_data(data, is_end, trailers)

    def pause_request(self) -> None:
        if not self._is_closing:
            self._is_body_paused = True
            self._transport.pause_reading()

    def resume_request(self) -> None:
        if self._is_body_paused and not self._is_closing:
            self._is_body_paused = False
            self._since = self._ledger.now
            self._taken = 0
            if not self._is_input_paused:
                self._transport.resume_reading()

    def _hand_over(self, held: bytes) -> None:
        """The client began in HTTP/2 (RFC 9113, section 3.3), and goes on in it."""
        self._is_closing = True
        self._held = b""
        self._ledger.connections.discard(self)
        other = self.make_http2()
        self._transport.set_protocol(other)
        other.connection_made(self._transport)
        other.data_received(held)

    def make_http2(self) -> Http2Server:
        """What takes the connection over."""
        return Http2Server(self._ledger, self._handler)

    def _refuse(self, reason: str, detail: str) -> None:
        """A request that never became an exchange."""
        self._log_refusal(reason, detail)
        self._head = None
        self._held = b""
        self._is_keep = False
        flag = Flag.DOWNSTREAM_PROTOCOL_ERROR
        status = REFUSAL_STATUS.get(reason, 0)
        head, body = make_reply(self._handler.subject, flag, detail, status)
        self.respond(head, body, True)

    def _refuse_body(self, reason: str, detail: str) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._log_refusal(reason, detail)
        self._held = b""
        self._is_keep = False
        self._is_paced = self._is_body_held = False
        exchange.refuse(Flag.DOWNSTREAM_PROTOCOL_ERROR, detail, REFUSAL_STATUS.get(reason, 0))

    def _log_refusal(self, reason: str, detail: str) -> None:
        self._ledger.refused(
            reason,
            detail,
            self._handler.subject,
            self._transport.get_extra_info("peername"),
            self._transport.get_extra_info("sockname"),
        )

    # Responses

    def client(self) -> bytes:
        peer = self._transport.get_extra_info("peername")
        return peer[0].encode() if peer else b""

    def respond(self, head: ResponseHead, data: bytes, is_end: bool) -> None:
        request = self._head
        if (
            is_end
            and head.length >= 0
            and self._is_keep
            and not head.flag
            and not self._is_body_open
            and not self._ledger.is_draining
            and not (request is not None and request.is_old)
        ):
            self._transport.write(head.serialize() + data)
            self._end_response()
            return
        lines = head.lines
        if head.length < 0:
            if head.status == SWITCHING:
                self._switch(head)
                return
            if request is not None and request.is_old:
                self._is_keep = False  # the end of the connection is the end of the body
            else:
                self._is_chunking = True
                lines = [*lines, b"transfer-encoding: chunked"]
                if data:
                    data = encode_chunk(data)
                if is_end:
                    data += encode_end(_NO_TRAILERS)
        if head.flag:
            lines = lines + head.own_lines()
        if not self._is_keep or self._ledger.is_draining or (is_end and self._is_body_open):
            self._is_keep = False
            lines = [*lines, b"connection: close"]
        elif request is not None and request.is_old:
            lines = [*lines, b"connection: keep-alive"]
        self._transport.write(
            b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (head.reason, b"\r\n".join(lines), data)
            if lines
            else b"HTTP/1.1 %b\r\n\r\n%b" % (head.reason, data)
        )
        if is_end:
            self._end_response()
        else:
            self._is_paced = False  # what is still owed of a body, whoever answers has accepted

    def respond_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        if self._is_chunking:
            if data:
                data = encode_chunk(data)
            if is_end:
                data += encode_end(trailers)
        if data:
            self._transport.write(data)
        if is_end:
            self._end_response()

    def respond_whole(self, head: ResponseHead, data: bytes, trailers: list[bytes]) -> None:
        self.respond(head, data, False)
        self.respond_data(b"", True, trailers)

    def inform(self, head: ResponseHead) -> None:
        if self._head is not None and not self._head.is_old:
            if self._head.is_expecting:
                self._head.is_expecting = False
                self._since = self._ledger.now
            block = b"".join([line + b"\r\n" for line in head.lines])
            self._transport.write(b"HTTP/1.1 %b\r\n%b\r\n" % (head.reason, block))

    def abandon(self) -> None:
        is_tunnel = self._exchange is not None and self._exchange.is_tunnel
        self._exchange = None
        self._is_closing = True
        # A client that reads until the end would take an orderly end for a whole response, and
        # one that does not read would not learn of it while its window is shut.
        if (
            self._uptake.is_awaited
            or is_tunnel
            or (self._head is not None and self._head.is_old)
            or queued_bytes(self._transport) > WRITE_HIGH_BYTES
        ):
            self._reset()
        else:
            self._transport.abort()

    def _reset(self) -> None:
        """Ends the connection, and lets the kernel forget what it still holds for the client."""
        forget_unsent(self._transport)
        self._transport.abort()

    def _end_response(self) -> None:
        self._exchange = None
        self._head = None
        if not self._is_keep or self._is_body_open:
            self._linger()
            return
        self._since = self._ledger.now
        if self._is_body_paused:
            self.resume_request()
        if self._held:
            self._pump()

    def _linger(self) -> None:
        self._is_closing = True
        self._is_paced = False
        self._held = b""
        self._since = self._ledger.now
        if self._has_ended:  # then nothing can arrive that would turn a close into a reset
            self._transport.close()
            return
        self._transport.write_eof()
        self._transport.resume_reading()
