"""What grpcio does of itself besides calling, through two proxies: it pings, ages and compresses.

And what operators do with it: servers are stopped under load, clients come before their proxy.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from integration.grpc_ends import LARGE_BYTES, NAME, OPTIONS, AsyncKinds, Options
from integration.taps import ACK, GOAWAY, PING, Tap
from msgspec import structs

from proxy.model.names import ServiceName
from proxy.model.policy import ServicePolicy
from proxy.model.resilience import Retries
from proxy.model.settings import Address

pytestmark = pytest.mark.timeout(180)

ENDS_IN_S = 60.0
CALL_S = 30.0
PINGING: Options = (
    ("grpc.keepalive_time_ms", 100),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Far more often than anybody should; clients of grpcio make a second of it."""


class Mesh:
    """``web`` calls ``api``; what is made here is stopped in the end."""

    def __init__(self, grid: Any, stack: contextlib.AsyncExitStack) -> None:
        self.grid, self._stack = grid, stack

    async def serve(self, host: str = "a1", *, is_tapped: bool = False, **options: Any) -> Any:
        server = await self.start(**options)
        tap = await self.tap("127.0.0.1", server.port) if is_tapped else None
        port = server.port if tap is None else tap.port
        await self.grid.serve("api", host, protocol="grpc", port=port)
        self.grid.apply()
        return server if tap is None else tap

    async def start(self, **options: Any) -> AsyncKinds:
        server = AsyncKinds(**options)
        await server.start()
        self._stack.push_async_callback(server.stop)
        return server

    async def tap(self, host: str, port: int) -> Tap:
        tap = Tap(host, port)
        await tap.start()
        self._stack.push_async_callback(tap.stop)
        return tap

    def address(self) -> tuple[str, int]:
        host, port = self.grid.planes["near"].outbound_address(
            ServiceName("web"), ServiceName("api")
        )
        return host, port

    def channel(
        self, options: Options = (), *, port: int = 0, compression: Any = None
    ) -> grpc.aio.Channel:
        host, own = self.address()
        channel = grpc.aio.insecure_channel(
            f"{host}:{port or own}", options=(*OPTIONS, *options), compression=compression
        )
        self._stack.push_async_callback(channel.close)
        return channel


@pytest.fixture
async def mesh(make_grid: Callable[..., Any]) -> AsyncIterator[Mesh]:
    async with contextlib.AsyncExitStack() as stack:
        yield Mesh(await make_grid(), stack)


def unary(channel: grpc.aio.Channel, message: bytes = b"hello", **options: Any) -> Any:
    return channel.unary_unary(f"/{NAME}/Unary")(message, timeout=CALL_S, **options)


