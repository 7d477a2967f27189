"""Heads in HTTP/2: what is refused, and that both versions make the same of the same request."""

import itertools
import random
from collections.abc import Iterator

import hpack
import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jh2._hazmat import Encoder as RustEncoder

from proxy.http import head as http1
from proxy.http.blocks import Blocks
from proxy.http.fields import ProtocolError
from proxy.http.h2 import encoding, heads, pseudo, request
from proxy.http.h2.heads import (
    parse_request,
    parse_response,
    parse_trailers,
    request_block,
    response_block,
    trailers_block,
)
from proxy.http.h2.hpack import Decoder, HpackError
from proxy.http.h2.representation import encode_field
from proxy.http.head import CHUNKED, UNTIL_CLOSE, RequestHead, ResponseHead, serialize_request
from proxy.http.reply import make_reply
from proxy.model.flags import Flag

Pair = tuple[str, str]
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "api")]
POST = [(":method", "POST"), *GET[1:]]
CALL = [*POST, ("te", "trailers"), ("content-type", "application/grpc")]
WEBSOCKET = [
    *((":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https")),
    *((":path", "/chat?a"), (":authority", "api"), ("sec-websocket-version", "13")),
]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch.setattr)


def forget(replace: object = setattr) -> None:
    """All that was remembered of earlier messages."""
    assert callable(replace)
    replace(request, "_requests", Blocks())
    replace(heads, "_responses", Blocks())
    replace(heads, "_trailers", Blocks())
    replace(http1, "_requests", Blocks())
    pseudo._known.clear()


def encode(pairs: list[Pair] | list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        encode_field(*(each.encode("latin-1") if isinstance(each, str) else each for each in pair))
        for pair in pairs
    )


def stateless() -> Decoder:
    decoder = Decoder()
    decoder.decode(b"\x20")
    decoder.acknowledged()
    return decoder


def request_of(pairs: list[Pair], is_end: bool = True) -> RequestHead:
    """By each of the ways that lead to one, which must not differ."""
    block = encode(pairs)
    decoder = stateless()
    ways = [Decoder(), *([decoder] * 4)]
    first, *others = [parse_request(each, block, is_end) for each in ways]
    assert all(slots(other) == slots(first) for other in others)
    return first


def response_of(pairs: list[Pair], method: bytes = b"GET", is_end: bool = False) -> ResponseHead:
    block = encode(pairs)
    decoder = stateless()
    ways = [Decoder(), *([decoder] * 3)]
    first, *others = [parse_response(each, block, method, is_end) for each in ways]
    assert all(slots(other) == slots(first) for other in others)
    return first


_KEPT = {"_wire", "block"}
"""What was made of a head on the way, to be sent again."""


def slots(head: RequestHead | ResponseHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in type(head).__slots__ if name not in _KEPT}


def test_a_request_is_taken_apart() -> None:
    head = request_of([*POST, ("accept", "*/*"), ("content-length", "5")], is_end=False)
    assert (head.method, head.target, head.authority) == (b"POST", b"/", b"api")
    assert head.lines == [b"accept: */*", b"content-length: 5"]
    assert head.length == 5
    assert request_of(GET).length == 0
    assert request_of(POST, is_end=False).length == CHUNKED
    assert request_of([*POST, ("content-length", "0")]).length == 0


def test_a_grpc_call_is_known_and_its_deadline_is_the_meshs() -> None:
    head = request_of([*CALL, ("grpc-timeout", "2S")], is_end=False)
    assert (head.is_grpc, head.timeout_ms, head.length) == (True, b"2000", CHUNKED)
    assert head.lines == [b"te: trailers", b"content-type: application/grpc"]


def test_a_host_field_stands_in_for_the_authority() -> None:
    head = request_of([*GET[:3], ("host", "api:80")])
    assert (head.authority, head.lines) == (b"api:80", [])
    assert request_of([*GET, ("host", "API")]).authority == b"api"


def test_cookie_crumbs_are_one_line() -> None:
    head = request_of(
        [*GET, ("cookie", "a=b"), ("authorization", "x"), ("cookie", "c=d"), ("a", "b")]
    )
    assert head.lines == [b"a: b", b"cookie: a=b; c=d", b"authorization: x"]
    assert head.fleeting == 2


