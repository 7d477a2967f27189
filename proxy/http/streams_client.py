"""The calling proxy's end of a connection of many streams: an ``Upstream`` for each exchange."""

import socket
from contextlib import suppress
from typing import Any, Final, Protocol

from proxy.core.retry import Failure
from proxy.http.channel import Channel
from proxy.http.exchange import Exchange
from proxy.http.fields import ProtocolError, parse_trailers
from proxy.http.flow import Receiver, Sender
from proxy.http.frames import (
    CREDIT,
    DATA_END,
    HEAD_END,
    INTERIM,
    LAST_STREAM,
    MAX_BLOCK,
    MAX_DATA,
    OPENED_STREAMS,
    RESET,
    TRAILERS_END,
    credit_of,
    frame,
    head_frame,
    split_head,
    split_trailers,
)
from proxy.http.head import ResponseHead, parse_response, serialize_request
from proxy.http.tunnel import SWITCHING, accept, with_upgrade
from proxy.model.flags import Flag

SILENT_RETRANSMITS: Final = 2
"""In a row, after 0.2 and 0.6 s at the least: then requests had better go another way."""
_RETRANSMITS = 2
"""``tcpi_retransmits`` in Linux's ``struct tcp_info``."""
_MAX_INTERIM = 16
_MAX_HEAD = MAX_BLOCK - 256
"""Without what asks for another protocol."""
_NO_TRAILERS: list[bytes] = []


class Pool(Protocol):
    def connected_shared(self, connection: "StreamsClient") -> None: ...
    def stream_ended(self, connection: "StreamsClient") -> None: ...
    def lost_shared(self, connection: "StreamsClient") -> None: ...