def mirror(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(f"/{NAME}/Mirror")(timeout=ENDS_IN_S)


async def say(stream: Any, message: bytes) -> None:
    await stream.write(message)
    assert await stream.read() == message[::-1]


async def end(stream: Any) -> None:
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_two_hundred_streams_of_one_channel_at_a_time(mesh: Mesh) -> None:
    server = await mesh.serve(is_tapped=True)
    channel = mesh.channel()
    streams = [mirror(channel) for _ in range(200)]
    async with asyncio.timeout(ENDS_IN_S):
        # None goes on before all of them are answered: they are open at a time.
        for at in range(5):
            await asyncio.gather(
                *(say(stream, b"%d-%d" % (at, number)) for number, stream in enumerate(streams))
            )
        assert mesh.grid.planes["near"].requests_in_flight == 200
        await asyncio.gather(*(end(stream) for stream in streams))
    assert len(server.there) < 200


async def test_a_stream_goes_on_while_ten_thousand_calls_pass_it(mesh: Mesh) -> None:
    await mesh.serve()
    channel = mesh.channel()
    stream = mirror(channel)
    async with asyncio.timeout(ENDS_IN_S * 2):
        for at in range(100):
            await say(stream, b"before %d" % at)
            messages = [b"%d %d" % (at, number) for number in range(100)]
            assert await asyncio.gather(*(unary(channel, each) for each in messages)) == messages
        await end(stream)
    assert mesh.grid.metric("near", "istio_requests_total", grpc_response_status="0") == 10_001


class Load:
    """Calls and streams on one channel, without a pause, until it is left."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._is_over = False
        self.calls = 0
        self.failures: list[str] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [
            asyncio.create_task(work())
            for work in (self._call, self._call, self._call, self._stream)
            for _ in range(4)
        ]
        await self.more(50)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        async with asyncio.timeout(ENDS_IN_S):
            await asyncio.gather(*self._tasks)

    async def more(self, calls: int) -> None:
        """So many have ended from now on."""
        wanted = self.calls + calls
        async with asyncio.timeout(ENDS_IN_S):
            while self.calls < wanted:
                await asyncio.sleep(0.005)

    async def _call(self) -> None:
        await self._repeat(lambda: unary(self._channel))

    async def _stream(self) -> None:
        async def read() -> None:
            call = self._channel.unary_stream(f"/{NAME}/Repeat")(b"20 100", timeout=CALL_S)
            assert len([each async for each in call]) == 20

        await self._repeat(read)

    async def _repeat(self, once: Callable[[], Any]) -> None:
        while not self._is_over:
            try:
                await once()
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")
            self.calls += 1


async def test_servers_that_are_stopped_under_load_fail_no_call(mesh: Mesh) -> None:
    """A grpcio server that stops answers CANCELLED to what comes in the last moment, although it
    has not begun with it; its own client sees the same without a mesh. Policy may know that."""
    mesh.grid.policy["api"] = ServicePolicy(
        retries=Retries(on=("connect-failure", "refused", "cancelled"))
    )
    servers = [await mesh.serve(host) for host in ("a1", "a2")]
    async with Load(mesh.channel()) as load:
        for _ in range(2):
            for at, server in enumerate(servers):
                await server.stop(10.0)
                await load.more(100)
                servers[at] = await mesh.start(port=server.port)
                await load.more(100)
    assert load.failures == []


async def test_a_server_that_closes_connections_by_their_age_fails_no_call(mesh: Mesh) -> None:
    ages: Options = (("grpc.max_connection_age_ms", 300),)
    tap = await mesh.serve(is_tapped=True, options=ages)
    async with Load(mesh.channel()) as load:
        async with asyncio.timeout(ENDS_IN_S):
            while len(tap.there) < 5:
                await load.more(20)
    assert load.failures == []
    assert tap.count(tap.back, GOAWAY) >= 4


async def test_a_client_may_wait_for_its_proxy(mesh: Mesh) -> None:
    await mesh.serve()
    grid = mesh.grid
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        late = Address(host="127.0.0.1", port=held.getsockname()[1])
    channel = mesh.channel((("grpc.initial_reconnect_backoff_ms", 100),), port=late.port)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary(channel, wait_for_ready=False)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    call = unary(channel, wait_for_ready=True)
    (web, *_) = grid.settings["near"].workloads
    upstreams = [each for each in web.upstreams if each.service == "api"]
    web = structs.replace(web, upstreams=(structs.replace(upstreams[0], listen=late),))
    await grid._add("late", (web,))
    grid.apply()
    async with asyncio.timeout(ENDS_IN_S):
        assert await call == b"hello"


@pytest.mark.parametrize("who", ["server", "client"])
async def test_a_message_that_is_too_large_ends_its_call_only(mesh: Mesh, who: str) -> None:
    await mesh.serve()
    channel = mesh.channel()
    stream = mirror(channel)
    async with asyncio.timeout(ENDS_IN_S):
        await say(stream, b"before")
        for _ in range(3):
            if who == "server":
                call = unary(channel, bytes(LARGE_BYTES + 4096))
            else:
                repeat = channel.unary_stream(f"/{NAME}/Repeat")
                call = repeat(b"1 %d" % (LARGE_BYTES + 4096), timeout=CALL_S).read()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in (caught.value.details() or "")
        assert await unary(channel) == b"hello"
        await say(stream, b"after")
        await end(stream)


async def test_compressed_messages_are_passed_on_as_they_are(mesh: Mesh) -> None:
    await mesh.serve(compression=grpc.Compression.Gzip)
    channel = mesh.channel(compression=grpc.Compression.Gzip)
    message = b"the same again " * 70_000
    assert await unary(channel, message) == message
    stream = mirror(channel)
    async with asyncio.timeout(ENDS_IN_S):
        await say(stream, message)
        await end(stream)
    for name in ("istio_request_bytes_sum", "istio_response_bytes_sum"):
        for host in ("near", "a1"):
            assert 0 < mesh.grid.metric(host, name) < len(message) / 10, (name, host)


@pytest.mark.parametrize("has_calls", [False, True], ids=["idle", "with-a-stream"])
async def test_a_client_that_keeps_pinging_keeps_its_connection(
    mesh: Mesh, has_calls: bool
) -> None:
    await mesh.serve()
    tap = await mesh.tap(*mesh.address())
    channel = mesh.channel(PINGING, port=tap.port)
    assert await unary(channel) == b"hello"
    stream = mirror(channel) if has_calls else None
    if stream is not None:
        await say(stream, b"before")
    await tap.until_pings(5)
    if stream is not None:
        await say(stream, b"after")
        await end(stream)
    assert await unary(channel) == b"hello"
    assert len(tap.there) == 1
    assert tap.count(tap.back, GOAWAY) == 0


async def test_a_server_that_keeps_pinging_is_answered(mesh: Mesh) -> None:
    tap = await mesh.serve(is_tapped=True, options=PINGING)
    channel = mesh.channel()
    stream = mirror(channel)
    await say(stream, b"before")
    async with asyncio.timeout(ENDS_IN_S):
        while tap.count(tap.there, PING, ACK) < 20:
            await asyncio.sleep(0.01)
    await say(stream, b"after")
    await end(stream)
    assert len(tap.there) == 1
