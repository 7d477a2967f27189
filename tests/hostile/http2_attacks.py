"""What a hostile client, or a hostile application, does to a proxy in HTTP/2.

An attack is bytes that are sent at once, or a coroutine. ``ends``: the codes of which one ends the
connection; empty: it need not end, because what it holds is bounded.
"""
# ruff: noqa: E501  (an attack a line)

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
HELD_MIB = 96.0
"""256 answers that were granted 256 KiB each between two proxies (docs/decisions/0009), until their
reader is given up."""
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
    """What statuses its streams may have, where the connection does not end. 504: the client's own
    pressure keeps an answer from being read in time."""
    answers: int = 1
    """How many of them are waited for."""
    connections: int = 4
    """That do it at the same time."""
    most_mib: float = 32.0
    """By which the proxy's memory may grow."""


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


def after_one(whole: bytes) -> bytes:
    """Fifty times, when there is no table any more: an ordinary request has come before."""
    return get(1) + b"".join([split(n, whole) for n in range(3, 103, 2)])


def tunnel(number: int) -> bytes:
    """To an application that never answers: of what follows it nothing is passed on."""
    fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *request(path=b"/hold")[1:]]
    return frame(HEADERS, END_HEADERS, number, block(fields))


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
        within_s=5.0,
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
    flood("reset: streams beyond the limit", each(post)),
    # Header blocks
    flood("CONTINUATION of nothing", _BEGUN + frame(CONTINUATION, 0, 1) * MANY),
    flood("CONTINUATION of a byte", _BEGUN + frame(CONTINUATION, 0, 1, b"\x82") * MANY),
    flood("CONTINUATION of 16 KiB", _BEGUN + frame(CONTINUATION, 0, 1, bytes(16_384)) * 1_000),
    flood("HPACK: a large entry again and again", head_of(1, _UNTABLED, _ENTRY, b"\xbe" * 16_000), *COMPRESSION, is_polite=False),
    flood("HPACK: an integer without end", head_of(1, PLAIN, b"\xff" * 16_000), *COMPRESSION),
    flood("HPACK: 60,000 indexed fields, first", split(1, b"\x20" + b"\x82" * 60_000), *COMPRESSION),
    Attack(what="HPACK: 60,000 indexed fields", does=after_one(b"\x82" * 60_000), comes="200 431", answers=51),
    Attack(what="HPACK: 96,000 bytes in Huffman's code", does=after_one(_UNTABLED + _CODED), comes="200 431", answers=51),
    Attack(what="4,000 cookies", does=after_one(_UNTABLED + literal(b"cookie", b"a=1") * 4_000), comes="200 431", answers=51),
    Attack(what="a header list beyond 60 KiB", does=after_one(_UNTABLED + literal(b"x", b"v" * 62_000)), comes="200 431", answers=51),
    # Frames that cost us something
    flood("SETTINGS", settings() * MANY),
    flood("SETTINGS of 10,000 values", frame(SETTINGS, 0, 0, setting(4, 9) * 10_000) * 100),
    flood("SETTINGS that resize 256 windows", each(lambda n: get(n, b"/hold"), 256) + (settings(x4=1) + settings(x4=9)) * MANY),
    flood("acknowledgements of SETTINGS", frame(SETTINGS, ACK, 0) * MANY),
    flood("PING", frame(PING, 0, 0, bytes(8)) * MANY),
    flood("answers to PING", frame(PING, ACK, 0, bytes(8)) * MANY),
    flood("DATA of nothing", post(1) + frame(DATA, 0, 1) * MANY),
    flood("DATA of padding", post(1) + frame(DATA, PADDED, 1, _PAD) * 5_000),
    flood("DATA of a byte, to whom does not read", each(tunnel, 200) + each(lambda n: frame(DATA, 0, n, b"x"), 200) * 250),
    Attack(what="DATA of 64 MiB, to whom does not read", does=each(lambda n: tunnel(n) + frame(DATA, 0, n, bytes(60_000)) * 4, 250), connections=1, comes="504", within_s=2 * SLOW_S),
    flood("PRIORITY", frame(PRIORITY, 0, 1, bytes(4) + b"\x10") * MANY),
    flood("PRIORITY on itself", post(1) + frame(PRIORITY, 0, 1, u32(1) + b"\x10") * MANY),
    flood("WINDOW_UPDATE of a byte", update(0, 1) * MANY),
    flood("WINDOW_UPDATE of a byte, a stream's", settings(x4=0) + get(1, b"/big") + update(1, 1) * MANY),
    flood("unknown frames", frame(0x77, 0, 0, b"x") * MANY),
    flood("GOAWAY", frame(GOAWAY, 0, 0, u32(0) + u32(0)) * MANY),
    flood("RST_STREAM for streams that are gone", post(1) + reset(1) * MANY),
    # Answers that are not taken
    Attack(what="answers through windows of a byte", does=each(lambda n: get(n, b"/big"), 256), opening=settings(x4=1), connections=1, comes="200 504", answers=256, within_s=2 * SLOW_S, most_mib=HELD_MIB),
    slow("answers that are not read", read_nothing, opening=settings(x4=_LARGEST), connections=1, most_mib=HELD_MIB),
    # Slowly
    slow("SETTINGS are not acknowledged", b"", "SETTINGS_TIMEOUT", is_polite=False),
    slow("half a preface", PREFACE[:20], "SETTINGS_TIMEOUT", has_greeting=False, is_polite=False),
    slow("a head, byte by byte", dripped(head_of(1, PLAIN)[:12], PLAIN[3:4]), *CALM),
    slow("a head, in CONTINUATIONs of a byte", dripped(_BEGUN, frame(CONTINUATION, 0, 1, b"\x82")), *CALM),
    Attack(what="a body, byte by byte", does=dripped(post(1, b"/", (b"content-length", b"4096")), frame(DATA, 0, 1, b"x")), within_s=SLOW_S, comes="408"),
    Attack(what="a body that does not come", does=each(lambda n: post(n, b"/", (b"content-length", b"9")), 256), within_s=SLOW_S, comes="408", answers=256),
]  # fmt: skip


