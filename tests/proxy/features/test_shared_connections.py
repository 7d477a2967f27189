"""Many requests on one connection between two hosts: bodies, slow ends, ends, limits."""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.http import streams_client
from proxy.http.frames import ALPN, GOAWAY, HEAD, frame, head_frame
from proxy.model.policy import Balancing, Timeouts
from proxy.model.resilience import Limits

MIB = 1024 * 1024
GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def shared(mesh: Any) -> list[Any]:
    """The connections of web to api on the near side."""
    found = []
    for cluster in mesh.planes["near"].clusters():
        for pool in cluster.pools:
            found += [each for each in pool._shared if not each.is_lost]
    return found


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Gate:
    """An application that answers ``/slow`` when told to, and anything else at once."""

    def __init__(self, mesh: Any) -> None:
        self.waiting = 0
        self.opened = asyncio.Event()
        mesh.api.script = self._script

    async def _script(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b" /slow " in head:
                self.waiting += 1
                await self.opened.wait()
            writer.write(OK)


@pytest.fixture
async def mesh(quiet_mesh: Any) -> Any:
    """One that shares, whatever the others test."""
    await quiet_mesh.start()
    return quiet_mesh


def reset(client: Any) -> None:
    """An orderly end would say that the client still waits for its answer."""
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


async def slow(mesh: Any) -> tuple[Any, asyncio.Task[Any]]:
    client = await mesh.connect()
    client.send(b"GET /slow HTTP/1.1\r\nHost: api\r\n\r\n")
    return client, asyncio.create_task(client.response())


async def test_many_callers_are_on_one_connection(mesh: Any) -> None:
    gate = Gate(mesh)
    tasks = [(await slow(mesh))[1] for _ in range(30)]
    await mesh.until(lambda: gate.waiting == 30)
    assert [len(each.streams) for each in shared(mesh)] == [30]
    assert len(mesh.planes["far"]._inbound_ledger.connections) == 1
    gate.opened.set()
    assert {(await task).status for task in tasks} == {200}
    assert mesh.metric("near", "istio_requests_total", response_code="200") == 30


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, MIB, 3 * MIB + 7])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_bodies_cross_whole_both_ways(mesh: Any, size: int, is_chunked: bool) -> None:
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size]

    def answer(received: Any) -> bytes:
        assert received.body == body
        if is_chunked:
            chunk = b"%x\r\n%b\r\n" % (size, body) if size else b""
            return (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\nX-Sum: 1\r\n\r\n"
                % chunk
            )
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)

    mesh.api.answer = answer
    client = await mesh.connect()
    for _ in range(2):
        if is_chunked:
            chunk = b"%x\r\n%b\r\n" % (size, body) if size else b""
            client.send(b"POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(chunk + b"0\r\nX-Sum: 2\r\n\r\n")
        else:
            client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % size)
            client.send(body)
        response = await client.response()
        assert response.body == body
        assert ("trailer:x-sum" in response.headers) is is_chunked
    assert len(mesh.api.requests) == 2
    assert len(shared(mesh)) == 1


async def test_a_client_waits_for_100_through_both_proxies(mesh: Any) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(4) == b"body"
        writer.write(OK)

    mesh.api.script = script
    client = await mesh.connect()
    client.send(
        b"POST / HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    )
    assert (await client.response()).status == 100
    client.send(b"body")
    assert (await client.response()).body == b"ok"


async def test_large_bodies_need_little_memory(mesh: Any) -> None:
    size = 50 * MIB
    piece = bytes(MIB)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        left = size
        while left:
            left -= len(await reader.read(MIB))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(50):
            writer.write(piece)
            await writer.drain()

    mesh.api.script = script
    client = await mesh.connect()
    before = most = resident_bytes()
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(50):
        client.send(piece)
        await client.writer.drain()
        most = max(most, resident_bytes())
    await client.reader.readuntil(b"\r\n\r\n")
    left = size
    while left:
        left -= len(await client.reader.read(MIB))
        most = max(most, resident_bytes())
    assert most - before < 16 * MIB


async def test_a_client_that_does_not_read_stops_its_application_and_nobody_else(
    mesh: Any,
) -> None:
    written = 0
    piece = bytes(256 * 1024)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b" /large " not in head:
                writer.write(OK)
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (256 * MIB))
            for _ in range(1024):
                writer.write(piece)
                await writer.drain()
                written += len(piece)

    mesh.api.script = script
    before = resident_bytes()
    host, port = mesh.planes["near"].outbound_address("web", "api")
    with socket.create_connection((host, port)) as stalled:
        stalled.sendall(b"GET /large HTTP/1.1\r\nHost: api\r\n\r\n")
        await mesh.until(lambda: written > 0)
        client = await mesh.connect()
        last = -1
        while written != last:  # until nothing moves
            last = written
            for _ in range(50):
                assert (await client.get()).status == 200
        assert written < 64 * MIB, "what the sockets' buffers hold, and no more"
        assert resident_bytes() - before < 16 * MIB
    await mesh.until(lambda: not any(each.streams for each in shared(mesh)))
    assert (await client.get()).status == 200


