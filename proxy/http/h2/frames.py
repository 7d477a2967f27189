"""HTTP/2 frames on the wire: the figures of RFC 9113, packing and unpacking, nothing else.

::

    length of the payload: 24 bits | kind: 8 | flags: 8 | reserved: 1 | stream: 31

Kinds, flags, codes and settings are plain integers, because they are compared once a frame.
"""

import struct
from typing import Final

ALPN: Final = "h2"
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113, section 3.4)."""

# Kinds (section 6)
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

# Error codes (section 7)
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
CONNECT_ERROR: Final = 0xA
ENHANCE_YOUR_CALM: Final = 0xB
INADEQUATE_SECURITY: Final = 0xC
HTTP_1_1_REQUIRED: Final = 0xD

CODE_NAMES: Final = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)

# Settings (section 6.5.2; RFC 8441, section 3; RFC 9218, section 2.1)
HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6
ENABLE_CONNECT_PROTOCOL: Final = 0x8
NO_RFC7540_PRIORITIES: Final = 0x9

DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = 0x7FFF_FFFF
DEFAULT_FRAME_BYTES: Final = 16_384
MAX_FRAME_BYTES: Final = 0xFF_FFFF
MAX_STREAM: Final = 0x7FFF_FFFF

_HEADER = struct.Struct(">IBI")
_SETTING = struct.Struct(">HI")
_U32 = struct.Struct(">I")
_TWO_U32 = struct.Struct(">II")
HEADER_BYTES: Final = _HEADER.size

unpack_header = _HEADER.unpack_from
"""``length << 8 | kind``, flags, stream with its reserved bit: three numbers, not four."""
pack_header = _HEADER.pack
"""The other way round."""


def header(length: int, kind: int, flags: int, number: int) -> bytes:
    return _HEADER.pack(length << 8 | kind, flags, number)


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return _HEADER.pack(len(payload) << 8 | kind, flags, number) + payload


def headers_frames(number: int, block: bytes, flags: int, most: int) -> bytes:
    """HEADERS, and CONTINUATIONs for what is beyond ``most`` bytes; ``flags``: END_STREAM or 0."""
    size = len(block)
    if size <= most:
        return _HEADER.pack(size << 8 | HEADERS, flags | END_HEADERS, number) + block
    parts = [frame(HEADERS, flags, number, block[:most])]
    for at in range(most, size, most):
        is_last = at + most >= size
        piece = block[at : at + most]
        parts.append(frame(CONTINUATION, END_HEADERS if is_last else 0, number, piece))
    return b"".join(parts)


def settings_frame(settings: dict[int, int]) -> bytes:
    payload = b"".join([_SETTING.pack(*pair) for pair in settings.items()])
    return frame(SETTINGS, 0, 0, payload)


def settings_of(payload: bytes) -> list[tuple[int, int]]:
    """In their order, for the last of two counts; ``payload``: a multiple of six bytes."""
    return list(_SETTING.iter_unpack(payload))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def window_update_frame(number: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, number, _U32.pack(increment))


def reset_frame(number: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, number, _U32.pack(code))


def goaway_frame(last: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, _TWO_U32.pack(last, code) + debug)


def goaway_of(payload: bytes) -> tuple[int, int]:
    """The last stream that was or may be processed, and the code."""
    last, code = _TWO_U32.unpack_from(payload)
    return last & MAX_STREAM, code


def u32_of(payload: bytes) -> int:
    value: int = _U32.unpack_from(payload)[0]
    return value


def code_name(code: int) -> str:
    return CODE_NAMES[code] if code < len(CODE_NAMES) else f"0x{code:x}"
