"""The half that faces a client: frames in, frames and the exchange's calls out."""

from typing import Any

import hpack
import pytest
from engines import frames_of

from proxy.http.h2.frames import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    reset_frame,
    settings_frame,
    u32_of,
    window_update_frame,
)
from proxy.http.h2.server import Http2Server
from proxy.http.h2.stream import WINDOW_BYTES
from proxy.http.h2.wired import MOST_WITHHELD
from proxy.http.head import CHUNKED, UNTIL_CLOSE, ResponseHead
from proxy.http.pace import LINGER_S
from proxy.model.flags import Flag

POST = ((":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "api"))
GRPC = (*POST, ("content-type", "application/grpc"), ("te", "trailers"))


def block(*fields: tuple[str, str]) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(fields))


def headers(number: int, *fields: tuple[str, str], is_end: bool = True) -> bytes:
    flags = END_HEADERS | END_STREAM if is_end else END_HEADERS
    return frame(HEADERS, flags, number, block(*(fields or POST)))


def data(number: int, payload: bytes, is_end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if is_end else 0, number, payload)


def ok(length: int = UNTIL_CLOSE) -> ResponseHead:
    head = ResponseHead(200, b"200 OK", True)
    head.length = length
    return head


class Ends:
    """A client that is greeted, and what its frames lead to."""

    def __init__(self, like: Any) -> None:
        class Transport(type(like.transport)):  # type: ignore[misc]  # the conftest's
            has_ended = False

            def write_eof(self) -> None:
                self.has_ended = True

        self.ledger, self.handler, self.refusals = like.ledger, like.handler, like.refusals
        self.transport = Transport()
        self.channel = Http2Server(self.ledger, self.handler)
        self.channel.connection_made(self.transport)
        self.receive(PREFACE, settings_frame({}), frame(SETTINGS, 1, 0))
        self.sent()

    def receive(self, *frames: bytes) -> None:
        self.channel.data_received(b"".join(frames))

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        """Since the last time."""
        self.channel._flush()
        found = frames_of(bytes(self.transport.out))
        self.transport.out.clear()
        return found

    def kinds(self) -> list[tuple[int, int]]:
        return [(kind, number) for kind, _, number, _ in self.sent()]

    @property
    def ups(self) -> Any:
        return self.handler.ups

    @property
    def now(self) -> float:
        now: float = self.ledger.now
        return now

    def sweep(self, after_s: float) -> None:
        self.ledger.now += after_s
        self.channel.sweep(self.ledger.now)


@pytest.fixture
async def ends(server: Any) -> Ends:
    return Ends(server)


def test_head_and_body_of_one_read_are_one_piece(ends: Ends) -> None:
    ends.receive(headers(1, is_end=False), data(1, b"ab"), data(1, b"cd", True))
    (up,) = ends.ups
    assert (up.body, up.is_complete) == (b"abcd", True)
    assert up.exchange.head.length == CHUNKED
    assert not ends.channel._arrived
    assert ends.channel.decoder.is_stateless


def test_a_body_of_a_later_read_streams(ends: Ends) -> None:
    ends.receive(headers(1, is_end=False))
    (up,) = ends.ups
    assert not up.is_complete
    ends.receive(data(1, b"ab"))
    ends.receive(headers(1, ("x-sum", "1")))
    assert (up.body, up.is_complete, up.trailers) == (b"ab", True, [b"x-sum: 1"])


def test_a_short_body_of_a_known_length_goes_on_when_it_is_whole(ends: Ends) -> None:
    ends.receive(headers(1, *POST, ("content-length", "4"), is_end=False), data(1, b"ab"))
    assert not ends.ups
    ends.receive(data(1, b"cd", True))
    (up,) = ends.ups
    assert (up.body, up.is_complete) == (b"abcd", True)


def test_who_waits_for_100_is_passed_on_at_once(ends: Ends) -> None:
    fields = (*POST, ("content-length", "4"), ("expect", "100-continue"))
    ends.receive(headers(1, *fields, is_end=False))
    (up,) = ends.ups
    up.exchange.inform(ResponseHead(100, b"100 Continue", True))
    assert ends.kinds() == [(HEADERS, 1)]


def test_head_body_and_trailers_of_one_turn_are_one_write(ends: Ends) -> None:
    ends.receive(headers(1), headers(3))
    before = ends.transport.writes
    for up in ends.ups:
        up.exchange.response_head(ok(), b"body", False)
        up.exchange.response_data(b"", True, [b"grpc-status: 0"])
    assert ends.kinds() == [
        (kind, number) for number in (1, 3) for kind in (HEADERS, DATA, HEADERS)
    ]
    assert ends.transport.writes == before + 1
    assert not ends.channel.streams


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (data(1, b"abcde"), "length"),
        (data(1, b"abc", True), "length"),
        (headers(1, ("x-sum", "1")), "length"),
    ],
)
def test_a_body_that_is_not_as_long_as_said_ends_its_stream_alone(
    ends: Ends, frames: bytes, says: str
) -> None:
    ends.receive(
        headers(1, *POST, ("content-length", "4"), ("expect", "100-continue"), is_end=False)
    )
    ends.receive(frames)
    ((kind, _, number, payload),) = ends.sent()
    assert (kind, number, u32_of(payload)) == (RST_STREAM, 1, PROTOCOL_ERROR)
    assert ends.refusals == [says]
    assert ends.ups[0].is_cancelled
    ends.receive(headers(3))
    assert len(ends.ups) == 2


