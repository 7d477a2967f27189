"""Requests that change the protocol, byte by byte, through two hosts on loopback."""

import asyncio
import contextlib
import socket
import struct
from typing import Any

import pytest

from proxy.http import fields
from proxy.http.fields import ProtocolError
from proxy.http.head import UNTIL_CLOSE, parse_request, parse_response
from proxy.http.tunnel import accept
from proxy.model.policy import Timeouts
from proxy.model.resilience import Limits, Retries

ASK = (
    b"GET /chat HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: c2VjcmV0\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
)
GRANT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ok\r\n\r\n"
)
GET = b"GET /next HTTP/1.1\r\nHost: api\r\n\r\n"


class Tunnelled:
    """An application that changes the protocol, and then does what the test says."""

    def __init__(self, mesh: Any) -> None:
        self.heads: list[bytes] = []
        self.received = bytearray()
        self.ends: list[str] = []
        """Of each tunnel: end, or reset."""
        self.answer = GRANT
        self.refusals = 0
        """How many connections get a 503 first."""
        self.is_echoing = True
        self.writers: list[asyncio.StreamWriter] = []
        self.granted = asyncio.Event()
        self.granted.set()
        mesh.api.script = self._script

    async def _script(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            self.writers.append(writer)
            await self.granted.wait()
            if self.refusals:
                self.refusals -= 1
                writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
                return
            writer.write(self.answer)
            while data := await reader.read(65536):
                self.received += data
                if self.is_echoing:
                    writer.write(data)
                    await writer.drain()
            self.ends.append("end")
        except ConnectionError:
            self.ends.append("reset")


async def open_tunnel(mesh: Any, early: bytes = b"") -> Any:
    client = await mesh.connect()
    client.send(ASK + early)
    response = await client.response()
    assert response.status == 101
    return client


async def read(client: Any, size: int) -> bytes:
    return bytes(await asyncio.wait_for(client.reader.readexactly(size), 10))


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def is_reset(client: Any) -> bool:
    try:
        await asyncio.wait_for(client.reader.read(), 5)
    except ConnectionError:
        return True
    return False


# Who is asked for what


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"Upgrade: websocket", b"websocket"),
        (b"Upgrade: WebSocket", b"websocket"),
        (b"Upgrade: SPDY/3.1", b"spdy/3.1"),
        (b"Upgrade: tcp, websocket", b"tcp"),
        (b"Upgrade: h2c, websocket", b"websocket"),
        (b"Upgrade: h2c\r\nUpgrade: websocket", b"websocket"),
        (b"Upgrade: h2c", b""),
        (b"Upgrade: H2C", b""),
        (b"Upgrade: ,", b""),
    ],
)
def test_one_protocol_is_asked_for_and_h2c_is_passed_over(field: bytes, expected: bytes) -> None:
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n" + field)
    assert head.upgrade == expected
    assert head.lines == []


def test_an_upgrade_of_http_1_0_is_ignored() -> None:
    head = parse_request(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket")
    assert head.upgrade == b""


@pytest.mark.parametrize(
    "lines",
    [
        b"Upgrade: websocket",
        b"Upgrade: websocket\r\nConnection: close",
        b"Upgrade: web socket\r\nConnection: upgrade",
        b"Upgrade: a/b/c\r\nConnection: upgrade",
        b"Upgrade: /\r\nConnection: upgrade",
    ],
)
def test_an_upgrade_that_two_readers_could_see_differently_is_refused(lines: bytes) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines)
    assert error.value.reason == "upgrade"


def test_what_is_different_in_each_handshake_is_not_remembered() -> None:
    for number in range(3):
        parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: %d" % number)
    assert not [each for each in fields._memo if each.startswith(b"Sec-WebSocket-Key")]


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        (b"Upgrade: websocket\r\nConnection: upgrade", b""),
        (b"Upgrade: other\r\nConnection: upgrade", b"websocket"),
        (b"Upgrade: websocket, other\r\nConnection: upgrade", b"websocket"),
        (b"Connection: upgrade", b"websocket"),
        (b"Upgrade: websocket", b"websocket"),
    ],
)
def test_a_101_that_was_not_asked_for_is_refused(said: bytes, asked: bytes) -> None:
    block = b"HTTP/1.1 101 Switching Protocols\r\n" + said
    with pytest.raises(ProtocolError):
        accept(parse_response(block, b"GET"), block, asked)


