"""HTTP/2 as a server: one connection from a client, a ``Downstream`` for each of its streams.

What breaks the rules of the connection ends it, as the engine decides. A client that keeps the
proxy waiting is dealt with as in HTTP/1.1 (docs/decisions/0008).
"""

from typing import Any, ClassVar

from proxy.http.exchange import Handler
from proxy.http.h2.connection import ConnectionBroken, Stream
from proxy.http.h2.frames import CANCEL, ENHANCE_YOUR_CALM
from proxy.http.h2.server_stream import ServerStream
from proxy.http.h2.wired import Wired
from proxy.http.ledger import Ledger
from proxy.http.pace import LINGER_BYTES, LINGER_S, MIN_BYTES_PER_S, PATIENCE_S


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

    def data_received(self, data: bytes | memoryview) -> None:
        if self._is_closing:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > LINGER_BYTES:
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
        if self.is_read_paused:
            self.is_read_paused = False
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
        if self.is_read_paused or not (self._held or self._block_number):
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

    def arrived(self, stream: ServerStream) -> None:
        self._arrived.append(stream)

    def client(self) -> bytes:
        peer = self.peer()
        return peer[0].encode() if peer else b""