@pytest.mark.parametrize(
    "fields",
    [
        POST[:3],
        POST[1:],
        (*POST, ("Upper", "1")),
        (*POST, ("connection", "close")),
        (*POST, ("content-length", "x")),
        (("x", "1"), *POST),
    ],
)
def test_a_malformed_request_ends_its_stream_alone(ends: Ends, fields: Any) -> None:
    ends.receive(headers(1, *fields))
    ((kind, _, number, payload),) = ends.sent()
    assert (kind, number, u32_of(payload)) == (RST_STREAM, 1, PROTOCOL_ERROR)
    assert not ends.ups
    assert len(ends.refusals) == 1
    ends.receive(headers(3))
    assert len(ends.ups) == 1


def test_a_block_that_cannot_be_unpacked_ends_the_connection(ends: Ends) -> None:
    ends.receive(headers(1))
    ends.receive(frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\xff\xff\xff\xff\xff\xff\x01"))
    ((kind, _, _, payload),) = ends.sent()
    assert (kind, u32_of(payload[4:])) == (GOAWAY, COMPRESSION_ERROR)
    assert ends.ups[0].is_cancelled
    assert ends.transport.has_ended
    ends.receive(b"x" * 100)  # read and forgotten
    ends.sweep(LINGER_S + 1)
    assert ends.transport.end == "aborted"


def test_a_block_of_a_stream_that_is_gone_is_still_seen_by_the_decoder(ends: Ends) -> None:
    ends.channel.decoder = type(ends.channel.decoder)()  # as before the settings are known
    encoder = hpack.Encoder()
    ends.receive(
        frame(HEADERS, END_HEADERS, 1, encoder.encode([*POST, ("connection", "x")])),  # reset
        frame(HEADERS, END_HEADERS | END_STREAM, 1, encoder.encode([("x-kept", "1")])),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, encoder.encode([*POST, ("x-kept", "1")])),
    )
    assert b"x-kept: 1" in ends.ups[0].exchange.head.lines


def test_who_resets_at_once_has_cost_nothing(ends: Ends) -> None:
    ends.receive(*(headers(n) + reset_frame(n, CANCEL) for n in range(1, 200, 2)))
    assert not ends.ups
    assert not ends.channel.streams


def test_a_reset_is_heard_upstream(ends: Ends) -> None:
    ends.receive(headers(1))
    ends.receive(reset_frame(1, CANCEL))
    assert ends.ups[0].is_cancelled
    assert ends.handler.finished_ones[0].flag == Flag.DOWNSTREAM_RESET


def test_an_answer_without_the_rest_of_the_request_resets_without_error(ends: Ends) -> None:
    ends.receive(headers(1, is_end=False))
    ends.ups[0].exchange.response_head(ok(2), b"no", True)
    sent = ends.sent()
    assert [(kind, flags & END_STREAM) for kind, flags, _, _ in sent] == [
        (HEADERS, 0),
        (DATA, END_STREAM),
        (RST_STREAM, 0),
    ]
    assert u32_of(sent[-1][3]) == NO_ERROR
    ends.receive(data(1, b"late"))
    assert ends.kinds() in ([], [(WINDOW_UPDATE, 0)])


