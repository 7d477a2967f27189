"""The called proxy's end of a connection of many streams: a ``Downstream`` for each exchange."""

from collections.abc import Iterable
from typing import Any

from proxy.http.channel import Channel, Receiver, Sender
from proxy.http.exchange import Exchange, Handler
from proxy.http.fields import ProtocolError, parse_trailers
from proxy.http.frames import (
    CREDIT,
    DATA,
    DATA_END,
    GOAWAY,
    HEAD,
    HEAD_END,
    INTERIM,
    MOST_STREAMS,
    RESET,
    TRAILERS_END,
    WINDOW_BYTES,
    credit_of,
    frame,
    head_frame,
    split_head,
)
from proxy.http.head import CHUNKED, RequestHead, ResponseHead, parse_request
from proxy.http.ledger import Ledger
from proxy.http.reply import make_reply
from proxy.model.flags import Flag

MOST_RESETS = 2000
"""Of requests in flight, between two sweeps, a second apart: more is no caller's bad luck."""

_NO_TRAILERS: list[bytes] = []


class StreamsServer(Channel):
    """From one calling workload; ``handler`` knows who it is."""

    __slots__ = ("_handler", "_has_said_goaway", "_last", "_ledger", "_resets", "_since", "streams")

    def __init__(self, ledger: Ledger, handler: Handler) -> None:
        super().__init__()
        self._ledger = ledger
        self._handler = handler
        self.streams: dict[int, ServerStream] = {}
        self._last = 0
        self._resets = 0
        self._has_said_goaway = False
        self._since = ledger.now
        """Idle since then."""

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
            stream.gone()

    # As a channel

    def all_streams(self) -> Iterable["ServerStream"]:
        return self.streams.values()

    def stream_frame(self, number: int, kind: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            if kind == RESET:
                self._resets += 1
                if self._resets > MOST_RESETS:
                    raise ProtocolError("frame", "too many requests were given up")
            stream.received(kind, payload)
        elif kind in (HEAD, HEAD_END):
            if number <= self._last:
                raise ProtocolError("frame", "a stream's number was used before")
            self._last = number
            self._begin(number, payload, kind == HEAD_END)
        elif number > self._last:
            raise ProtocolError("frame", "a stream begins without a head")

    def _begin(self, number: int, payload: bytes, is_end: bool) -> None:
        if len(self.streams) >= MOST_STREAMS:
            raise ProtocolError("frame", "too many streams")
        block, data = split_head(payload)
        stream = ServerStream(self, number)
        try:
            head = parse_request(block)
            stream.check(head, len(data), is_end)
        except ProtocolError as error:
            if error.reason == "frame":
                raise
            self._ledger.refused(
                error.reason,
                str(error),
                self._handler.subject,
                self._transport.get_extra_info("peername"),
                self._transport.get_extra_info("sockname"),
            )
            stream.refuse(str(error))
            return
        self.streams[number] = stream
        exchange = stream.exchange = Exchange(stream, head, self._handler, self._ledger)
        if head.upgrade or head.method == b"CONNECT":
            exchange.refuse(
                Flag.DOWNSTREAM_PROTOCOL_ERROR, "changing the protocol is not supported", 501
            )
        else:
            exchange.begin(data, is_end, _NO_TRAILERS)

    def told_to_go(self) -> None:
        """A client has nothing to say here; harmless."""

    def broken(self, error: ProtocolError) -> None:
        self._ledger.refused(
            error.reason,
            str(error),
            self._handler.subject,
            self._transport.get_extra_info("peername"),
            self._transport.get_extra_info("sockname"),
        )
        self._end_all()

    def ended(self, number: int) -> None:
        self.streams.pop(number, None)
        if not self.streams:
            self._since = self._ledger.now

    def client(self) -> bytes:
        peer = self._transport.get_extra_info("peername")
        return peer[0].encode() if peer else b""

    # As the ledger sees it

    def sweep(self, now: float) -> None:
        self._resets = 0
        if self._ledger.is_draining and not self._has_said_goaway:
            self._has_said_goaway = True
            self.write(frame(0, GOAWAY))
        if not self.streams and now - self._since > self._handler.timeouts.connection_idle_s:
            self.close()

    def close_if_idle(self) -> None:
        if not self.streams and not self.is_lost:
            self.close()


class ServerStream:
    """One request from the peer. A ``Downstream``."""

    __slots__ = ("_connection", "_left", "_number", "_receiver", "_sender", "_was_full", "exchange")

    def __init__(self, connection: StreamsServer, number: int) -> None:
        self._connection = connection
        self._number = number
        self.exchange: Exchange | None = None
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        self._left = 0
        self._was_full = False

    # The request

    def check(self, head: RequestHead, size: int, is_end: bool) -> None:
        """That the frames end the body where the head says."""
        length = head.length
        if length == CHUNKED:
            self._left = -1
        elif size > length or (is_end and size < length):
            raise ProtocolError("length", "the body is not as long as its head says")
        else:
            self._left = length - size
        if not is_end:
            self._receiver = Receiver(self._connection, self._number)
            self._receiver.count(size)

    def received(self, kind: int, payload: bytes) -> None:
        if kind in (DATA, DATA_END):
            self._read(payload, kind == DATA_END, _NO_TRAILERS)
        elif kind == TRAILERS_END:
            self._read(b"", True, parse_trailers(payload[:-2]))
        elif kind == CREDIT:
            if self._sender is not None:
                self._sender.more(credit_of(payload))
                self.pressure_changed()
        elif kind == RESET:
            self._connection.ended(self._number)
            self.gone()
        else:
            raise ProtocolError("frame", "a frame of a wrong kind")

    def _read(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        receiver, exchange = self._receiver, self.exchange
        if receiver is None:
            raise ProtocolError("frame", "data after the end of a message")
        if self._left >= 0:
            self._left -= len(data)
            if self._left < 0 or (is_end and self._left):
                raise ProtocolError("frame", "the body is not as long as its head says")
        if is_end:
            self._receiver = None
        else:
            receiver.count(len(data))
        if exchange is not None:
            exchange.request_data(data, is_end, trailers)

    def pause_request(self) -> None:
        if self._receiver is not None:
            self._receiver.pause()

    def resume_request(self) -> None:
        if self._receiver is not None:
            self._receiver.resume()

    def gone(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.downstream_gone()

    def client(self) -> bytes:
        return self._connection.client()

    # The response

    def refuse(self, detail: str) -> None:
        """A request that never became an exchange."""
        subject = self._connection._handler.subject
        head, body = make_reply(subject, Flag.DOWNSTREAM_PROTOCOL_ERROR, detail)
        self.respond(head, body, True)

    def respond(self, head: ResponseHead, data: bytes, is_end: bool) -> None:
        lines = head.lines
        if head.length < 0:
            lines = [*lines, b"transfer-encoding: chunked"]
        if head.flag:
            lines = [*lines, b"x-mesh-flag: " + head.flag]
        block = (
            b"HTTP/1.1 %b\r\n%b\r\n\r\n" % (head.reason, b"\r\n".join(lines))
            if lines
            else b"HTTP/1.1 %b\r\n\r\n" % head.reason
        )
        connection = self._connection
        if is_end and len(data) <= WINDOW_BYTES:
            connection.write(head_frame(self._number, block, data, True))
            self._over()
            return
        sender = self._sender = Sender(connection, self._number)
        if not is_end and sender.takes(len(data)):
            connection.write(head_frame(self._number, block, data, False))
        else:
            connection.write(head_frame(self._number, block, b"", False))
            self._send(data, is_end, _NO_TRAILERS)
        self.pressure_changed()

    def respond_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        if data or is_end:
            self._send(data, is_end, trailers)
            self.pressure_changed()

    def _send(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        assert self._sender is not None
        self._sender.send(data, is_end, trailers)
        if is_end:
            # The exchange is over; what waits for credit keeps the stream until it is sent.
            self.exchange = None
            if self._sender.is_empty:
                self._over()

    def inform(self, head: ResponseHead) -> None:
        block = b"".join([line + b"\r\n" for line in head.lines])
        text = b"HTTP/1.1 %b\r\n%b\r\n" % (head.reason, block)
        size = len(text)
        self._connection.write(frame(self._number, INTERIM, size.to_bytes(2, "big") + text))

    def abandon(self) -> None:
        self.exchange = None
        self._connection.write(frame(self._number, RESET))
        self._connection.ended(self._number)

    def pressure_changed(self) -> None:
        sender, exchange = self._sender, self.exchange
        if sender is None:
            return
        if exchange is None:
            if sender.is_empty:
                self._over()
        elif sender.is_full is not self._was_full:
            self._was_full = sender.is_full
            exchange.downstream_is_full(self._was_full)

    def _over(self) -> None:
        self.exchange = None
        self._connection.ended(self._number)
