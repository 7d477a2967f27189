"""The half that faces an application: calls in, frames out, and the other way round."""

import asyncio
from typing import Any

import hpack
import pytest
from engines import frames_of

from proxy.core.retry import Failure
from proxy.http.exchange import Exchange
from proxy.http.h2.client import PING_AFTER_S, Http2Client
from proxy.http.h2.frames import (
    ACK,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    goaway_frame,
    reset_frame,
    settings_frame,
    u32_of,
    window_update_frame,
)
from proxy.http.head import CHUNKED, RequestHead

OK = (":status", "200")


def headers(number: int, *fields: tuple[str, str], is_end: bool = True) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    flags = END_HEADERS | END_STREAM if is_end else END_HEADERS
    return frame(HEADERS, flags, number, encoder.encode(fields))


def data(number: int, payload: bytes, is_end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if is_end else 0, number, payload)


class Pool:
    def __init__(self) -> None:
        self.said: list[str] = []

    def connected_shared(self, connection: Any) -> None:
        self.said.append("connected")

    def failed_shared(self, connection: Any, detail: str) -> None:
        self.said.append(detail)

    def stream_ended(self, connection: Any) -> None:
        self.said.append("ended")

    def lost_shared(self, connection: Any) -> None:
        self.said.append("lost")


class Asking(Exchange):
    """Notes how its tries failed."""

    __slots__ = ("failures",)

    def upstream_failed(self, failure: Failure, detail: str, **more: bool) -> None:
        self.failures.append((failure, more.get("has_begun", False)))
        super().upstream_failed(failure, detail, **more)


class Ends:
    """An application, and what its frames lead to."""

    def __init__(self, like: Any) -> None:
        self.transport = type(like.transport)()
        self.pool = Pool()
        self.ledger, self.handler, self.errors = like.ledger, like.handler, like.errors
        self._down = like._down_type
        self.channel = Http2Client(self.pool)
        self.handler.dispatched = self.channel.open
        self.channel.connection_made(self.transport)

    def greet(self, *settings: tuple[int, int]) -> None:
        self.receive(settings_frame(dict(settings)), frame(SETTINGS, ACK, 0))
        self.sent()

    def receive(self, *frames: bytes) -> None:
        self.channel.data_received(b"".join(frames))

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        self.channel._flush()
        out = bytes(self.transport.out).removeprefix(PREFACE)
        self.transport.out.clear()
        return frames_of(out)

    def kinds(self) -> list[tuple[int, int]]:
        return [(kind, number) for kind, _, number, _ in self.sent()]

    def ask(
        self,
        body: bytes = b"",
        *,
        method: bytes = b"POST",
        is_end: bool = True,
        trailers: tuple[bytes, ...] = (),
        lines: tuple[bytes, ...] = (),
    ) -> tuple[Any, Any]:
        head = RequestHead(method, b"/", b"api", False)
        head.lines = list(lines)
        head.length = CHUNKED if body or not is_end else 0
        down = self._down()
        exchange = Asking(down, head, self.handler, self.ledger)
        exchange.failures = []
        exchange.begin(body, is_end, list(trailers))
        return down, exchange

    def sweep(self, after_s: float) -> None:
        self.ledger.now += after_s
        self.channel.sweep(self.ledger.now)


@pytest.fixture
async def raw(client: Any) -> Ends:
    """Connected, and not a word from the application yet."""
    client._down_type = type(client.ask()[0])
    client.sent()
    client.handler.exchanges.clear()
    return Ends(client)


@pytest.fixture
async def ends(raw: Ends) -> Ends:
    raw.greet()
    return raw


def test_it_is_connected_when_the_application_has_said_what_it_takes(raw: Ends) -> None:
    assert raw.pool.said == []
    raw.greet((MAX_CONCURRENT_STREAMS, 1))
    assert raw.pool.said == ["connected"]
    assert raw.channel.has_room
    raw.ask()
    assert not raw.channel.has_room


def test_the_pool_hears_that_the_application_takes_more_than_before(raw: Ends) -> None:
    raw.greet((MAX_CONCURRENT_STREAMS, 1))
    raw.ask()
    raw.greet((MAX_CONCURRENT_STREAMS, 1))
    assert raw.pool.said == ["connected"]
    raw.greet((MAX_CONCURRENT_STREAMS, 2))
    assert raw.pool.said == ["connected", "ended"]


def test_an_application_that_takes_no_requests_is_a_failure_to_connect(raw: Ends) -> None:
    raw.greet((MAX_CONCURRENT_STREAMS, 0))
    assert raw.pool.said == ["it takes no requests (MAX_CONCURRENT_STREAMS 0)"]
    assert raw.transport.end == "closed"


def test_what_is_not_http2_is_a_failure_to_connect(raw: Ends) -> None:
    raw.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    raw.channel.connection_lost(None)
    said = raw.pool.said[0]
    assert said.startswith("not HTTP/2")