def test_what_is_cut_off_is_reset(ends: Ends) -> None:
    ends.receive(headers(1))
    (up,) = ends.ups
    up.exchange.response_head(ok(), b"half", False)
    ends.sent()
    up.exchange.refuse(Flag.UPSTREAM_RESET)
    ((kind, _, _, payload),) = ends.sent()
    assert (kind, u32_of(payload)) == (RST_STREAM, INTERNAL_ERROR)


def test_a_refusal_of_a_grpc_call_is_in_its_own_terms(ends: Ends) -> None:
    ends.receive(headers(1, *GRPC))
    ends.ups[0].exchange.refuse(Flag.NO_HEALTHY_UPSTREAM)
    ((kind, flags, _, payload),) = ends.sent()
    assert (kind, flags & END_STREAM) == (HEADERS, END_STREAM)
    fields = dict(hpack.Decoder().decode(payload))
    assert (fields[":status"], fields["grpc-status"]) == ("200", "14")
    assert fields["x-mesh-flag"] == "UH"


def test_a_refusal_of_the_peers_proxy_is_too_and_its_body_is_nobodys(ends: Ends) -> None:
    ends.receive(headers(1, *GRPC))
    head = ResponseHead(503, b"503 Service Unavailable", True)
    head.length, head.flag = 4, b"UF"
    exchange = ends.ups[0].exchange
    exchange.response_head(head, b"", False)
    exchange.response_data(b"why\n", True, [])
    ((kind, flags, _, payload),) = ends.sent()
    assert (kind, flags & END_STREAM) == (HEADERS, END_STREAM)
    assert dict(hpack.Decoder().decode(payload))["grpc-status"] == "14"
    assert exchange.is_finished


def test_a_full_window_pauses_the_answer_and_credit_resumes_it(ends: Ends) -> None:
    ends.receive(window_update_frame(0, 1 << 20), headers(1))
    (up,) = ends.ups
    up.exchange.response_head(ok(), bytes(65_535), False)
    assert not up.is_paused
    up.exchange.response_data(b"more", False, [])
    assert up.is_paused
    ends.sent()
    ends.receive(window_update_frame(1, 100))
    assert not up.is_paused
    assert ends.kinds() == [(DATA, 1)]


