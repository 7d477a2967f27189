"""A connection of many streams: bytes to frames and back, its limits, and nonsense."""

import random
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.channel import MOST_WASTED
from proxy.http.frames import (
    CREDIT,
    DATA,
    DATA_END,
    GOAWAY,
    HEAD,
    HEAD_END,
    HEADER_BYTES,
    INTERIM,
    LAST_STREAM,
    MAX_BLOCK,
    MAX_DATA,
    MAX_PAYLOAD,
    RESET,
    TRAILERS_END,
    WINDOW_BYTES,
    credit_frame,
    frame,
    head_frame,
    interim_frame,
)
from proxy.http.head import parse_response
from proxy.http.pace import PATIENCE_S

POST = b"POST /x HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nhost: api\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

TO_SERVER = b"".join(
    (
        head_frame(1, POST, b"first", False),
        frame(1, DATA, b"x" * 5000),
        head_frame(2, GET, b"", True),
        frame(1, TRAILERS_END, b"x-sum: 1\r\n"),
        head_frame(4, POST, b"", False),
        frame(4, DATA_END, b"end"),
        head_frame(5, POST, b"", False),
        frame(5, RESET),
    )
)
TO_CLIENT = b"".join(
    (
        interim_frame(1, b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"),
        head_frame(2, OK, b"ok", True),
        head_frame(1, STREAM, b"first", False),
        frame(1, DATA, b"x" * 5000),
        frame(3, RESET),
        frame(1, TRAILERS_END, b"x-sum: 1\r\n"),
        frame(0, GOAWAY),
        head_frame(4, STREAM, b"", False),
        frame(4, DATA_END, b"end"),
    )
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % len(data) for cut in cuts} - {0})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def seen_by_server(server: Any, parts: list[bytes]) -> Any:
    for part in parts:
        server.channel.data_received(part)
    told = [
        (up.body, up.trailers, up.is_complete, up.is_cancelled, up.exchange.head.target)
        for up in server.ups
    ]
    return told, sorted(server.channel.streams), server.transport.end


def seen_by_client(client: Any, parts: list[bytes]) -> Any:
    asked = [client.ask() for _ in range(4)]
    for part in parts:
        client.channel.data_received(part)
    told = [
        (down.status, down.body, down.trailers, down.informed, down.is_complete, each.flag)
        for down, each in asked
    ]
    return told, sorted(client.channel.streams), client.transport.end


async def test_how_the_bytes_arrive_makes_no_difference(ends: Any) -> None:
    client_type, server_type = ends
    server_whole = seen_by_server(server_type(), [TO_SERVER])
    client_whole = seen_by_client(client_type(), [TO_CLIENT])
    assert [each[2] for each in server_whole[0]] == [True, True, True, False]
    assert [each[0] for each in client_whole[0]] == [200, 200, 502, 200]
    assert client_whole[2] == "closed"  # asked to go, and nothing is left

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 20_000), max_size=40))
    def check(cuts: list[int]) -> None:
        assert seen_by_server(server_type(), pieces(TO_SERVER, cuts)) == server_whole
        assert seen_by_client(client_type(), pieces(TO_CLIENT, cuts)) == client_whole

    check()
    for step in (1, 2, 7):
        cuts = list(range(0, 20_000, step))
        assert seen_by_server(server_type(), pieces(TO_SERVER, cuts)) == server_whole
        assert seen_by_client(client_type(), pieces(TO_CLIENT, cuts)) == client_whole


async def test_a_large_frame_byte_by_byte_costs_little(server: Any) -> None:
    made = head_frame(1, POST, b"x" * MAX_DATA, False)
    started = time.process_time()
    for at in range(len(made)):
        server.channel.data_received(made[at : at + 1])
        assert len(server.channel._held) < 100
    assert server.ups[0].body == b"x" * MAX_DATA
    assert time.process_time() - started < 1


