"""The called proxy's end of a connection of many streams: a ``Downstream`` for each exchange."""

from typing import Any, Final

from proxy.http.channel import Channel
from proxy.http.exchange import Exchange, Handler
from proxy.http.fields import ProtocolError, parse_trailers
from proxy.http.flow import Receiver, Sender
from proxy.http.frames import (
    CREDIT,
    DATA_END,
    GOAWAY,
    HEAD_END,
    MAX_BLOCK,
    MAX_DATA,
    MAX_STREAMS,
    RESET,
    TRAILERS_END,
    credit_of,
    frame,
    head_frame,
    interim_frame,
    split_head,
    split_trailers,
    trailers_frame,
)
from proxy.http.head import CHUNKED, RequestHead, ResponseHead, parse_request
from proxy.http.ledger import Ledger
from proxy.http.reply import make_reply
from proxy.http.tunnel import SWITCHING, grant, refused_switch
from proxy.model.flags import Flag

MOST_RESETS: Final = 2000
"""Between two sweeps, a second apart: more requests given up are no caller's bad luck."""
MOST_UNTAKEN: Final = 1024 * 1024
"""Of answers, that the caller does not read while it goes on asking."""
GOING_S: Final = 1.0
"""From asking a caller to go until closing: what it sent before it knew has arrived by then."""

_NO_TRAILERS: list[bytes] = []