def test_a_connection_whose_bodies_nobody_takes_is_not_read_meanwhile(ends: Ends) -> None:
    count = MOST_WITHHELD // WINDOW_BYTES + 1
    numbers = range(1, 2 * count, 2)
    for number in numbers:
        ends.receive(headers(number, is_end=False))
        ends.ups[-1].exchange.upstream_is_full(True)
        assert ends.transport.is_reading()
        ends.receive(data(number, bytes(1024)) * (WINDOW_BYTES // 1024))
    assert not ends.transport.is_reading()
    ends.channel.receive(headers(2 * count + 1, is_end=False))  # as if it had come just before
    # Who cannot be heard is neither slow nor silent.
    for _ in range(20):
        ends.sweep(10.0)
    assert ends.transport.end == ""
    assert len(ends.channel.streams) == count + 1
    for up in ends.ups[: count // 2]:
        assert not ends.transport.is_reading()
        up.exchange.upstream_is_full(False)
    ends.ups[-2].exchange.upstream_is_full(False)
    assert ends.transport.is_reading()


def test_bodies_that_are_given_up_are_not_waited_for(ends: Ends) -> None:
    count = MOST_WITHHELD // WINDOW_BYTES + 1
    for number in range(1, 2 * count, 2):
        ends.receive(headers(number, is_end=False))
        ends.ups[-1].exchange.upstream_is_full(True)
        ends.receive(data(number, bytes(1024)) * (WINDOW_BYTES // 1024))
    assert not ends.transport.is_reading()
    for up in ends.ups:
        up.exchange.refuse(Flag.UPSTREAM_TIMEOUT)
    assert ends.transport.is_reading()
    assert ends.channel.withheld == 0


def test_a_full_socket_pauses_all_answers(ends: Ends) -> None:
    ends.receive(headers(1), headers(3))
    for up in ends.ups:
        up.exchange.response_head(ok(), b"x", False)
    ends.channel.pause_writing()
    assert [up.is_paused for up in ends.ups] == [True, True]
    ends.channel.resume_writing()
    assert [up.is_paused for up in ends.ups] == [False, False]


def test_a_request_that_is_not_taken_gets_no_credit(ends: Ends) -> None:
    ends.receive(headers(1, is_end=False))
    (up,) = ends.ups
    up.exchange.upstream_is_full(True)
    for _ in range(12):
        ends.receive(data(1, bytes(16_384)))
    assert (WINDOW_UPDATE, 1) not in ends.kinds()
    up.exchange.upstream_is_full(False)
    assert (WINDOW_UPDATE, 1) in ends.kinds()


def test_who_asks_and_does_not_read_is_not_read_from(ends: Ends) -> None:
    ends.channel.pause_writing()
    ends.transport.untaken = 2 * 1024 * 1024
    ends.receive(frame(PING, 0, 0, bytes(8)))
    assert not ends.transport.is_reading()
    ends.channel.resume_writing()
    assert ends.transport.is_reading()


# Slow peers


def test_a_body_that_comes_slowly_is_a_408(ends: Ends) -> None:
    ends.receive(headers(1, is_end=False))
    ends.sweep(9)
    assert not ends.sent()
    ends.sweep(2)
    sent = ends.sent()
    assert dict(hpack.Decoder().decode(sent[0][3]))[":status"] == "408"
    assert ends.refusals == ["timeout"]
    assert ends.ups[0].is_cancelled


def test_a_held_body_that_comes_slowly_is_a_408_too(ends: Ends) -> None:
    ends.receive(headers(1, *POST, ("content-length", "4"), is_end=False))
    ends.sweep(11)
    assert dict(hpack.Decoder().decode(ends.sent()[0][3]))[":status"] == "408"
    assert not ends.ups


@pytest.mark.parametrize("why", ["fast", "paused", "answered", "grpc", "expecting"])
def test_a_body_that_may_take_its_time_does(ends: Ends, why: str) -> None:
    fields = {"grpc": GRPC, "expecting": (*POST, ("expect", "100-continue"))}.get(why, POST)
    ends.receive(headers(1, *fields, is_end=False))
    (up,) = ends.ups
    if why == "fast":
        ends.receive(data(1, bytes(10_000)))
    elif why == "paused":
        up.exchange.upstream_is_full(True)
    elif why == "answered":
        up.exchange.response_head(ok(), b"", False)
    ends.sweep(6)
    ends.sweep(6)
    assert not up.is_cancelled
    assert not ends.refusals


def test_an_answer_that_is_not_taken_is_given_up_in_the_end(ends: Ends) -> None:
    ends.receive(headers(1))
    ends.ups[0].exchange.response_head(ok(100_000), bytes(100_000), True)
    ends.sent()
    idle_s = ends.handler.timeouts.stream_idle_s
    ends.sweep(1)
    ends.sweep(idle_s - 1)
    pong = frame(PING, ACK, 0, b"meshctl.")
    ends.receive(pong, window_update_frame(0, 10), window_update_frame(1, 10))
    ends.sweep(2)
    assert ends.channel.streams
    ends.sweep(idle_s + 1)
    assert not ends.channel.streams
    assert ends.kinds()[-1] == (RST_STREAM, 1)


@pytest.mark.parametrize("is_block", [False, True])
def test_a_head_that_comes_slowly_ends_the_connection(ends: Ends, is_block: bool) -> None:
    head = headers(1, *POST, ("x-long", "y" * 40))
    if is_block:
        ends.receive(frame(HEADERS, END_STREAM, 1, head[9:20]))
        head = frame(CONTINUATION, END_HEADERS, 1, head[20:])
    for at in range(11):
        ends.receive(head[at : at + 1])
        assert not ends.sent()
        ends.sweep(1)
    ends.sweep(1)
    ((kind, _, _, payload),) = ends.sent()
    assert (kind, u32_of(payload[4:])) == (GOAWAY, ENHANCE_YOUR_CALM)


def test_a_busy_client_may_always_be_in_the_middle_of_a_frame(ends: Ends) -> None:
    rest = b""
    for number in range(1, 41, 2):
        head = headers(number)
        ends.receive(rest, frame(PING, ACK, 0, bytes(8)) * 60, head[:20])
        rest = head[20:]
        ends.sweep(1)
    ends.receive(rest)
    assert len(ends.ups) == 20


# The end of a connection


def test_a_drain_asks_first_refuses_nobody_and_closes_when_all_is_answered(ends: Ends) -> None:
    ends.receive(headers(1))
    ends.ledger.is_draining = True
    ends.channel.close_if_idle()
    ((kind, _, _, payload),) = ends.sent()
    assert (kind, u32_of(payload)) == (GOAWAY, 0x7FFF_FFFF)
    ends.channel.close_if_idle()
    ends.receive(headers(3))  # was on its way
    assert len(ends.ups) == 2
    ends.sent()
    ends.sweep(1.1)
    ((kind, _, _, payload),) = ends.sent()
    assert (kind, u32_of(payload)) == (GOAWAY, 3)
    for up in ends.ups:
        up.exchange.response_head(ok(0), b"", True)
    assert ends.kinds() == [(HEADERS, 1), (HEADERS, 3)]
    assert not ends.transport.has_ended
    ends.channel.close_if_idle()
    assert ends.transport.has_ended


def test_a_request_may_still_come_between_the_two_goaways(ends: Ends) -> None:
    ends.ledger.is_draining = True
    for _ in range(3):
        ends.channel.close_if_idle()
    assert ends.kinds() == [(GOAWAY, 0)]
    assert not ends.transport.has_ended
    ends.receive(headers(1))
    assert len(ends.ups) == 1


def test_nothing_is_tunnelled_before_it_is_granted(ends: Ends) -> None:
    asked = ((":method", "CONNECT"), (":protocol", "websocket"), *POST[1:])
    ends.receive(headers(1, *asked, is_end=False), data(1, b"early"))
    (up,) = ends.ups
    head = up.exchange.head
    assert (head.method, head.upgrade) == (b"GET", b"websocket")
    assert head.get(b"sec-websocket-key") is not None
    for _ in range(12):
        ends.receive(data(1, bytes(16_384)))
    assert (WINDOW_UPDATE, 1) not in ends.kinds()
    assert (up.body, up.is_complete) == (b"", False)
    granted = ResponseHead(101, b"101 Switching Protocols", True)
    granted.length = UNTIL_CLOSE
    granted.lines = [b"sec-websocket-accept: x"]
    up.exchange.response_head(granted, b"", False)
    assert up.body == b"early" + bytes(12 * 16_384)
    sent = ends.sent()
    (answer,) = [payload for kind, _, _, payload in sent if kind == HEADERS]
    assert hpack.Decoder().decode(answer) == [(":status", "200")]
    assert (WINDOW_UPDATE, 1) in [(kind, number) for kind, _, number, _ in sent]
    ends.receive(data(1, b"end", True))
    assert up.is_complete


def test_a_tunnel_that_is_refused_and_ended_at_once_is_one_request(ends: Ends) -> None:
    """The client ends it in the very read that brings it, and policy denies it at once."""
    ends.handler.dispatched = lambda exchange: exchange.refuse(Flag.DENIED)
    asked = ((":method", "CONNECT"), (":protocol", "websocket"), *POST[1:])
    ends.receive(headers(1, *asked, is_end=False), data(1, b"early", True))
    assert len(ends.handler.exchanges) == 1
    assert [kind for kind, _ in ends.kinds()] == [HEADERS, DATA]
    ends.receive(headers(3))
    assert len(ends.handler.exchanges) == 2


def test_a_tunnel_of_another_kind_is_refused(ends: Ends) -> None:
    ends.receive(headers(1, (":method", "CONNECT"), (":authority", "api:80"), is_end=False))
    assert not ends.ups
    assert dict(hpack.Decoder().decode(ends.sent()[0][3]))[":status"] == "501"


def test_an_idle_connection_is_closed_in_time(ends: Ends) -> None:
    idle_s = ends.handler.timeouts.connection_idle_s
    ends.sweep(idle_s - 1)
    assert not ends.sent()
    for _ in range(4):
        ends.sweep(2)
    assert [kind for kind, _ in ends.kinds()] == [GOAWAY, GOAWAY]
    assert ends.transport.has_ended


def test_a_client_that_is_gone_ends_what_it_asked_for(ends: Ends) -> None:
    ends.receive(headers(1), headers(3))
    ends.channel.connection_lost(None)
    assert all(up.is_cancelled for up in ends.ups)
    assert ends.channel not in ends.ledger.connections


def test_a_client_with_streams_that_says_nothing_is_asked(ends: Ends) -> None:
    ends.receive(headers(1))
    ends.sweep(1)
    ends.sweep(Http2Server.ping_after_s + 1)
    assert ends.kinds() == [(PING, 0)]
    ends.sweep(1)
    ends.sweep(11)
    assert ends.kinds() == [(GOAWAY, 0)]
    assert ends.ups[0].is_cancelled
