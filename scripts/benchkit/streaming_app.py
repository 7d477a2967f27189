"""The application behind the sidecars for gRPC streams and WebSockets, of standard library only.

Run as a program (``python -m benchkit.streaming_app PORT``). What it does with a stream is said by
the first byte of the first message: ``FLOOD`` as many messages as credit allows, ``ECHO`` whatever
arrives, ``IDLE`` one message and then nothing; when the caller has ended its side: trailers. A
request without a body is answered with 200. Over HTTP/1.1: a WebSocket, of which each frame is
answered with a frame, or a body as the other backend has it.
"""

import base64
import hashlib
import selectors
import socket
import sys
from contextlib import suppress

from benchkit import wire
from benchkit.backend import BODY_BYTES, body
from benchkit.streams import Connection, Stream

FLOOD, ECHO, IDLE = b"f", b"e", b"i"
MESSAGE_BYTES = 1024
"""Of a message, without the five bytes before it."""

_MESSAGE = wire.message(MESSAGE_BYTES)
_FRAMES = 32
_PREFIX_BYTES = 5
_HEADERS = b"\x88" + wire.block([("content-type", "application/grpc")])
_TRAILERS = wire.block([("grpc-status", "0")])
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_MOST_HEAD_BYTES = 65_536
_WEBSOCKET_FRAME = b"\x82\x04pong"


class Answering(Connection):
    def __init__(self, one: socket.socket) -> None:
        super().__init__(one, is_client=False)
        self._modes: dict[int, bytes] = {}
        self._flooded: dict[int, memoryview] = {}

    def on_headers(self, number: int, block: bytes, *, is_end: bool) -> None:
        if number in self.streams:  # trailers
            self._ended(number, self.streams[number])
        elif is_end:
            self.headers(number, _HEADERS, is_end=True)
        else:
            self.begin(number)

    def on_data(self, number: int, stream: Stream, payload: bytes, *, is_end: bool) -> None:
        mode = self._modes.get(number)
        if mode is None and stream.received > _PREFIX_BYTES:
            at = _PREFIX_BYTES - (stream.received - len(payload))
            if at < 0 or stream.received != len(payload):
                raise wire.Broken("the first message came in pieces of less than six bytes")
            mode = self._modes[number] = payload[at : at + 1]
            self.headers(number, _HEADERS)
            if mode == FLOOD:
                one = wire.frame(wire.DATA, 0, number, _MESSAGE)
                self._flooded[number] = memoryview(one * _FRAMES)
                self.on_credit()
            elif mode != ECHO:
                self.send(number, stream, _MESSAGE)
        if mode == ECHO and payload:
            self.send(number, stream, payload)
        if is_end:
            self._ended(number, stream)

    def on_reset(self, number: int, code: int) -> None:
        self._modes.pop(number, None)
        self._flooded.pop(number, None)

    def on_credit(self) -> None:
        for number, many in self._flooded.items():
            self.repeat(number, self.streams[number], many, len(_MESSAGE))

    def on_finished(self, number: int, stream: Stream) -> None:
        self.headers(number, _TRAILERS, is_end=True)
        del self.streams[number]

    def _ended(self, number: int, stream: Stream) -> None:
        self._modes.pop(number, None)
        self._flooded.pop(number, None)
        self.finish(number, stream)


class Plain:
    """HTTP/1.1: whole heads, no bodies."""

    def __init__(self, one: socket.socket, begun: bytes) -> None:
        self.socket = one
        self._incoming = begun
        self._outgoing = b""
        self._is_tunnel = False
        self._answer()

    @property
    def has_waiting(self) -> bool:
        return bool(self._outgoing)

    def flush(self) -> None:
        with suppress(BlockingIOError):
            while self._outgoing:
                self._outgoing = self._outgoing[self.socket.send(self._outgoing) :]

    def read(self) -> bool:
        try:
            data = self.socket.recv(_MOST_HEAD_BYTES)
        except BlockingIOError:
            return True
        self._incoming += data
        self._answer()
        return bool(data) and len(self._incoming) < _MOST_HEAD_BYTES

    def _answer(self) -> None:
        if self._is_tunnel:
            if self._incoming:
                self._incoming = b""
                self._outgoing += _WEBSOCKET_FRAME
            return
        while b"\r\n\r\n" in self._incoming and not self._is_tunnel:
            head, _, self._incoming = self._incoming.partition(b"\r\n\r\n")
            lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
            fields = {name.lower(): value.strip() for name, _, value in lines}
            if fields.get(b"upgrade", b"").lower() == b"websocket":
                digest = hashlib.sha1(fields[b"sec-websocket-key"] + _GUID, usedforsecurity=False)
                accepted = base64.b64encode(digest.digest())
                self._outgoing += (
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accepted
                )
                self._is_tunnel = True
            else:
                self._outgoing += b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
                self._outgoing += body(BODY_BYTES)


class Undecided:
    """Until the first bytes say which of the two it is."""

    has_waiting = False

    def __init__(self, one: socket.socket) -> None:
        one.setblocking(False)
        self.socket = one

    def decide(self) -> Answering | Plain | None:
        """None: closed, or too little to tell from."""
        begun = self.socket.recv(4, socket.MSG_PEEK)
        if begun == wire.PREFACE[:4]:
            return Answering(self.socket)
        return Plain(self.socket, b"") if begun else None


def serve(port: int) -> None:
    """Until it is ended."""
    listening = socket.create_server(("127.0.0.1", port), backlog=4096)
    listening.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        while True:
            for key, events in selector.select():
                if key.data is None:
                    with suppress(BlockingIOError):
                        one, _ = listening.accept()
                        selector.register(one, selectors.EVENT_READ, Undecided(one))
                else:
                    _turn(selector, key.data, events)


def _turn(
    selector: selectors.BaseSelector, one: Undecided | Answering | Plain, events: int
) -> None:
    is_open = True
    try:
        if isinstance(one, Undecided):
            decided = one.decide()
            if decided is None:
                is_open = False
            else:
                one = decided
        if is_open and not isinstance(one, Undecided):
            if events & selectors.EVENT_READ:
                is_open = one.read()
            one.flush()
    except (OSError, wire.Broken) as error:
        print(f"connection ended: {error}", file=sys.stderr, flush=True)
        is_open = False
    if is_open:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if one.has_waiting else 0)
        selector.modify(one.socket, wanted, one)
    else:
        selector.unregister(one.socket)
        one.socket.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