def test_a_101_begins_a_body_without_a_length() -> None:
    block = b"HTTP/1.1 101 OK\r\nX: 1\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade"
    head = accept(parse_response(block, b"GET"), block, b"websocket")
    assert (head.status, head.length, head.lines) == (101, UNTIL_CLOSE, [b"x: 1"])


# Through the mesh


async def test_bytes_go_both_ways_and_the_handshake_is_passed_on(mesh: Any) -> None:
    app = Tunnelled(mesh)
    client = await mesh.connect()
    client.send(ASK)
    response = await client.response()
    assert response.head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert response.headers == {
        "sec-websocket-accept": "ok",
        "connection": "upgrade",
        "upgrade": "websocket",
    }
    (head,) = app.heads
    assert head.startswith(b"GET /chat HTTP/1.1\r\nhost: api\r\n")
    assert b"\r\nsec-websocket-key: c2VjcmV0\r\n" in head
    assert b"\r\nsec-websocket-protocol: chat\r\n" in head
    assert head.endswith(b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    for word in (b"hello", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256))):
        client.send(word)
        assert await read(client, len(word)) == word


async def test_large_amounts_cross_whole_both_ways(mesh: Any) -> None:
    Tunnelled(mesh)
    client = await open_tunnel(mesh)
    data = bytes(range(256)) * 16 * 1024
    client.send(data)
    assert await read(client, len(data)) == data


async def test_what_follows_the_101_at_once_is_the_first_of_the_tunnel(mesh: Any) -> None:
    app = Tunnelled(mesh)
    app.answer = GRANT + b"welcome"
    client = await open_tunnel(mesh)
    assert await read(client, 7) == b"welcome"


async def test_what_the_client_sends_at_once_waits_for_the_101(mesh: Any) -> None:
    app = Tunnelled(mesh)
    app.granted.clear()
    client = await mesh.connect()
    client.send(ASK + b"early")
    await mesh.until(lambda: app.heads)
    client.send(b" bird")
    (connection,) = mesh.planes["near"]._outbound_ledger.connections
    await mesh.until(lambda: connection._held == b"early bird")
    for plane in mesh.planes.values():
        for ledger in plane._ledgers:
            assert {each.body_bytes for each in ledger.exchanges} <= {0}
    app.granted.set()
    assert (await client.response()).status == 101
    assert await read(client, 10) == b"early bird"


async def test_what_waits_for_the_101_is_bounded(mesh: Any) -> None:
    app = Tunnelled(mesh)
    app.granted.clear()
    client = await mesh.connect()
    client.send(ASK)
    await mesh.until(lambda: app.heads)
    (connection,) = mesh.planes["near"]._outbound_ledger.connections
    data = b"x" * (8 * 1024 * 1024)
    client.send(data)
    await mesh.until(lambda: connection._is_input_paused)
    assert len(connection._held) < 1024 * 1024
    app.granted.set()
    assert (await client.response()).status == 101
    assert await read(client, len(data)) == data


async def test_interim_answers_may_come_before(mesh: Any) -> None:
    app = Tunnelled(mesh)
    app.answer = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + GRANT
    client = await mesh.connect()
    client.send(ASK)
    assert (await client.response()).status == 103
    assert (await client.response()).status == 101
    client.send(b"word")
    assert await read(client, 4) == b"word"


# Refused


@pytest.mark.parametrize("status", [b"200 OK", b"403 Forbidden", b"404 Not Found", b"426 Upgrade"])
async def test_a_refusal_ends_the_connection_and_nothing_early_is_a_request(
    mesh: Any, status: bytes
) -> None:
    app = Tunnelled(mesh)
    app.answer = b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nno" % status
    client = await mesh.connect()
    client.send(ASK + GET)
    response = await client.response()
    assert response.head.startswith(b"HTTP/1.1 " + status)
    assert (response.body, response.headers["connection"]) == (b"no", "close")
    client.send(GET)
    assert await client.is_closed()
    assert len(app.heads) == 1
    assert not app.received
    await mesh.until(lambda: not mesh.planes["far"].requests_in_flight)
    again = await mesh.connect()
    app.answer = GRANT
    again.send(ASK)
    assert (await again.response()).status == 101