@pytest.mark.parametrize("length", [MAX_PAYLOAD + 1, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", [HEAD, DATA, GOAWAY, 200])
async def test_a_giant_length_ends_the_connection_at_once(
    client: Any, server: Any, length: int, kind: int
) -> None:
    header = struct.pack(">IIB", length, 1, kind)
    client.ask()
    for end in (client, server):
        end.receive(header)
        assert end.transport.end == "aborted"


@pytest.mark.parametrize("kind", [0, 10, 77, 255])
async def test_an_unknown_kind_ends_the_connection(client: Any, server: Any, kind: int) -> None:
    server.receive(head_frame(1, GET, b"", True))
    client.ask()
    for end in (client, server):
        end.receive(frame(1, kind))
        assert end.transport.end == "aborted"
        end.channel.connection_lost(None)
    assert client.handler.finished_ones
    assert server.ups[0].is_cancelled


@pytest.mark.parametrize(
    "made",
    [frame(1, DATA, b"x"), credit_frame(1, 5), frame(0, GOAWAY)],
)
async def test_a_flood_of_frames_that_mean_nothing_ends_the_connection(
    client: Any, server: Any, made: bytes
) -> None:
    server.receive(head_frame(1, GET, b"", True))
    server.receive(frame(1, RESET))
    client.ask()[1].downstream_gone()
    client.ask()  # else a GOAWAY closes it
    for end in (client, server):
        end.receive(*[made] * MOST_WASTED)
        assert not end.transport.end
        end.channel.sweep(time.monotonic())
        end.receive(*[made] * MOST_WASTED)
        assert not end.transport.end
        end.receive(made)
        assert end.transport.end == "aborted"


async def test_frames_of_one_turn_go_out_together(client: Any, server: Any) -> None:
    for _ in range(10):
        client.ask()
    assert client.transport.writes == 1  # the first had nobody to go with
    assert len(client.sent()) == 10
    assert client.transport.writes == 2
    server.receive(*[head_frame(n, GET, b"", True) for n in range(1, 11)])
    for exchange in server.handler.exchanges:
        exchange._up = None
        exchange.answer(*_answer())
    assert len(server.sent()) == 10
    assert server.transport.writes <= 2


def _answer() -> tuple[Any, bytes]:
    return parse_response(OK[:-4], b"GET"), b"ok"


async def test_frames_in_an_order_stay_in_it_whether_they_wait_or_not(client: Any) -> None:
    _, first = client.ask(b"", is_end=False, block=POST[:-4])
    _, second = client.ask(b"", is_end=False, block=POST[:-4])
    second.request_data(b"2", False, [])
    second.downstream_gone()
    first.request_data(b"1", True, [])
    assert [(number, kind) for number, kind, _ in client.sent()] == [
        (1, HEAD),
        (2, HEAD),
        (2, DATA),
        (2, RESET),
        (1, DATA_END),
    ]


async def test_a_full_connection_pauses_every_stream_and_lets_them_go_on(
    client: Any, server: Any
) -> None:
    downs = [client.ask(b"", is_end=False, block=POST[:-4])[0] for _ in range(3)]
    server.receive(*[head_frame(n, GET, b"", True) for n in (1, 2, 3)])
    for exchange in server.handler.exchanges:
        exchange.response_head(*_answer(), False)
    ways: tuple[tuple[Any, Callable[[], set[bool]]], ...] = (
        (client, lambda: {down.is_paused for down in downs}),
        (server, lambda: {up.is_paused for up in server.ups}),
    )
    for end, paused in ways:
        assert paused() == {False}
        end.channel.pause_writing()
        assert paused() == {True}
        end.channel.resume_writing()
        assert paused() == {False}


async def test_a_peer_that_takes_nothing_is_cut_off(client: Any, server: Any) -> None:
    for end in (client, server):
        end.transport.untaken = 100_000
        end.channel.pause_writing()
        for second in range(int(PATIENCE_S) + 1):
            end.channel.sweep(second)
            assert not end.transport.end
        end.channel.sweep(PATIENCE_S + 2)
        assert end.transport.end == "aborted"


async def test_a_peer_that_takes_slowly_is_not(client: Any, server: Any) -> None:
    for end in (client, server):
        end.transport.untaken = 1_000_000
        end.channel.pause_writing()
        for second in range(60):
            end.transport.untaken -= 1000
            end.channel.sweep(second)
        assert not end.transport.end


KINDS = (HEAD, HEAD_END, DATA, DATA_END, TRAILERS_END, RESET, CREDIT, INTERIM, GOAWAY)
BLOCKS = (
    *(GET, POST, OK, STREAM, b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n\r\n"),
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
)


def nonsense(chance: random.Random) -> bytes:
    """Frames that could follow each other, and then some damage."""
    made = bytearray()
    next_number = 1
    for _ in range(chance.randint(1, 5)):
        kind = chance.choice(KINDS) if chance.random() < 0.7 else HEAD
        number = chance.choice((1, 1, 2, 3, next_number - 1))
        if kind in (HEAD, HEAD_END) and chance.random() < 0.9:
            number, next_number = next_number, next_number + 1
        elif chance.random() < 0.05:
            number = chance.choice((0, 9, 0xFFFFFFFF))
        if kind in (HEAD, HEAD_END):
            data = b"z" * chance.choice((0, 0, 2, 4, 70))
            made += head_frame(number, chance.choice(BLOCKS), data, kind == HEAD_END)
        elif kind == INTERIM:
            made += interim_frame(number, chance.choice(BLOCKS))
        elif kind == CREDIT:
            made += credit_frame(number, chance.choice((0, 1, 132, WINDOW_BYTES, 0xFFFFFFFF)))
        else:
            payload = chance.choice((b"", b"", b"data", b"a: b\r\n", b"host: x\r\n", b"\0"))
            made += frame(number, kind, payload)
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        at = chance.randrange(len(made))
        match chance.randrange(3):
            case 0:
                made[at] = chance.randrange(256)
            case 1:
                del made[at : at + chance.randint(1, 9)]
            case _:
                made[at:at] = chance.randbytes(chance.randint(1, 9))
        if not made:
            made += b"\0"
    return bytes(made)


async def test_no_nonsense_raises_or_leaves_anything_behind(ends: Any) -> None:
    """20,000 inputs. Whatever comes, the connection goes on, or ends with all its requests told,
    once each: the rig's halves assert that nothing follows an end."""
    client_type, server_type = ends
    chance = random.Random(20261123)
    aborted = served = 0
    for _ in range(10_000):
        for end in (client_type(), server_type()):
            asked = []
            if isinstance(end, client_type):
                asked = [end.ask(b"", is_end=False, block=POST[:-4]), end.ask(), end.ask()]
            data = nonsense(chance)
            cut = chance.randrange(len(data) + 1)
            end.channel.data_received(data[:cut])
            if not end.transport.end:
                end.channel.data_received(data[cut:])
            aborted += end.transport.end == "aborted"
            is_whole = not end.transport.end and not end.channel._held
            if is_whole and asked and end.channel.has_room:
                down, _ = end.ask()
                end.receive(head_frame(max(end.channel.streams), OK, b"ok", True))
                assert down.body == b"ok"
                served += 1
            elif is_whole and not asked and end.channel._last < LAST_STREAM:
                before = len(end.handler.exchanges)
                end.receive(head_frame(end.channel._last + 1, GET, b"", True))
                assert len(end.handler.exchanges) == before + 1
                served += 1
            end.sent()
            end.channel.connection_lost(None)
            assert not end.channel.streams
            assert not end.ledger.exchanges, "an exchange was forgotten"
            for _, exchange in asked:
                assert exchange.is_finished
                assert len(exchange.failures) <= 1
    assert aborted > 2000
    assert served > 2000


def test_the_limits_fit_each_other() -> None:
    assert MAX_PAYLOAD < WINDOW_BYTES
    assert MAX_BLOCK >= 60 * 1024 + 4
    assert HEADER_BYTES == 9
