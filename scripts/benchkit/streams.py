"""One HTTP/2 connection of the generator, of either end, for a loop over non-blocking sockets.

It counts and grants credit as any endpoint must, so that what is measured are proxies under flow
control; everything else that a real client would do is left out.
"""

import socket
from collections import deque

from benchkit import wire

_READ_BYTES = 262_144
_GRANT_BYTES = 32_768
_MOST_WAITING_BYTES = 262_144


class Stream:
    __slots__ = ("credit", "is_over", "is_ready", "pending", "received", "ungranted")

    def __init__(self, credit: int) -> None:
        self.credit = credit
        self.pending = bytearray()
        self.received = 0
        self.ungranted = 0
        self.is_ready = False
        """Nothing more will be said than what is pending."""
        self.is_over = False


class Connection:
    """The ends derive from it and say what headers and data mean."""

    def __init__(self, one: socket.socket, *, is_client: bool) -> None:
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = one
        self.streams: dict[int, Stream] = {}
        self._incoming = bytearray()
        self._outgoing: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._credit = wire.FIRST_WINDOW
        self._ungranted = 0
        self._first_window = wire.FIRST_WINDOW
        self._unindexed = wire.NO_TABLE
        self._preface = b"" if is_client else wire.PREFACE
        if is_client:
            self.write(wire.PREFACE)
        # No table: what a block says can then be told without having seen those before it.
        self.write(wire.settings({wire.HEADER_TABLE_SIZE: 0}))

    # what the ends say

    def on_headers(self, number: int, block: bytes, *, is_end: bool) -> None: ...

    def on_data(self, number: int, stream: Stream, payload: bytes, *, is_end: bool) -> None: ...

    def on_reset(self, number: int, code: int) -> None: ...

    def on_credit(self) -> None:
        """Credit arrived, or the socket has taken what waited."""

    def on_finished(self, number: int, stream: Stream) -> None:
        """All that was pending of a stream that is ready has been written."""

    # what the loop does

    @property
    def has_waiting(self) -> bool:
        return bool(self._outgoing)

    @property
    def is_full(self) -> bool:
        return self._waiting_bytes >= _MOST_WAITING_BYTES

    def write(self, data: bytes) -> None:
        self._outgoing.append(memoryview(data))
        self._waiting_bytes += len(data)

    def flush(self) -> None:
        """As much as the socket takes, many pieces in one call."""
        while self._outgoing:
            pieces = [self._outgoing[at] for at in range(min(len(self._outgoing), 64))]
            try:
                sent = self.socket.sendmsg(pieces)
            except BlockingIOError:
                return
            self._waiting_bytes -= sent
            while sent and sent >= len(self._outgoing[0]):
                sent -= len(self._outgoing.popleft())
            if sent:
                self._outgoing[0] = self._outgoing[0][sent:]
            if not self._outgoing:
                self.on_credit()

    def read(self) -> bool:
        """False: the other end has closed. Raises Broken, OSError."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        self._incoming += data
        if self._preface:
            if len(self._incoming) < len(self._preface):
                return True
            if not self._incoming.startswith(self._preface):
                raise wire.Broken("no preface")
            del self._incoming[: len(self._preface)]
            self._preface = b""
        touched: set[int] = set()
        for kind, flags, number, payload in wire.frames(self._incoming):
            self._take(kind, flags, number, payload, touched)
        self._grant(touched)
        return True

    def _take(self, kind: int, flags: int, number: int, payload: bytes, touched: set[int]) -> None:
        if kind == wire.DATA:
            if flags & wire.PADDED:
                raise wire.Broken("padding")
            self._ungranted += len(payload)
            stream = self.streams.get(number)
            if stream is not None:
                stream.received += len(payload)
                stream.ungranted += len(payload)
                touched.add(number)
                self.on_data(number, stream, payload, is_end=bool(flags & wire.END_STREAM))
        elif kind == wire.HEADERS:
            if not flags & wire.END_HEADERS or flags & wire.PADDED:
                raise wire.Broken("a header block in pieces, or padded")
            # The priority, if it is there, is in the first five bytes.
            block = payload[5:] if flags & 0x20 else payload
            self.on_headers(number, block, is_end=bool(flags & wire.END_STREAM))
        elif kind == wire.WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if number == 0:
                self._credit += increment
            elif number in self.streams:
                self.streams[number].credit += increment
            self._resume()
        elif kind == wire.SETTINGS and not flags & wire.ACK:
            window = wire.read_settings(payload).get(wire.INITIAL_WINDOW_SIZE, self._first_window)
            for stream in self.streams.values():
                stream.credit += window - self._first_window
            self._first_window = window
            self.write(wire.frame(wire.SETTINGS, wire.ACK, 0))
            self._resume()
        elif kind == wire.PING and not flags & wire.ACK:
            self.write(wire.frame(wire.PING, wire.ACK, 0, payload))
        elif kind == wire.RST_STREAM:
            self.streams.pop(number, None)
            self.on_reset(number, int.from_bytes(payload, "big"))
        elif kind == wire.GOAWAY:
            raise wire.Broken(f"GOAWAY, code {int.from_bytes(payload[4:8], 'big')}")

    def _grant(self, touched: set[int]) -> None:
        """In steps, as others do: a grant for each message would be half of the traffic."""
        if self._ungranted >= _GRANT_BYTES:
            self.write(wire.window_update(0, self._ungranted))
            self._ungranted = 0
        for number in touched:
            stream = self.streams.get(number)
            if stream is not None and stream.ungranted >= _GRANT_BYTES:
                self.write(wire.window_update(number, stream.ungranted))
                stream.ungranted = 0

    # what the ends do

    def begin(self, number: int) -> Stream:
        stream = self.streams[number] = Stream(self._first_window)
        return stream

    def headers(self, number: int, block: bytes, *, is_end: bool = False) -> None:
        """The first gives up the table, as it must once the peer's settings allow none."""
        flags = wire.END_HEADERS | (wire.END_STREAM if is_end else 0)
        self.write(wire.frame(wire.HEADERS, flags, number, self._unindexed + block))
        self._unindexed = b""

    def send(self, number: int, stream: Stream, data: bytes) -> None:
        """In as many frames as it takes, when there is credit."""
        if not stream.pending and len(data) <= min(
            stream.credit, self._credit, wire.MOST_FRAME_BYTES
        ):
            stream.credit -= len(data)
            self._credit -= len(data)
            self.write(wire.frame(wire.DATA, 0, number, data))
            return
        stream.pending += data
        self._send_pending(number, stream)

    def finish(self, number: int, stream: Stream) -> None:
        stream.is_ready = True
        self._send_pending(number, stream)

    def repeat(self, number: int, stream: Stream, many: memoryview, size: int) -> None:
        """As many frames of ``size`` bytes of payload from ``many`` as credit and socket allow."""
        step = wire.HEAD_BYTES + size
        most = len(many) // step
        while not self.is_full:
            count = min(min(stream.credit, self._credit) // size, most)
            if count <= 0:
                return
            stream.credit -= count * size
            self._credit -= count * size
            self._outgoing.append(many[: count * step])
            self._waiting_bytes += count * step

    def _resume(self) -> None:
        for number, stream in list(self.streams.items()):
            if stream.pending:
                self._send_pending(number, stream)
        self.on_credit()

    def _send_pending(self, number: int, stream: Stream) -> None:
        while stream.pending:
            size = min(len(stream.pending), stream.credit, self._credit, wire.MOST_FRAME_BYTES)
            if size <= 0:
                return
            payload = bytes(stream.pending[:size])
            del stream.pending[:size]
            stream.credit -= size
            self._credit -= size
            self.write(wire.frame(wire.DATA, 0, number, payload))
        if stream.is_ready and not stream.is_over:
            stream.is_over = True
            self.on_finished(number, stream)