async def test_a_refusal_by_policy_never_reaches_the_application(mesh: Any) -> None:
    app = Tunnelled(mesh)
    client = await mesh.connect(caller="mob")
    client.send(ASK + GET)
    response = await client.response()
    assert (response.status, response.headers["x-mesh-flag"]) == (403, "UAEX")
    assert await client.is_closed()
    assert not app.heads


@pytest.mark.parametrize(
    "answer",
    [
        GRANT.replace(b"websocket", b"other"),
        GRANT.replace(b"Upgrade: websocket\r\n", b""),
        GRANT.replace(b"Connection: Upgrade\r\n", b""),
    ],
)
async def test_another_protocol_than_the_one_asked_for_is_a_502(mesh: Any, answer: bytes) -> None:
    app = Tunnelled(mesh)
    app.answer = answer
    client = await mesh.connect()
    client.send(ASK + b"early")
    response = await client.response()
    assert (response.status, response.headers["x-mesh-flag"]) == (502, "UPE")
    assert not app.received


async def test_a_101_nobody_asked_for_is_a_502(mesh: Any) -> None:
    app = Tunnelled(mesh)
    app.answer = GRANT
    client = await mesh.connect()
    client.send(GET)
    response = await client.response()
    assert (response.status, response.headers["x-mesh-flag"]) == (502, "UPE")


@pytest.mark.parametrize(
    "wire",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n"
        b"Content-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        *(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocol
            for protocol in (b"TLS/1.0", b"HTTP/2.0", b"h2", b"h2-14", b"h3")
        ),
    ],
)
async def test_only_a_get_without_a_body_may_ask_and_not_for_another_http(
    mesh: Any, wire: bytes
) -> None:
    app = Tunnelled(mesh)
    client = await mesh.connect()
    client.send(wire + GET)
    response = await client.response(method="HEAD" if wire.startswith(b"HEAD") else "GET")
    assert response.status == 501
    assert await client.is_closed()
    assert not app.heads
    assert mesh.metric("near", "mesh_downstream_protocol_errors_total", reason="upgrade") == 1


# Ends


async def test_the_end_of_the_client_is_passed_on_and_the_answer_may_go_on(mesh: Any) -> None:
    app = Tunnelled(mesh)
    client = await open_tunnel(mesh)
    client.send(b"last words")
    client.writer.write_eof()
    await mesh.until(lambda: app.ends)
    assert app.ends == ["end"]
    assert await asyncio.wait_for(client.reader.read(), 5) == b"last words"
    await mesh.until(lambda: not mesh.planes["near"].open_connections)
    assert mesh.metric("near", "istio_requests_total", response_code="101") == 1
    assert mesh.metric("near", "istio_requests_total", response_flags="-") == 1


async def test_an_end_before_the_101_is_passed_on_after_it(mesh: Any) -> None:
    app = Tunnelled(mesh)
    app.granted.clear()
    client = await mesh.connect()
    client.send(ASK + b"all")
    client.writer.write_eof()
    await mesh.until(lambda: app.heads)
    (connection,) = mesh.planes["near"]._outbound_ledger.connections
    await mesh.until(lambda: connection._has_ended)
    assert [each.is_request_done for each in mesh.planes["near"]._outbound_ledger.exchanges] == [
        False
    ]
    app.granted.set()
    assert (await client.response()).status == 101
    assert await asyncio.wait_for(client.reader.read(), 5) == b"all"
    assert app.ends == ["end"]


