"""RFC 9113, RFC 7541 and RFC 8441 over real sockets: what is sent, and what has to come of it.

Each case has a connection of its own, to the caller's plaintext port and to the mTLS port. Where
the RFC leaves a choice, the choice is ours, and stands here.
"""
# ruff: noqa: E501  (a case a line)

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fuzz.ours import LISTENERS, make_pki, unstarted_mesh
from hostile.http2_wire import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENDS,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Peer,
    block,
    connect,
    frame,
    get,
    greeted,
    integer,
    literal,
    post,
    request,
    setting,
    settings,
    u32,
)

pytestmark = pytest.mark.timeout(300)

LEAST = 120
BIG_BYTES = 200_000
_WITHIN_S = 5.0
_QUIET_S = 0.1

OK = "1: 200"
ALIVE = "goes on"
PROTOCOL, FLOW = "GOAWAY PROTOCOL_ERROR", "GOAWAY FLOW_CONTROL_ERROR"
SIZE, CLOSED = "GOAWAY FRAME_SIZE_ERROR", "GOAWAY STREAM_CLOSED"
COMPRESSION, CALM = "GOAWAY COMPRESSION_ERROR", "GOAWAY ENHANCE_YOUR_CALM"
RESET = "1: RST_STREAM PROTOCOL_ERROR"
RESET_CLOSED = "1: RST_STREAM STREAM_CLOSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    section: str
    what: str
    sent: bytes
    comes: str
    """``GOAWAY code`` (and the end of the connection), or what came of each stream."""
    first: bytes = b""
    """Sent before; ``after`` of it is waited for, and what came of it does not count."""
    after: Callable[[Peer], object] = field(default=lambda peer: peer.ended)
    is_raw: bool = False
    """``sent`` is all that is sent, the preface too."""


def case(section: str, what: str, sent: bytes, comes: str, **more: Any) -> Case:
    return Case(section=section, what=what, sent=sent, comes=comes, **more)


def fields(stream: int, pairs: list[tuple[bytes, bytes]], flags: int = ENDS) -> bytes:
    return frame(HEADERS, flags, stream, block(pairs))


def without(name: bytes) -> list[tuple[bytes, bytes]]:
    return [pair for pair in request() if pair[0] != name]


def with_field(name: bytes, value: bytes) -> bytes:
    return get(1, b"/", (name, value))


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, payload)


def update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, u32(size))


def padded(length: int, payload: bytes, padding: bytes) -> bytes:
    return bytes([length]) + payload + padding


def split_head(stream: int, pieces: int, flags: int = END_STREAM) -> bytes:
    """A request in HEADERS and ``pieces - 1`` CONTINUATIONs."""
    whole = block(request())
    size = len(whole) // pieces + 1
    parts = [whole[at : at + size] for at in range(0, len(whole), size)]
    out = [frame(HEADERS, flags, stream, parts[0])]
    for number, part in enumerate(parts[1:], 2):
        last = END_HEADERS if number == len(parts) else 0
        out.append(frame(CONTINUATION, last, stream, part))
    return b"".join(out)


HEAD = block(request())
OPEN = post(1)
"""Stream 1 is open."""
HALF = get(1, b"/slow")
"""Stream 1 is half-closed (remote), and is not answered yet."""
DONE = get(1)
"""Stream 1 is closed, once it is answered."""
TRAILERS = frame(HEADERS, ENDS, 1, literal(b"x-sum", b"1"))
LARGEST = 0x7FFFFFFF
WEBSOCKET = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":path", b"/chat"),
    (b":authority", b"api"),
]

HELD_TUNNEL = fields(
    1, [(name, b"/hold" if name == b":path" else value) for name, value in WEBSOCKET], 4
)
"""Of what follows nothing is passed on, as it is never answered."""

PREFACES = [
    case("3.4", "HTTP/1.1", b"GET / HTTP/1.1\r\nHost: api\r\n\r\n", PROTOCOL, is_raw=True),
    case("3.4", "another version", PREFACE.replace(b"2.0", b"2.1"), PROTOCOL, is_raw=True),
]
"""Where HTTP/2 has been agreed on."""