async def test_an_application_that_does_not_read_stops_its_client_and_nobody_else(
    mesh: Any,
) -> None:
    is_over = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"POST"):
                await is_over.wait()
                return
            writer.write(OK)

    mesh.api.script = script
    before = resident_bytes()
    stalled = await mesh.connect()
    stalled.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % (256 * MIB))
    client = await mesh.connect()
    sent, piece = 0, bytes(256 * 1024)
    with contextlib.suppress(TimeoutError):
        while sent < 256 * MIB:
            stalled.send(piece)
            await asyncio.wait_for(stalled.writer.drain(), 0.5)
            sent += len(piece)
    assert sent < 64 * MIB
    for _ in range(20):
        assert (await client.get()).status == 200
    assert resident_bytes() - before < 16 * MIB
    is_over.set()
    await mesh.until(lambda: not any(each.streams for each in shared(mesh)))
    assert (await client.get()).status == 200


async def test_a_client_that_disappears_ends_its_application_and_nobody_else(mesh: Any) -> None:
    ended = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b" /large " not in head:
                writer.write(OK)
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"4\r\nsome\r\n")
            await reader.read(1)
            ended += 1
            return

    mesh.api.script = script
    other = await mesh.connect()
    assert (await other.get()).status == 200
    (connection,) = shared(mesh)
    for _ in range(3):
        client = await mesh.connect()
        client.send(b"GET /large HTTP/1.1\r\nHost: api\r\n\r\n")
        await client.reader.readuntil(b"some")
        reset(client)
    await mesh.until(lambda: ended == 3)
    assert (await other.get()).status == 200
    assert shared(mesh) == [connection]
    assert not connection.streams


async def test_an_application_that_dies_cuts_off_its_client_and_nobody_else(mesh: Any) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b" /dies " in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
                await writer.drain()
                return
            writer.write(OK)

    mesh.api.script = script
    other = await mesh.connect()
    assert (await other.get()).status == 200
    (connection,) = shared(mesh)
    client = await mesh.connect()
    client.send(b"GET /dies HTTP/1.1\r\nHost: api\r\n\r\n")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.response()
    assert (await other.get()).status == 200
    assert shared(mesh) == [connection]


async def test_a_host_that_dies_fails_each_request_on_it_once(mesh: Any) -> None:
    gate = Gate(mesh)
    tasks = [(await slow(mesh))[1] for _ in range(20)]
    await mesh.until(lambda: gate.waiting == 20)
    for connection in tuple(mesh.planes["far"]._inbound_ledger.connections):
        connection.abort()
    assert [(await task).status for task in tasks] == [502] * 20
    assert mesh.metric("near", "istio_requests_total", response_flags="UC") == 20
    gate.opened.set()
    client = await mesh.connect()
    assert (await client.get()).status == 200


async def test_a_kept_connection_that_dies_is_hidden_where_a_method_may_be_repeated(
    mesh: Any,
) -> None:
    gate = Gate(mesh)
    client = await mesh.connect()
    assert (await client.get()).status == 200
    tasks = [(await slow(mesh))[1] for _ in range(20)]
    await mesh.until(lambda: gate.waiting == 20)
    for connection in tuple(mesh.planes["far"]._inbound_ledger.connections):
        connection.abort()
    await mesh.until(lambda: gate.waiting == 40)
    gate.opened.set()
    assert {(await task).status for task in tasks} == {200}
    assert len(shared(mesh)) == 1, "one new connection for all of them"