async def test_the_end_of_the_application_comes_after_all_that_it_sent(mesh: Any) -> None:
    app = Tunnelled(mesh)
    client = await open_tunnel(mesh)
    data = b"z" * (4 * 1024 * 1024)
    (writer,) = app.writers
    writer.write(data)
    writer.close()
    assert await asyncio.wait_for(client.reader.read(), 10) == data
    client.close()
    await mesh.until(lambda: not mesh.planes["near"].open_connections)
    await mesh.until(lambda: not mesh.planes["far"].requests_in_flight)
    assert mesh.metric("far", "istio_requests_total", response_code="101") == 1


async def test_a_reset_of_the_client_resets_the_application(mesh: Any) -> None:
    app = Tunnelled(mesh)
    client = await open_tunnel(mesh)
    client.send(b"word")
    assert await read(client, 4) == b"word"
    reset(client.writer)
    await mesh.until(lambda: app.ends)
    assert app.ends == ["reset"]
    counted = {"response_code": "101", "response_flags": "DC"}
    assert mesh.metric("near", "istio_requests_total", **counted) == 1


async def test_a_reset_of_the_application_resets_the_client(mesh: Any) -> None:
    app = Tunnelled(mesh)
    client = await open_tunnel(mesh)
    client.send(b"word")
    assert await read(client, 4) == b"word"
    reset(app.writers[0])
    assert await is_reset(client)
    counted = {"response_code": "101", "response_flags": "UC"}
    assert mesh.metric("near", "istio_requests_total", **counted) == 1


async def test_neither_connection_is_used_again(mesh: Any) -> None:
    app = Tunnelled(mesh)
    client = await open_tunnel(mesh)
    client.writer.write_eof()
    assert await asyncio.wait_for(client.reader.read(), 5) == b""
    await open_tunnel(mesh)
    assert len(app.heads) == 2
    assert mesh.api.connections == 2


# Time


async def test_a_request_timeout_holds_until_the_101_only(mesh: Any) -> None:
    app = Tunnelled(mesh)
    mesh.timeouts = Timeouts(request_s=0.3, pool_idle_s=3.0)
    mesh.route("far")
    app.granted.clear()
    late = await mesh.connect()
    late.send(ASK)
    response = await late.response()
    assert (response.status, response.headers["x-mesh-flag"]) == (504, "UT")
    app.granted.set()
    client = await open_tunnel(mesh)
    half = await open_tunnel(mesh)
    app.is_echoing = False
    half.writer.write_eof()
    ledger = mesh.planes["near"]._outbound_ledger
    begun = ledger.now
    await mesh.until(lambda: ledger.now > begun + 0.8)
    client.send(b"word")
    await mesh.until(lambda: app.received == b"word")


async def test_a_tunnel_in_which_nothing_happens_is_ended(mesh: Any) -> None:
    app = Tunnelled(mesh)
    mesh.timeouts = Timeouts(stream_idle_s=0.4, pool_idle_s=3.0)
    mesh.route("far")
    busy, idle = await open_tunnel(mesh), await open_tunnel(mesh)

    async def talk() -> None:
        while True:
            busy.send(b"x")
            await read(busy, 1)
            await asyncio.sleep(0.05)

    talking = asyncio.create_task(talk())
    assert await is_reset(idle)
    assert not talking.done()
    talking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await talking
    assert app.ends[:1] == ["reset"]
    counted = {"response_code": "101", "response_flags": "SI"}
    # By whichever proxy looks first, or by both.
    assert sum(mesh.metric(host, "istio_requests_total", **counted) for host in mesh.planes)


# Retries and limits


async def test_before_the_101_the_usual_retries_hold_and_after_it_none(mesh: Any) -> None:
    mesh.retries = Retries(attempts=3, on=("5xx", "reset", "connect-failure"))
    mesh.route("far")
    app = Tunnelled(mesh)
    app.refusals = 1
    client = await mesh.connect()
    client.send(ASK + b"early")
    assert (await client.response()).status == 101
    assert await read(client, 5) == b"early"
    assert len(app.heads) == 2
    reset(app.writers[1])
    assert await is_reset(client)
    assert len(app.heads) == 2
    assert mesh.metric("near", "mesh_retries_total") == 1


