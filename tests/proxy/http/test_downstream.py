"""HTTP/1.1 towards clients, through a whole mesh on loopback."""

import asyncio
import socket
from typing import Any

import pytest

from proxy.http import downstream, pace
from proxy.model.names import ServiceName
from proxy.model.policy import Timeouts
from proxy.net import dataplane

GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"


def have_patience(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """With requests, and with answers that are not taken."""
    for module in (downstream, pace):
        monkeypatch.setattr(module, "PATIENCE_S", seconds)


async def test_pipelined_requests_are_answered_in_order(mesh: Any) -> None:
    mesh.api.answer = lambda request: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
        % (len(request.target), request.target.encode())
    )
    client = await mesh.connect()
    client.send(
        b"".join(
            b"POST /%d HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n\r\nabc" % number
            for number in range(20)
        )
    )
    for number in range(20):
        assert (await client.response()).body == b"/%d" % number
    assert [each.body for each in mesh.api.requests] == [b"abc"] * 20


async def test_a_thousand_pipelined_refusals_do_not_exhaust_the_stack(mesh: Any) -> None:
    mesh.route()
    client = await mesh.connect()
    client.send(GET * 2000)
    for _ in range(2000):
        assert (await client.response()).status == 503


async def test_a_request_arrives_whole_however_it_is_cut(mesh: Any) -> None:
    wire = (
        b"POST /x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 9\r\n\r\n"
    )
    client = await mesh.connect()
    for byte in wire:
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.response()).status == 200
    (received,) = mesh.api.requests
    assert received.body == b"abcde"
    assert received.all("x-sum") == ["9"]
    assert received.all("transfer-encoding") == ["chunked"]


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "host"),
        (b"GET / HTTP/1.1\nHost: api\n\n", "start_line"),
        (b"GET / HTTP/1.1\r\nHost: api\nX: 1\r\n\r\n", "field"),
        (b"GET / HTTP/1.1\r\nHost: api\r\nX : 1\r\n\r\n", "field"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", "length"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "framing",
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 100 + b"\r\n", "too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 62_000, "too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", "upgrade"),
        (b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", "start_line"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n",
            "chunk",
        ),
    ],
)
async def test_an_invalid_request_is_answered_and_the_connection_ends(
    mesh: Any, wire: bytes, reason: str
) -> None:
    client = await mesh.connect()
    client.send(wire + GET)
    response = await client.response()
    assert response.status == (431 if reason == "too_large" else 400)
    assert response.headers["x-mesh-flag"] == "DPE"
    assert response.headers["connection"] == "close"
    assert response.body.startswith(b"web -> api: the request is not valid HTTP: ")
    assert await client.is_closed()
    assert mesh.api.requests == []
    assert mesh.metric("near", "mesh_downstream_protocol_errors_total", reason=reason) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: upgrade\r\n"
        b"Upgrade: x\r\n\r\nabc",
    ],
)
async def test_changing_the_protocol_is_refused_in_words(mesh: Any, head: bytes) -> None:
    client = await mesh.connect()
    client.send(head + GET)
    response = await client.response()
    assert response.status == 501
    assert b"is not supported" in response.body
    assert await client.is_closed()
    assert mesh.api.requests == []


async def test_an_offer_of_http_2_is_passed_over(mesh: Any) -> None:
    client = await mesh.connect()
    response = await client.get(
        headers="Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n"
    )
    assert response.status == 200
    (received,) = mesh.api.requests
    names = [name for name, _ in received.headers]
    assert not {"upgrade", "http2-settings", "connection"} & set(names)


async def test_bare_newlines_are_refused_without_waiting_for_more(mesh: Any) -> None:
    client = await mesh.connect()
    client.send(b"GET / HTTP/1.1\nHost: api\n\n")
    assert (await client.response()).status == 400


async def test_a_head_without_an_end_is_not_kept_forever(mesh: Any) -> None:
    client = await mesh.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: api\r\nX: " + b"a" * 62_000)
    response = await client.response()
    assert response.status == 431
    assert b"exceeds 60 KiB" in response.body


async def test_empty_lines_before_a_request_are_ignored(mesh: Any) -> None:
    client = await mesh.connect()
    client.send(b"\r\n\r\n" + GET + b"\r\n" + GET)
    for _ in range(2):
        assert (await client.response()).status == 200


async def test_an_old_client_gets_a_body_that_ends_with_the_connection(mesh: Any) -> None:
    mesh.api.answer = lambda _: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    client = await mesh.connect()
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    response = await client.response()
    assert response.body == b"hello"
    assert "transfer-encoding" not in response.headers
    assert response.headers["connection"] == "close"
    assert mesh.api.requests[0].all("host") == ["api"]


