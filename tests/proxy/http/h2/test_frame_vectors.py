"""The frames of the public set http2jp/http2-frame-test-case, as an engine of ours takes them.

The figures are the set's, of drafts and the final RFC 7540. Since then priorities are ignored (RFC
9113, section 5.3.2), and a PUSH_PROMISE is an error for who has not allowed any (section 8.4).
"""

from collections.abc import Callable

import pytest
from engines import ClientEngine, ServerEngine, greeted_client, greeted_server

from proxy.http.h2.connection import ConnectionBroken
from proxy.http.h2.frames import (
    END_HEADERS,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    goaway_of,
    unpack_header,
)

PUSHES = {
    "PUSH_PROMISE": (
        *("000018050C00000009060000000A746869732069732064756D6D79486F77647921", 24),
        *(END_HEADERS | PADDED, 9),
    ),
    "PUSH_PROMISE, its padding too long": ("00000405080000000104AAAAAA", 4, PADDED, 1),
}


@pytest.mark.parametrize(
    ("wire", "length", "flags", "number"),
    [
        ("00000D010400000001746869732069732064756D6D79", 13, END_HEADERS, 1),
        (
            "000023012C00000003108000001409746869732069732064756D6D79"
            "546869732069732070616464696E672E",
            *(35, END_HEADERS | PADDED | HAS_PRIORITY, 3),
        ),
    ],
    ids=["HEADERS", "HEADERS with priority and padding"],
)
def test_a_block_is_passed_on_without_what_is_around_it(
    wire: str, length: int, flags: int, number: int
) -> None:
    octets = bytes.fromhex(wire)
    assert unpack_header(octets, 0) == (length << 8 | HEADERS, flags, number)
    engine = greeted_server()
    engine.receive(octets)
    assert engine.events == [("headers", number, b"this is dummy", False)]
    assert engine.sent() == b""


def test_a_priority_is_nothing() -> None:
    octets = bytes.fromhex("0000050200000000090000000B07")
    assert unpack_header(octets, 0) == (5 << 8 | PRIORITY, 0, 9)
    engine = greeted_server()
    engine.receive(octets)
    assert (engine.events, engine.streams, engine.sent()) == ([], {}, b"")
    # Nor does it make the stream that it names begin, or those before it end.
    engine.receive(bytes.fromhex("00000D010400000001") + b"this is dummy")
    assert engine.events == [("headers", 1, b"this is dummy", False)]


@pytest.mark.parametrize(("wire", "length", "flags", "number"), PUSHES.values(), ids=PUSHES)
@pytest.mark.parametrize("make", [greeted_server, greeted_client], ids=["server", "client"])
def test_a_push_is_refused_by_who_wants_none(
    make: Callable[[], ServerEngine | ClientEngine],
    wire: str,
    length: int,
    flags: int,
    number: int,
) -> None:
    octets = bytes.fromhex(wire)
    assert unpack_header(octets, 0) == (length << 8 | PUSH_PROMISE, flags, number)
    engine = make()
    if isinstance(engine, ClientEngine):
        while (stream := engine.opened()).number < number:
            stream.send_headers(b"\x82\x86\x84\x41\x01a", True)
        stream.send_headers(b"\x82\x86\x84\x41\x01a", True)
        engine.out.clear()
    with pytest.raises(ConnectionBroken) as caught:
        engine.receive(octets)
    assert caught.value.code == PROTOCOL_ERROR
    ((kind, _, _, payload),) = engine.sent_frames()
    assert (kind, goaway_of(payload)[1]) == (7, PROTOCOL_ERROR)