def test_an_extended_connect_is_a_get_that_changes_the_protocol() -> None:
    head = request_of([*WEBSOCKET, ("sec-websocket-key", "x")], is_end=False)
    assert (head.method, head.target, head.upgrade) == (b"GET", b"/chat?a", b"websocket")
    assert (head.length, head.lines) == (0, [b"sec-websocket-version: 13"])
    assert head.fleeting == 0


def test_a_key_of_http_1_1_is_dropped_however_often_the_rest_came() -> None:
    decoder = stateless()
    fields = [*WEBSOCKET, ("content-type", "application/grpc")]
    for number in range(4):
        block = encode([*fields, ("sec-websocket-key", str(number)), ("cookie", "a=b")])
        head = parse_request(decoder, block, False)
        assert head.lines[2:] == [b"cookie: a=b"]
        assert (head.upgrade, head.fleeting, head.is_grpc) == (b"websocket", 1, False)


def test_a_second_length_is_refused_however_often_the_first_came() -> None:
    decoder = stateless()
    fields = [*POST, ("content-length", "5")]
    for number in range(4):
        parse_request(decoder, encode([*fields, ("x-request-id", str(number))]), False)
    for _ in range(2):
        with pytest.raises(ProtocolError):
            parse_request(decoder, encode([*fields, ("content-length", "6")]), False)


def test_a_connect_has_an_authority_alone() -> None:
    head = request_of([(":method", "CONNECT"), (":authority", "api:1")], is_end=False)
    assert (head.method, head.target, head.upgrade) == (b"CONNECT", b"api:1", b"")


def without(pairs: list[Pair], name: str) -> list[Pair]:
    return [pair for pair in pairs if pair[0] != name]