async def test_a_tunnel_counts_as_a_request_as_long_as_it_lives(mesh: Any) -> None:
    mesh.limits = Limits(requests=1)
    mesh.route("far")
    Tunnelled(mesh)
    first = await open_tunnel(mesh)
    second = await mesh.connect()
    second.send(ASK)
    response = await second.response()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UO")
    first.writer.write_eof()
    assert await asyncio.wait_for(first.reader.read(), 5) == b""
    await open_tunnel(mesh)


# What is seen of it


async def test_open_tunnels_are_shown_and_their_bytes_counted(mesh: Any) -> None:
    Tunnelled(mesh)
    client = await open_tunnel(mesh)
    client.send(b"12345")
    assert await read(client, 5) == b"12345"
    pair = {"source_workload": "web", "destination_service": "api"}
    assert mesh.metric("near", "mesh_tunnels_open", reporter="source", **pair) == 1
    assert mesh.metric("far", "mesh_tunnels_open", reporter="destination", **pair) == 1
    assert mesh.metric("near", "istio_requests_total") == 0
    client.writer.write_eof()
    assert await asyncio.wait_for(client.reader.read(), 5) == b""
    for host in ("near", "far"):
        await mesh.until(lambda host=host: not mesh.planes[host].requests_in_flight)
        assert mesh.metric(host, "mesh_tunnels_open") == 0
        assert mesh.metric(host, "istio_requests_total", response_code="101", **pair) == 1
        assert mesh.metric(host, "istio_request_bytes_sum", response_code="101") == 5
        assert mesh.metric(host, "istio_response_bytes_sum", response_code="101") == 5


# Pressure


@pytest.mark.parametrize("side", ["client", "application"])
async def test_a_reader_that_stands_still_stops_the_sender(mesh: Any, side: str) -> None:
    app = Tunnelled(mesh)
    app.is_echoing = False
    client = await open_tunnel(mesh)
    if side == "client":
        writer, reader = app.writers[0], client.reader
    else:
        writer = client.writer
        server_side = app.writers[0].transport
        server_side.pause_reading()
    writer.transport.set_write_buffer_limits(high=1)
    piece = bytes(65536)
    sent = 0
    most = 64 * 1024 * 1024
    if side == "client":
        reader._transport.pause_reading()
    while sent < most:
        writer.write(piece)
        sent += len(piece)
        try:
            await asyncio.wait_for(writer.drain(), 1)
        except TimeoutError:
            break
    assert sent < most, "nobody stopped the sender"
    if side == "client":
        reader._transport.resume_reading()
        assert await read(client, sent) == bytes(sent)
    else:
        server_side.resume_reading()
        await mesh.until(lambda: len(app.received) == sent)


# The end of the proxy


async def test_a_drain_leaves_tunnels_alone_until_its_deadline(mesh: Any) -> None:
    app = Tunnelled(mesh)
    client = await open_tunnel(mesh)
    draining = asyncio.create_task(mesh.planes["near"].drain(1.5))
    await mesh.until(lambda: mesh.planes["near"]._outbound_ledger.is_draining)
    exchanged = 0
    ended = False
    while not ended:
        try:
            client.send(b"0123456789")
            assert await read(client, 10) == b"0123456789"
            exchanged += 10
            await asyncio.sleep(0.02)
        except (ConnectionError, asyncio.IncompleteReadError, RuntimeError):
            ended = True  # uvloop has the last for a transport that is gone
    assert draining.done() or mesh.planes["near"].requests_in_flight == 0
    assert await draining is False
    assert exchanged > 100
    assert len(app.received) - exchanged in (0, 10)


async def test_a_tunnel_that_ends_before_the_deadline_lets_the_drain_finish(mesh: Any) -> None:
    Tunnelled(mesh)
    client = await open_tunnel(mesh)
    draining = asyncio.create_task(mesh.planes["far"].drain(20))
    await mesh.until(lambda: mesh.planes["far"]._inbound_ledger.is_draining)
    client.send(b"word")
    assert await read(client, 4) == b"word"
    client.writer.write_eof()
    assert await asyncio.wait_for(client.reader.read(), 5) == b""
    assert await asyncio.wait_for(draining, 15) is True
