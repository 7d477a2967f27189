"""Just enough of HTTP/2 (RFC 9113) and HPACK (RFC 7541) for a generator of gRPC messages.

What is sent is made of bytes that were put together before the first one leaves; of what arrives
only lengths are read. Header blocks are not decoded: whoever needs to know whether a call
succeeded looks for the one encoding or the other of its status.
"""

from collections.abc import Iterator, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, PADDED, ACK = 0x1, 0x4, 0x8, 0x1
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
HEAD_BYTES = 9
FIRST_WINDOW = 65_535
MOST_FRAME_BYTES = 16_384

NO_TABLE = b"\x20"
"""Of a block's beginning: from here on there is no table (RFC 7541, section 6.3)."""
_STATUS_200 = 0x88
_TABLE_SIZE_UPDATE = 0x20
_GRPC_STATUS = b"grpc-status", bytes.fromhex("9acac8b21234da8f")
"""As it is, and in Huffman's code."""
_ZERO = b"\x010", b"\x81\x07"


class Broken(Exception):
    """The peer said something that this reader does not understand, or gave up."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return b"%b%c%c%b%b" % (
        len(payload).to_bytes(3, "big"),
        kind,
        flags,
        stream.to_bytes(4, "big"),
        payload,
    )


def settings(values: dict[int, int]) -> bytes:
    pairs = (key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
    return frame(SETTINGS, 0, 0, b"".join(pairs))


def read_settings(payload: bytes) -> dict[int, int]:
    return {
        int.from_bytes(payload[at : at + 2], "big"): int.from_bytes(payload[at + 2 : at + 6], "big")
        for at in range(0, len(payload), 6)
    }


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def block(fields: Sequence[tuple[str, str]]) -> bytes:
    """Literals without indexing, not compressed: equal fields are equal bytes, whoever reads."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def message(size: int, first: bytes = b"m") -> bytes:
    """A gRPC message of ``size`` bytes, not compressed, that begins with ``first``."""
    line = b"0123456789abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ\n"
    return b"\0" + size.to_bytes(4, "big") + (first + line * (size // len(line) + 1))[:size]


def frames(buffer: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, stream, payload) of each complete frame, which is taken from ``buffer``."""
    at, end = 0, len(buffer)
    try:
        while end - at >= HEAD_BYTES:
            length = int.from_bytes(buffer[at : at + 3], "big")
            after = at + HEAD_BYTES + length
            if after > end:
                return
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            kind, flags = buffer[at + 3], buffer[at + 4]
            payload = bytes(buffer[at + HEAD_BYTES : after])
            at = after
            yield kind, flags, stream, payload
    finally:
        del buffer[:at]


def is_200(block: bytes) -> bool:
    """Whether a response's header block begins with status 200."""
    at = 0
    while at < len(block) and block[at] & 0xE0 == _TABLE_SIZE_UPDATE:
        at += 1  # a size of 0..30; ours is 0
    return block[at : at + 1] == bytes((_STATUS_200,))


def is_grpc_ok(block: bytes) -> bool:
    """Whether trailers say ``grpc-status: 0``."""
    return any(name + zero in block for name in _GRPC_STATUS for zero in _ZERO)


def _text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) < 127:
        return bytes((len(encoded),)) + encoded
    return bytes((127, len(encoded) - 127)) + encoded  # up to 254 bytes