async def test_an_old_client_may_ask_to_be_kept_alive(mesh: Any) -> None:
    client = await mesh.connect()
    for _ in range(2):
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = await client.response()
        assert response.headers["connection"] == "keep-alive"


async def test_a_client_that_ends_its_side_still_gets_its_answer(mesh: Any) -> None:
    client = await mesh.connect()
    client.send(GET)
    client.writer.write_eof()
    assert (await client.response()).status == 200
    assert await client.is_closed()


async def test_expect_100_is_answered_by_the_application(mesh: Any) -> None:
    async def careful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"expect: 100-continue" in head
        writer.write(b"HTTP/1.1 100 Continue\r\nX-Hint: 1\r\n\r\n")
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)
        await reader.read()

    mesh.api.script = careful
    client = await mesh.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    interim = await client.response()
    assert (interim.status, interim.headers) == (100, {"x-hint": "1"})
    client.send(b"body")
    response = await client.response()
    assert (response.status, response.body) == (200, b"body")


async def test_an_answer_before_the_body_is_whole_ends_the_connection(mesh: Any) -> None:
    async def impatient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    mesh.api.script = impatient
    client = await mesh.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc")
    response = await client.response()
    assert response.status == 413
    assert response.headers["connection"] == "close"
    assert await client.is_closed()
    # What the application still expects of that body must not come from the next request.
    assert (await (await mesh.connect()).get()).status == 413
    assert mesh.api.connections == 2


@pytest.fixture(autouse=True)
def _quick_sweeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataplane, "_TICKS_OF_IDLE", 1)