CASES = [
    # 3.4, HTTP/2 connection preface
    case("3.4", "a wrong end of the preface", PREFACE[:-4] + b"\r\nXX", PROTOCOL, is_raw=True),
    case("3.4", "no SETTINGS first", PREFACE + frame(PING, 0, 0, b"12345678"), PROTOCOL, is_raw=True),
    case("3.4", "an acknowledgement first", PREFACE + SETTINGS_ACK, PROTOCOL, is_raw=True),
    case("3.4", "a request first", PREFACE + DONE, PROTOCOL, is_raw=True),
    case("3.4", "a request behind SETTINGS at once", PREFACE + settings() + DONE, OK, is_raw=True),
    # 4.1, frame format
    case("4.1", "an unknown kind", frame(0x16, 0, 0, b"12345678") + DONE, OK),
    case("4.1", "an unknown kind on a stream", OPEN + frame(0xFF, 0xFF, 1, b"?") + data(1, b"", 1), OK),
    case("4.1", "undefined flags on PING", frame(PING, 0xFE, 0, b"12345678"), ALIVE),
    case("4.1", "undefined flags on SETTINGS", frame(SETTINGS, 0xFE, 0), ALIVE),
    case("4.1", "undefined flags on DATA", OPEN + data(1, b"x", 0xF7), OK),
    case("4.1", "the reserved bit of a stream", frame(HEADERS, ENDS, 1 | 1 << 31, HEAD), OK),
    case("4.1", "the reserved bit of SETTINGS", frame(SETTINGS, 0, 1 << 31), ALIVE),
    # 4.2, frame size
    case("4.2", "DATA of 16,384 bytes", OPEN + data(1, bytes(16_384), 1), OK),
    case("4.2", "DATA beyond the limit", OPEN + data(1, bytes(65_537), 1), SIZE),
    case("4.2", "HEADERS beyond the limit", frame(HEADERS, ENDS, 1, bytes(65_537)), SIZE),
    case("4.2", "an unknown kind beyond the limit", frame(0x16, 0, 0, bytes(65_537)), SIZE),
    case("4.2", "PING beyond the limit", frame(PING, 0, 0, bytes(65_537)), SIZE),
    # 4.3, header compression
    case("4.3", "a block that is no HPACK", frame(HEADERS, ENDS, 1, b"\x20\x80"), COMPRESSION),
    case("4.3", "a block that ends early", frame(HEADERS, ENDS, 1, HEAD[:-1]), COMPRESSION),
    case("4.3", "trailers that are no HPACK", OPEN + frame(HEADERS, ENDS, 1, b"\x20\x80"), COMPRESSION),
    case("4.3", "PRIORITY within a block", frame(HEADERS, END_STREAM, 1, HEAD[:9]) + frame(PRIORITY, 0, 1, bytes(5)), PROTOCOL),
    case("4.3", "HEADERS of another stream within a block", frame(HEADERS, END_STREAM, 1, HEAD[:9]) + get(3), PROTOCOL),
    case("4.3", "an unknown kind within a block", frame(HEADERS, END_STREAM, 1, HEAD[:9]) + frame(0x16, 0, 0), PROTOCOL),
    # 5.1, stream states
    case("5.1", "DATA on an idle stream", data(1, b"x"), PROTOCOL),
    case("5.1", "empty DATA on an idle stream", data(1, b""), PROTOCOL),
    case("5.1", "RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, u32(8)), PROTOCOL),
    case("5.1", "WINDOW_UPDATE on an idle stream", update(1, 100), PROTOCOL),
    case("5.1", "CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 1, HEAD), PROTOCOL),
    case("5.1", "PRIORITY on an idle stream", frame(PRIORITY, 0, 1, bytes(4) + b"\x10") + DONE, OK),
    case("5.1", "DATA on a half-closed stream", HALF + data(1, b"x"), RESET_CLOSED),
    case("5.1", "empty DATA on a half-closed stream", HALF + data(1, b"", 1), RESET_CLOSED),
    case("5.1", "HEADERS on a half-closed stream", HALF + TRAILERS, RESET_CLOSED),
    case("5.1", "CONTINUATION on a half-closed stream", HALF + frame(CONTINUATION, 4, 1, HEAD), PROTOCOL),
    case("5.1", "WINDOW_UPDATE on a half-closed stream", get(1, b"/late") + update(1, 9), OK),
    case("5.1", "PRIORITY on a half-closed stream", get(1, b"/late") + frame(PRIORITY, 0, 1, bytes(4) + b"\x10"), OK),
    case("5.1", "RST_STREAM on a half-closed stream", HALF + frame(RST_STREAM, 0, 1, u32(8)) + get(3), "3: 200"),
    case("5.1", "DATA after RST_STREAM", OPEN + frame(RST_STREAM, 0, 1, u32(8)) + data(1, b"x"), CLOSED),
    case("5.1", "HEADERS after RST_STREAM", OPEN + frame(RST_STREAM, 0, 1, u32(8)) + TRAILERS, CLOSED),
    case("5.1", "CONTINUATION after RST_STREAM", OPEN + frame(RST_STREAM, 0, 1, u32(8)) + frame(CONTINUATION, 4, 1, b""), PROTOCOL),
    case("5.1", "RST_STREAM after RST_STREAM", OPEN + frame(RST_STREAM, 0, 1, u32(8)) * 2, ALIVE),
    case("5.1", "DATA on a closed stream", data(1, b"x"), CLOSED, first=DONE),
    case("5.1", "HEADERS on a closed stream", DONE, CLOSED, first=DONE),
    case("5.1", "CONTINUATION on a closed stream", frame(CONTINUATION, 4, 1, HEAD), PROTOCOL, first=DONE),
    case("5.1", "WINDOW_UPDATE on a closed stream", update(1, 9), ALIVE, first=DONE),
    case("5.1", "PRIORITY on a closed stream", frame(PRIORITY, 0, 1, bytes(4) + b"\x10"), ALIVE, first=DONE),
    case("5.1", "RST_STREAM on a closed stream", frame(RST_STREAM, 0, 1, u32(8)), ALIVE, first=DONE),
    case("5.1", "DATA under way to a stream that we reset", get(1, b"#") + data(1, b"x"), RESET),
    case("5.1", "HEADERS under way to a stream that we reset", frame(HEADERS, 4, 1, b"\x20\x82") + TRAILERS, RESET),
    # 5.1.1, stream identifiers
    case("5.1.1", "an even number", get(2), PROTOCOL),
    case("5.1.1", "stream 0", get(0), PROTOCOL),
    case("5.1.1", "a lower number than before", get(5) + get(3), PROTOCOL),
    case("5.1.1", "numbers left out", get(5), "5: 200"),
    case("5.1.1", "DATA for a number that was left out", get(5) + data(3, b"x"), CLOSED),
    case("5.1.1", "the highest number", get(LARGEST), f"{LARGEST}: 200"),
    # 5.1.2, stream concurrency
    case("5.1.2", "256 streams", b"".join(post(2 * n + 1) for n in range(256)), ALIVE),
    case("5.1.2", "257 streams", b"".join(post(2 * n + 1) for n in range(257)), "513: RST_STREAM REFUSED_STREAM"),
    # 5.4, error handling
    case("5.4.1", "nothing after an error of the connection", get(2) + get(3), PROTOCOL),
    case("5.4.2", "others after an error of a stream", get(1, b"#") + get(3), f"{RESET}, 3: 200"),
    case("5.5", "an extension that is not known", frame(SETTINGS, 0, 0, setting(0xF00, 1)) + DONE, OK),
    # 6.1, DATA
    case("6.1", "DATA on stream 0", data(0, b"x"), PROTOCOL),
    case("6.1", "DATA with padding", OPEN + data(1, padded(5, b"x", bytes(5)), 9), OK),
    case("6.1", "DATA of padding alone", OPEN + data(1, padded(5, b"", bytes(5)), 9), OK),
    case("6.1", "padding as long as the payload", OPEN + data(1, padded(2, b"x", b""), 9), PROTOCOL),
    case("6.1", "padding longer than the payload", OPEN + data(1, padded(255, b"x", b""), 9), PROTOCOL),
    case("6.1", "a padded frame of nothing", OPEN + data(1, b"", 9), SIZE),
    # 6.2, HEADERS
    case("6.2", "HEADERS with padding", frame(HEADERS, ENDS | PADDED, 1, padded(3, HEAD, bytes(3))), OK),
    case("6.2", "HEADERS with a priority", frame(HEADERS, ENDS | WITH_PRIORITY, 1, bytes(4) + b"\x10" + HEAD), OK),
    case("6.2", "HEADERS with both", frame(HEADERS, ENDS | 0x28, 1, padded(3, bytes(4) + b"\x10" + HEAD, bytes(3))), OK),
    case("6.2", "padding longer than the block", frame(HEADERS, ENDS | PADDED, 1, padded(255, HEAD, b"")), PROTOCOL),
    case("6.2", "a priority of three bytes", frame(HEADERS, ENDS | WITH_PRIORITY, 1, bytes(3)), PROTOCOL),
    case("6.2", "HEADERS without END_HEADERS, then DATA", frame(HEADERS, 0, 1, HEAD) + data(1, b"x"), PROTOCOL),
    # 6.3, PRIORITY
    case("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    case("6.3", "PRIORITY of four bytes", OPEN + frame(PRIORITY, 0, 1, bytes(4)), "1: RST_STREAM FRAME_SIZE_ERROR"),
    case("6.3", "PRIORITY of six bytes, idle", frame(PRIORITY, 0, 1, bytes(6)), SIZE),
    case("6.3", "a stream that depends on itself", OPEN + frame(PRIORITY, 0, 1, u32(1) + b"\x10") + data(1, b"", 1), OK),
    # 6.4, RST_STREAM
    case("6.4", "RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, u32(8)), PROTOCOL),
    case("6.4", "RST_STREAM of three bytes", OPEN + frame(RST_STREAM, 0, 1, bytes(3)), SIZE),
    case("6.4", "RST_STREAM of five bytes", OPEN + frame(RST_STREAM, 0, 1, bytes(5)), SIZE),
    case("6.4", "RST_STREAM with an unknown code", OPEN + frame(RST_STREAM, 0, 1, u32(0xFFFF)), ALIVE),
    # 6.5, SETTINGS
    case("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1), PROTOCOL),
    case("6.5", "an acknowledgement with a payload", frame(SETTINGS, ACK, 0, setting(3, 1)), SIZE),
    case("6.5", "SETTINGS of five bytes", frame(SETTINGS, 0, 0, bytes(5)), SIZE),
    case("6.5", "an acknowledgement too many", SETTINGS_ACK * 2, ALIVE),
    case("6.5.2", "ENABLE_PUSH of 2", settings(x2=2), PROTOCOL),
    case("6.5.2", "ENABLE_PUSH of 1", settings(x2=1), ALIVE),
    case("6.5.2", "a window of 2^31", settings(x4=1 << 31), FLOW),
    case("6.5.2", "frames of 16,383 bytes", settings(x5=16_383), PROTOCOL),
    case("6.5.2", "frames of 2^24 bytes", settings(x5=1 << 24), PROTOCOL),
    case("6.5.2", "frames of 2^24 - 1 bytes", settings(x5=(1 << 24) - 1) + DONE, OK),
    case("6.5.2", "an unknown setting", settings(x255=7) + DONE, OK),
    case("6.5.2", "a table of 4 GiB", settings(x1=0xFFFFFFFF) + DONE, OK),
    case("6.5.3", "the last of two values", frame(SETTINGS, 0, 0, setting(4, 1 << 30) + setting(4, 1)) + DONE, "1: 200 1"),
    # 6.6, PUSH_PROMISE
    case("6.6", "PUSH_PROMISE of a client", OPEN + frame(PUSH_PROMISE, 4, 1, u32(2) + HEAD), PROTOCOL),
    # 6.7, PING
    case("6.7", "PING", frame(PING, 0, 0, b"\0\1\2\3\4\5\6\7"), ALIVE),
    case("6.7", "PING on a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL),
    case("6.7", "PING of seven bytes", frame(PING, 0, 0, bytes(7)), SIZE),
    case("6.7", "PING of nine bytes", frame(PING, 0, 0, bytes(9)), SIZE),
    case("6.7", "an answer that was not asked for", frame(PING, ACK, 0, bytes(8)), ALIVE),
    # 6.8, GOAWAY
    case("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, u32(0) + u32(0)), PROTOCOL),
    case("6.8", "GOAWAY of seven bytes", frame(GOAWAY, 0, 0, bytes(7)), SIZE),
    case("6.8", "GOAWAY with a higher stream later", HALF + frame(GOAWAY, 0, 0, u32(0) + u32(0)) + frame(GOAWAY, 0, 0, u32(2) + u32(0)), PROTOCOL),
    case("6.8", "an answer after the client's GOAWAY", get(1, b"/late") + frame(GOAWAY, 0, 0, u32(0) + u32(0)), OK),
    # 6.9, WINDOW_UPDATE
    case("6.9", "nothing for the connection", update(0, 0), PROTOCOL),
    case("6.9", "nothing for a stream", OPEN + update(1, 0), RESET),
    case("6.9", "WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    case("6.9", "WINDOW_UPDATE of five bytes, a stream's", OPEN + frame(WINDOW_UPDATE, 0, 1, bytes(5)), SIZE),
    case("6.9", "the reserved bit", OPEN + update(1, 9 | 1 << 31) + data(1, b"", 1), OK),
    case("6.9.1", "the connection's window beyond 2^31 - 1", update(0, LARGEST), FLOW),
    case("6.9.1", "two that are together", update(0, LARGEST - 65_535) + update(0, 1), FLOW),
    case("6.9.1", "a stream's window beyond 2^31 - 1", OPEN + update(1, LARGEST), "1: RST_STREAM FLOW_CONTROL_ERROR"),
    case("6.9.1", "no more than the stream's window", settings(x4=10) + get(1, b"/big"), "1: 200 10"),
    case("6.9.1", "no more than the connection's window", settings(x4=LARGEST) + get(1, b"/big"), "1: 200 65535"),
    case("6.9.1", "our own window of a stream", HELD_TUNNEL + data(1, bytes(65_536)) * 8, "1: RST_STREAM FLOW_CONTROL_ERROR"),
    case("6.9.2", "a window of nothing, then one", settings(x4=0) + get(1, b"/big") + settings(x4=7), "1: 200 7"),
    case("6.9.2", "a window below nothing", settings(x4=3) + update(1, 9), "1: 200 12", first=settings(x4=10) + get(1, b"/big"), after=lambda peer: peer.of(DATA)),
    case("6.9.2", "SETTINGS that make a window too large", OPEN + update(1, LARGEST - 65_535) + settings(x4=65_536), FLOW),
    # 6.10, CONTINUATION
    case("6.10", "a block in three frames", split_head(1, 3), OK),
    case("6.10", "a block in sixty frames", split_head(1, 60), OK),
    case("6.10", "an empty first frame", frame(HEADERS, END_STREAM, 1) + frame(CONTINUATION, 4, 1, HEAD), OK),
    case("6.10", "CONTINUATION on stream 0", frame(HEADERS, END_STREAM, 1, HEAD[:9]) + frame(CONTINUATION, 4, 0, HEAD[9:]), PROTOCOL),
    case("6.10", "CONTINUATION of another stream", frame(HEADERS, END_STREAM, 1, HEAD[:9]) + frame(CONTINUATION, 4, 3, HEAD[9:]), PROTOCOL),
    case("6.10", "CONTINUATION after END_HEADERS", OPEN + frame(CONTINUATION, 4, 1, b""), PROTOCOL),
    case("6.10", "CONTINUATION after DATA", OPEN + data(1, b"x") + frame(CONTINUATION, 4, 1, b""), PROTOCOL),
    case("6.10", "CONTINUATION by itself", frame(CONTINUATION, 4, 1, HEAD), PROTOCOL),
    # 7, error codes
    case("7", "GOAWAY with an unknown code", frame(GOAWAY, 0, 0, u32(0) + u32(0xABCD)) + frame(PING, 0, 0, bytes(8)), ALIVE),
    # 8.1, HTTP message framing
    case("8.1", "a body and trailers", OPEN + data(1, b"x") + TRAILERS, OK),
    case("8.1", "trailers without a body", OPEN + TRAILERS, OK),
    case("8.1", "a second head that does not end it", OPEN + frame(HEADERS, END_HEADERS, 1, literal(b"x-sum", b"1")), RESET),
    case("8.1", "a pseudo-field among the trailers", OPEN + frame(HEADERS, ENDS, 1, literal(b":method", b"GET")), RESET),
    case("8.1", "a name in upper case among the trailers", OPEN + frame(HEADERS, ENDS, 1, literal(b"X-Sum", b"1")), RESET),
    case("8.1", "an answer before the end of the request", post(1, b"/early"), OK),
    case("8.1.1", "a length and less", post(1, b"/", (b"content-length", b"5")) + data(1, b"four", 1), RESET),
    case("8.1.1", "a length and more", post(1, b"/", (b"content-length", b"3")) + data(1, b"four", 1), RESET),
    case("8.1.1", "a length and more in two frames", post(1, b"/", (b"content-length", b"3")) + data(1, b"fo") + data(1, b"ur"), RESET),
    case("8.1.1", "a length and less before trailers", post(1, b"/", (b"content-length", b"3")) + TRAILERS, RESET),
    case("8.1.1", "a length and no body", get(1, b"/", (b"content-length", b"3")), RESET),
    case("8.1.1", "the right length", post(1, b"/", (b"content-length", b"3")) + data(1, b"12") + data(1, b"3", 1), OK),
    case("8.1.1", "a length that is no number", post(1, b"/", (b"content-length", b"+3")) + data(1, b"123", 1), RESET),
    case("8.1.1", "two lengths", post(1, b"/", (b"content-length", b"3"), (b"content-length", b"3")) + data(1, b"123", 1), RESET),
    # 8.2, HTTP fields
    case("8.2.1", "a name in upper case", with_field(b"X-Test", b"1"), RESET),
    case("8.2.1", "an empty name", with_field(b"", b"1"), RESET),
    case("8.2.1", "a blank in a name", with_field(b"x y", b"1"), RESET),
    case("8.2.1", "a colon in a name", with_field(b"x:y", b"1"), RESET),
    case("8.2.1", "a control character in a name", with_field(b"x\x01", b"1"), RESET),
    case("8.2.1", "a name beyond ASCII", with_field(b"x\xe9", b"1"), RESET),
    case("8.2.1", "a newline in a value", with_field(b"x", b"1\ny: 2"), RESET),
    case("8.2.1", "a return in a value", with_field(b"x", b"1\r2"), RESET),
    case("8.2.1", "a null in a value", with_field(b"x", b"1\x002"), RESET),
    case("8.2.1", "a blank before a value", with_field(b"x", b" 1"), RESET),
    case("8.2.1", "a tab behind a value", with_field(b"x", b"1\t"), RESET),
    case("8.2.1", "an empty value", with_field(b"x", b""), OK),
    case("8.2.2", "connection", with_field(b"connection", b"close"), RESET),
    case("8.2.2", "keep-alive", with_field(b"keep-alive", b"5"), RESET),
    case("8.2.2", "proxy-connection", with_field(b"proxy-connection", b"close"), RESET),
    case("8.2.2", "transfer-encoding", post(1, b"/", (b"transfer-encoding", b"chunked")), RESET),
    case("8.2.2", "upgrade", with_field(b"upgrade", b"websocket"), RESET),
    case("8.2.2", "te other than trailers", with_field(b"te", b"gzip"), RESET),
    case("8.2.2", "te of trailers", with_field(b"te", b"trailers"), OK),
    case("8.2.3", "cookies in pieces", get(1, b"/", (b"cookie", b"a=1"), (b"cookie", b"b=2")), OK),
    # 8.3, HTTP control data
    case("8.3", "an unknown pseudo-field", fields(1, [*request(), (b":test", b"1")]), RESET),
    case("8.3", "a pseudo-field of a response", fields(1, [*request(), (b":status", b"200")]), RESET),
    case("8.3", "a pseudo-field behind another field", fields(1, [(b"x", b"1"), *request()]), RESET),
    case("8.3.1", "no method", fields(1, without(b":method")), RESET),
    case("8.3.1", "no scheme", fields(1, without(b":scheme")), RESET),
    case("8.3.1", "no path", fields(1, without(b":path")), RESET),
    case("8.3.1", "no authority, and no host", fields(1, without(b":authority")), RESET),
    case("8.3.1", "a host instead of the authority", fields(1, [*without(b":authority"), (b"host", b"api")]), OK),
    case("8.3.1", "another host than the authority", with_field(b"host", b"other"), RESET),
    case("8.3.1", "two methods", fields(1, [(b":method", b"GET"), *request()]), RESET),
    case("8.3.1", "two schemes", fields(1, [(b":scheme", b"http"), *request()]), RESET),
    case("8.3.1", "two paths", fields(1, [(b":path", b"/"), *request()]), RESET),
    case("8.3.1", "two authorities", fields(1, [(b":authority", b"api"), *request()]), RESET),
    case("8.3.1", "an empty path", get(1, b""), RESET),
    case("8.3.1", "a path without a slash", get(1, b"x"), RESET),
    case("8.3.1", "a path that is a URI", get(1, b"http://api/"), RESET),
    case("8.3.1", "a star that is not of OPTIONS", get(1, b"*"), RESET),
    case("8.3.1", "an empty method", fields(1, request(b"")), RESET),
    case("8.3.1", "a method with a blank", fields(1, request(b"GET x")), RESET),
    case("8.3.1", "a user in the authority", fields(1, [*without(b":authority"), (b":authority", b"me@api")]), RESET),
    # 8.5, CONNECT
    case("8.5", "CONNECT with scheme and path", fields(1, request(b"CONNECT"), 4), RESET),
    case("8.5", "CONNECT without an authority", fields(1, [(b":method", b"CONNECT")], 4), RESET),
    case("8.5", "CONNECT, which is for nobody here", fields(1, [(b":method", b"CONNECT"), (b":authority", b"api:80")], 4), "1: 501"),
    # RFC 7541
    case("7541 2.3.3", "an index of the dynamic table", frame(HEADERS, ENDS, 1, HEAD + b"\xbe"), COMPRESSION),
    case("7541 2.3.3", "a name by an index beyond the tables", frame(HEADERS, ENDS, 1, HEAD + b"\x7f\x2f\x01x"), COMPRESSION),
    case("7541 4.2", "the table's size twice, first", frame(HEADERS, ENDS, 1, b"\x20" + HEAD), OK),
    case("7541 4.2", "no word of the table's size", frame(HEADERS, ENDS, 1, b"\x82\x86\x84" + literal(b":authority", b"api")), COMPRESSION),
    case("7541 4.2", "no word of it, and literals alone", frame(HEADERS, ENDS, 1, HEAD[1:]), OK),
    case("7541 4.2", "the table's size in the middle", frame(HEADERS, ENDS, 1, HEAD + b"\x20"), COMPRESSION),
    case("7541 5.1", "an integer without end", frame(HEADERS, ENDS, 1, HEAD + b"\xff" + b"\xff" * 20), COMPRESSION),
    case("7541 5.2", "Huffman's code with a padding of a byte", frame(HEADERS, ENDS, 1, HEAD + b"\x00\x01x\x82\x1f\xff"), COMPRESSION),
    case("7541 5.2", "Huffman's code padded with zeros", frame(HEADERS, ENDS, 1, HEAD + b"\x00\x01x\x81\x18"), COMPRESSION),
    case("7541 5.2", "Huffman's code with EOS in it", frame(HEADERS, ENDS, 1, HEAD + b"\x00\x01x\x84\xff\xff\xff\xff"), COMPRESSION),
    case("7541 5.2", "Huffman's code", frame(HEADERS, ENDS, 1, HEAD + b"\x00\x01x\x81\x1f"), OK),
    case("7541 5.2", "a string longer than the block", frame(HEADERS, ENDS, 1, HEAD + b"\x00\x01x\x7f\x01"), COMPRESSION),
    case("7541 6.1", "index 0", frame(HEADERS, ENDS, 1, HEAD + b"\x80"), COMPRESSION),
    case("7541 6.1", "fields by their index", frame(HEADERS, ENDS, 1, b"\x20\x82\x86\x84" + literal(b":authority", b"api")), OK),
    case("7541 6.2", "a field that is never indexed", frame(HEADERS, ENDS, 1, HEAD + b"\x10" + literal(b"x", b"1")[1:]), OK),
    case("7541 6.3", "a table larger than is allowed", frame(HEADERS, ENDS, 1, integer(4097, 5, 0x20) + HEAD), COMPRESSION),
    case("7541 6.3", "a table larger than nothing", frame(HEADERS, ENDS, 1, b"\x21" + HEAD[1:]), COMPRESSION),
    # RFC 8441
    case("8441 4", "an extended CONNECT", fields(1, WEBSOCKET, 4), "1: 200"),
    case("8441 4", "without a scheme", fields(1, [each for each in WEBSOCKET if each[0] != b":scheme"], 4), RESET),
    case("8441 4", "without a path", fields(1, [each for each in WEBSOCKET if each[0] != b":path"], 4), RESET),
    case("8441 4", "without an authority", fields(1, WEBSOCKET[:-1], 4), RESET),
    case("8441 4", "a protocol of another method", fields(1, [*request(), (b":protocol", b"websocket")]), RESET),
    case("8441 4", "two protocols", fields(1, [*WEBSOCKET, (b":protocol", b"websocket")], 4), RESET),
    case("8441 4", "a protocol that is empty", fields(1, [(b":protocol", b""), *WEBSOCKET[:1], *WEBSOCKET[2:]], 4), RESET),
    case("8441 4", "the fields of HTTP/1.1 beside it", fields(1, [*WEBSOCKET, (b"upgrade", b"websocket")], 4), RESET),
]  # fmt: skip


class World:
    """An application in HTTP/1.1 behind both proxies."""

    def __init__(self, mesh: Any, address: Any) -> None:
        self.mesh, self.address = mesh, address

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """``/slow``: never answered; ``/late``: after a while; ``/big``: with a body; ``/early``:
        before the request's end."""
        while head := await reader.readuntil(b"\r\n\r\n"):
            target = head.split(b" ")[1]
            if target in (b"/slow", b"/hold"):
                await asyncio.Event().wait()
            if b"\r\nupgrade: websocket" in head.lower():
                writer.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                    b"Upgrade: websocket\r\n\r\n"
                )
                await reader.read()
                return
            if b"transfer-encoding: chunked" in head and target != b"/early":
                while await reader.readuntil(b"\r\n") != b"0\r\n":
                    pass
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass
            elif b"content-length: 3" in head:
                await reader.readexactly(3)
            if target == b"/late":
                await asyncio.sleep(_QUIET_S)
            body = bytes(BIG_BYTES) if target == b"/big" else b"ok"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def run(self, each: Case) -> str:
        peer = await (connect(self.address) if each.is_raw else greeted(self.address))
        try:
            if each.first:
                peer.send(each.first)
                if not await peer.until(lambda: each.after(peer)):
                    return f"no beginning: {outcome(peer, each)}"
            peer.send(each.sent)
            await peer.until(lambda: outcome(peer, each) == each.comes, _WITHIN_S)
            # Nothing else comes after it, except the end.
            if each.comes.startswith("GOAWAY"):
                if not await peer.closes(_WITHIN_S):
                    return outcome(peer, each) + ", and is not closed"
            else:
                await peer.ping(b"the last")
                peer.send(frame(PING, 0, 0, b"the very"))
                await peer.until(lambda: False, _QUIET_S if "200 " in each.comes else 0)
            return outcome(peer, each)
        finally:
            peer.abort()


def outcome(peer: Peer, each: Case) -> str:
    """In the words of ``Case.comes``."""
    if peer.goaway not in ("", "NO_ERROR"):
        return f"GOAWAY {peer.goaway}"
    if peer.is_closed:
        return "closed"
    streams: dict[int, str] = {}
    for stream, status in peer.statuses.items():
        streams[stream] = status.decode()
        if stream not in peer.ended and status == b"200" and each.section[0] in "6":
            streams[stream] += f" {sum(len(each.payload) for each in peer.of(DATA, stream))}"
    for one in peer.of(RST_STREAM):
        if one.code != "NO_ERROR":  # an answer before the end of the request
            streams[one.stream] = f"RST_STREAM {one.code}"
    found = ", ".join(f"{stream}: {what}" for stream, what in sorted(streams.items()))
    is_first_alone = bool(each.first) and found == OK and each.comes == ALIVE
    return ALIVE if not found or is_first_alone else found


@pytest.mark.parametrize("listener", ["outbound", "inbound"])
def test_conformance(listener: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def work() -> dict[str, str]:
        mesh = unstarted_mesh(make_pki(tmp_path))
        await mesh.start()
        world = World(mesh, LISTENERS[listener](mesh))
        mesh.api.script = world.serve
        wrong = {}
        try:
            for each in CASES + PREFACES * (listener == "inbound"):
                if (found := await world.run(each)) != each.comes:
                    wrong[f"{each.section}, {each.what}"] = f"{found}, not {each.comes}"
        finally:
            await mesh.stop()
        return wrong

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        wrong = runner.run(work())
    print(f"{len(CASES)} cases through the {listener} listener, {len(wrong)} wrong")
    assert wrong == {}
    assert len(CASES) >= LEAST
