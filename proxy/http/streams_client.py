"""The calling proxy's end of a connection of many streams: an ``Upstream`` for each exchange."""

from collections.abc import Iterable
from typing import Any, Protocol

from proxy.core.retry import Failure
from proxy.http.channel import Channel, Receiver, Sender
from proxy.http.exchange import Exchange
from proxy.http.fields import ProtocolError, parse_trailers
from proxy.http.frames import (
    CREDIT,
    DATA,
    DATA_END,
    HEAD,
    HEAD_END,
    INTERIM,
    MAX_STREAMS,
    RESET,
    TRAILERS_END,
    credit_of,
    frame,
    head_frame,
    split_head,
)
from proxy.http.head import ResponseHead, parse_response, serialize_request

_MAX_INTERIM = 16
_NO_TRAILERS: list[bytes] = []


class Pool(Protocol):
    def connected_shared(self, connection: "StreamsClient") -> None: ...
    def stream_ended(self, connection: "StreamsClient") -> None: ...
    def lost_shared(self, connection: "StreamsClient") -> None: ...


class StreamsClient(Channel):
    """To one endpoint's proxy, owned by one pool."""

    __slots__ = ("_has_answered", "_next", "_pool", "idle_since", "is_going", "streams", "tag")

    def __init__(self, pool: Pool, tag: object = None) -> None:
        super().__init__()
        self._pool = pool
        self.tag = tag
        """The pool's own: the identity that the connection was made with."""
        self.streams: dict[int, ClientStream] = {}
        self._next = 1
        self._has_answered = False
        self.is_going = False
        """No new streams: the peer asked for it, or the pool."""
        self.idle_since = 0.0

    @property
    def has_room(self) -> bool:
        return len(self.streams) < MAX_STREAMS and not (self.is_going or self.is_lost)

    def open(self, exchange: Exchange) -> None:
        """Sends the request as one more stream."""
        number = self._next
        self._next = number + 1
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

    def all_streams(self) -> Iterable["ClientStream"]:
        return self.streams.values()

    def stream_frame(self, number: int, kind: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        if stream is None:
            return  # cancelled, and the peer did not know yet
        self._has_answered = True
        try:
            stream.received(kind, payload)
        except ProtocolError as error:
            if error.reason == "frame":
                raise
            stream.refuse(error)

    def told_to_go(self) -> None:
        self.go()

    def broken(self, error: ProtocolError) -> None:
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.fail(Failure.PROTOCOL, str(error))

    # For its streams

    @property
    def is_reused(self) -> bool:
        return self._has_answered

    def peer(self) -> object:
        return self._transport.get_extra_info("peername")

    def ended(self, number: int) -> None:
        if self.streams.pop(number, None) is None:
            return
        if self.is_going:
            if not self.streams and not self.is_lost:
                self.close()
        else:
            self._pool.stream_ended(self)


class ClientStream:
    """One request to the peer. An ``Upstream``."""

    __slots__ = (
        "_connection",
        "_exchange",
        "_has_begun",
        "_has_head",
        "_interim",
        "_left",
        "_number",
        "_receiver",
        "_sender",
        "_was_full",
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
        self._interim = 0
        self._was_full = False

    # The request

    def send(self, exchange: Exchange) -> None:
        self._exchange = exchange
        head = serialize_request(exchange.head, exchange.handler.authority)
        connection = self._connection
        if exchange.is_request_done and not exchange.body_bytes and not exchange.trailers:
            connection.write(head_frame(self._number, head, b"", True))
            return
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
        if self._sender is not None and (data or is_end):
            self._sender.send(data, is_end, trailers)
            self.pressure_changed()

    def pressure_changed(self) -> None:
        sender, exchange = self._sender, self._exchange
        if sender is not None and exchange is not None and sender.is_full is not self._was_full:
            self._was_full = sender.is_full
            exchange.upstream_is_full(self._was_full)

    def cancel(self) -> None:
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
        if kind in (HEAD, HEAD_END):
            self._read_head(exchange, payload, kind == HEAD_END)
        elif kind in (DATA, DATA_END):
            self._read_data(exchange, payload, kind == DATA_END, _NO_TRAILERS)
        elif kind == TRAILERS_END:
            self._read_data(exchange, b"", True, parse_trailers(payload[:-2]))
        elif kind == CREDIT:
            if self._sender is not None:
                self._sender.more(credit_of(payload))
                self.pressure_changed()
        elif kind == RESET:
            self._over()
            exchange.upstream_failed(
                Failure.RESET, "the peer's proxy gave up", has_begun=self._has_begun
            )
        elif kind == INTERIM:
            head = parse_response(split_head(payload)[0], exchange.head.method)
            self._interim += 1
            if head.status >= 200 or head.status == 101 or self._interim > _MAX_INTERIM:
                raise ProtocolError("status", "an interim response that was not asked for")
            self._has_begun = True
            exchange.inform(head)
        else:
            raise ProtocolError("frame", "a frame of an unknown kind")

    def _read_head(self, exchange: Exchange, payload: bytes, is_end: bool) -> None:
        if self._has_head:
            raise ProtocolError("frame", "a second head")
        block, data = split_head(payload)
        head = parse_response(block, exchange.head.method)
        if head.status < 200:
            raise ProtocolError("status", "an interim response in place of the final one")
        self._has_begun = self._has_head = True
        self._check_length(head, len(data), is_end)
        if is_end:
            self._over()
        else:
            if self._receiver is None:
                self._receiver = Receiver(self._connection, self._number)
            self._receiver.count(len(data))
        exchange.response_head(head, data, is_end)

    def _check_length(self, head: ResponseHead, size: int, is_end: bool) -> None:
        length = head.length
        if length < 0:
            self._left = -1
        elif size > length or (is_end and size < length):
            raise ProtocolError("length", "the body is not as long as its head says")
        else:
            self._left = length - size

    def _read_data(
        self, exchange: Exchange, data: bytes, is_end: bool, trailers: list[bytes]
    ) -> None:
        receiver = self._receiver
        if receiver is None or not self._has_head:
            raise ProtocolError("frame", "data before a head")
        if self._left >= 0:
            self._left -= len(data)
            if self._left < 0 or (is_end and self._left):
                raise ProtocolError("length", "the body is not as long as its head says")
        if is_end:
            self._over()
        else:
            receiver.count(len(data))
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
        exchange.ledger.upstream_error(
            error.reason, str(error), exchange.handler.subject, self._connection.peer()
        )
        self.cancel()
        exchange.upstream_failed(Failure.PROTOCOL, str(error), has_begun=self._has_begun)

    def fail(self, failure: Failure, detail: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.upstream_failed(
                failure,
                detail,
                has_begun=self._has_begun,
                is_reused=self._connection.is_reused,
            )