MALFORMED: dict[str, list[Pair]] = {
    "nothing": [],
    **{f"no {name}": without(GET, name) for name, _ in GET},
    **{f"{name} twice": [*GET[:4], pair] for pair in GET for name in (pair[0],)},
    **{f"an empty {name}": [*without(GET, name), (name, "")] for name, _ in GET},
    "an unknown pseudo-field": [*GET, (":other", "x")],
    "a colon alone": [*GET, (":", "x")],
    "a status": [*GET, (":status", "200")],
    "a pseudo-field behind another": [*GET[:3], ("a", "b"), GET[3]],
    "a pseudo-field in upper case": [*without(GET, ":path"), (":Path", "/")],
    "a protocol without CONNECT": [*GET, (":protocol", "websocket")],
    "a protocol without a path": without(WEBSOCKET, ":path"),
    "a protocol without a scheme": without(WEBSOCKET, ":scheme"),
    "a protocol without an authority": [*without(WEBSOCKET, ":authority"), ("host", "api")],
    "a protocol for a star": [*without(WEBSOCKET, ":path")[:3], (":path", "*"), GET[3]],
    "a protocol that is HTTP": [WEBSOCKET[0], (":protocol", "h2c"), *WEBSOCKET[2:]],
    "a list of protocols": [WEBSOCKET[0], (":protocol", "websocket, x"), *WEBSOCKET[2:]],
    "a tunnel with a length": [*WEBSOCKET, ("content-length", "0")],
    "CONNECT with a path": [(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")],
    "CONNECT with a scheme": [(":method", "CONNECT"), (":authority", "a:1"), (":scheme", "http")],
    "CONNECT with a host alone": [(":method", "CONNECT"), ("host", "a:1")],
    "an unknown method": [(":method", "FOO"), *GET[1:]],
    "a method in lower case": [(":method", "get"), *GET[1:]],
    "a method with a line": [(":method", "GET / HTTP/1.1\r\nx: y"), *GET[1:]],
    "another scheme": [GET[0], (":scheme", "ftp"), *GET[2:]],
    "a scheme in upper case": [GET[0], (":scheme", "HTTP"), *GET[2:]],
    **{
        f"the path {path!r}": [*GET[:2], (":path", path), GET[3]]
        for path in (
            "a",
            "*",
            "/#a",
            "/ ",
            "/ HTTP/1.1\r\na: b",
            "/\x00",
            "/\x7f",
            "/\xe9",
            "http://a/",
        )
    },
    **{
        f"the authority {authority!r}": [*GET[:3], (":authority", authority)]
        for authority in ("me@api", "a b", "a/b", "a\r\nb: c", "a,b@c", "a:123456", " a")
    },
    "another host": [*GET, ("host", "other")],
    "an empty authority beside a host": [*GET[:3], (":authority", ""), ("host", "api")],
    "an id with a null": [*GET, ("x-request-id", "a\x00b")],
    "an id with a line": [*GET, ("traceparent", "a\r\nb: c")],
    "two hosts": [*GET, ("host", "api"), ("host", "api")],
    "an empty host": [*GET[:3], ("host", "")],
    "a host that is none": [*GET[:3], ("host", "a b")],
    "a name in upper case": [*GET, ("Accept", "x")],
    "an empty name": [*GET, ("", "x")],
    **{
        f"the name {name!r}": [*GET, (name, "x")]
        for name in ("a b", "a:", "a: b", "a\r\nb", "a\x00", "a\xe9", " a", "transfer_encoding")
    },
    **{
        f"the value {value!r}": [*GET, ("a", value)]
        for value in (" x", "x ", "\tx", "x\t", "x\r\ny: z", "x\ny", "x\ry", "x\x00y", "\x7f")
    },
    "connection": [*GET, ("connection", "close")],
    "keep-alive": [*GET, ("keep-alive", "5")],
    "proxy-connection": [*GET, ("proxy-connection", "x")],
    "transfer-encoding": [*POST, ("transfer-encoding", "chunked")],
    "upgrade": [*GET, ("upgrade", "websocket")],
    "te with more than trailers": [*GET, ("te", "trailers, gzip")],
    "two lengths": [*GET, ("content-length", "0"), ("content-length", "0")],
    "a list of lengths": [*GET, ("content-length", "0, 0")],
    "a signed length": [*GET, ("content-length", "+0")],
    "an empty length": [*GET, ("content-length", "")],
    "a huge length": [*GET, ("content-length", "9" * 19)],
    "a length and no body": [*POST, ("content-length", "5")],
    "100 fields beside the authority": [*GET, *[("x", "1")] * 100],
    "more than 60 KiB": [*GET, *[("x", "1" * 8000)] * 8],
}


@pytest.mark.parametrize("pairs", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("is_stateless", [False, True])
def test_a_malformed_request_is_refused(pairs: list[Pair], is_stateless: bool) -> None:
    decoder = stateless() if is_stateless else Decoder()
    for _ in range(3):  # what is remembered of it may not make it valid
        with pytest.raises(ProtocolError):
            parse_request(decoder, encode(pairs), True)


def test_99_fields_beside_the_authority_are_not_too_many_and_60_kib_of_compressed_ones_are() -> (
    None
):
    assert len(request_of([*GET, *[("x", "1")] * 99]).lines) == 99
    value = b"e" * 8000
    coded = RustEncoder().encode([(b"x", value, True)] * 8, True)
    assert len(coded) < 60 * 1024 * 0.7
    for decoder in (stateless(), Decoder()):
        with pytest.raises(ProtocolError):
            parse_request(decoder, encode(GET) + coded, True)


FIELDS = st.sampled_from(
    (
        *(("accept", "*/*"), ("x", "1"), ("x", "2"), ("cookie", "a=b"), ("authorization", "s")),
        *(("content-length", "5"), ("content-length", "05"), ("content-length", "0")),
        *(("content-length", "x"), ("te", "trailers"), ("expect", "100-continue")),
        *(("content-type", "application/grpc+proto"), ("content-type", "text/plain")),
        *(("grpc-timeout", "3S"), ("grpc-timeout", "200m"), ("grpc-timeout", "x")),
        *(("x-mesh-timeout-ms", "15"), ("x-mesh-timeout-ms", "150000"), ("x-mesh-flag", "UF")),
        *(("x-request-id", "abc"), ("x-request-id", "a b"), ("traceparent", "00-ab-cd-00")),
        *(("tracestate", "a=b"), ("b3", "0"), ("x-forwarded-client-cert", "By=x")),
        *(("x_mesh_flag", "UF"), ("x-mesh-anything", "1"), ("content_length", "3")),
        *(("http2-settings", "AAA"), ("x-mesh-policy", "a/b"), ("sec-websocket-key", "x")),
        *(
            ("baggage", "a=b"),
            ("etag", "x"),
            ("empty", ""),
            ("user-agent", "é".encode().decode("latin-1")),
        ),
    )
)
METHODS = st.sampled_from(("GET", "POST", "HEAD", "OPTIONS", "DELETE", "FOO"))
TARGETS = st.sampled_from(("/", "/a?b", "*", "//", "/pkg.Svc/Method", "/ "))


def _both(
    method: str, target: str, fields: list[Pair], is_end: bool, decoder: Decoder
) -> Iterator[object]:
    """What each version makes of a request."""
    lines = [f"{method} {target} HTTP/1.1", "host: api:80", *(f"{n}: {v}" for n, v in fields)]
    has_length = any(name == "content-length" for name, _ in fields)
    if not is_end and not has_length:
        lines.append("transfer-encoding: chunked")
    pairs = [(":method", method), (":scheme", "http"), (":path", target), (":authority", "api:80")]
    yield from (
        _made(lambda: http1.parse_request("\r\n".join(lines).encode("latin-1"))),
        _made(lambda: parse_request(decoder, encode([*pairs, *fields]), is_end)),
    )


def _made(parse: object) -> object:
    try:
        made = parse()  # type: ignore[operator]
    except ProtocolError:
        return "refused"
    assert isinstance(made, RequestHead | ResponseHead)
    found = slots(made)
    cookies = [line[8:] for line in made.lines if line.startswith(b"cookie: ")]
    if len(cookies) > 1:  # crumbs, which HTTP/1.1 need not join
        kept = [line for line in made.lines if not line.startswith(b"cookie: ")]
        at = made.lines.index(b"cookie: " + cookies[0])
        kept.insert(at, b"cookie: " + b"; ".join(cookies))
        found["lines"] = kept
        found["fleeting"] = made.fleeting - len(cookies) + 1
    return found


@given(METHODS, TARGETS, st.lists(FIELDS, max_size=7), st.booleans(), st.booleans())
@example("POST", "/", [("te", "trailers"), ("grpc-timeout", "3S"), ("x", "1")], False, True)
@example("POST", "/", [("grpc-timeout", "3S"), ("content-length", "5")], False, True)
@example("GET", "/", [("traceparent", "00-ab-cd-00"), ("x-request-id", "abc")], True, True)
@example("POST", "/", [("x", "1"), ("cookie", "a=b"), ("te", "trailers")], False, True)
def test_both_versions_make_the_same_of_a_request(
    method: str, target: str, fields: list[Pair], is_end: bool, is_stateless: bool
) -> None:
    lengths = [value for name, value in fields if name == "content-length"]
    is_end = is_end and not any(value.strip("0") for value in lengths)  # else it is malformed
    forget()
    decoder = stateless() if is_stateless else Decoder()
    others = [(n, "77m" if n == "grpc-timeout" else v) for n, v in fields]
    for each in (fields, others, fields, others, fields, fields):
        of_http1, of_http2 = _both(method, target, each, is_end, decoder)
        assert of_http2 == of_http1


@given(METHODS, TARGETS, st.lists(FIELDS, max_size=7), st.booleans())
def test_a_request_survives_the_way_through_both_versions(
    method: str, target: str, fields: list[Pair], is_end: bool
) -> None:
    pairs = [(":method", method), (":scheme", "http"), (":path", target), (":authority", "api:80")]
    try:
        head = parse_request(Decoder(), encode([*pairs, *fields]), is_end)
    except ProtocolError:
        return
    wire = serialize_request(head, b"")
    assert wire.endswith(b"\r\n\r\n")
    between = http1.parse_request(wire[:-4])
    block = request_block(between, b"")
    again = parse_request(Decoder(), block, is_end)
    # Of two ids the last one comes first, each time.
    assert sorted(again.lines) == sorted(head.lines) == sorted(between.lines)
    for name in ("method", "target", "authority", "length", "is_grpc", "fleeting"):
        assert getattr(again, name) == getattr(head, name) == getattr(between, name), name


ANY = st.binary(max_size=12) | st.sampled_from(
    (
        b"a",
        b"A",
        b"a: b",
        b"a\r\nb: c",
        b"a\nb",
        b"GET",
        b"/",
        b"x y",
        b"chunked",
        b"\r\n\r\nGET / ",
    )
)
ANY_NAME = ANY | st.sampled_from(
    (b":method", b":path", b":authority", b"host", b"transfer-encoding", b"content-length", b"te")
)


class _Oracle:
    """llhttp, in the strict mode that Node.js runs it in."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = b""
        self.ends = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.ends += 1


@given(st.lists(st.tuples(ANY_NAME, ANY), max_size=4), st.booleans())
@example([(b":path", b"/ HTTP/1.1\r\nx: y")], False)
@example([(b"a", b"b\r\ntransfer-encoding: chunked")], False)
@example([(b"a: b\r\nx", b"y")], False)
def test_nothing_becomes_two_lines_on_the_way_to_http_1_1(
    fields: list[tuple[bytes, bytes]], is_before: bool
) -> None:
    usual = [(name.encode(), value.encode()) for name, value in GET]
    replaced = {name for name, _ in fields}
    pairs = [*fields, *usual] if is_before else [p for p in usual if p[0] not in replaced] + fields
    try:
        head = parse_request(Decoder(), encode(pairs), True)
    except ProtocolError:
        return
    oracle = _Oracle()
    parser = httptools.HttpRequestParser(oracle)
    parser.feed_data(serialize_request(head, b""))
    assert oracle.ends == 1
    assert (parser.get_method(), oracle.url) == (head.method, head.target)
    assert head.authority is not None
    expected = [(b"host", head.authority)]
    expected += [(name, value) for name, _, value in (line.partition(b": ") for line in head.lines)]
    assert oracle.headers[: len(expected)] == expected
    assert set(oracle.headers[len(expected) :]) <= {(b"connection", b"te")}


def test_what_differs_in_each_request_is_all_that_is_read_again() -> None:
    decoder = stateless()
    for number in range(5):
        changing = [("grpc-timeout", f"{number + 1}S"), ("x-request-id", f"id{number}")]
        head = parse_request(decoder, encode([*CALL, *changing, ("x", "1")]), False)
        assert head.timeout_ms == b"%d000" % (number + 1)
        assert head.lines == [
            *(b"te: trailers", b"content-type: application/grpc", b"x: 1"),
            b"x-request-id: id%d" % number,
        ]
    assert decoder.cuts == (len(encode(CALL)),)
    assert len(request._requests) == 1
    # The same beginning, and behind it what has to do with it.
    with pytest.raises(ProtocolError):
        parse_request(decoder, encode([*CALL, (":path", "/other")]), False)
    head = parse_request(decoder, encode([*CALL, ("content-length", "7")]), False)
    assert head.length == 7
    most = [("grpc-timeout", "1S"), *[("x", "1")] * 96]
    assert len(parse_request(decoder, encode([*CALL, *most]), False).lines) == 98
    with pytest.raises(ProtocolError):
        parse_request(decoder, encode([*CALL, *most, ("x", "1")]), False)


def test_what_has_the_same_deadline_each_time_is_known_as_a_whole() -> None:
    decoder = stateless()
    blocks = [
        encode([*CALL, *timeout, ("user-agent", "x")])
        for timeout in ([("grpc-timeout", "1S")], [("grpc-timeout", "2S")], [])
    ]
    for _ in range(3):
        made = [parse_request(decoder, block, False) for block in blocks]
        assert [head.timeout_ms for head in made] == [b"1000", b"2000", b""]
        assert [head.lines[-1] for head in made] == [b"user-agent: x"] * 3
    assert all(request._requests.get(block) is not None for block in blocks)
    # Behind what is known as a whole the last deadline counts, as it does in HTTP/1.1.
    twice = encode([*CALL, ("grpc-timeout", "1S"), ("user-agent", "x"), ("grpc-timeout", "9S")])
    decoder.cuts = (len(blocks[0]),)
    assert parse_request(decoder, twice, False).timeout_ms == b"9000"


def test_where_the_requests_of_one_peer_differ_is_not_remembered_without_limit() -> None:
    decoder = stateless()
    for number in range(20):
        pairs = [*GET, *[("x", "1")] * number, ("grpc-timeout", "1S")]
        parse_request(decoder, encode(pairs), True)
    assert len(decoder.cuts) == 4


def test_secrets_are_not_kept() -> None:
    secrets = [
        ("authorization", "top-secret"),
        ("cookie", "top-secret"),
        ("set-cookie", "top-secret"),
    ]
    decoder = stateless()
    for _ in range(4):
        parse_request(decoder, encode([*GET, *secrets]), True)
        parse_response(decoder, encode([(":status", "200"), *secrets]), b"GET", False)
        parse_trailers(decoder, encode(secrets))
        head = RequestHead(b"GET", b"/", b"api", False)
        head.lines = [f"{name}: {value}".encode() for name, value in secrets]
        request_block(head, b"")
    kept = (
        *(pseudo._known, request._requests._known),
        *(heads._responses._known, heads._trailers._known),
    )
    assert not any(b"top-secret" in key for each in kept for key in each)
    assert not any(b"top-secret" in line for line in encoding._lines)


# Responses


@pytest.mark.parametrize(
    ("pairs", "method", "length"),
    [
        ([(":status", "200"), ("content-length", "5")], b"GET", 5),
        ([(":status", "200"), ("content-length", "5")], b"HEAD", 0),
        ([(":status", "200")], b"GET", UNTIL_CLOSE),
        ([(":status", "204")], b"GET", 0),
        ([(":status", "304"), ("content-length", "5")], b"GET", 0),
        ([(":status", "103"), ("link", "x")], b"GET", 0),
    ],
)
def test_the_length_of_a_response_body(pairs: list[Pair], method: bytes, length: int) -> None:
    assert response_of(pairs, method).length == length


def test_a_response_without_a_body_has_no_length_where_none_is_said() -> None:
    head = response_of([(":status", "200"), ("grpc-status", "5")], b"POST", is_end=True)
    assert (head.length, head.lines) == (UNTIL_CLOSE, [b"grpc-status: 5"])
    head = response_of([(":status", "200"), ("content-length", "5")], b"HEAD", is_end=True)
    assert head.lines == [b"content-length: 5"]


def test_what_is_known_of_a_response_is_not_of_one_to_head() -> None:
    decoder = stateless()
    block = encode([(":status", "200"), ("content-length", "5")])
    for _ in range(3):
        assert parse_response(decoder, block, b"GET", False).length == 5
    assert parse_response(decoder, block, b"HEAD", True).length == 0


@pytest.mark.parametrize(
    ("pairs", "is_end"),
    [
        ([], False),
        ([("a", "b")], False),
        ([("a", "b"), (":status", "200")], False),
        ([(":status", "200"), (":status", "200")], False),
        ([(":status", "200"), (":path", "/")], False),
        ([(":path", "/"), (":status", "200")], False),
        ([(":status", "20")], False),
        ([(":status", "2000")], False),
        ([(":status", "099")], False),
        ([(":status", "200 OK\r\na: b")], False),
        ([(":status", "")], False),
        ([(":status", "101")], False),
        ([(":status", "100")], True),
        ([(":status", "200"), ("content-length", "5")], True),
        ([(":status", "200"), ("content-length", "5"), ("content-length", "5")], False),
        ([(":status", "304"), ("content-length", "x")], False),
        ([(":status", "200"), ("connection", "close")], False),
        ([(":status", "200"), ("transfer-encoding", "chunked")], False),
        ([(":status", "200"), ("upgrade", "h2c")], False),
        ([(":status", "200"), ("a", "b\r\nc: d")], False),
        ([(":status", "200"), *[("a", "b")] * 104], False),
    ],
)
def test_a_malformed_response_is_refused(pairs: list[Pair], is_end: bool) -> None:
    for decoder in itertools.repeat(stateless(), 3):
        with pytest.raises(ProtocolError):
            parse_response(decoder, encode(pairs), b"GET", is_end)
    with pytest.raises(ProtocolError):
        parse_response(Decoder(), encode(pairs), b"GET", is_end)


def test_a_flag_is_apart_and_goes_back_as_lines() -> None:
    head, _ = make_reply("api", Flag.DENIED, "", 403)
    head.policy = b"api/no"
    again = response_of(_pairs_of(response_block(head)))
    assert (again.status, again.flag, again.policy) == (403, head.flag, b"api/no")
    assert again.lines == head.lines


def test_a_response_with_a_flag_is_nobody_elses() -> None:
    """Who does not trust it takes it away."""
    decoder = stateless()
    block = encode([(":status", "503"), ("x-mesh-flag", "UF")])
    made = [parse_response(decoder, block, b"GET", False) for _ in range(4)]
    assert len({id(head) for head in made}) == 4


def _pairs_of(block: bytes) -> list[Pair]:
    return [
        (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
        for name, value in hpack.Decoder().decode(block, raw=True)
    ]


RESPONSE_FIELDS = st.sampled_from(
    (
        *(("content-type", "application/grpc"), ("content-type", "a/b"), ("set-cookie", "a=b")),
        *(("content-length", "5"), ("content-length", "0"), ("x-request-id", "a"), ("etag", "x")),
        *(("x-mesh-flag", "UF"), ("x-mesh-policy", "a/b"), ("x-mesh-policy", "a b")),
        *(("x-forwarded-client-cert", "x"), ("x", "é".encode().decode("latin-1")), ("date", "now")),
        *(("traceparent", "x"), ("grpc-timeout", "1S"), ("expect", "x"), ("grpc-status", "0")),
    )
)


@given(
    st.sampled_from((100, 200, 204, 206, 304, 404, 503)),
    st.lists(RESPONSE_FIELDS, max_size=6),
    st.sampled_from((b"GET", b"HEAD")),
    st.booleans(),
)
def test_both_versions_make_the_same_of_a_response(
    status: int, fields: list[Pair], method: bytes, is_stateless: bool
) -> None:
    forget()
    phrase = pseudo._phrase(status).decode()
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields)]
    decoder = stateless() if is_stateless else Decoder()
    block = encode([(":status", str(status)), *fields])
    of_http1 = _made(lambda: http1.parse_response("\r\n".join(lines).encode("latin-1"), method))
    for _ in range(3):
        made = _made(lambda: parse_response(decoder, block, method, False))
        if isinstance(made, dict) and isinstance(of_http1, dict):
            for each in (made, of_http1):  # whose memo puts it last
                each["lines"] = sorted(each["lines"])
        assert made == of_http1
    if isinstance(of_http1, dict):
        head = parse_response(Decoder(), block, method, False)
        again = parse_response(Decoder(), response_block(head), method, False)
        assert (again.status, again.flag, again.length) == (head.status, head.flag, head.length)
        assert again.lines == head.lines


# What is written


def test_a_request_is_written_without_state_and_secrets_never_indexed() -> None:
    head = request_of([*CALL, ("authorization", "s"), ("x-request-id", "abc")], is_end=False)
    for _ in range(2):
        block = request_block(head, b"other")
        pairs = hpack.Decoder().decode(block, raw=True)
        assert [tuple(pair) for pair in pairs] == [
            *((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/")),
            *((b":authority", b"api"), (b"te", b"trailers")),
            *((b"content-type", b"application/grpc"), (b"x-request-id", b"abc")),
            (b"authorization", b"s"),
        ]
        assert isinstance(pairs[-1], hpack.NeverIndexedHeaderTuple)
        assert all(field[0] >= 0x80 or field[0] < 0x20 for field in Decoder().split(block))
    head.authority = None
    assert _pairs_of(request_block(head, b"other", b"https"))[1:4] == [
        *((":scheme", "https"), (":path", "/"), (":authority", "other")),
    ]


def test_a_change_of_protocol_is_written_as_an_extended_connect_and_back() -> None:
    head = request_of(WEBSOCKET, is_end=False)
    head.lines.insert(0, b"sec-websocket-key: x")
    assert sorted(_pairs_of(request_block(head, b"", b"https"))) == sorted(WEBSOCKET)
    begun = ResponseHead(101, b"101 Switching Protocols", True)
    begun.lines = [b"sec-websocket-accept: x", b"sec-websocket-protocol: chat"]
    assert _pairs_of(response_block(begun)) == [
        *((":status", "200"), ("sec-websocket-protocol", "chat")),
    ]


@pytest.mark.parametrize("status", [100, 200, 204, 206, 299, 304, 400, 404, 500, 503, 999])
def test_every_status_is_written(status: int) -> None:
    head = ResponseHead(status, b"%d x" % status, True)
    head.lines = [b"a: b"]
    assert _pairs_of(response_block(head)) == [(":status", str(status)), ("a", "b")]


def test_trailers_are_those_that_may_be_ones() -> None:
    pairs = [
        *(
            ("grpc-status", "0"),
            ("content-length", "5"),
            ("set-cookie", "a"),
            ("x-mesh-flag", "UF"),
        ),
        *(("host", "x"), ("grpc-message", "a%20b"), ("te", "trailers"), ("baggage", "a")),
    ]
    lines = [b"grpc-status: 0", b"grpc-message: a%20b", b"baggage: a"]
    for decoder in (Decoder(), stateless()):
        for _ in range(3):
            assert parse_trailers(decoder, encode(pairs)) == lines
    usual = encode([("grpc-status", "0")])
    for _ in range(4):  # whoever gets them may add to them
        parse_trailers(decoder, usual).append(b"a: b")
    assert parse_trailers(decoder, usual) == [b"grpc-status: 0"]
    assert parse_trailers(stateless(), trailers_block(lines)) == lines
    assert trailers_block([]) == b""


@pytest.mark.parametrize("pair", [(":status", "200"), (":path", "/"), ("A", "b"), ("a", "b\r\nc")])
def test_malformed_trailers_are_refused(pair: Pair) -> None:
    for decoder in (Decoder(), stateless()):
        with pytest.raises(ProtocolError):
            parse_trailers(decoder, encode([("a", "b"), pair]))


def _read(kind: int, decoder: Decoder, block: bytes, is_end: bool) -> object:
    if kind == 0:
        return parse_request(decoder, block, is_end)
    if kind == 1:
        return parse_response(decoder, block, b"GET", is_end)
    return parse_trailers(decoder, block)


def test_whatever_comes_is_a_head_or_refused(capfd: pytest.CaptureFixture[str]) -> None:
    """20,000 blocks: noise, fields where they do not belong, wrong bytes in what was right."""
    rng = random.Random(9)
    outcomes: set[str] = set()
    fields = [
        *GET,
        *WEBSOCKET,
        *CALL,
        (":status", "200"),
        (":status", "100"),
        ("a", " b"),
        ("A", ""),
    ]
    fields += [("content-length", "5"), ("grpc-timeout", "1S"), ("cookie", "a"), ("host", "api")]
    for number in range(20_000):
        if number % 50 == 0:
            decoder = rng.choice((stateless, Decoder))()
        pairs = [*rng.choice((GET, CALL, WEBSOCKET, [(":status", "200")], []))]
        for _ in range(rng.randrange(5)):
            pairs.insert(
                rng.choice((len(pairs), rng.randrange(len(pairs) + 1))), rng.choice(fields)
            )
        block = bytearray(encode(pairs) if number % 4 else rng.randbytes(rng.randrange(60)))
        if block and number % 2:
            for _ in range(rng.randrange(3)):
                block[rng.randrange(len(block))] = rng.randrange(256)
        is_end = rng.random() < 0.5
        try:
            made = _read(number % 3, decoder, bytes(block), is_end)
        except (ProtocolError, HpackError) as error:
            made = error
        outcomes.add(type(made).__name__)
    assert outcomes == {"RequestHead", "ResponseHead", "list", "ProtocolError", "HpackError"}
    assert capfd.readouterr() == ("", "")
