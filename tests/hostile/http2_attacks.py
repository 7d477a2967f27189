"""What a hostile client, or a hostile application, does to a proxy in HTTP/2.

An attack is bytes that are sent at once, or a coroutine. ``ends``: the codes of which one ends the
connection; empty: it need not end, because what it holds is bounded.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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
    WINDOW_UPDATE,
    Peer,
    block,
    frame,
    get,
    integer,
    literal,
    post,
    request,
    setting,
    settings,
    u32,
)

AT_ONCE_S = 1.0
SLOW_S = 15.0
MANY = 50_000
"""Frames that cost us nothing."""
REQUESTS = 5_000
_LARGEST = 0x7FFFFFFF
_DRIP_S = 0.5

CALM = ("ENHANCE_YOUR_CALM",)
PROTOCOL = ("PROTOCOL_ERROR",)
COMPRESSION = ("COMPRESSION_ERROR",)
Script = Callable[[Peer], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    what: str
    does: bytes | Script
    ends: tuple[str, ...] = ()
    within_s: float = AT_ONCE_S
    is_polite: bool = True
    opening: bytes = b""
    """Instead of ordinary SETTINGS."""
    has_greeting: bool = True
    """The preface is sent first, and our SETTINGS waited for."""
    comes: str = ""
    """Of each of its streams, where the connection does not end."""


def flood(what: str, does: bytes | Script, *ends: str, **more: object) -> Attack:
    return Attack(what=what, does=does, ends=ends or CALM, **more)  # type: ignore[arg-type]


def slow(what: str, does: bytes | Script, *ends: str, **more: object) -> Attack:
    return Attack(what=what, does=does, ends=ends, within_s=SLOW_S, **more)  # type: ignore[arg-type]


def numbers(count: int) -> range:
    return range(1, 2 * count, 2)


def each(make: Callable[[int], bytes], count: int = REQUESTS) -> bytes:
    """For each of so many streams."""
    return b"".join([make(number) for number in numbers(count)])


def reset(number: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, number, u32(code))


def update(number: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, number, u32(size))


def head_of(number: int, *pieces: bytes, flags: int = ENDS) -> bytes:
    return frame(HEADERS, flags, number, b"".join(pieces))


def split(number: int, whole: bytes, size: int = 16_384) -> bytes:
    """A header block of any size."""
    parts = [whole[at : at + size] for at in range(0, len(whole), size)]
    out = [frame(HEADERS, END_STREAM, number, parts[0])]
    out += [frame(CONTINUATION, 0, number, part) for part in parts[1:]]
    return b"".join(out) + frame(CONTINUATION, END_HEADERS, number)


PLAIN = block(request())
_BEGUN = frame(HEADERS, END_STREAM, 1, PLAIN)
"""A header block that is not complete."""
_ENTRY = b"\x40" + literal(b"x-large", b"v" * 3_900)[1:]
"""In the dynamic table, which a peer has until it acknowledges that there is none."""
_UNTABLED = PLAIN[1:]
_CODED = b"\x00\x01x" + integer(60_000, 7, 0x80) + bytes(60_000)
"""Huffman's code: "0" 96,000 times, from 60,000 bytes."""
_PAD = bytes([254]) + bytes(254)


async def drip(peer: Peer, piece: bytes) -> None:
    """One piece after the other, until the connection is over or nobody waits any more."""
    while not peer.is_closed:
        peer.send(piece)
        await asyncio.sleep(_DRIP_S)


def dripped(start: bytes, piece: bytes) -> Script:
    async def run(peer: Peer) -> None:
        peer.send(start)
        await drip(peer, piece)

    return run


async def read_nothing(peer: Peer) -> None:
    """256 answers of 2 MiB each, for which there is credit."""
    peer.send(update(0, _LARGEST - 65_535) + each(lambda n: get(n, b"/big"), 256))
    peer.transport.pause_reading()
    while not peer.is_gone():
        await asyncio.sleep(_DRIP_S)
    peer.connection_lost(None)