def test_an_end_before_a_word_is_a_failure_to_connect(raw: Ends) -> None:
    raw.channel.connection_lost(None)
    assert raw.pool.said == ["closed before a word of HTTP/2"]


def test_one_that_is_abandoned_tells_nobody(raw: Ends) -> None:
    raw.channel.abandon()
    assert raw.transport.end == "aborted"
    raw.channel.connection_lost(None)
    assert raw.pool.said in ([], ["lost"])


def test_one_that_is_abandoned_before_it_is_connected_is_aborted_then(raw: Ends) -> None:
    late = Http2Client(raw.pool)
    late.abandon()
    transport = type(raw.transport)()
    late.connection_made(transport)
    assert (transport.end, bytes(transport.out)) == ("aborted", b"")


def test_a_request_is_head_body_and_trailers(ends: Ends) -> None:
    ends.ask(b"body", trailers=(b"x-sum: 1",), lines=(b"te: trailers",))
    first, second, third = ends.sent()
    fields = hpack.Decoder().decode(first[3])
    assert fields[:4] == [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "api"),
    ]
    assert second == (DATA, 0, 1, b"body")
    assert (third[0], third[1]) == (HEADERS, END_HEADERS | END_STREAM)


def test_a_request_without_a_body_ends_with_its_head(ends: Ends) -> None:
    ends.ask(method=b"GET")
    ((kind, flags, _, _),) = ends.sent()
    assert (kind, flags) == (HEADERS, END_HEADERS | END_STREAM)


def test_numbers_go_up_by_two(ends: Ends) -> None:
    for _ in range(3):
        ends.ask()
    assert ends.kinds() == [(HEADERS, 1), (HEADERS, 3), (HEADERS, 5)]


def test_head_and_body_of_one_read_are_one_piece(ends: Ends) -> None:
    down, exchange = ends.ask()
    ends.receive(headers(1, OK, is_end=False), data(1, b"ab"), data(1, b"cd", True))
    assert (down.head.status, down.body, down.is_complete) == (200, b"abcd", True)
    assert exchange.is_finished
    assert not ends.channel.streams
    assert ends.pool.said == ["connected", "ended"]


def test_trailers_are_passed_on(ends: Ends) -> None:
    down, _ = ends.ask()
    ends.receive(headers(1, OK, is_end=False), data(1, b"ab"), headers(1, ("x-sum", "1")))
    assert (down.body, down.trailers, down.is_complete) == (b"ab", [b"x-sum: 1"], True)


def test_a_body_that_streams_is_passed_on_as_it_comes(ends: Ends) -> None:
    down, _ = ends.ask()
    ends.receive(headers(1, OK, is_end=False))
    assert down.head.status == 200
    ends.receive(data(1, b"ab"))
    assert (down.body, down.is_complete) == (b"ab", False)
    ends.receive(data(1, b"", True))
    assert down.is_complete


def test_interim_answers_are_passed_on_up_to_a_limit(ends: Ends) -> None:
    down, exchange = ends.ask()
    ends.receive(headers(1, (":status", "103"), ("link", "</x>"), is_end=False))
    assert down.informed == [103]
    for _ in range(16):
        ends.receive(headers(1, (":status", "103"), is_end=False))
    assert exchange.failures == [(Failure.PROTOCOL, True)]
    assert ends.kinds()[-1] == (RST_STREAM, 1)


@pytest.mark.parametrize(
    "frames",
    [
        data(1, b"x"),
        headers(1, OK, ("content-length", "2"), is_end=False) + data(1, b"abc"),
        headers(1, OK, ("content-length", "2"), is_end=False) + data(1, b"a", True),
        headers(1, OK, ("content-length", "2")),
        headers(1, OK, ("content-length", "2"), is_end=False) + headers(1, ("x-sum", "1")),
        headers(1, (":status", "204"), is_end=False) + data(1, b"a"),
        headers(1, (":status", "101"), is_end=False),
        headers(1, (":status", "103")),
        headers(1, ("x", "1")),
        headers(1, OK, ("connection", "close")),
        headers(1, OK, ("Upper", "1")),
        headers(1, OK, is_end=False) + headers(1, OK, is_end=False),
        headers(1, OK, is_end=False) + headers(1, ("x-sum", "1"), is_end=False),
    ],
)
def test_an_answer_that_is_not_valid_is_one_and_the_connection_goes_on(
    ends: Ends, frames: bytes
) -> None:
    down, exchange = ends.ask()
    other, _ = ends.ask()
    ends.sent()
    ends.receive(frames)
    assert [failure for failure, _ in exchange.failures] == [Failure.PROTOCOL]
    assert down.head.status == 502 or down.is_abandoned
    # Where both sides had ended, there is nothing left to reset.
    for kind, _, number, payload in ends.sent():
        assert (kind, number, u32_of(payload)) == (RST_STREAM, 1, PROTOCOL_ERROR)
    assert set(ends.channel.streams) == {3}
    assert len(ends.errors) == 1
    ends.receive(headers(3, OK))
    assert other.head.status == 200


