"""The small HTTP client: whole answers or errors, never short answers."""

import asyncio
from typing import Any

import pytest

from proxy.net.exchange import Disconnected, NotHttp, Response, connect

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def ask(port: int, *, limit: int = 1000, head_only: bool = False) -> Response:
    connection = await connect("127.0.0.1", port, max_body_bytes=limit)
    try:
        async with asyncio.timeout(5):
            return await connection.ask(GET, head_only=head_only)
    finally:
        connection.close()


def says(scripted: Any, *pieces: bytes, close: bool = False) -> None:
    async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    scripted.script = script


async def test_an_answer_in_single_bytes_is_the_same_answer(scripted: Any, reply: Any) -> None:
    whole = reply(b"hello", index=7)
    says(scripted, *(whole[i : i + 1] for i in range(len(whole))))
    response = await ask(scripted.port)
    assert (response.status, response.body) == (200, b"hello")
    assert response.headers[b"x-consul-index"] == b"7"


async def test_chunks_are_put_together(scripted: Any) -> None:
    says(
        scripted,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )
    assert (await ask(scripted.port)).body == b"abcde"


async def test_a_connection_is_used_again(scripted: Any, reply: Any) -> None:
    says(scripted, reply(b"x"))
    connection = await connect("127.0.0.1", scripted.port, max_body_bytes=10)
    for _ in range(3):
        assert (await connection.ask(GET)).body == b"x"
    assert connection.is_open
    assert scripted.open_connections == 1
    connection.close()


async def test_a_connection_the_server_gives_up_is_not(scripted: Any, reply: Any) -> None:
    says(scripted, reply(b"x", extra="Connection: close\r\n"))
    connection = await connect("127.0.0.1", scripted.port, max_body_bytes=10)
    await connection.ask(GET)
    assert not connection.is_open


async def test_informational_answers_are_passed_over(scripted: Any, reply: Any) -> None:
    says(scripted, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", reply(b"real"))
    response = await ask(scripted.port)
    assert (response.status, response.body) == (200, b"real")
    assert b"link" not in response.headers


async def test_the_head_alone_is_enough_when_asked_for(scripted: Any) -> None:
    says(scripted, b"HTTP/1.0 204 No Content\r\n\r\n" + b"x" * 200_000)
    assert (await ask(scripted.port, limit=0, head_only=True)).status == 204


@pytest.mark.parametrize(
    "cut",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\n\r\nclose-delimited: nobody can tell whether it is whole",
    ],
)
async def test_a_cut_answer_is_an_error(scripted: Any, cut: bytes) -> None:
    says(scripted, cut, close=True)
    with pytest.raises(Disconnected, match="middle of the answer") as error:
        await ask(scripted.port)
    assert error.value.was_answering


async def test_a_connection_closed_without_a_word_is_told_apart(scripted: Any) -> None:
    says(scripted, close=True)
    with pytest.raises(Disconnected, match="before an answer") as error:
        await ask(scripted.port)
    assert not error.value.was_answering


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_an_error(scripted: Any, garbage: bytes) -> None:
    says(scripted, garbage)
    with pytest.raises(NotHttp):
        await ask(scripted.port)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", *[b"x" * 65536] * 4],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n" * 9999] * 4],
        [b"HTTP/1.1 200 OK\r\n", *[b"X-A: " + b"y" * 9000 + b"\r\n"] * 12],
        [b"HTTP/1.1 200 OK\r\nX-A: ", *[b"y" * 9000] * 12],
    ],
)
async def test_an_answer_without_end_is_cut_off(scripted: Any, pieces: list[bytes]) -> None:
    says(scripted, *pieces)
    with pytest.raises(NotHttp, match="larger than"):
        await ask(scripted.port)


async def test_a_cancelled_question_closes_its_connection(scripted: Any, until: Any) -> None:
    says(scripted)
    connection = await connect("127.0.0.1", scripted.port, max_body_bytes=10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connection.ask(GET)
    assert not connection.is_open
    await until(lambda: scripted.open_connections == 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "no..such..name"])
async def test_nobody_there_is_an_error_that_says_so(host: str, free_ports: Any) -> None:
    with pytest.raises(Disconnected):
        await connect(host, free_ports(1)[0], max_body_bytes=10)