OK = b"\x20\x88"
"""``:status: 200``, by the static table."""
_FIELD = literal(b"x", b"1")
_LENGTH = b"content-length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an application says to each request."""

    what: str
    to: Callable[[int], bytes]
    """By the stream's number."""
    ends: tuple[str, ...] = ()
    comes: str = "502"
    """What the caller gets."""
    is_polite: bool = True
    has_greeting: bool = True


def says(what: str, to: Callable[[int], bytes], *ends: str, **more: object) -> Answer:
    return Answer(what=what, to=to, ends=ends, **more)  # type: ignore[arg-type]


def begun(number: int, *pieces: bytes) -> bytes:
    return head_of(number, OK, *pieces, flags=END_HEADERS)


APPLICATIONS = [
    says("GOAWAY", lambda n: frame(GOAWAY, 0, 0, u32(n) + u32(0)) * MANY, *CALM),
    says("SETTINGS", lambda n: settings() * MANY, *CALM),
    says("PING", lambda n: frame(PING, 0, 0, bytes(8)) * MANY, *CALM),
    says("DATA of nothing", lambda n: begun(n) + frame(DATA, 0, n) * MANY, *CALM, comes="200"),
    says("PRIORITY", lambda n: frame(PRIORITY, 0, n, bytes(4) + b"\x10") * MANY, *CALM),
    says("WINDOW_UPDATE of a byte", lambda n: update(0, 1) * MANY, *CALM),
    says("unknown frames", lambda n: frame(0x77, 0, 0, b"x") * MANY, *CALM),
    says("CONTINUATION of a byte", lambda n: head_of(n, OK, flags=0) + frame(CONTINUATION, 0, n, b"\x88") * MANY, *CALM),
    says("trailers without end", lambda n: begun(n) + head_of(n, _FIELD, flags=END_STREAM) + frame(CONTINUATION, 0, n, _FIELD) * MANY, *CALM, comes="200"),
    says("HPACK: a large entry again and again", lambda n: head_of(n, b"\x88", _ENTRY, b"\xbe" * 16_000), *COMPRESSION, is_polite=False),
    says("PUSH_PROMISE", lambda n: frame(PUSH_PROMISE, END_HEADERS, n, u32(2) + PLAIN) * MANY, *PROTOCOL),
    says("a stream of its own", lambda n: head_of(2, OK) * MANY, *PROTOCOL),
    says("HTTP/1.1", lambda n: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", *PROTOCOL, "FRAME_SIZE_ERROR", has_greeting=False, comes="503"),
    says("interim answers without end", lambda n: head_of(n, b"\x20" + literal(b":status", b"103"), flags=END_HEADERS) * MANY),
    says("trailers again and again", lambda n: begun(n) + head_of(n, _FIELD, flags=END_HEADERS) * 1_000),
    says("more DATA than its length", lambda n: begun(n, literal(_LENGTH, b"1")) + frame(DATA, 0, n, bytes(16_384)) * 10),
    says("less DATA than its length", lambda n: begun(n, literal(_LENGTH, b"9")) + frame(DATA, END_STREAM, n, b"x")),
    says("DATA before a head", lambda n: frame(DATA, 0, n, b"x") * 1_000),
    says("DATA beyond the window", lambda n: begun(n) + frame(DATA, 0, n, bytes(16_384)) * 64, comes="200"),
    says("a head beyond 60 KiB", lambda n: split(n, OK + literal(b"x", b"v" * 62_000))),
    says("every request reset", reset),
    says("every request refused", lambda n: reset(n, 7), comes="503"),
    says("every request refused by GOAWAY", lambda n: frame(GOAWAY, 0, 0, u32(0) + u32(0)), comes="503"),
]  # fmt: skip
