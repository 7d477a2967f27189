"""Responses as bytes from a server: a table of classes, and llhttp as the judge.

They go into the upstream half as a socket would give them, cut anywhere; what comes out may not
depend on the cuts.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import MagicMock

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.head import RequestHead, ResponseHead
from proxy.http.upstream import UpstreamConnection


@dataclass
class Read:
    """What the exchange was told."""

    status: int = 0
    lines: list[bytes] = field(default_factory=list)
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)
    interim: int = 0
    end: str = "waits"
    """Or: complete (and the connection kept), complete and closed, failed."""


class _Exchange:
    """The half of an exchange that a response goes through."""

    def __init__(self, method: bytes) -> None:
        self.read = Read()
        self.head = RequestHead(method, b"/", b"api", False)
        self.handler = MagicMock(authority=b"api", subject="web -> api")
        self.ledger = MagicMock()
        self.is_request_done = True
        self.trailers: list[bytes] = []
        self.tries = 1

    def take_body(self) -> bytes:
        return b""

    def response_head(self, head: ResponseHead, data: bytes, is_end: bool) -> None:
        self.read.status, self.read.lines = head.status, head.lines
        self.response_data(data, is_end, [])

    def response_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        self.read.body += data
        if is_end:
            self.read.trailers = trailers
            self.read.end = "complete"

    def inform(self, _head: ResponseHead) -> None:
        self.read.interim += 1

    def upstream_failed(self, *_: Any, **__: Any) -> None:
        self.read.end = "failed"


def read(pieces: list[bytes], method: bytes = b"GET", *, is_closed: bool = False) -> Read:
    pool = MagicMock()
    connection = UpstreamConnection(pool)
    connection.connection_made(MagicMock())
    exchange: Any = _Exchange(method)
    connection.send(exchange)
    for piece in pieces:
        if connection.is_lost:
            break
        connection.data_received(piece)
    if is_closed and not connection.is_lost:
        connection.connection_lost(None)
    found: Read = exchange.read
    if found.end == "complete" and not pool.release.called:
        found.end = "complete, closed"
    return found


def cut(wire: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({each % (len(wire) + 1) for each in at}), len(wire)]
    return [wire[a:b] for a, b in itertools.pairwise(edges) if a != b]


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

VECTORS: list[tuple[str, bytes, str, bytes]] = [
    # What, the bytes, how it ends, the body. A server may be old-fashioned, but not ambiguous.
    ("a length", OK + b"Content-Length: 5\r\n\r\nhello", "complete", b"hello"),
    ("a length with zeros", OK + b"Content-Length: 05\r\n\r\nhello", "complete", b"hello"),
    ("no body", OK + b"Content-Length: 0\r\n\r\n", "complete", b""),
    ("no reason", b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "complete", b""),
    ("an empty reason", b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "complete", b""),
    ("a reason in UTF-8", b"HTTP/1.1 200 \xc3\xa9\r\nContent-Length: 0\r\n\r\n", "complete", b""),
    ("a status of its own", b"HTTP/1.1 799 X\r\nContent-Length: 0\r\n\r\n", "complete", b""),
    ("chunks", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", "complete", b"hello"),
    ("chunks, upper case", CHUNKED + b"A\r\nhellohello\r\n0\r\n\r\n", "complete", b"hello" * 2),
    ("chunk extensions", CHUNKED + b"5;a=b\r\nhello\r\n0;c\r\n\r\n", "complete", b"hello"),
    ("trailers", CHUNKED + b"0\r\nX: 1\r\n\r\n", "complete", b""),
    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", "complete", b""),
    ("204 with a length", b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", "complete", b""),
    ("304 with a length", b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", "complete", b""),
    ("an interim first", b"HTTP/1.1 103 Hints\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
     "complete", b""),
    ("close", OK + b"Connection: close\r\nContent-Length: 1\r\n\r\nx", "complete, closed", b"x"),
    ("HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", "complete, closed", b"x"),
    ("HTTP/1.0, kept", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
     "complete", b"x"),
    ("too much behind a length", OK + b"Content-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n",
     "complete, closed", b"x"),
    ("too much behind chunks", CHUNKED + b"0\r\n\r\nHTTP/1.1", "complete, closed", b""),
    ("a body of 204", b"HTTP/1.1 204 No\r\n\r\nhello", "complete, closed", b""),
    ("until the end", OK + b"\r\nhello", "waits", b"hello"),
    ("HTTP/1.0 until the end", b"HTTP/1.0 200 OK\r\n\r\nhello", "waits", b"hello"),
    ("cut in a length", OK + b"Content-Length: 9\r\n\r\nhello", "waits", b"hello"),
    ("CL and TE", OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "failed", b""),
    ("two lengths", OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", "failed", b""),
    ("a list of lengths", OK + b"Content-Length: 5, 5\r\n\r\nhello", "failed", b""),
    ("a signed length", OK + b"Content-Length: +5\r\n\r\nhello", "failed", b""),
    ("an underscore", OK + b"Content-Length: 0_5\r\n\r\nhello", "failed", b""),
    ("an empty length", OK + b"Content-Length:\r\n\r\n", "failed", b""),
    ("a huge length", OK + b"Content-Length: 99999999999999999999\r\n\r\n", "failed", b""),
    ("another encoding", OK + b"Transfer-Encoding: gzip\r\n\r\n", "failed", b""),
    ("gzip, chunked", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "failed", b""),
    ("encodings", OK + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n", "failed", b""),
    ("chunks in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "failed", b""),
    ("a chunk size with a sign", CHUNKED + b"+5\r\nhello\r\n", "failed", b""),
    ("a chunk size with 0x", CHUNKED + b"0x5\r\nhello\r\n", "failed", b""),
    ("a huge chunk", CHUNKED + b"10000000000000000\r\n", "failed", b""),
    ("a chunk with a bare newline", CHUNKED + b"5\nhello\r\n", "failed", b""),
    ("a chunk too long", CHUNKED + b"5\r\nhelloX\r\n", "failed", b""),
    ("a trailer with a space", CHUNKED + b"0\r\nX : 1\r\n\r\n", "failed", b""),
    ("a space before the colon", OK + b"X : 1\r\n\r\n", "failed", b""),
    ("a folded line", OK + b"X: a\r\n b\r\n\r\n", "failed", b""),
    ("a bare newline", OK + b"X: a\nY: b\r\n\r\n", "failed", b""),
    ("a bare return", OK + b"X: a\rY: b\r\n\r\n", "failed", b""),
    ("a null", OK + b"X: \0\r\n\r\n", "failed", b""),
    ("no colon", OK + b"X\r\n\r\n", "failed", b""),
    ("an imitated name", OK + b"Content_Length: 5\r\n\r\n", "failed", b""),
    ("an empty line before", b"\r\n" + OK + b"\r\n", "failed", b""),
    ("a status of two digits", b"HTTP/1.1 20 OK\r\n\r\n", "failed", b""),
    ("a status of 0xx", b"HTTP/1.1 099 OK\r\n\r\n", "failed", b""),
    ("a sign in the status", b"HTTP/1.1 +200 OK\r\n\r\n", "failed", b""),
    ("no blank before the reason", b"HTTP/1.1 200OK\r\n\r\n", "failed", b""),
    ("HTTP/2", b"HTTP/2 200 OK\r\n\r\n", "failed", b""),
    ("HTTP/0.9", b"hello\r\n\r\n", "failed", b""),
    ("ICY", b"ICY 200 OK\r\n\r\n", "failed", b""),
    ("101 that nobody asked for", b"HTTP/1.1 101 Switching\r\n\r\n", "failed", b""),
    ("interim without end", b"HTTP/1.1 100 C\r\n\r\n" * 17, "failed", b""),
    ("101 fields", OK + b"X: 1\r\n" * 101 + b"\r\n", "failed", b""),
    ("a head without end", OK + b"X: " + b"a" * 62_000, "failed", b""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wire", "end", "body"), [each[1:] for each in VECTORS], ids=[each[0] for each in VECTORS]
)
def test_every_class_of_response_ends_as_it_should_however_it_is_cut(
    wire: bytes, end: str, body: bytes
) -> None:
    found = read([wire])
    assert found.end == end
    if end == "failed":
        # How much of a body got out before depends on when it came.
        assert read([wire[at : at + 100] for at in range(0, len(wire), 100)]).end == end
    else:
        assert found.body == body
    if len(wire) < 1000:
        byte_by_byte = read([wire[at : at + 1] for at in range(len(wire))])
        if end == "complete, closed" and "closed" not in byte_by_byte.end:
            byte_by_byte.end = end  # what is too much came when the connection was idle
        assert byte_by_byte.end == end
        assert end == "failed" or byte_by_byte == found


@pytest.mark.parametrize(
    ("wire", "end"),
    [
        (OK + b"\r\nhello", "complete, closed"),
        (OK + b"Content-Length: 9\r\n\r\nhello", "failed"),
        (CHUNKED + b"5\r\nhello\r\n", "failed"),
        (OK + b"Content-Le", "failed"),
        (b"", "failed"),
    ],
)
def test_the_end_of_the_connection_ends_only_what_it_may(wire: bytes, end: str) -> None:
    assert read([wire] if wire else [], is_closed=True).end == end


def test_an_answer_to_head_has_no_body() -> None:
    found = read([OK + b"Content-Length: 5\r\n\r\n"], b"HEAD")
    assert (found.end, found.body) == ("complete", b"")
    assert b"content-length: 5" in found.lines
    assert read([CHUNKED], b"HEAD").end == "complete"


class _Llhttp:
    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.is_complete = False
        self.is_head_complete = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, wire: bytes) -> bool:
        try:
            self._parser.feed_data(wire)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return False
        return True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_head_complete:
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.is_head_complete = True
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


NAMES = st.sampled_from(
    [b"Content-Length", b"Transfer-Encoding", b"Connection", b"X", b"X ", b"", b"content-length",
     b"Set-Cookie", b"Trailer"]
)  # fmt: skip
VALUES = st.sampled_from(
    [b"5", b"0", b"chunked", b"gzip", b"close", b"keep-alive", b"", b"+5", b"5, 5", b" 5 ", b"\0",
     b"a\nb", b"a\r\n b", b"CHUNKED", b"identity", b"\xff"]
)  # fmt: skip
STARTS = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 404", b"HTTP/1.0 200 OK", b"HTTP/1.1 500 \xc3\xa9"]
)
BODIES = st.sampled_from(
    [b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5;x\r\nhello\r\n0\r\nX: 1\r\n\r\n", b"0\r\n\r\n",
     b"+5\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\r\nhelloX\r\n0\r\n\r\n"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    STARTS,
    st.lists(st.tuples(NAMES, VALUES), max_size=3),
    BODIES,
    st.lists(st.integers(0, 10_000), max_size=8),
)
def test_what_is_accepted_llhttp_reads_the_same_and_the_cuts_do_not_matter(
    start: bytes, fields: list[tuple[bytes, bytes]], body: bytes, at: list[int]
) -> None:
    head = b"\r\n".join([start, *(name + b": " + value for name, value in fields)])
    wire = head + b"\r\n\r\n" + body
    found = read([wire])
    in_pieces = read(cut(wire, at))
    if found.end == "complete, closed":
        in_pieces.end = found.end
    if found.end != "failed":
        assert in_pieces == found
    else:
        assert in_pieces.end == "failed"
        return
    judge = _Llhttp()
    is_until_close = found.end == "waits" and not any(
        name.lower() in (b"content-length", b"transfer-encoding") for name, _ in fields
    )
    if not judge.feed(wire) and not judge.is_complete:  # what is behind it is not its business
        assert found.end == "waits"  # for the end of a line that llhttp has refused already
        assert judge.body.startswith(found.body)
        return
    assert judge.status == found.status
    assert judge.body == found.body
    assert judge.is_complete == (found.end != "waits")
    if is_until_close:
        assert found.body == body
