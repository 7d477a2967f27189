"""HTTP/2 byte by byte: frames and header blocks of any kind, also such as no library would send.

Nothing here is the proxy's own: what it packs and unpacks is not judged by its own code.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import hpack
from fuzz.ours import Address

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
CODES = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT"),
    *("STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR"),
    *("CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
ENDS = END_STREAM | END_HEADERS
_MOST_HEADER_BYTES = 1 << 20

Fields = Iterable[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(identifier: int, value: int) -> bytes:
    return struct.pack(">HI", identifier, value)


def settings(**values: int) -> bytes:
    """``settings(x4=0)``: INITIAL_WINDOW_SIZE, by its number."""
    pairs = [setting(int(name[1:]), value) for name, value in values.items()]
    return frame(SETTINGS, 0, 0, b"".join(pairs))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541, section 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out = [first | most]
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def literal(name: bytes, value: bytes) -> bytes:
    """A field without indexing, without Huffman's code."""
    return b"\x00" + integer(len(name), 7) + name + integer(len(value), 7) + value


NO_TABLE = b"\x20"
"""Says that our table has no size: a peer that has acknowledged as much has to begin its first
block with it (RFC 9113, section 4.3.1), and may begin any."""


def block(fields: Fields) -> bytes:
    return NO_TABLE + b"".join([literal(name, value) for name, value in fields])


def request(
    method: bytes = b"GET", path: bytes = b"/", *more: tuple[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"api"),
        *more,
    ]


def get(stream: int, path: bytes = b"/", *more: tuple[bytes, bytes]) -> bytes:
    return frame(HEADERS, ENDS, stream, block(request(b"GET", path, *more)))


def post(stream: int, path: bytes = b"/", *more: tuple[bytes, bytes]) -> bytes:
    """The head of a request that has a body."""
    return frame(HEADERS, END_HEADERS, stream, block(request(b"POST", path, *more)))


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> str:
        """Of RST_STREAM or GOAWAY."""
        at = 4 if self.kind == GOAWAY else 0
        return CODES[int.from_bytes(self.payload[at : at + 4])]


class Peer(asyncio.Protocol):
    """A raw end. It answers SETTINGS and PING unless told not to, and gives no credit."""

    transport: Any

    def __init__(self, *, is_polite: bool = True) -> None:
        self.is_polite = is_polite
        self.frames: list[Frame] = []
        self.statuses: dict[int, bytes] = {}
        """Of final answers, by stream."""
        self.heads: dict[int, dict[bytes, bytes]] = {}
        self.ended: set[int] = set()
        """Streams that the other side has ended."""
        self.is_closed = False
        self.closed_at = 0.0
        self.received = 0
        self._held = b""
        self._skipped = 0
        """Of a preface: the other side is a client."""
        self._decoder = hpack.Decoder(_MOST_HEADER_BYTES)
        self._block = b""
        self._waiters: list[asyncio.Future[None]] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._held += data
        held = self._held
        at = 0
        if self._skipped:
            if len(held) < self._skipped:
                return
            at, self._skipped = self._skipped, 0
        while len(held) - at >= 9:
            length = int.from_bytes(held[at : at + 3])
            if len(held) - at < 9 + length:
                break
            kind, flags, stream = struct.unpack_from(">BBI", held, at + 3)
            payload = held[at + 9 : at + 9 + length]
            at += 9 + length
            self.take(Frame(kind, flags, stream & 0x7FFFFFFF, payload))
        self._held = held[at:]
        self._wake()

    def take(self, each: Frame) -> None:
        self.frames.append(each)
        if each.kind == SETTINGS and not each.flags & ACK and self.is_polite:
            self.send(SETTINGS_ACK)
        elif each.kind == PING and not each.flags & ACK and self.is_polite:
            self.send(frame(PING, ACK, 0, each.payload))
        elif each.kind in (HEADERS, CONTINUATION):
            self._block += each.payload
            if each.flags & END_HEADERS:
                fields = self._decoder.decode(self._block, raw=True)
                self._block = b""
                self.headed(each.stream, {bytes(name): bytes(value) for name, value in fields})
        if each.kind in (HEADERS, DATA) and each.flags & END_STREAM:
            self.ended.add(each.stream)
            self.stream_ended(each.stream)

    def headed(self, stream: int, fields: dict[bytes, bytes]) -> None:
        """A header block has come."""
        status = fields.get(b":status", b"")
        if status and not status.startswith(b"1"):
            self.statuses[stream] = status
            self.heads[stream] = fields

    def stream_ended(self, stream: int) -> None:
        """Hook."""

    def send(self, data: bytes) -> None:
        if not self.is_closed:
            self.transport.write(data)

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.closed_at = asyncio.get_running_loop().time()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def until(self, condition: Callable[[], object], within_s: float = 10.0) -> bool:
        """Whether it came true before the time was over or the connection closed."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + within_s
        while not condition():
            left = ends - loop.time()
            if self.is_closed or left <= 0:
                return False
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            await asyncio.wait([waiter], timeout=left)
        return True

    async def closes(self, within_s: float) -> bool:
        await self.until(lambda: False, within_s)
        return self.is_closed

    def of(self, kind: int, stream: int | None = None) -> list[Frame]:
        return [
            each
            for each in self.frames
            if each.kind == kind and (stream is None or each.stream == stream)
        ]

    async def ping(self, payload: bytes, within_s: float = 10.0) -> bool:
        """Whether it is answered: all that was sent before has been read."""
        self.send(frame(PING, 0, 0, payload))
        return await self.until(
            lambda: any(each.payload == payload and each.flags & ACK for each in self.of(PING)),
            within_s,
        )

    def is_gone(self) -> bool:
        """As the kernel sees it: who does not read is not told."""
        connected = self.transport.get_extra_info("socket")
        if connected is None or self.is_closed:
            return True
        try:
            # TCP_INFO's first byte is the state; 1 is ESTABLISHED (tcp(7)).
            info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
        except (OSError, ValueError):
            return True
        return bool(info[0] != 1)

    @property
    def goaway(self) -> str:
        """The code of the last GOAWAY, empty if there was none."""
        found = self.of(GOAWAY)
        return found[-1].code if found else ""

    def abort(self) -> None:
        self.transport.abort()


async def connect(address: Address, *, is_polite: bool = True) -> Peer:
    """Nothing is sent yet; over TLS HTTP/2 is agreed on."""
    host, port, context, name = address
    if context is not None:
        context.set_alpn_protocols(["h2"])
    _, peer = await asyncio.get_running_loop().create_connection(
        lambda: Peer(is_polite=is_polite), host, port, ssl=context, server_hostname=name
    )
    if context is not None:
        chosen = peer.transport.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == "h2", chosen
    return peer


async def greeted(address: Address, *, is_polite: bool = True, opening: bytes = b"") -> Peer:
    """A client whose connection has begun on both sides."""
    peer = await connect(address, is_polite=is_polite)
    peer.send(PREFACE + (opening or settings()))
    assert await peer.until(lambda: peer.of(SETTINGS)), "no SETTINGS came"
    return peer
