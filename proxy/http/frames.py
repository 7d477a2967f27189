"""Many requests on one connection between two proxies: the frames (docs/decisions/0009).

::

    length of the payload: 4 bytes | stream: 4 bytes | kind: 1 byte | payload

A stream is one request and its response. A head is the text of an HTTP/1.1 head, so that there is
one parser and one idea of what is valid; where a body ends is said by the frames alone. A sender
may have ``WINDOW_BYTES`` of body in flight per stream, and more as the receiver says so: at most
twice as much.
"""

import struct
from typing import Final

from proxy.http.fields import ProtocolError

ALPN: Final = "mesh/1"

HEAD: Final = 1
"""2 bytes: length of the head; the head with its empty line; then data."""
HEAD_END: Final = 2
"""The same, and the message is complete."""
DATA: Final = 3
"""Never empty."""
DATA_END: Final = 4
TRAILERS_END: Final = 5
"""Lines, each with its line ending."""
RESET: Final = 6
"""The stream is over, whatever was sent."""
CREDIT: Final = 7
"""4 bytes: how much more body may be sent."""
INTERIM: Final = 8
"""A head 1xx."""
GOAWAY: Final = 9
"""No new streams, please; those that are there go on."""

WINDOW_BYTES: Final = 256 * 1024
"""What a reader that stands still costs, per stream: what the loop reads at once anyway. 64 KiB,
HTTP/2's default, would be 1.3 MB/s where a round trip takes 50 ms."""
PIECE_BYTES: Final = 128
"""Charged for each piece of body besides its length: what it costs to keep a small one. A window
of single bytes would otherwise take 60 times its size."""
MAX_DATA: Final = 64 * 1024
"""Of body in one frame. 16 KiB cost a third more CPU for large bodies."""
MAX_STREAMS: Final = 256
"""At a time on one connection: more, and the server ends it."""
OPENED_STREAMS: Final = 32
"""At a time by a client, which then makes another connection: one connection is one worker of the
called proxy, and most of what sharing saves is saved by then."""
LAST_STREAM: Final = 0xFFFF_FFFF
MAX_BLOCK: Final = 0xFFFF
"""Of a head with its empty line: 60 KiB, and what proxies add to it."""
MAX_PAYLOAD: Final = 2 + MAX_BLOCK + MAX_DATA

_HEADER = struct.Struct(">IIB")
_HEADER_HEAD = struct.Struct(">IIBH")
_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")
HEADER_BYTES: Final = _HEADER.size

unpack_header = _HEADER.unpack_from
pack_header = _HEADER.pack


def head_frame(stream: int, head: bytes, data: bytes, is_end: bool) -> bytes:
    """``head``: with its empty line, at most ``MAX_BLOCK``; ``data``: at most ``MAX_DATA``."""
    size = len(head)
    kind = HEAD_END if is_end else HEAD
    return _HEADER_HEAD.pack(2 + size + len(data), stream, kind, size) + head + data


def split_head(payload: bytes) -> tuple[bytes, bytes]:
    """The head without its empty line, and the data behind it."""
    if len(payload) < 6:
        raise ProtocolError("frame", "a head's frame is too short")
    end = 2 + _U16.unpack_from(payload)[0]
    if end > len(payload) or end < 6 or payload[end - 4 : end] != b"\r\n\r\n":
        raise ProtocolError("frame", "a head does not end where its frame says")
    return payload[2 : end - 4], payload[end:]


def interim_frame(stream: int, head: bytes) -> bytes:
    size = len(head)
    return _HEADER_HEAD.pack(2 + size, stream, INTERIM, size) + head


def split_trailers(payload: bytes) -> bytes:
    """The lines without the last one's ending."""
    if not payload.endswith(b"\r\n"):
        raise ProtocolError("frame", "trailers do not end with a line ending")
    return payload[:-2]


def trailers_frame(stream: int, lines: list[bytes]) -> bytes:
    payload = b"\r\n".join(lines) + b"\r\n"
    return _HEADER.pack(len(payload), stream, TRAILERS_END) + payload


def frame(stream: int, kind: int, payload: bytes = b"") -> bytes:
    return _HEADER.pack(len(payload), stream, kind) + payload


def header(stream: int, kind: int, size: int) -> bytes:
    return _HEADER.pack(size, stream, kind)


def credit_frame(stream: int, size: int) -> bytes:
    return _HEADER.pack(4, stream, CREDIT) + _U32.pack(size)


def credit_of(payload: bytes) -> int:
    if len(payload) != 4:
        raise ProtocolError("frame", "a credit is not four bytes")
    size: int = _U32.unpack(payload)[0]
    return size
