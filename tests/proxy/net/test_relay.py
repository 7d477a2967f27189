"""TCP sessions through a whole mesh on loopback."""

import asyncio
import hashlib
import random
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.http.ledger import Ledger
from proxy.model.policy import Timeouts
from proxy.net.relay import Relay


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def test_bytes_go_both_ways(mesh: Any) -> None:
    mesh.db.script = echo
    client = await mesh.connect("db")
    for word in (b"one", b"two"):
        client.send(word)
        assert await client.reader.readexactly(3) == word


async def test_a_server_may_speak_first(mesh: Any) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await reader.read()

    mesh.db.script = greet
    client = await mesh.connect("db")
    assert await asyncio.wait_for(client.reader.readline(), 5) == b"220 hello\r\n"


async def test_a_client_that_has_sent_all_still_gets_the_whole_answer(mesh: Any) -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()
        writer.write(hashlib.sha256(question).hexdigest().encode() * 1000)
        await writer.drain()

    mesh.db.script = answer_at_the_end
    question = bytes(range(256)) * 10_000
    client = await mesh.connect("db")
    client.send(question)
    client.writer.write_eof()
    answer = await asyncio.wait_for(client.reader.read(), 10)
    assert answer == hashlib.sha256(question).hexdigest().encode() * 1000
    await mesh.until(
        lambda: not (mesh.planes["near"].open_connections or mesh.planes["far"].open_connections)
    )


async def test_a_server_that_has_sent_all_still_hears_the_client(mesh: Any) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def end_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"goodbye")
        writer.write_eof()
        heard.set_result(await reader.read())

    mesh.db.script = end_first
    client = await mesh.connect("db")
    assert await asyncio.wait_for(client.reader.read(), 5) == b"goodbye"
    client.send(b"still here")
    client.writer.write_eof()
    assert await asyncio.wait_for(heard, 5) == b"still here"


async def test_a_reset_is_never_an_orderly_end(mesh: Any) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half of")
        await reader.readexactly(1)
        writer.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    mesh.db.script = reset
    client = await mesh.connect("db")
    assert await client.reader.readexactly(7) == b"half of"
    client.send(b"x")
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(client.reader.read(), 5)
    assert mesh.metric("near", "istio_tcp_connections_closed_total", response_flags="UC") == 1


async def test_a_dead_endpoint_is_passed_over(mesh: Any, unused_tcp_port: int) -> None:
    mesh.db.script = echo
    mesh.route("far", extra=(("dead", unused_tcp_port),))
    for _ in range(4):
        client = await mesh.connect("db")
        client.send(b"x")
        assert await client.reader.readexactly(1) == b"x"


async def test_with_no_endpoint_a_session_is_reset_and_counted(mesh: Any) -> None:
    mesh.route()
    client = await mesh.connect("db")
    assert await client.is_closed()
    assert mesh.metric("near", "istio_tcp_connections_closed_total", response_flags="UH") == 1


async def test_a_dead_application_ends_the_session(mesh: Any) -> None:
    await mesh.db.stop()
    client = await mesh.connect("db")
    client.send(b"hello")
    assert await client.is_closed()
    assert mesh.metric("far", "istio_tcp_connections_closed_total", response_flags="UF") == 1


async def test_a_caller_that_is_not_allowed_is_closed_and_counted(mesh: Any) -> None:
    mesh.db.script = echo
    client = await mesh.connect("db", caller="mob")
    client.send(b"hello")
    assert await client.is_closed()
    assert mesh.metric("far", "mesh_inbound_tls_failures_total", reason="denied") == 1
    assert mesh.db.connections == 0


async def test_bytes_are_counted_on_both_sides(mesh: Any) -> None:
    mesh.db.script = echo
    client = await mesh.connect("db")
    client.send(b"x" * 100)
    await client.reader.readexactly(100)
    for host in ("near", "far"):
        assert mesh.metric(host, "istio_tcp_received_bytes_total") == 100
        assert mesh.metric(host, "istio_tcp_sent_bytes_total") == 100
        assert mesh.metric(host, "istio_tcp_connections_opened_total") == 1
        assert mesh.metric(host, "istio_tcp_connections_closed_total") == 0


async def test_a_session_that_has_ended_is_remembered_on_both_sides(mesh: Any) -> None:
    mesh.db.script = echo
    client = await mesh.connect("db")
    client.send(b"x" * 100)
    await client.reader.readexactly(100)
    client.writer.write_eof()
    assert await client.is_closed()
    await mesh.until(lambda: all(mesh.planes[host].recent.find("") for host in ("near", "far")))
    (near,) = mesh.planes["near"].recent.find("")
    (far,) = mesh.planes["far"].recent.find("")
    assert (near.protocol, near.side, far.side) == ("tcp", "source", "destination")
    assert {(each.caller, each.service, each.flag) for each in (near, far)} == {("web", "db", "")}
    assert {(each.request_bytes, each.response_bytes) for each in (near, far)} == {(100, 100)}
    assert near.endpoints == ("db on far",)


