"""Tunnels between two proxies, frame by frame."""

from typing import Any

import pytest

from proxy.core.retry import Failure
from proxy.http.frames import (
    CREDIT,
    DATA,
    DATA_END,
    HEAD,
    MAX_BLOCK,
    RESET,
    WINDOW_BYTES,
    credit_frame,
    frame,
    head_frame,
    interim_frame,
)
from proxy.http.head import UNTIL_CLOSE, ResponseHead

FIELDS = b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
ASK = b"GET / HTTP/1.1\r\nhost: api\r\n" + FIELDS
GRANT = b"HTTP/1.1 101 Switching Protocols\r\n" + FIELDS
LARGE = bytes(60_000)


def granted() -> ResponseHead:
    head = ResponseHead(101, b"101 Switching Protocols", True)
    head.length = UNTIL_CLOSE
    return head


# The called proxy


def tunnel_of(server: Any) -> Any:
    server.receive(head_frame(1, ASK, b"", False))
    (up,) = server.ups
    assert (up.exchange.head.upgrade, up.is_complete) == (b"websocket", False)
    return up


async def test_the_101_is_a_final_head_and_data_goes_both_ways(server: Any) -> None:
    up = tunnel_of(server)
    up.exchange.response_head(granted(), b"", False)
    assert server.sent() == [(1, HEAD, len(GRANT).to_bytes(2, "big") + GRANT)]
    server.receive(frame(1, DATA, b"in"))
    up.exchange.response_data(b"out", False, [])
    assert up.body == b"in"
    assert server.sent() == [(1, DATA, b"out")]


async def test_data_before_the_101_ends_the_connection(server: Any) -> None:
    up = tunnel_of(server)
    server.receive(frame(1, DATA, b"early"))
    assert server.transport.end == "aborted"
    assert (up.body, up.is_cancelled) == (b"", True)


async def test_data_behind_a_refusal_goes_nowhere(server: Any) -> None:
    up = tunnel_of(server)
    head = ResponseHead(403, b"403 Forbidden", True)
    up.exchange.response_head(head, b"", True)
    server.receive(frame(1, DATA, b"early"))
    assert not server.transport.end
    assert up.body == b""
    assert len(server.ups) == 1


async def test_the_callers_end_is_passed_on_and_the_answer_goes_on(server: Any) -> None:
    up = tunnel_of(server)
    up.exchange.response_head(granted(), b"", False)
    server.receive(frame(1, DATA_END, b"last"))
    assert (up.body, up.is_complete) == (b"last", True)
    server.sent()
    up.exchange.response_data(b"still", False, [])
    up.exchange.response_data(b"", True, [])
    assert server.sent() == [(1, DATA, b"still"), (1, DATA_END, b"")]
    assert not server.channel.streams


async def test_a_tunnel_that_is_cut_is_a_reset(server: Any) -> None:
    up = tunnel_of(server)
    up.exchange.response_head(granted(), b"", False)
    server.sent()
    up.exchange.abort()
    assert server.sent() == [(1, RESET, b"")]
    assert up.is_cancelled


async def test_what_is_sent_and_not_read_is_bounded(server: Any) -> None:
    up = tunnel_of(server)
    up.exchange.response_head(granted(), b"", False)
    for _ in range(5):
        up.exchange.response_data(LARGE, False, [])
    assert up.is_paused
    assert sum(len(payload) for _, kind, payload in server.sent() if kind == DATA) <= WINDOW_BYTES
    server.receive(credit_frame(1, WINDOW_BYTES // 2))
    assert not up.is_paused


# The calling proxy


def ask(client: Any) -> tuple[Any, Any]:
    down, exchange = client.ask(
        is_end=False,
        block=b"GET / HTTP/1.1\r\nhost: api\r\nupgrade: websocket\r\nconnection: upgrade",
    )
    assert client.sent() == [(1, HEAD, len(ASK).to_bytes(2, "big") + ASK)]
    return down, exchange


async def test_a_granted_tunnel_is_a_response_without_a_length(client: Any) -> None:
    down, exchange = ask(client)
    client.receive(head_frame(1, GRANT, b"", False), frame(1, DATA, b"word"))
    assert (down.head.status, down.head.length, down.head.lines) == (101, UNTIL_CLOSE, [])
    assert (down.body, down.is_complete) == (b"word", False)
    exchange.request_data(b"reply", False, [])
    exchange.request_data(b"", True, [])
    assert client.sent() == [(1, DATA, b"reply"), (1, DATA_END, b"")]
    assert not exchange.is_finished
    client.receive(frame(1, DATA_END, b""))
    assert down.is_complete
    assert exchange.is_finished
    assert not client.channel.streams


@pytest.mark.parametrize(
    "answer",
    [
        head_frame(1, GRANT, b"", True),
        head_frame(1, GRANT, b"data", False),
        interim_frame(1, GRANT),
        head_frame(1, GRANT.replace(b"websocket", b"other"), b"", False),
        head_frame(1, GRANT.replace(FIELDS, b"\r\n"), b"", False),
    ],
)
async def test_a_101_of_another_kind_is_refused(client: Any, answer: bytes) -> None:
    down, exchange = ask(client)
    client.receive(answer)
    assert down.status == 502
    assert exchange.failures[0].failure is Failure.PROTOCOL


async def test_a_101_nobody_asked_for_is_refused(client: Any) -> None:
    down, exchange = client.ask()
    client.receive(head_frame(1, GRANT, b"", False))
    assert down.status == 502
    assert exchange.failures[0].failure is Failure.PROTOCOL


async def test_an_older_proxy_refuses_and_the_client_learns_it(client: Any) -> None:
    down, _ = ask(client)
    block = b"HTTP/1.1 501 Not Implemented\r\ncontent-length: 2\r\nx-mesh-flag: DPE\r\n\r\n"
    client.receive(head_frame(1, block, b"no", True))
    assert (down.status, down.body, down.is_complete) == (501, b"no", True)


async def test_a_head_that_is_too_large_with_its_upgrade_is_refused(client: Any) -> None:
    block = b"GET / HTTP/1.1\r\nhost: api\r\nupgrade: x\r\nconnection: upgrade\r\nx: "
    down, _ = client.ask(is_end=False, block=block + b"a" * (MAX_BLOCK - len(block) - 40))
    assert down.status == 431
    assert client.sent() == []


async def test_a_tunnel_is_in_the_way_of_others_only_while_it_carries_much(client: Any) -> None:
    ask(client)
    client.receive(head_frame(1, GRANT, b"", False))
    assert client.channel.is_flowing
    for second in range(3):
        client.receive(*[frame(1, DATA, LARGE)] * 3)
        client.channel.sweep(second)
        assert not client.channel.is_flowing
    client.channel.sweep(3)
    client.channel.sweep(4)
    assert client.channel.is_flowing
    client.receive(frame(1, DATA, b"little"))
    assert client.channel.is_flowing
    client.receive(*[frame(1, DATA, LARGE)] * 3)
    assert not client.channel.is_flowing
    client.receive(frame(1, DATA_END, b""))
    assert client.channel.is_flowing
    assert {kind for _, kind, _ in client.sent()} == {CREDIT}
