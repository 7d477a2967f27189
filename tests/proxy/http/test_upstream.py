"""HTTP/1.1 towards applications, through a whole mesh on loopback."""

import asyncio
from typing import Any

import pytest

GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"


def says(mesh: Any, *pieces: bytes, is_closing: bool = False) -> None:
    """The application answers each request with these bytes, piece by piece."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.002)
            if is_closing:
                return

    mesh.api.script = script


async def test_a_chunked_response_keeps_its_trailers_and_the_connection(mesh: Any) -> None:
    says(
        mesh,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhel",
        b"lo\r\n6;ext\r\n world\r\n0\r",
        b"\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n",
    )
    client = await mesh.connect()
    for _ in range(2):
        response = await client.get()
        assert response.body == b"hello world"
        assert response.headers["trailer:x-sum"] == "7"
        assert "trailer:content-length" not in response.headers
    assert mesh.api.connections == 1


async def test_a_chunked_response_in_one_piece(mesh: Any) -> None:
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
    says(mesh, wire + b"\r\n")
    client = await mesh.connect()
    assert (await client.get()).body == b"ok"
    says(mesh, wire + b"X-Sum: 1\r\n\r\n")
    client = await mesh.connect()
    mesh.planes["far"]._inbound["api"].pool.retire()
    response = await client.get()
    assert (response.body, response.headers["trailer:x-sum"]) == (b"ok", "1")


async def test_a_body_until_the_end_of_the_connection_is_reframed(mesh: Any) -> None:
    says(mesh, b"HTTP/1.1 200 OK\r\n\r\nhello", b" world", is_closing=True)
    client = await mesh.connect()
    for _ in range(2):
        response = await client.get()
        assert response.body == b"hello world"
        assert response.headers["transfer-encoding"] == "chunked"


async def test_a_response_cut_off_is_never_a_whole_one(mesh: Any) -> None:
    says(mesh, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", is_closing=True)
    client = await mesh.connect()
    client.send(GET)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.response()
    assert mesh.metric("near", "istio_requests_total", response_flags="UC") == 1


async def test_a_response_cut_off_resets_an_old_client(mesh: Any) -> None:
    says(
        mesh,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        is_closing=True,
    )
    client = await mesh.connect()
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionError):
        await client.response()


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_response_without_a_body_by_its_status(mesh: Any, status: bytes) -> None:
    says(mesh, b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n")
    client = await mesh.connect()
    for _ in range(3):
        response = await client.get()
        assert response.head.startswith(b"HTTP/1.1 " + status)
        assert response.body == b""
    assert mesh.api.connections == 1


async def test_a_response_to_head_has_a_length_and_no_body(mesh: Any) -> None:
    says(mesh, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    client = await mesh.connect()
    for _ in range(3):
        client.send(GET.replace(b"GET", b"HEAD"))
        response = await client.response(method="HEAD")
        assert response.headers["content-length"] == "1000"
    assert mesh.api.connections == 1


async def test_interim_responses_pass_in_order(mesh: Any) -> None:
    says(
        mesh,
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    )
    client = await mesh.connect()
    client.send(GET)
    assert (await client.response()).status == 102
    hints = await client.response()
    assert (hints.status, hints.headers) == (103, {"link": "a"})
    assert (await client.response()).status == 200
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.response()).status == 200


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 20,
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    ],
)
async def test_an_invalid_response_is_a_502(mesh: Any, wire: bytes) -> None:
    says(mesh, wire)
    client = await mesh.connect()
    client.send(GET)
    response = await client.response()
    while response.status < 200:
        response = await client.response()
    assert (response.status, response.headers["x-mesh-flag"]) == (502, "UPE")
    assert b"web -> api: the service's answer is not valid HTTP: " in response.body


async def test_bytes_after_a_response_answer_nobody(mesh: Any) -> None:
    """A desynchronised application costs a connection, never a wrong answer."""
    says(
        mesh,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    )
    client = await mesh.connect()
    for _ in range(3):
        assert (await client.get()).body == b"ok"
    assert mesh.api.connections == 3


async def test_late_bytes_on_an_idle_connection_answer_nobody(mesh: Any) -> None:
    says(
        mesh,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    )
    client = await mesh.connect()
    for _ in range(3):
        assert (await client.get()).body == b"ok"
        await mesh.until(lambda: not (mesh.metric("far", "mesh_upstream_connections")))
    assert mesh.api.connections == 3


async def test_an_application_that_closes_after_each_answer_is_taken_at_its_word(
    mesh: Any,
) -> None:
    says(
        mesh,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\nok",
        is_closing=True,
    )
    client = await mesh.connect()
    for _ in range(3):
        response = await client.get()
        assert response.body == b"ok"
        assert "connection" not in response.headers
        assert "x-hop" not in response.headers
