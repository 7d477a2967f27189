"""The memo by itself, and that parsing with it can never differ from parsing without."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http import blocks, head
from proxy.http.blocks import Blocks
from proxy.http.fields import ProtocolError
from proxy.http.head import RequestHead, ResponseHead, parse_request, parse_response

_MEMOS = ("_requests", "_responses", "_measured")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _MEMOS:
        monkeypatch.setattr(head, name, Blocks())


def test_a_block_is_due_when_it_comes_again() -> None:
    memo = Blocks[int]()
    assert not memo.is_due(b"a")
    assert memo.is_due(b"a")
    memo.keep(b"a", 1)
    assert memo.get(b"a") == 1
    assert memo.get(b"b") is None


def test_a_long_block_is_never_due() -> None:
    memo = Blocks[int]()
    block = b"x" * (blocks.BLOCK_BYTES + 1)
    assert [memo.is_due(block) for _ in range(3)] == [False] * 3


def test_neither_what_is_kept_nor_what_was_seen_grows_without_limit() -> None:
    memo = Blocks[int]()
    for number in range(2 * blocks.SEEN + 1):
        memo.is_due(b"%d" % number)
        memo.keep(b"%d" % number, number)
        assert len(memo) <= blocks.KEPT
    assert len(memo._seen) <= blocks.SEEN


def _parsed(parse: object, *arguments: bytes) -> object:
    try:
        made = parse(*arguments)  # type: ignore[operator]
    except ProtocolError as error:
        return error.reason
    assert isinstance(made, RequestHead | ResponseHead)
    return {name: getattr(made, name) for name in type(made).__slots__ if name != "_wire"}


_LINES = st.sampled_from(
    (
        *(
            b"Host: a",
            b"host: b:80",
            b"Accept: */*",
            b"X: 1",
            b"x: 1",
            b"Cookie: a=b",
            b"Bad Name: 1",
        ),
        *(b"Content-Length: 5", b"content-length: 5", b"Content-Length: 05", b"Content-Length: 0"),
        *(b"CONTENT-LENGTH: 7", b"Content-Length:  6 ", b"Content-Length: x", b"Content-Length: "),
        *(b"Transfer-Encoding: chunked", b"Connection: close", b"Connection: x", b"Upgrade: h2c"),
        *(b"x-request-id: abc", b"X-Request-Id: abc", b"x-request-id: a b", b"x-request-id: "),
        *(b"traceparent: 00-ab-cd-00", b"Traceparent: 00-ab-cd-00", b"traceparent: x y"),
        *(
            b"x-mesh-timeout-ms: 15",
            b"x-mesh-flag: UF",
            b"x-mesh-policy: api/no",
            b"Expect: 100-continue",
            b"TE: trailers",
            b"",
        ),
    )
)
_STARTS = st.sampled_from(
    (b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"GET / HTTP/1.0", b"GET http://t/ HTTP/1.1", b"G")
)
_STATUSES = st.sampled_from(
    (b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 x", b"HTTP/1.1 304 x", b"HTTP/1.1 100")
)


@given(st.lists(_LINES, max_size=7), _STARTS)
def test_a_request_is_the_same_however_often_it_came(lines: list[bytes], start: bytes) -> None:
    block = b"\r\n".join((start, *lines))
    first = _parsed(parse_request, block)
    for name in _MEMOS:
        setattr(head, name, Blocks())
    other = b"\r\n".join((b"PUT /other HTTP/1.1", *lines))
    for _ in range(3):  # the same fields in another request are what is remembered
        _parsed(parse_request, other)
    assert _parsed(parse_request, block) == first


@given(st.lists(_LINES, max_size=6), _STATUSES, st.sampled_from((b"GET", b"HEAD")))
def test_a_response_is_the_same_but_for_the_place_of_its_length(
    lines: list[bytes], start: bytes, method: bytes
) -> None:
    def tidy(made: object) -> object:
        if isinstance(made, dict):
            made["lines"].sort(key=lambda line: line.startswith(b"content-length:"))
        return made

    block = b"\r\n".join((start, *lines))
    for name in _MEMOS:
        setattr(head, name, Blocks())
    first = tidy(_parsed(parse_response, block, method))
    for length in (b"8", b"9", b"10"):  # other lengths with the same fields
        replaced = (
            line[:16] + length if line[:15].lower() == b"content-length:" else line
            for line in lines
        )
        _parsed(parse_response, b"\r\n".join((start, *replaced)), b"GET")
    for _ in range(3):
        assert tidy(_parsed(parse_response, block, method)) == first


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        (b"CONTENT-LENGTH: 7", "length"),
        (b"content-length: 7", "length"),
        (b"Transfer-Encoding: chunked", "framing"),
    ],
)
def test_a_second_framing_is_refused_however_often_it_came(line: bytes, refused: str) -> None:
    for number in range(1, 9):
        block = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b" % (number, line)
        assert _parsed(parse_response, block, b"GET") == refused


@pytest.mark.parametrize("length", [b"05", b"0", b"00", b"+5", b"5 ", b"5x", b"", b"9" * 19])
def test_an_odd_length_is_read_as_if_nothing_were_known(length: bytes) -> None:
    block = b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\nA: b" % length
    first = _parsed(parse_response, block, b"GET")
    for number in range(1, 9):
        parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nA: b" % number, b"GET")
    assert len(head._measured) == 1
    assert _parsed(parse_response, block, b"GET") == first


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_length_without_a_body_stays_without_one(status: bytes) -> None:
    for number in range(1, 9):
        made = parse_response(b"HTTP/1.1 %b\r\nContent-Length: %d" % (status, number), b"GET")
        assert made.length == 0


def test_what_differs_in_each_request_does_not_keep_the_rest_from_being_known() -> None:
    rest = b"GET / HTTP/1.1\r\nhost: api\r\naccept: */*\r\n"
    for number in range(4):
        ids = b"x-request-id: %d\r\ntraceparent: 00-%d-ab-00" % (number, number)
        made = parse_request(rest + ids)
        assert made.lines == [
            b"accept: */*",
            b"x-request-id: %d" % number,
            b"traceparent: 00-%d-ab-00" % number,
        ]
        assert made.has_request_id
        assert made.has_trace
    assert len(head._requests) == 1


IDS = b"x-request-id: 1\r\ntraceparent: 00-a-b-00"


def test_what_differs_goes_last_wherever_it_was() -> None:
    made = parse_request(
        b"GET / HTTP/1.1\r\nCookie: a=b\r\nTraceparent: 00-a-b-00\r\nCookie: c=d\r\n"
        b"X-Request-Id: 1\r\nHost: api\r\nAccept: */*"
    )
    last = [*IDS.split(b"\r\n"), b"cookie: a=b", b"cookie: c=d"]
    assert made.lines == [b"accept: */*", *last]
    assert made.fleeting == len(last)


def test_secrets_behind_the_ids_do_not_keep_the_rest_from_being_known() -> None:
    for number in range(4):
        made = parse_request(
            b"GET / HTTP/1.1\r\nHost: api\r\nAccept: */*\r\n%b\r\nCookie: %d" % (IDS, number)
        )
        assert made.lines == [b"accept: */*", *IDS.split(b"\r\n"), b"cookie: %d" % number]
        assert made.fleeting == 3
    assert len(head._requests) == 1
    assert b"Cookie" not in next(iter(head._requests._known))


@pytest.mark.parametrize(
    "line", [b"Content-Length: 5", b"Host: b", b"X-Request-Id: 2", b"Bad One: 1"]
)
def test_behind_the_ids_nothing_escapes_the_parser(line: bytes) -> None:
    block = b"GET / HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n%b\r\n%b" % (IDS, line)
    whole = b"GET / HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n%b\r\n%b" % (line, IDS)
    for _ in range(3):
        first, second = _parsed(parse_request, block), _parsed(parse_request, whole)
        assert first == second or line.startswith(b"X-")
        assert isinstance(first, str) or line.startswith(b"X-")


@pytest.mark.parametrize("end", [b" x", b"\tx", b",x"])
def test_of_an_id_in_another_form_nothing_is_lost(end: bytes) -> None:
    block = b"GET / HTTP/1.1\r\nHost: api\r\n%b%b\r\nCookie: a=b" % (IDS, end)
    for _ in range(3):
        assert parse_request(block).lines == [*(IDS + end).split(b"\r\n"), b"cookie: a=b"]


@pytest.mark.parametrize("behind", [0, 1, 29, 30, 40])
def test_fields_are_counted_together(behind: int) -> None:
    def block(count: int) -> bytes:
        before = [b"X-%d: 1" % number for number in range(count - behind - 3)]
        after = [b"Y: 1"] * behind
        return b"\r\n".join((b"GET / HTTP/1.1\r\nHost: a", *before, IDS, *after))

    for _ in range(3):
        assert len(parse_request(block(100)).lines) == 99
        assert _parsed(parse_request, block(101)) == "too_large"


@pytest.mark.parametrize(
    "line", [b"Authorization: x", b"Cookie: a=b", b"Proxy-Authorization: x", b"x-request-id: 1"]
)
def test_a_request_with_a_secret_is_not_remembered(line: bytes) -> None:
    for _ in range(3):
        parse_request(b"GET / HTTP/1.1\r\nHost: api\r\n" + line)
    assert len(head._requests) == 0


def test_a_response_that_sets_a_cookie_is_not_remembered() -> None:
    for _ in range(3):
        parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nSet-Cookie: a=b", b"GET")
    assert len(head._responses) == len(head._measured) == 0


def test_of_a_response_only_the_length_need_be_new() -> None:
    for length in range(1, 9):
        made = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nA: b" % length, b"GET")
        assert made.length == length
        assert sorted(made.lines) == [b"a: b", b"content-length: %d" % length]
    assert len(head._measured) == 1


def test_a_change_to_one_request_is_not_seen_in_the_next() -> None:
    block = b"GET / HTTP/1.1\r\nHost: api\r\nAccept: */*"
    for _ in range(4):
        made = parse_request(block)
        assert made.lines == [b"accept: */*"]
        made.lines.append(b"x: 1")
        made.authority = b"changed"


def test_what_is_known_leaves_room_for_what_is_not() -> None:
    known = b"\r\n".join((b"GET / HTTP/1.1\r\nHost: a", *[b"X: 1"] * 90, IDS))
    for _ in range(3):
        parse_request(known)
    with pytest.raises(ProtocolError):
        parse_request(known + b"\r\nY: 1" * 8)