async def test_a_session_that_nobody_could_take_is_remembered_with_the_reason(mesh: Any) -> None:
    mesh.route()
    client = await mesh.connect("db")
    assert await client.is_closed()
    (seen,) = mesh.planes["near"].recent.find("")
    assert (seen.flag, seen.tries, seen.endpoints) == ("UH", 0, ())
    assert seen.reason.startswith("no healthy endpoint is known for this service")


async def test_a_reader_that_stands_still_stops_the_sender(mesh: Any) -> None:
    may_read = asyncio.Event()
    total = 0

    async def lazy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal total
        await may_read.wait()
        while data := await reader.read(1 << 20):
            total += len(data)
        writer.write(b"done")

    mesh.db.script = lazy
    client = await mesh.connect("db")
    size, sent = 64 * 1024 * 1024, 0

    async def upload() -> None:
        nonlocal sent
        while sent < size:
            client.send(b"x" * 65536)
            sent += 65536
            await client.writer.drain()
        client.writer.write_eof()

    task = asyncio.create_task(upload())
    seen = -1
    while sent != seen or not sent:
        seen = sent
        await asyncio.sleep(0.3)
    assert sent < 40 * 1024 * 1024
    may_read.set()
    await task
    assert await asyncio.wait_for(client.reader.read(), 10) == b"done"
    assert total == size


def shrink_send_buffers(mesh: Any) -> None:
    """So that hardly anything is written at once."""
    for plane in mesh.planes.values():
        for ledger in plane._ledgers:
            for relay in ledger.exchanges:
                for half in (relay.near, relay.far):
                    sock = half._transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)


async def test_sessions_side_by_side_with_slow_readers_keep_their_own_bytes(mesh: Any) -> None:
    """All share the buffers they read into, and each writes more than its kernel takes at once."""
    mesh.db.script = echo
    sizes = [3_000_000 + 77 * number for number in range(4)]

    async def session(number: int) -> None:
        data = random.Random(number).randbytes(sizes[number])
        client = await mesh.connect("db")
        client.send(data[:1])
        assert await client.reader.readexactly(1) == data[:1]
        shrink_send_buffers(mesh)

        async def upload() -> None:
            for at in range(1, len(data), 1 << 20):
                client.send(data[at : at + (1 << 20)])
                await client.writer.drain()
            client.writer.write_eof()

        task = asyncio.create_task(upload())
        got = hashlib.sha256(data[:1])
        count = 1
        while piece := await client.reader.read(10_000 * (number + 1)):
            got.update(piece)
            count += len(piece)
        await task
        assert count == sizes[number]
        assert got.digest() == hashlib.sha256(data).digest()

    async with asyncio.timeout(20):
        await asyncio.gather(*(session(number) for number in range(len(sizes))))


async def test_bytes_sent_before_there_is_a_far_side_all_arrive(mesh: Any) -> None:
    mesh.db.script = echo
    client = await mesh.connect("db")
    data = random.Random(1).randbytes(700_000)
    client.send(data)
    client.writer.write_eof()
    assert await asyncio.wait_for(client.reader.read(), 10) == data


class _Full:
    """A transport that takes nothing at once."""

    def __init__(self) -> None:
        self.half: Any = None
        self.is_reading = True

    def write(self, data: bytes) -> None:
        self.half.pause_writing()

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def set_protocol(self, protocol: object) -> None:
        pass


class _Waiting(Relay):
    def start(self) -> None:
        pass


def test_nothing_more_is_read_while_the_first_bytes_still_wait_to_be_written() -> None:
    series = SimpleNamespace(
        **{name: SimpleNamespace(value=0) for name in ("opened", "closed", "received", "sent")}
    )
    reporter: Any = SimpleNamespace(tcp=lambda _flag="": series)
    relay = _Waiting(Ledger(10, lambda _: None), reporter, 60.0)
    near, far = _Full(), _Full()
    near.half, far.half = relay.near, relay.far
    relay.near.connection_made(near)
    relay.near.data_received(b"x" * 100_000)
    assert not near.is_reading
    relay.far.connection_made(far)
    assert not near.is_reading
    relay.far.resume_writing()
    assert near.is_reading


async def test_a_silent_session_ends_in_time(mesh: Any) -> None:
    mesh.db.script = echo
    mesh.timeouts = Timeouts(stream_idle_s=0.2)
    mesh.route("far")
    client = await mesh.connect("db")
    client.send(b"x")
    assert await client.reader.readexactly(1) == b"x"
    assert await client.is_closed()
    assert (
        mesh.metric("near", "istio_tcp_connections_closed_total", response_flags="SI")
        + mesh.metric("far", "istio_tcp_connections_closed_total", response_flags="SI")
        >= 1
    )