class StreamsClient(Channel["ClientStream"]):
    """To one endpoint's proxy, owned by one pool."""

    __slots__ = (
        "_bulk",
        "_has_answered",
        "_is_silent",
        "_next",
        "_pool",
        "idle_since",
        "is_going",
        "tag",
    )

    def __init__(self, pool: Pool, tag: object = None) -> None:
        super().__init__()
        self._pool = pool
        self.tag = tag
        """The pool's own: the identity that the connection was made with."""
        self._next = 1
        self._has_answered = False
        self.is_going = False
        """No new streams: the peer asked for it, or the pool."""
        self._bulk = 0
        """Streams with a large body, either way."""
        self._is_silent = False
        """The peer's kernel does not acknowledge what was sent."""
        self.idle_since = 0.0

    @property
    def has_room(self) -> bool:
        return len(self.streams) < OPENED_STREAMS and not (self.is_going or self.is_lost)

    @property
    def is_flowing(self) -> bool:
        """Whether a request that goes on it now will not have to wait behind another one's body,
        or for a peer that is not there. A large body so has a connection of its own, soon after
        it has begun, and small ones share another."""
        return not (self._bulk or self.is_write_paused or self._is_silent)

    def open(self, exchange: Exchange) -> None:
        """Sends the request as one more stream."""
        number = self._next
        self._next = number + 1
        if number == LAST_STREAM:
            self.is_going = True
        stream = self.streams[number] = ClientStream(self, number)
        exchange.attach(stream)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._pool.connected_shared(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._pool.lost_shared(self)
        detail = str(exc) if exc is not None else ""
        is_refused = isinstance(exc, ConnectionRefusedError) and not self._has_answered
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.fail(Failure.CONNECT if is_refused else Failure.RESET, detail)

    def go(self) -> None:
        """Closes as soon as nothing is in flight."""
        self.is_going = True
        if not self.streams:
            self.close()

    # As a channel

    def stream_frame(self, number: int, kind: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        if stream is None:
            if not 0 < number < self._next:
                raise ProtocolError("frame", "an answer to nothing")
            self.waste()  # cancelled, and the peer did not know yet
            return
        self._has_answered = True
        try:
            stream.received(kind, payload)
        except ProtocolError as error:
            if error.reason == "frame":
                raise
            stream.refuse(error)

    def batch_ended(self) -> None:
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            stream.hand_on()

    def told_to_go(self) -> None:
        self.go()

    def broken(self, error: ProtocolError) -> None:
        streams, self.streams = self.streams, {}
        for first in streams.values():
            first.log(error)
            break
        for stream in streams.values():
            stream.fail(Failure.PROTOCOL, str(error))

    def sweep(self, now: float) -> None:
        """About once a second."""
        if self.is_stuck(now):
            self.reset()
        if self._bulk:
            # What lives long may carry much and yet be in nobody's way.
            for stream in self.streams.values():
                self._bulk -= stream.is_bulk and stream.calms_down()
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RETRANSMITS + 1)
                self._is_silent = info[_RETRANSMITS] >= SILENT_RETRANSMITS

    # For its streams

    @property
    def is_reused(self) -> bool:
        return self._has_answered

    def peer(self) -> object:
        return self._transport.get_extra_info("peername")

    def waits(self, stream: "ClientStream") -> None:
        self._waiting.append(stream)

    def has_bulk(self, stream: "ClientStream") -> None:
        self._bulk += not stream.is_bulk
        stream.is_bulk = stream.is_busy = True

    def ended(self, number: int) -> None:
        stream = self.streams.pop(number, None)
        if stream is None:
            return
        self._bulk -= stream.is_bulk
        if self.is_going:
            if not self.streams and not self.is_lost:
                self.close()
        else:
            self._pool.stream_ended(self)


class ClientStream:
    """One request to the peer. An ``Upstream``."""

    __slots__ = (
        "_connection",
        "_data",
        "_exchange",
        "_has_begun",
        "_has_head",
        "_head",
        "_interim",
        "_left",
        "_number",
        "_receiver",
        "_sender",
        "_was_full",
        "is_bulk",
        "is_busy",
    )

    def __init__(self, connection: StreamsClient, number: int) -> None:
        self._connection = connection
        self._number = number
        self._exchange: Exchange | None = None
        self._sender: Sender | None = None
        """Made for a request whose body does not go with its head, as most do."""
        self._receiver: Receiver | None = None
        """Made for a response whose body does not come with its head."""
        self._left = 0
        self._has_begun = False
        """A part of a response has arrived."""
        self._has_head = False
        """The final one."""
        self._head: ResponseHead | None = None
        """Waits, with ``_data``, for the rest of what has arrived."""
        self._interim = 0
        self._was_full = False
        self.is_bulk = self.is_busy = False
        """Has a large body; and carried much of it since the last sweep."""

    def calms_down(self) -> bool:
        """Whether what was bulk is so no more: a second without a grant, either way."""
        if not self.is_busy:
            self.is_bulk = False
            return True
        self.is_busy = False
        if self._receiver is not None:
            self._receiver.is_bulk = False
        return False

    # The request

    def send(self, exchange: Exchange) -> None:
        head = serialize_request(exchange.head, exchange.handler.authority)
        if len(head) > _MAX_HEAD:
            exchange.refuse(Flag.DOWNSTREAM_PROTOCOL_ERROR, "the head is too large", 431)
            return
        self._exchange = exchange
        connection = self._connection
        size = exchange.body_bytes
        if exchange.is_request_done and size <= MAX_DATA and not exchange.trailers:
            body = exchange.take_body() if size else b""
            connection.write(head_frame(self._number, head, body, True))
            return
        if exchange.head.upgrade:
            head = with_upgrade(head, exchange.head.upgrade)
        body = exchange.take_body()
        sender = self._sender = Sender(connection, self._number)
        is_done = exchange.is_request_done and not exchange.trailers
        if sender.takes(len(body)):
            connection.write(head_frame(self._number, head, body, is_done))
            if exchange.is_request_done and not is_done:
                sender.send(b"", True, exchange.trailers)
        else:
            connection.write(head_frame(self._number, head, b"", False))
            sender.send(body, exchange.is_request_done, exchange.trailers)
        self.pressure_changed()

    def send_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        sender = self._sender
        if sender is not None and (data or is_end):
            is_full = sender.send(data, is_end, trailers)
            if is_full is not self._was_full:
                self.pressure_changed()

    def pressure_changed(self) -> None:
        sender, exchange = self._sender, self._exchange
        if sender is not None and exchange is not None and sender.is_full is not self._was_full:
            self._was_full = sender.is_full
            exchange.upstream_is_full(self._was_full)

    def cancel(self) -> None:
        if self._exchange is not None:
            self._exchange = None
            self._connection.write(frame(self._number, RESET))
        self._connection.ended(self._number)

    def pause_response(self) -> None:
        if self._receiver is None:
            self._receiver = Receiver(self._connection, self._number)
        self._receiver.pause()

    def resume_response(self) -> None:
        if self._receiver is not None:
            self._receiver.resume()

    # The response

    def received(self, kind: int, payload: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        if kind <= HEAD_END:
            self._read_head(exchange, payload, kind == HEAD_END)
        elif kind <= DATA_END:
            self.read_data(payload, kind == DATA_END, _NO_TRAILERS)
        elif kind == TRAILERS_END:
            self._read_trailers(exchange, parse_trailers(split_trailers(payload)))
        elif kind == CREDIT:
            if self._sender is None:
                raise ProtocolError("frame", "credit for what was not sent")
            self._connection.has_bulk(self)
            self._sender.more(credit_of(payload))
            self.pressure_changed()
        elif kind == RESET:
            self.hand_on()
            self._over()
            exchange.upstream_failed(
                Failure.RESET, "the peer's proxy gave up", has_begun=self._has_begun
            )
        elif kind == INTERIM:
            self._read_interim(exchange, payload)

    def _read_interim(self, exchange: Exchange, payload: bytes) -> None:
        block, data = split_head(payload)
        if data or self._has_head:
            raise ProtocolError("frame", "an interim response that is not one")
        head = parse_response(block, exchange.head.method)
        self._interim += 1
        if head.status >= 200 or head.status == 101 or self._interim > _MAX_INTERIM:
            raise ProtocolError("status", "an interim response that was not asked for")
        self._has_begun = True
        exchange.inform(head)

    def _read_head(self, exchange: Exchange, payload: bytes, is_end: bool) -> None:
        if self._has_head:
            raise ProtocolError("frame", "a second head")
        block, data = split_head(payload)
        head = parse_response(block, exchange.head.method)
        if is_end and head.length == len(data) and head.status >= 200:
            self._exchange = None
            self._connection.ended(self._number)
            exchange.response_head(head, data, True)
            return
        if head.status < 200:
            if head.status != SWITCHING:
                raise ProtocolError("status", "an interim response in place of the final one")
            head = accept(head, block, exchange.head.upgrade)
            if data or is_end:
                raise ProtocolError("frame", "more than the head of a tunnel")
        self._has_begun = self._has_head = True
        self._check_length(head, len(data), is_end)
        if is_end:
            self._over()
            exchange.response_head(head, data, True)
            return
        self._head, self._data = head, data
        if exchange.grpc is not None:
            self._connection.waits(self)  # for its trailers: a unary answer's have mostly come too
        else:
            self.hand_on()

    def hand_on(self) -> None:
        """The head that waits, and what came with it."""
        exchange, head = self._exchange, self._head
        if exchange is None or head is None:
            return
        self._head = None
        data, self._data = self._data, b""
        if self._receiver is None:
            self._receiver = Receiver(self._connection, self._number)
        if data:
            self._receiver.count(len(data), False)
        exchange.response_head(head, data, False)

    def _read_trailers(self, exchange: Exchange, trailers: list[bytes]) -> None:
        head = self._head
        if head is None:
            self.read_data(b"", True, trailers)
            return
        if self._left > 0:
            raise ProtocolError("length", "the body is not as long as its head says")
        self._head = None
        self._over()
        exchange.response_head(head, self._data, True, trailers)

    def _check_length(self, head: ResponseHead, size: int, is_end: bool) -> None:
        length = head.length
        if length < 0:
            self._left = -1
        elif size > length or (is_end and size < length):
            raise ProtocolError("length", "the body is not as long as its head says")
        else:
            self._left = length - size

    def read_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        """HOT."""
        exchange = self._exchange
        assert exchange is not None
        if self._head is not None:
            self.hand_on()
            if self._exchange is not exchange:
                return  # it was not wanted
        receiver = self._receiver
        if receiver is None or not self._has_head:
            raise ProtocolError("frame", "data before a head")
        if self._left >= 0:
            self._left -= len(data)
            if self._left < 0 or (is_end and self._left):
                self.refuse(ProtocolError("length", "the body is not as long as its head says"))
                return
        receiver.count(len(data), is_end)
        if receiver.is_bulk and not self.is_busy:
            self._connection.has_bulk(self)
        if is_end:
            self._over()
        exchange.response_data(data, is_end, trailers)

    def _over(self) -> None:
        self._exchange = None
        self._connection.ended(self._number)

    # The end

    def refuse(self, error: ProtocolError) -> None:
        """The response is not valid; the connection is."""
        exchange = self._exchange
        if exchange is None:
            return
        self.log(error)
        self.cancel()
        exchange.upstream_failed(Failure.PROTOCOL, str(error), has_begun=self._has_begun)

    def log(self, error: ProtocolError) -> None:
        exchange = self._exchange
        if exchange is not None:
            subject, peer = exchange.handler.subject, self._connection.peer()
            exchange.ledger.upstream_error(error.reason, str(error), subject, peer)

    def fail(self, failure: Failure, detail: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.upstream_failed(
                failure,
                detail,
                has_begun=self._has_begun,
                is_reused=self._connection.is_reused,
            )