async def test_a_head_that_does_not_end_in_time_is_refused(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_patience(monkeypatch, 0.2)
    client = await mesh.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: ")
    response = await client.response()
    assert response.status == 408
    assert await client.is_closed()
    assert mesh.metric("near", "mesh_downstream_protocol_errors_total", reason="timeout") == 1


def refusals(mesh: Any, reason: str) -> float:
    """By whichever of the two proxies was first to lose patience."""
    return sum(
        mesh.metric(host, "mesh_downstream_protocol_errors_total", reason=reason)
        for host in ("near", "far")
    )


POST = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 1000000\r\n"


async def test_a_body_that_does_not_come_is_refused(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_patience(monkeypatch, 0.2)
    client = await mesh.connect()
    client.send(POST + b"\r\nabc")
    response = await client.response()
    assert response.status == 408
    assert b"the body came below 500 bytes/s" in response.body
    assert await client.is_closed()
    await mesh.until(lambda: not mesh.planes["far"].requests_in_flight)
    assert refusals(mesh, "timeout")


async def test_a_small_body_reaches_nobody_before_it_is_whole(mesh: Any) -> None:
    client = await mesh.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 9\r\n\r\nabc")
    other = await mesh.connect()
    assert (await other.get("/other")).status == 200  # the first bytes above were read before it
    assert not mesh.planes["near"].requests_in_flight
    client.send(b"def")
    client.send(b"ghi" + GET)
    assert (await client.response()).status == 200
    assert (await client.response()).status == 200
    assert [(each.target, each.body) for each in mesh.api.requests] == [
        ("/other", b""),
        ("/", b"abcdefghi"),
        ("/", b""),
    ]


async def test_a_small_body_that_does_not_come_holds_nobody(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_patience(monkeypatch, 0.2)
    client = await mesh.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 9\r\n\r\nabc")
    assert (await client.response()).status == 408
    assert await client.is_closed()
    assert mesh.api.connections == 0
    assert mesh.metric("near", "istio_requests_total", response_code="408") == 1


async def test_a_client_that_leaves_within_a_small_body_is_counted_once(mesh: Any) -> None:
    client = await mesh.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 9\r\n\r\nabc")
    await mesh.until(lambda: mesh.planes["near"].open_connections)
    client.close()
    await mesh.until(lambda: not mesh.planes["near"].open_connections)
    assert mesh.metric("near", "istio_requests_total", response_flags="DC") == 1
    assert mesh.api.connections == 0


async def test_a_body_that_came_fast_has_earned_a_pause(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_patience(monkeypatch, 0.0)
    client = await mesh.connect()
    client.send(POST + b"\r\n" + b"x" * 50_000)  # 100 s at 500 bytes/s
    await asyncio.sleep(0.4)  # rounds of the sweeper
    client.send(b"x" * 950_000)
    assert (await client.response()).status == 200


async def test_a_client_that_waits_for_100_is_not_slow_until_it_came(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_patience(monkeypatch, 0.1)
    may_continue = asyncio.Event()

    async def deliberate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await may_continue.wait()
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.read()

    mesh.api.script = deliberate
    client = await mesh.connect()
    client.send(POST + b"Expect: 100-continue\r\n\r\n")
    await asyncio.sleep(0.5)
    may_continue.set()
    assert (await client.response()).status == 100
    assert (await client.response()).status == 408


async def test_a_stream_in_both_directions_has_no_pace(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_patience(monkeypatch, 0.1)

    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"1\r\nz\r\n0\r\n\r\n")
        await reader.read()

    mesh.api.script = talkative
    client = await mesh.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    await client.reader.readuntil(b"1\r\na\r\n")
    await asyncio.sleep(0.5)
    client.send(b"0\r\n\r\n")
    assert await client.reader.readuntil(b"0\r\n\r\n") == b"1\r\nz\r\n0\r\n\r\n"


async def test_a_client_that_reads_nothing_is_closed(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_patience(monkeypatch, 0.5)
    size = 64 * 1024 * 1024
    mesh.api.answer = lambda _: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(size))
    )
    client = await mesh.connect()
    client.writer.transport.pause_reading()
    client.send(GET)
    await mesh.until(lambda: mesh.planes["near"].requests_in_flight)
    await mesh.until(lambda: not mesh.planes["near"].open_connections)
    assert refusals(mesh, "slow_reader")
    client.writer.transport.resume_reading()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.reader.readexactly(size)


async def test_a_client_that_leaves_its_answer_to_the_kernel_is_closed(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_patience(monkeypatch, 0.5)
    size = 256 * 1024  # all of it fits into the two kernels' buffers
    mesh.api.answer = lambda _: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(size))
    )
    address = mesh.planes["near"].outbound_address(ServiceName("web"), ServiceName("api"))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, address)
        client.send(GET)
        await mesh.until(lambda: mesh.metric("near", "istio_requests_total", response_code="200"))
        assert mesh.planes["near"].open_connections == 1
        await mesh.until(lambda: not mesh.planes["near"].open_connections)
    assert refusals(mesh, "slow_reader") == 1


async def test_a_slow_reader_that_takes_something_is_served_to_the_end(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_patience(monkeypatch, 1.5)
    size = 24 * 1024 * 1024
    mesh.api.answer = lambda _: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(size))
    )
    client = await mesh.connect()
    client.send(GET)
    await client.reader.readuntil(b"\r\n\r\n")
    for _ in range(12):
        assert len(await client.reader.readexactly(1024 * 1024)) == 1024 * 1024
        await asyncio.sleep(0.3)
    assert len(await client.reader.readexactly(size // 2)) == size // 2


async def test_a_connection_without_requests_is_closed_in_time(mesh: Any) -> None:
    mesh.timeouts = Timeouts(connection_idle_s=0.2)
    mesh.route("far")
    client = await mesh.connect()
    assert (await client.get()).status == 200
    assert await client.is_closed()


async def test_a_slow_reader_stops_the_application_and_not_the_memory(mesh: Any) -> None:
    """100 MiB to a client that reads nothing: what is held on the way is bounded."""
    sent = 0
    chunk = b"x" * 65536

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1600 * len(chunk)))
        for _ in range(1600):
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)
        await reader.read()

    mesh.api.script = flood
    client = await mesh.connect()
    client.send(GET)
    seen = -1
    while sent != seen or not sent:  # until it stands still
        seen = sent
        await asyncio.sleep(0.3)
    assert sent < 40 * 1024 * 1024  # kernel buffers of three connections included
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head
    assert len(await client.reader.readexactly(1600 * len(chunk))) == 1600 * len(chunk)


async def test_a_slow_application_stops_the_client_and_not_the_memory(mesh: Any) -> None:
    may_read = asyncio.Event()
    size = 64 * 1024 * 1024

    async def lazy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await may_read.wait()
        await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    mesh.api.script = lazy
    client = await mesh.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    sent = 0

    async def upload() -> None:
        nonlocal sent
        while sent < size:
            client.send(b"x" * 65536)
            sent += 65536
            await client.writer.drain()

    task = asyncio.create_task(upload())
    seen = -1
    while sent != seen or not sent:
        seen = sent
        await asyncio.sleep(0.3)
    assert sent < 40 * 1024 * 1024
    may_read.set()
    await task
    assert (await client.response()).body == b"ok"


async def test_a_client_that_leaves_ends_the_request_upstream(mesh: Any) -> None:
    is_gone = asyncio.Event()

    async def waiting(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await reader.read()
        finally:
            is_gone.set()

    mesh.api.script = waiting
    client = await mesh.connect()
    client.send(GET)
    await mesh.until(lambda: mesh.planes["far"].requests_in_flight)
    client.writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
    )
    client.writer.transport.abort()
    await asyncio.wait_for(is_gone.wait(), 5)
    await mesh.until(lambda: not (mesh.planes["near"].requests_in_flight))
    assert mesh.metric("near", "istio_requests_total", response_flags="DC") == 1