async def again(peer: Peer, make: Callable[[int], bytes], count: int) -> None:
    """``count`` streams in a second, for three seconds: below every limit."""
    for second in range(3):
        for tenth in range(10):
            at = (second * 10 + tenth) * count // 10
            wire = b"".join([make(2 * (at + n) + 1) for n in range(count // 10)])
            peer.send(wire)
            await asyncio.sleep(0.1)


CLIENTS = [
    # Requests that are given up
    flood("rapid reset", each(lambda n: get(n) + reset(n))),
    flood("rapid reset of bodies", each(lambda n: post(n) + reset(n))),
    Attack(
        what="rapid reset below the limit",
        does=lambda peer: again(peer, lambda n: get(n) + reset(n), 900),
    ),
    # Resets that we are made to send
    flood("reset: window beyond 2^31 - 1", each(lambda n: post(n) + update(n, _LARGEST))),
    flood("reset: credit of nothing", each(lambda n: post(n) + update(n, 0))),
    flood("reset: DATA beyond END_STREAM", each(lambda n: get(n, b"/hold") + frame(DATA, 0, n, b"x"))),
    flood("reset: HEADERS beyond END_STREAM", each(lambda n: get(n, b"/hold") + get(n))),
    flood("reset: PRIORITY of a wrong size", each(lambda n: post(n) + frame(PRIORITY, 0, n, b"x"))),
    flood("reset: another length than the body's", each(lambda n: post(n, b"/", (b"content-length", b"9")) + frame(DATA, 1, n, b"x"))),
    flood("reset: a name in upper case", each(lambda n: get(n, b"/", (b"X-A", b"1")))),
    flood("reset: a head of nothing", each(lambda n: head_of(n, b"\x20"))),
    flood("reset: trailers that end nothing", each(lambda n: post(n) + head_of(n, literal(b"x", b"1"), flags=4))),
    flood("reset: a window is exceeded", each(lambda n: post(n, b"/hold") + frame(DATA, 0, n, bytes(65_536)) * 5, 600), within_s=5.0),
    flood("reset: streams beyond the limit", each(post)),
    # Header blocks
    flood("CONTINUATION of nothing", _BEGUN + frame(CONTINUATION, 0, 1) * MANY),
    flood("CONTINUATION of a byte", _BEGUN + frame(CONTINUATION, 0, 1, b"\x82") * MANY),
    flood("CONTINUATION of 16 KiB", _BEGUN + frame(CONTINUATION, 0, 1, bytes(16_384)) * 1_000),
    flood("HPACK: a large entry, 16,000 times", get(1)[:9] + b"", *COMPRESSION),
    flood("HPACK: a large entry again and again", head_of(1, _UNTABLED, _ENTRY, b"\xbe" * 16_000), *COMPRESSION, is_polite=False),
    flood("HPACK: an integer without end", head_of(1, PLAIN, b"\xff" * 16_000), *COMPRESSION),
    Attack(what="HPACK: 60,000 indexed fields", does=each(lambda n: split(n, b"\x20" + b"\x82" * 60_000), 50), comes="431"),
    Attack(what="HPACK: 96,000 bytes in Huffman's code", does=each(lambda n: split(n, PLAIN + _CODED), 50), comes="431"),
    Attack(what="4,000 cookies", does=each(lambda n: split(n, PLAIN + literal(b"cookie", b"a=1") * 4_000), 50), comes="431"),
    Attack(what="a header list beyond 60 KiB", does=each(lambda n: split(n, PLAIN + literal(b"x", b"v" * 62_000)), 50), comes="431"),
    # Frames that cost us something
    flood("SETTINGS", settings() * MANY),
    flood("SETTINGS of 10,000 values", frame(SETTINGS, 0, 0, setting(4, 9) * 10_000) * 100),
    flood("SETTINGS that resize 256 windows", each(lambda n: get(n, b"/hold"), 256) + (settings(x4=1) + settings(x4=9)) * MANY),
    flood("acknowledgements of SETTINGS", frame(SETTINGS, ACK, 0) * MANY),
    flood("PING", frame(PING, 0, 0, bytes(8)) * MANY),
    flood("answers to PING", frame(PING, ACK, 0, bytes(8)) * MANY),
    flood("DATA of nothing", post(1) + frame(DATA, 0, 1) * MANY),
    flood("DATA of padding", post(1) + frame(DATA, PADDED, 1, _PAD) * 5_000),
    flood("DATA of a byte, to whom does not read", each(lambda n: post(n, b"/hold"), 200) + b"".join([frame(DATA, 0, n, b"x") * 2_000 for n in numbers(200)]), within_s=5.0),
    flood("PRIORITY", frame(PRIORITY, 0, 1, bytes(4) + b"\x10") * MANY),
    flood("PRIORITY on itself", post(1) + frame(PRIORITY, 0, 1, u32(1) + b"\x10") * MANY),
    flood("WINDOW_UPDATE of a byte", update(0, 1) * MANY),
    flood("WINDOW_UPDATE of a byte, a stream's", settings(x4=0) + get(1, b"/big") + update(1, 1) * MANY),
    flood("unknown frames", frame(0x77, 0, 0, b"x") * MANY),
    flood("GOAWAY", frame(GOAWAY, 0, 0, u32(0) + u32(0)) * MANY),
    flood("RST_STREAM for streams that are gone", post(1) + reset(1) * MANY),
    # Answers that are not taken
    Attack(what="answers through windows of a byte", does=each(lambda n: get(n, b"/big"), 256), opening=settings(x4=1)),
    slow("answers that are not read", read_nothing, opening=settings(x4=_LARGEST)),
    # Slowly
    slow("SETTINGS are not acknowledged", b"", "SETTINGS_TIMEOUT", is_polite=False),
    slow("half a preface", PREFACE[:20], "SETTINGS_TIMEOUT", has_greeting=False),
    slow("a head, byte by byte", dripped(head_of(1, PLAIN)[:12], PLAIN[3:4]), *CALM),
    slow("a head, in CONTINUATIONs of a byte", dripped(_BEGUN, frame(CONTINUATION, 0, 1, b"\x82")), *CALM),
    Attack(what="a body, byte by byte", does=dripped(post(1, b"/", (b"content-length", b"4096")), frame(DATA, 0, 1, b"x")), within_s=SLOW_S, comes="408"),
    Attack(what="a body that does not come", does=each(lambda n: post(n, b"/", (b"content-length", b"9")), 256), within_s=SLOW_S, comes="408"),
]  # fmt: skip


OK = b"\x20\x88"
"""``:status: 200``, by the static table."""


def _answer(*pieces: bytes, flags: int = END_HEADERS) -> bytes:
    return head_of(1, OK, *pieces, flags=flags)


APPLICATIONS = [
    flood("GOAWAY", frame(GOAWAY, 0, 0, u32(1) + u32(0)) * MANY),
    flood("SETTINGS", settings() * MANY),
    flood("PING", frame(PING, 0, 0, bytes(8)) * MANY),
    flood("DATA of nothing", _answer() + frame(DATA, 0, 1) * MANY),
    flood("PRIORITY", frame(PRIORITY, 0, 1, bytes(4) + b"\x10") * MANY),
    flood("WINDOW_UPDATE of a byte", update(0, 1) * MANY),
    flood("unknown frames", frame(0x77, 0, 0, b"x") * MANY),
    flood("CONTINUATION of a byte", head_of(1, OK, flags=0) + frame(CONTINUATION, 0, 1, b"\x88") * MANY),
    flood("trailers without end", _answer() + head_of(1, literal(b"x", b"1"), flags=1) + frame(CONTINUATION, 0, 1, literal(b"x", b"1")) * MANY),
    flood("HPACK: a large entry again and again", head_of(1, b"\x88", _ENTRY, b"\xbe" * 16_000), *COMPRESSION, is_polite=False),
    flood("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, u32(2) + PLAIN) * MANY, *PROTOCOL),
    flood("a stream of its own", head_of(2, OK) * MANY, *PROTOCOL),
    flood("HTTP/1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", *PROTOCOL, "FRAME_SIZE_ERROR", has_greeting=False),
    Attack(what="interim answers without end", does=head_of(1, b"\x20" + literal(b":status", b"103"), flags=4) * MANY, comes="502"),
    Attack(what="trailers again and again", does=_answer() + head_of(1, literal(b"x", b"1"), flags=4) * 1_000, comes="502"),
    Attack(what="more DATA than its length", does=_answer(literal(b"content-length", b"1")) + frame(DATA, 0, 1, bytes(16_384)) * 10, comes="502"),
    Attack(what="less DATA than its length", does=_answer(literal(b"content-length", b"9")) + frame(DATA, 1, 1, b"x"), comes="502"),
    Attack(what="DATA before a head", does=frame(DATA, 0, 1, b"x") * 1_000, comes="502"),
    Attack(what="a head beyond 60 KiB", does=split(1, OK + literal(b"x", b"v" * 62_000)).replace(b"", b""), comes="502"),
    Attack(what="every request reset", does=reset(1), comes="502"),
    Attack(what="every request refused", does=reset(1, 7), comes="503"),
    Attack(what="every request refused by GOAWAY", does=frame(GOAWAY, 0, 0, u32(0) + u32(0)), comes="503"),
]  # fmt: skip
"""``comes``: what the caller gets."""