class StreamsServer(Channel["ServerStream"]):
    """From one calling workload; ``handler`` knows who it is."""

    __slots__ = (
        "_asked_at",
        "_handler",
        "_is_read_paused",
        "_last",
        "_ledger",
        "_resets",
        "_since",
        "leaving",
    )

    def __init__(self, ledger: Ledger, handler: Handler) -> None:
        super().__init__()
        self._ledger = ledger
        self._handler = handler
        self.leaving: dict[ServerStream, float] = {}
        """Answered, but the caller has yet to take the rest: since when it took none of it."""
        self._last = 0
        self._resets = 0
        self._is_read_paused = False
        self._asked_at = 0.0
        """When the caller was asked to go; 0: it was not."""
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
        self.leaving.clear()
        for stream in streams.values():
            stream.gone()

    # As a channel

    def stream_frame(self, number: int, kind: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            stream.received(kind, payload)
        elif kind <= HEAD_END:
            if number <= self._last:
                raise ProtocolError("frame", "a stream's number was used before")
            self._last = number
            self._begin(number, payload, kind == HEAD_END)
        elif 0 < number <= self._last:
            if kind == RESET:
                self.count_reset()
            self.waste()
        else:
            raise ProtocolError("frame", "a stream begins without a head")

    def _begin(self, number: int, payload: bytes, is_end: bool) -> None:
        if len(self.streams) >= MAX_STREAMS:
            raise ProtocolError("frame", "too many streams")
        if self.is_write_paused and self._transport.get_write_buffer_size() > MOST_UNTAKEN:
            # A caller always reads, so it cannot be that each waits for the other.
            self._is_read_paused = True
            self._transport.pause_reading()
        block, data = split_head(payload)
        stream = ServerStream(self, number)
        try:
            head = parse_request(block)
            if head.length != len(data) or not is_end:
                stream.check(head, len(data), is_end)
        except ProtocolError as error:
            if error.reason == "frame":
                raise
            self._log(error.reason, str(error))
            stream.refuse(str(error))
            return
        self.streams[number] = stream
        exchange = stream.exchange = Exchange(stream, head, self._handler, self._ledger)
        if head.upgrade or head.method == b"CONNECT":
            what = refused_switch(head)
            if what or is_end:
                what = what or "changing the protocol of what has ended"
                flag = Flag.DOWNSTREAM_PROTOCOL_ERROR
                exchange.refuse(flag, f"{what} is not supported", 501)
                return
        exchange.begin(data, is_end, _NO_TRAILERS)

    def told_to_go(self) -> None:
        """A client has nothing to say here; harmless."""

    def broken(self, error: ProtocolError) -> None:
        self._log(error.reason, str(error))
        self._end_all()

    def _log(self, reason: str, detail: str) -> None:
        self._ledger.refused(
            reason,
            detail,
            self._handler.subject,
            self._transport.get_extra_info("peername"),
            self._transport.get_extra_info("sockname"),
        )

    def resume_writing(self) -> None:
        if self._is_read_paused:
            self._is_read_paused = False
            self._transport.resume_reading()
        super().resume_writing()

    def ended(self, number: int, stream: "ServerStream") -> None:
        self.streams.pop(number, None)
        if self.leaving:
            self.leaving.pop(stream, None)
        if not self.streams:
            self._since = self._ledger.now

    def count_reset(self) -> None:
        self._resets += 1
        if self._resets > MOST_RESETS:
            raise ProtocolError("frame", "too many requests were given up")

    def leaves(self, stream: "ServerStream") -> None:
        """All that is left of it is the end of an answer; called again when some was taken."""
        self.leaving[stream] = self._ledger.now

    @property
    def subject(self) -> str:
        return self._handler.subject

    def client(self) -> bytes:
        peer = self._transport.get_extra_info("peername")
        return peer[0].encode() if peer else b""

    # As the ledger sees it

    def sweep(self, now: float) -> None:
        self._resets = 0
        if self.is_stuck(now):
            self._log("slow_reader", "does not take what is sent")
            self.reset()
            return
        timeouts = self._handler.timeouts
        if self.leaving:
            for stream, since in tuple(self.leaving.items()):
                if now - since > timeouts.stream_idle_s:
                    stream.abandon()
        is_idle = not self.streams and now - self._since > timeouts.connection_idle_s
        if is_idle or self._asked_at or self._ledger.is_draining:
            self._go(now)

    @property
    def handler(self) -> Handler:
        return self._handler

    def dismiss(self) -> None:
        """Asks the caller to close, and closes as soon as nothing is under way."""
        if not self.is_lost:
            self._go(self._ledger.now)

    def close_if_idle(self) -> None:
        if not self.is_lost and (self._ledger.is_draining or not self.streams):
            self._go(self._ledger.now)

    def _go(self, now: float) -> None:
        """Asks the caller to close; closes, if it does not and nothing can be under way."""
        if not self._asked_at:
            self._asked_at = now
            self.write(frame(0, GOAWAY))
        elif not self.streams and now - self._asked_at > GOING_S:
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
            if size:
                self._receiver.count(size, False)

    def received(self, kind: int, payload: bytes) -> None:
        if HEAD_END < kind <= DATA_END:
            self.read_data(payload, kind == DATA_END, _NO_TRAILERS)
        elif kind == TRAILERS_END:
            self.read_data(b"", True, parse_trailers(split_trailers(payload)))
        elif kind == CREDIT:
            size = credit_of(payload)
            if self._sender is None:
                raise ProtocolError("frame", "credit for what was not sent")
            self._sender.more(size)
            if self.exchange is None:
                self._connection.leaves(self)
            self.pressure_changed()
        elif kind == RESET:
            self._connection.count_reset()
            self._over(is_exchange_over=False)
            self.gone()
        else:
            raise ProtocolError("frame", "a frame of a wrong kind")

    def read_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        receiver, exchange = self._receiver, self.exchange
        if receiver is None:
            raise ProtocolError("frame", "data after the end of a message")
        if self._left >= 0:
            self._left -= len(data)
            if self._left < 0 or (is_end and self._left):
                raise ProtocolError("frame", "the body is not as long as its head says")
        if exchange is None:
            self._connection.waste()  # answered without the rest of it; no more credit
            return
        receiver.count(len(data), is_end)
        if is_end:
            self._receiver = None
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
        subject = self._connection.subject
        head, body = make_reply(subject, Flag.DOWNSTREAM_PROTOCOL_ERROR, detail)
        self.respond(head, body, True)

    def respond(self, head: ResponseHead, data: bytes, is_end: bool) -> None:
        if head.flag:
            block = _with_own_lines(head)
        elif head.status == SWITCHING:
            block = self._granted(head)
        else:
            block = head.serialize()
        if len(block) > MAX_BLOCK:
            self._replace(data)
            return
        connection = self._connection
        if is_end and len(data) <= MAX_DATA:
            connection.write(head_frame(self._number, block, data, True))
            self.exchange = None
            connection.ended(self._number, self)
            return
        sender = self._sender = Sender(connection, self._number)
        if not is_end and sender.takes(len(data)):
            connection.write(head_frame(self._number, block, data, False))
        else:
            connection.write(head_frame(self._number, block, b"", False))
            self._send(data, is_end, _NO_TRAILERS)
        self.pressure_changed()

    def respond_whole(self, head: ResponseHead, data: bytes, trailers: list[bytes]) -> None:
        block = _with_own_lines(head) if head.flag else head.serialize()
        if len(block) > MAX_BLOCK or len(data) > MAX_DATA:
            self.respond(head, data, False)
            self.respond_data(b"", True, trailers)
            return
        number, connection = self._number, self._connection
        whole = head_frame(number, block, data, False) + trailers_frame(number, trailers)
        connection.write(whole)
        self.exchange = None
        connection.ended(number, self)

    def _granted(self, head: ResponseHead) -> bytes:
        """From here on there is no telling how much the caller will send."""
        assert self.exchange is not None
        self._left = -1
        return grant(head, self.exchange.head.upgrade)

    def _replace(self, data: bytes) -> None:
        """The answer cannot be sent, so another one is."""
        exchange = self.exchange
        subject = self._connection.subject
        head, body = make_reply(subject, Flag.UPSTREAM_PROTOCOL_ERROR, "the head is too large")
        self.respond(head, body, True)
        if exchange is not None:
            exchange.downstream_gone()

    def respond_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        if is_end:
            self._send(data, True, trailers)
            self.pressure_changed()
        elif data and (sender := self._sender) is not None:
            is_full = sender.send(data, False, trailers)
            if is_full is not self._was_full:
                self.pressure_changed()

    def _send(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        sender = self._sender
        if sender is None:
            return
        sender.send(data, is_end, trailers)
        if is_end:
            # The exchange is over; what waits for credit keeps the stream until it is sent.
            self.exchange = None
            if not sender.is_empty:
                self._connection.leaves(self)

    def inform(self, head: ResponseHead) -> None:
        block = head.serialize()
        if len(block) <= MAX_BLOCK:
            self._connection.write(interim_frame(self._number, block))

    def abandon(self) -> None:
        self._connection.write(frame(self._number, RESET))
        self._over()

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

    def _over(self, *, is_exchange_over: bool = True) -> None:
        if is_exchange_over:
            self.exchange = None
        self._sender = None
        self._connection.ended(self._number, self)


def _with_own_lines(head: ResponseHead) -> bytes:
    lines = head.lines + head.own_lines()
    if head.length < 0:
        lines.append(b"transfer-encoding: chunked")
    return b"HTTP/1.1 %b\r\n%b\r\n\r\n" % (head.reason, b"\r\n".join(lines))
