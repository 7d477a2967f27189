"""Requests that live of two readers seeing two things: a seeded grammar and its mutations.

A case is made from the seed and its own number alone, so that any one can be made again without
the others. Its bytes may hold several requests, an incomplete one, or nothing of the kind.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CRLF = b"\r\n"
_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: api\r\n\r\n"
_METHODS = (b"GET", b"POST", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"HEAD", b"PATCH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    number: int
    kind: str
    wire: bytes


def make(seed: int, number: int) -> Case:
    rng = random.Random(f"{seed}/{number}")
    kind = KINDS[number % len(KINDS)]
    wire = _MAKERS[kind](rng)
    if kind != "legal" and rng.random() < 0.15:
        wire = _with_bytes_changed(rng, wire)
    return Case(number=number, kind=kind, wire=wire)


def _head(
    rng: random.Random,
    fields: Sequence[bytes] = (),
    *,
    method: bytes | None = None,
    target: bytes | None = None,
    version: bytes = b"HTTP/1.1",
    host: Sequence[bytes] = (b"Host: api",),
) -> bytes:
    method = method or rng.choice(_METHODS)
    target = target or rng.choice((b"/", b"/a", b"/a/b?c=d", b"/early", b"/x%20y", b"/a;b=c"))
    lines = [*host, *_extras(rng), *fields]
    if rng.random() < 0.3:
        rng.shuffle(lines)
    return CRLF.join([b"%b %b %b" % (method, target, version), *lines]) + CRLF * 2


def _extras(rng: random.Random) -> list[bytes]:
    pool = (b"Accept: */*", b"X-A: 1", b"x-b:2", b"X-C:  3\t", b"Cookie: a=b; c=d", b"X-Empty:")
    return rng.sample(pool, rng.choice((0, 0, 1, 2)))


def _body(rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"",
            b"x",
            b"hello",
            b"a=b&c=d",
            b"0\r\n\r\n",
            _SMUGGLED,
            b"0\r\n\r\n" + _SMUGGLED,
            b"\r\n",
        )
    )


def _chunked(rng: random.Random, body: bytes, *, trailers: bytes = b"") -> bytes:
    wire = b""
    while body:
        size = rng.randint(1, len(body))
        digits = rng.choice((b"%x", b"%X", b"0%x", b"00%x")) % size
        wire += digits + CRLF + body[:size] + CRLF
        body = body[size:]
    return wire + b"0\r\n" + trailers + CRLF


def _legal(rng: random.Random) -> bytes:
    body = _body(rng)
    if rng.random() < 0.4:
        return _head(rng, [b"Transfer-Encoding: chunked"]) + _chunked(rng, body)
    if body or rng.random() < 0.3:
        return _head(rng, [b"Content-Length: %d" % len(body)]) + body
    return _head(rng)


def _length_and_encoding(rng: random.Random) -> bytes:
    body = _chunked(rng, _body(rng)) if rng.random() < 0.6 else _body(rng)
    length = rng.choice((len(body), 0, 4, 6, len(body) + len(_SMUGGLED)))
    fields = [b"Content-Length: %d" % length, rng.choice(_ENCODINGS)]
    rng.shuffle(fields)
    version = rng.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"))
    return _head(rng, fields, version=version) + body


def _two_lengths(rng: random.Random) -> bytes:
    body = _body(rng)
    size = len(body)
    other = rng.choice((size, 0, size + 1, max(0, size - 1)))
    fields = rng.choice(
        (
            [b"Content-Length: %d" % size, b"Content-Length: %d" % other],
            [b"Content-Length: %d, %d" % (size, other)],
            [b"Content-Length: %d,%d" % (other, size)],
            [b"Content-Length: %d" % size, b"content-length: %d" % other],
            [b"Content-Length: %d" % size, b"Content_Length: %d" % other],
            [b"Content-Length:", b"Content-Length: %d" % size],
        )
    )
    return _head(rng, fields) + body


_ENCODINGS = (
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: CHUNKED",
    b"Transfer-Encoding:chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: chunked ",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: \x0cchunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunke",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding:",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked",
    b" Transfer-Encoding: chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding\r\n: chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer-Encoding\x00: chunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: chunk\xc3\xa9d",
    b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    b"Transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    b"TE: chunked",
    b"Content-Encoding: chunked",
    b"Foo: bar\r\n\tTransfer-Encoding: chunked",
)


def _encodings(rng: random.Random) -> bytes:
    body = _chunked(rng, _body(rng)) if rng.random() < 0.7 else _body(rng)
    fields = rng.sample(_ENCODINGS, rng.choice((1, 1, 1, 2)))
    return _head(rng, fields) + body


def _zero_length(rng: random.Random) -> bytes:
    """A body where there should be none."""
    fields = rng.choice(
        ([b"Content-Length: 0"], [], [b"Content-Length: 00"], [b"Transfer-Encoding: chunked"])
    )
    body = rng.choice((_SMUGGLED, b"\r\n" + _SMUGGLED, b"x", b"0\r\n\r\n", b"\r\n\r\n", b"\n"))
    if fields and fields[0].startswith(b"T"):
        body = b"0\r\n\r\n" + body
    method = rng.choice((b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"POST"))
    return _head(rng, fields, method=method) + body


def _extensions(rng: random.Random) -> bytes:
    extension = rng.choice(
        (
            b";a=b", b"; a=b", b" ;a", b"\t;a", b";", b";;", b';a="b"', b';a="\r\nb"', b";a\rb",
            b";a\nb", b";a=\x00", b";a=\x7f", b";a=\xff", b" ", b"\t", b"\r", b"\n", b"x", b" x",
            b"," , b";" + b"x" * rng.choice((100, 600, 20000)), b"\n0\r\n\r\n", b";a=b\n",
        )
    )  # fmt: skip
    body = rng.choice((b"hello", _SMUGGLED))
    where = rng.random()
    first = b"%x" % len(body) + (extension if where < 0.7 else b"") + CRLF + body + CRLF
    last = b"0" + (extension if where >= 0.7 else b"") + CRLF * 2
    return _head(rng, [b"Transfer-Encoding: chunked"], method=b"POST") + first + last


def _line_ends(rng: random.Random) -> bytes:
    wire = _legal(rng)
    ends = [at for at in range(len(wire)) if wire.startswith(CRLF, at)]
    for at in sorted(rng.sample(ends, min(len(ends), rng.choice((1, 1, 2, 9)))), reverse=True):
        wire = wire[:at] + rng.choice((b"\n", b"\r", b"\n\r", b"\r\r\n", b"\n\n")) + wire[at + 2 :]
    return rng.choice((b"", b"", b"", CRLF, b"\n", b"\r", CRLF * 2, b" ")) + wire


def _folds(rng: random.Random) -> bytes:
    fold = rng.choice((b"\r\n ", b"\r\n\t", b"\n ", b"\r\n \r\n ", b"\r\n  "))
    field = rng.choice(
        (
            b"X: a%bb", b"Content-Length:%b5", b"Transfer-Encoding:%bchunked", b"Host:%bapi",
            b"X: a%bContent-Length: 5", b"X:%b", b"%bX: a", b"Connection:%bclose",
        )
    )  # fmt: skip
    return _head(rng, [field % fold]) + b"hello"


def _blanks(rng: random.Random) -> bytes:
    blank = rng.choice((b" ", b"\t", b"  ", b"\x0b", b"\x0c", b"\x00", b"\xa0", b"\x85", b"\r"))
    name = rng.choice((b"Content-Length", b"Transfer-Encoding", b"Host", b"X", b"Connection"))
    value = {b"Content-Length": b"5", b"Transfer-Encoding": b"chunked", b"Host": b"api"}.get(
        name, b"close"
    )
    line = rng.choice(
        (
            name + blank + b": " + value,
            blank + name + b": " + value,
            name + b":" + blank + value,
            name + b": " + value + blank,
            name[:3] + blank + name[3:] + b": " + value,
            name + blank + value,
            name,
            b": " + value,
        )
    )
    return _head(rng, [line]) + b"hello"


def _lengths(rng: random.Random) -> bytes:
    value = rng.choice(
        (
            b"+5", b"-5", b"-0", b"+0", b"5_0", b"0_5", b"5 ", b" 5", b"0x5", b"5.0", b"5e0", b"05",
            b"0005", b"5\x00", b"5;", b"5,", b",5", b"5, 5", b"\xb2", b"\xd9\xa5", b"five", b"5 5",
            b"18446744073709551621", b"4294967301", b"9223372036854775808", b"99999999999999999999",
            b"000000000000000000000005", b"", b"'5'", b'"5"', b"5\t", b"\x0b5", b"5\x0c", b"5\r",
        )
    )  # fmt: skip
    return _head(rng, [b"Content-Length: " + value]) + rng.choice((b"hello", b"hello" + _SMUGGLED))


def _chunk_sizes(rng: random.Random) -> bytes:
    size = rng.choice(
        (
            b"+5", b"-5", b"0x5", b"0X5", b"5_", b"_5", b" 5", b"5 ", b"\t5", b"5h", b"", b"G",
            b"00000000000000005", b"10000000000000005", b"FFFFFFFFFFFFFFFF", b"7FFFFFFFFFFFFFFF",
            b"fffffffffffffff", b"100000005", b"80000005", b"5.", b"5,", b"5\x00", b"\xef\xbc\x95",
            b"0" * 300 + b"5", b"05", b"5\r", b"-0", b"00", b"000",
        )
    )  # fmt: skip
    end = rng.choice((CRLF, CRLF, CRLF, b"\n", b"\r", b"", b"X\r\n", b"\r\r\n"))
    return (
        _head(rng, [b"Transfer-Encoding: chunked"], method=b"POST")
        + size + CRLF + b"hello" + end + b"0\r\n\r\n"
        + rng.choice((b"", _SMUGGLED))
    )  # fmt: skip


def _old(rng: random.Random) -> bytes:
    version = rng.choice(
        (b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.01",
         b"http/1.0", b"HTTP/1", b"HTTP/ 1.0", b"HTTP/+1.0", b"")
    )  # fmt: skip
    fields = rng.choice(
        (
            [],
            [b"Connection: keep-alive"],
            [b"Connection: close"],
            [b"Content-Length: 5"],
            [b"Content-Length: 5", b"Connection: keep-alive"],
            [b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked", b"Connection: keep-alive"],
        )
    )
    host = rng.choice(((b"Host: api",), ()))
    body = rng.choice((b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n"))
    return _head(rng, fields, version=version, host=host) + body


def _connection(rng: random.Random) -> bytes:
    token = rng.choice(
        (
            b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization", b"Cookie",
            b"X-Forwarded-For", b"X-Forwarded-Client-Cert", b"X-Real-IP", b"close", b"keep-alive",
            b"X-A", b"te", b"upgrade", b"", b",", b"close,", b"close, X-A", b"\x00", b"a b",
        )
    )  # fmt: skip
    fields = [
        b"Connection: " + rng.choice((token, b"close, " + token, token + b", keep-alive")),
        b"Authorization: secret",
        b"X-Forwarded-For: 10.0.0.1",
        b"Content-Length: 5",
    ]
    return _head(rng, fields) + b"hello"


def _authority(rng: random.Random) -> bytes:
    target = rng.choice(
        (
            b"/", b"http://api/", b"http://other/x", b"http://other", b"http://", b"http:///x",
            b"HTTP://other/", b"https://other/", b"http://me@other/", b"http://other:80/?q",
            b"http://other?q", b"//other/x", b"other:80", b"*", b"/#f", b"http://other/#f", b"",
            b"http://other\\x", b"ftp://other/", b"http://[::1]/", b"http://a b/", b"/\x80",
            b"/\x7f",
        )
    )  # fmt: skip
    host = rng.choice(
        (
            (b"Host: api",), (b"Host: api", b"Host: api"), (b"Host: api", b"Host: other"), (),
            (b"Host:",), (b"Host: api/x",), (b"Host: a b",), (b"Host: me@api",), (b"Host: api:x",),
            (b"Host: api,other",), (b"Host: api\x00",), (b"Host: [::1]",), (b"Host: [::1",),
            (b"Host: \xc3\xa9",), (b"Host : api",), (b"host_: api",), (b"Host: api#",),
        )
    )  # fmt: skip
    return _head(rng, target=target, host=host)


def _upgrade(rng: random.Random) -> bytes:
    fields = rng.choice(
        (
            [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"],
            [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"],
            [b"Upgrade: websocket"],
            [b"Connection: Upgrade"],
            [b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5"],
            [b"Connection: Upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked"],
            [b"Connection: Upgrade", b"Upgrade: TLS/1.0", b"Content-Length: 5"],
        )
    )
    method = rng.choice((b"GET", b"GET", b"POST", b"CONNECT"))
    target = b"api:80" if method == b"CONNECT" and rng.random() < 0.5 else b"/"
    early = rng.choice((b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"\x81\x85early", _SMUGGLED))
    return _head(rng, fields, method=method, target=target) + early


def _undrained(rng: random.Random) -> bytes:
    """The application answers before the body, of which less or more comes than was said."""
    body = rng.choice((b"", b"hello", _SMUGGLED))
    if rng.random() < 0.5:
        said = len(body) + rng.choice((0, 5, len(_SMUGGLED), 1000))
        return _head(rng, [b"Content-Length: %d" % said], method=b"POST", target=b"/early") + body
    wire = _chunked(rng, body)
    wire = wire[: len(wire) - rng.choice((0, 2, 5))]
    return _head(rng, [b"Transfer-Encoding: chunked"], method=b"POST", target=b"/early") + wire


def _pipelined(rng: random.Random) -> bytes:
    wire = b"".join(_legal(rng) for _ in range(rng.randint(1, 4)))
    maker = _MAKERS[rng.choice(KINDS)] if rng.random() < 0.6 else _legal
    return wire + (maker(rng) if maker is not _pipelined else b"")


def _trailers(rng: random.Random) -> bytes:
    trailers = rng.choice(
        (
            b"X-T: 1\r\n", b"X-T: 1\r\nX-U: 2\r\n", b"Content-Length: 5\r\n", b"Host: other\r\n",
            b"Transfer-Encoding: chunked\r\n", b"X-T : 1\r\n", b"X-T: 1\n", b"X-T: a\r\n b\r\n",
            b"X-T\r\n", b": 1\r\n", b"X-T: \x00\r\n", b"\n", b" \r\n", b"X-T: 1\r",
            b"GET / HTTP/1.1\r\n",
        )
    )  # fmt: skip
    return _head(rng, [b"Transfer-Encoding: chunked"], method=b"POST") + _chunked(
        rng, _body(rng), trailers=trailers
    )


def _start_lines(rng: random.Random) -> bytes:
    line = rng.choice(
        (
            b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ",
            b"GET\t/\tHTTP/1.1", b"GET / HTTP/1.1\x00", b"GET /a b HTTP/1.1", b"get / HTTP/1.1",
            b"G\xc3\x89T / HTTP/1.1", b"GET / HTTP/1.1 HTTP/1.1", b"GET /", b"GET", b"",
            b"GET / HTTP/1.1\r", b"GET / HTTP/11", b"GET / HTTP/1.10", b"GET / XTTP/1.1",
            b"G:T / HTTP/1.1", b"GET /\x01 HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET:/ HTTP/1.1",
            b"FOO / HTTP/1.1", b"A" * 40 + b" / HTTP/1.1", b"GET /" + b"a" * 9000 + b" HTTP/1.1",
            b"PRI * HTTP/2.0", b"\x16\x03\x01\x02\x00\x01\x00", b"GET /\x0b HTTP/1.1",
            b'GET /"<>\\^`{|} HTTP/1.1', b"GET ? HTTP/1.1", b"GET /?a#b HTTP/1.1",
        )
    )  # fmt: skip
    return line + b"\r\nHost: api\r\n" + rng.choice((b"", b"Content-Length: 5\r\n")) + b"\r\nhello"


def _fields(rng: random.Random) -> bytes:
    line = rng.choice(
        (
            b"X\x00: 1", b"X: \x00", b"X: \x01", b"X: \x7f", b"X: \x80\xff", b"X: \xc3\xa9",
            b"X\xc3\xa9: 1", b"X(: 1", b"X@y: 1", b"X/y: 1", b'X"y: 1', b"X: " + b"v" * 9000,
            b"X" * 300 + b": 1", b"x_y: 1", b"content_length: 5", b"x_forwarded_for: 1", b"X: a\rb",
            b"X: a\r\r\n\r\n", b"Content-Length: 5\r\nX", b"Expect: 100-continue", b"Expect: x",
            b"X-Forwarded-Client-Cert: By=x;URI=y", b"X-Mesh-Flag: UF", b"Date: x", b"TE: trailers",
            b"Trailer: Host", b"Keep-Alive: 5", b"Proxy-Connection: close", b"Max-Forwards: 0",
        )
    )  # fmt: skip
    many = [b"X-%d: 1" % number for number in range(rng.choice((0, 0, 0, 90, 99, 110)))]
    return _head(rng, [line, *many]) + rng.choice((b"", b"hello", _SMUGGLED))


def _with_bytes_changed(rng: random.Random, wire: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(wire) + 1)
        piece = rng.choice(
            (b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b";", b",", b"0", b"\xff", b"\x0b",
             bytes([rng.randrange(256)]))
        )  # fmt: skip
        before, after = wire[:at], wire[at + 1 :]
        wire = rng.choice((before + piece + wire[at:], before + piece + after, before + after))
    return wire


def _mutated(rng: random.Random) -> bytes:
    return _with_bytes_changed(rng, _legal(rng))


_MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    "legal": _legal,
    "CL+TE": _length_and_encoding,
    "CL.CL": _two_lengths,
    "TE.TE": _encodings,
    "CL.0": _zero_length,
    "chunk extensions": _extensions,
    "bare LF and CR": _line_ends,
    "obs-fold": _folds,
    "white space around names": _blanks,
    "lengths": _lengths,
    "chunk sizes": _chunk_sizes,
    "HTTP/1.0 and versions": _old,
    "Connection lists": _connection,
    "authority": _authority,
    "upgrade with early data": _upgrade,
    "undrained body": _undrained,
    "pipelining": _pipelined,
    "trailers": _trailers,
    "start lines": _start_lines,
    "fields": _fields,
    "bytes changed": _mutated,
}
KINDS = tuple(_MAKERS)