def test_a_head_answer_has_a_length_and_no_body(ends: Ends) -> None:
    down, _ = ends.ask(method=b"HEAD")
    ends.receive(headers(1, OK, ("content-length", "5")))
    assert (down.head.status, down.is_complete) == (200, True)
    assert b"content-length: 5" in down.head.lines


@pytest.mark.parametrize(
    ("ending", "failure"),
    [
        (reset_frame(1, REFUSED_STREAM), Failure.UNPROCESSED),
        (goaway_frame(0, NO_ERROR), Failure.UNPROCESSED),
        (reset_frame(1, INTERNAL_ERROR), Failure.RESET),
    ],
)
def test_what_was_not_begun_with_is_known_to_be(
    ends: Ends, ending: bytes, failure: Failure
) -> None:
    _, exchange = ends.ask()
    ends.receive(ending)
    assert exchange.failures == [(failure, False)]


async def test_a_goaway_lets_what_was_begun_finish_and_then_closes(ends: Ends) -> None:
    down, _ = ends.ask()
    _, late = ends.ask()
    ends.receive(goaway_frame(1, NO_ERROR))
    assert late.failures == [(Failure.UNPROCESSED, False)]
    assert not ends.channel.has_room
    assert not ends.transport.end
    ends.receive(headers(1, OK))
    assert down.head.status == 200
    await asyncio.sleep(0)
    assert ends.transport.end == "closed"


def test_the_end_of_the_connection_is_the_end_of_all_that_is_on_it(ends: Ends) -> None:
    _, first = ends.ask()
    _, second = ends.ask()
    ends.receive(headers(3, OK, is_end=False))
    ends.channel.connection_lost(None)
    assert first.failures == [(Failure.RESET, False)]
    assert second.failures == [(Failure.RESET, True)]
    assert ends.pool.said[-1] == "lost"


def test_a_breach_of_the_protocol_ends_all(ends: Ends) -> None:
    _, first = ends.ask()
    ends.sent()
    ends.receive(frame(SETTINGS, 0, 3))
    assert first.failures == [(Failure.PROTOCOL, False)]
    assert ends.kinds() == [(GOAWAY, 0)]
    assert ends.transport.end == "closed"


@pytest.mark.parametrize("is_trailer", [False, True])
def test_a_block_that_cannot_be_read_ends_its_own_request_too(ends: Ends, is_trailer: bool) -> None:
    """It ends the stream, which so is not among those of the connection any more."""
    _, exchange = ends.ask()
    _, other = ends.ask()
    if is_trailer:
        ends.receive(headers(1, OK, is_end=False))
    ends.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x20\x80"))
    assert [each.failures[0][0] for each in (exchange, other)] == [Failure.PROTOCOL] * 2
    assert [len(each.failures) for each in (exchange, other)] == [1, 1]


def test_who_gives_up_resets(ends: Ends) -> None:
    _, exchange = ends.ask()
    ends.sent()
    exchange.downstream_gone()
    ((kind, _, _, payload),) = ends.sent()
    assert (kind, u32_of(payload)) == (RST_STREAM, CANCEL)
    ends.receive(headers(1, OK))
    assert ends.channel.has_room


def test_an_answer_before_the_end_of_the_request_gives_up_the_rest(ends: Ends) -> None:
    down, _ = ends.ask(b"x", is_end=False)
    ends.sent()
    ends.receive(headers(1, (":status", "403")))
    assert (down.head.status, down.is_complete) == (403, True)
    assert ends.kinds() == [(RST_STREAM, 1)]


def test_a_full_window_pauses_the_request_and_credit_resumes_it(ends: Ends) -> None:
    down, exchange = ends.ask(bytes(60_000), is_end=False)
    assert not down.is_paused
    exchange.request_data(bytes(10_000), False, [])
    assert down.is_paused
    ends.receive(window_update_frame(0, 100_000), window_update_frame(1, 100_000))
    assert not down.is_paused


def test_an_answer_that_is_not_taken_gets_no_credit(ends: Ends) -> None:
    _, exchange = ends.ask()
    ends.receive(headers(1, OK, is_end=False))
    exchange.downstream_is_full(True)
    for _ in range(12):
        ends.receive(data(1, bytes(16_384)))
    assert (WINDOW_UPDATE, 1) not in ends.kinds()
    exchange.downstream_is_full(False)
    assert (WINDOW_UPDATE, 1) in ends.kinds()


def test_a_silent_application_is_asked_but_rarely(ends: Ends) -> None:
    _, exchange = ends.ask()
    ends.sweep(1)
    ends.sent()
    ends.sweep(PING_AFTER_S - 5)
    assert ends.kinds() == []
    ends.sweep(6)
    assert ends.kinds() == [(PING, 0)]
    ends.sweep(1)
    ends.sweep(11)
    assert exchange.failures == [(Failure.PROTOCOL, False)]


def test_an_idle_one_goes_with_a_word(ends: Ends) -> None:
    ends.channel.go()
    assert ends.transport.end == "closed"
    assert ends.kinds() == [(GOAWAY, 0)]