async def test_a_repeated_request_is_not_put_on_another_old_connection(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be about to die of the same cause."""
    gate = Gate(mesh)
    client = await mesh.connect()
    assert (await client.get()).status == 200
    monkeypatch.setattr(streams_client, "OPENED_STREAMS", 4)
    tasks = [(await slow(mesh))[1] for _ in range(5)]
    await mesh.until(lambda: gate.waiting == 5)
    dying, old = sorted(shared(mesh), key=lambda each: -len(each.streams))
    dying.abort()
    await mesh.until(lambda: gate.waiting == 9)
    assert len(old.streams) == 1
    gate.opened.set()
    assert {(await task).status for task in tasks} == {200}


async def test_a_drain_under_load_fails_no_request(quiet_mesh: Any) -> None:
    mesh = quiet_mesh
    mesh.timeouts = Timeouts(pool_idle_s=0.5)
    mesh.balancing = Balancing(algorithm="round_robin")
    await mesh.start()
    await mesh.add_far("far2")
    mesh.route("far", "far2")
    is_over = False
    failed: list[Any] = []
    served = 0

    async def load(method: bytes) -> None:
        nonlocal served
        while not is_over:
            client = await mesh.connect()
            for _ in range(20):  # then as a new client
                client.send(method + b" / HTTP/1.1\r\nHost: api\r\nContent-Length: 4\r\n\r\nbody")
                response = await client.response()
                if response.status != 200:
                    failed.append((method, response))
                served += 1
            client.close()

    tasks = [asyncio.create_task(load(method)) for method in (b"POST", b"PUT") * 4]
    await mesh.until(lambda: served > 100)
    assert await mesh.planes["far"].drain(10)  # the registry does not even learn of it
    at_end = served
    await mesh.until(lambda: served > at_end + 100)
    is_over = True
    await asyncio.gather(*tasks)
    assert not failed


async def test_a_rotation_lets_requests_finish_on_the_old_connection(mesh: Any) -> None:
    gate = Gate(mesh)
    client, task = await slow(mesh)
    await mesh.until(lambda: gate.waiting == 1)
    (old,) = shared(mesh)
    mesh.pki.issue("web")
    mesh.planes["near"].reload_identities()
    other = await mesh.connect()
    assert (await other.get()).status == 200
    (new,) = [each for each in shared(mesh) if each is not old]
    assert new.tag is not old.tag
    assert len(old.streams) == 1
    gate.opened.set()
    assert (await task).status == 200
    await mesh.until(lambda: shared(mesh) == [new])
    assert (await client.get()).status == 200


async def test_an_idle_connection_closes_after_its_time(quiet_mesh: Any) -> None:
    mesh = quiet_mesh
    mesh.timeouts = Timeouts(pool_idle_s=0.2)
    await mesh.start()
    client = await mesh.connect()
    assert (await client.get()).status == 200
    assert len(shared(mesh)) == 1
    await mesh.until(lambda: not shared(mesh))
    await mesh.until(
        lambda: mesh.metric("near", "mesh_upstream_connections", reporter="source") == 0
    )
    assert (await client.get()).status == 200


async def test_one_connection_is_enough_for_many(quiet_mesh: Any) -> None:
    mesh = quiet_mesh
    mesh.limits = Limits(connections=1, pending=100)
    await mesh.start()
    gate = Gate(mesh)
    tasks = [(await slow(mesh))[1] for _ in range(30)]
    await mesh.until(lambda: gate.waiting == 30)
    assert len(shared(mesh)) == 1
    gate.opened.set()
    assert {(await task).status for task in tasks} == {200}


@pytest.mark.parametrize(("connections", "at_once", "opened"), [(10, 10, 3), (1, 4, 1)])
async def test_a_full_connection_is_followed_by_another_or_waited_for(
    quiet_mesh: Any,
    monkeypatch: pytest.MonkeyPatch,
    connections: int,
    at_once: int,
    opened: int,
) -> None:
    monkeypatch.setattr(streams_client, "OPENED_STREAMS", 4)
    mesh = quiet_mesh
    mesh.limits = Limits(connections=connections, pending=100)
    await mesh.start()
    gate = Gate(mesh)
    tasks = [(await slow(mesh))[1] for _ in range(10)]
    await mesh.until(lambda: gate.waiting == at_once)
    assert len(shared(mesh)) == opened
    gate.opened.set()
    assert {(await task).status for task in tasks} == {200}


async def half_a_large_answer(mesh: Any) -> tuple[Any, asyncio.Event]:
    """Its reader, and what lets the second half go out."""
    is_read = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b" /large " not in head:
                writer.write(OK)
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * MIB))
            writer.write(bytes(MIB))
            await is_read.wait()
            writer.write(bytes(MIB))

    mesh.api.script = script
    client = await mesh.connect()
    client.send(b"GET /large HTTP/1.1\r\nHost: api\r\n\r\n")
    await client.reader.readuntil(b"\r\n\r\n")
    await client.reader.readexactly(MIB)
    return client, is_read


async def test_a_large_answer_leaves_the_connection_to_it(mesh: Any) -> None:
    """So that small ones need not wait behind it."""
    client, is_read = await half_a_large_answer(mesh)
    (busy,) = shared(mesh)
    others = [await mesh.connect() for _ in range(5)]
    for each in await asyncio.gather(*(other.get() for other in others)):
        assert each.status == 200
    assert len(shared(mesh)) == 2
    assert len(busy.streams) == 1
    is_read.set()
    await client.reader.readexactly(MIB)
    assert (await client.get()).status == 200


async def test_a_large_answer_is_shared_with_where_there_may_be_no_other(quiet_mesh: Any) -> None:
    mesh = quiet_mesh
    mesh.limits = Limits(connections=1, pending=100)
    await mesh.start()
    client, is_read = await half_a_large_answer(mesh)
    other = await mesh.connect()
    assert (await other.get()).status == 200
    assert [len(each.streams) for each in shared(mesh)] == [1]
    is_read.set()
    await client.reader.readexactly(MIB)


async def hostile(mesh: Any, pki: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of a workload that is known and allowed, and means no good."""
    identity = pki.state_dir / "identities" / "web" / "current"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(pki.trust_bundle)
    context.load_cert_chain(identity / "chain.pem", identity / "key.pem")
    context.set_alpn_protocols([ALPN])
    host, port = mesh.planes["far"].inbound_address()
    return await asyncio.open_connection(host, port, ssl=context, server_hostname="api.mesh.test")


@pytest.mark.parametrize(
    "attack",
    [
        struct.pack(">IIB", 0xFFFFFFFF, 1, HEAD),
        head_frame(1, GET, b"", True) * 2,
        frame(0, GOAWAY) * 50_000,
        b"".join(head_frame(n, GET, b"", True) + frame(n, 6) for n in range(1, 20_000)),
        b"".join(head_frame(n, GET, b"", False) for n in range(1, 2000)),
        head_frame(1, GET.replace(b"GET", b"PUT"), b"", True) + frame(1, 3, b"x") * 50_000,
    ],
    ids=["giant", "reused", "empty", "resets", "streams", "late"],
)
async def test_an_attack_by_a_known_caller_ends_its_connection_alone(
    mesh: Any, mesh_pki: Any, attack: bytes
) -> None:
    client = await mesh.connect()
    assert (await client.get()).status == 200
    before = resident_bytes()
    reader, writer = await hostile(mesh, mesh_pki)
    started = time.monotonic()
    writer.write(attack)
    with contextlib.suppress(ConnectionError):
        while await asyncio.wait_for(reader.read(65536), 5):
            pass
    assert time.monotonic() - started < 3
    assert resident_bytes() - before < 32 * MIB
    writer.transport.abort()
    assert (await client.get()).status == 200
    assert mesh.metric("far", "mesh_requests_refused_total", reason="frame") >= 0
    await mesh.until(lambda: len(mesh.planes["far"]._inbound_ledger.connections) == 1)
    await mesh.until(lambda: not mesh.planes["far"]._inbound_ledger.exchanges)
