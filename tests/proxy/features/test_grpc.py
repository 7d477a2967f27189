"""gRPC through real proxies, with grpcio at both ends: what its clients are told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import StreamEnded

from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.policy import Balancing, Route, ServicePolicy, Timeouts
from proxy.model.resilience import Fault, OutlierDetection, RateLimit, Retries, RetryOn
from proxy.model.routing import GrpcMatch, Match, RouteTimeouts

GET, PUT = "/orders.v1.Orders/Get", "/orders.v1.Orders/Put"
WATCH, CHAT = "/orders.v1.Orders/Watch", "/orders.v1.Orders/Chat"
WAIT_S = 10.0
"""A call that hangs fails its test."""

Code = grpc.StatusCode
Unary = Callable[[bytes, Any], Awaitable[bytes]]


class Orders:
    """A server of a service ``orders.v1.Orders`` whose messages are bytes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.remaining_s: list[float | None] = []
        """Of each unary call, as it arrived."""
        self.metadata: list[dict[str, Any]] = []
        self.get: Unary = self._name
        self.pause_s = 0.0
        """Of a stream, after each message."""
        self.cancelled = asyncio.Event()
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "orders.v1.Orders",
                    {
                        "Get": grpc.unary_unary_rpc_method_handler(self._unary),
                        "Put": grpc.unary_unary_rpc_method_handler(self._unary),
                        "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
                        "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
                    },
                ),
            )
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def _name(self, _: bytes, context: Any) -> bytes:
        return self.name.encode()

    async def _unary(self, message: bytes, context: Any) -> bytes:
        self.remaining_s.append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            return await self.get(message, context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _watch(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            number = 0
            while message != b"%d" % number:
                yield b"%d" % number
                number += 1
                if message == b"silent":
                    await asyncio.Event().wait()
                await asyncio.sleep(self.pause_s)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _chat(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message[::-1]


def failing(code: grpc.StatusCode, times: int = 100) -> Unary:
    """Ends the first ``times`` calls so, the others well."""
    left = times

    async def get(_: bytes, context: Any) -> bytes:
        nonlocal left
        left -= 1
        if left >= 0:
            await context.abort(code, "on purpose")
        return b"well"

    return get


class Mesh:
    """``web`` calls the gRPC service ``api``."""

    def __init__(self, grid: Any) -> None:
        self.grid = grid
        self._servers: list[Orders] = []
        self._channel: Any = None

    async def serve(self, host: str = "a1", **options: Any) -> Orders:
        server = Orders(host)
        await server.start()
        self._servers.append(server)
        await self.grid.serve("api", host, protocol="grpc", port=server.port, **options)
        return server

    def apply(self, policy: ServicePolicy | None = None, **own: Any) -> None:
        self.grid.policy["api"] = policy or ServicePolicy(**own)
        self.grid.apply()
        near = self.grid.planes["near"]
        host, port = near.outbound_address(ServiceName("web"), ServiceName("api"))
        if self._channel is None:
            # One of its own: a channel of an earlier test may remember what it was told.
            options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
            self._channel = grpc.aio.insecure_channel(f"{host}:{port}", options=options)

    def get(self, message: bytes = b"", path: str = GET, timeout: float | None = WAIT_S) -> Any:
        return self._channel.unary_unary(path)(message, timeout=timeout)

    def watch(self, message: bytes, timeout: float | None = WAIT_S) -> Any:
        return self._channel.unary_stream(WATCH)(message, timeout=timeout)

    def chat(self) -> Any:
        return self._channel.stream_stream(CHAT)(timeout=WAIT_S)

    async def failure(self, path: str = GET, timeout: float | None = WAIT_S) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.get(path=path, timeout=timeout)
        return caught.value

    async def stop(self) -> None:
        if self._channel is not None:
            await self._channel.close()
        for server in self._servers:
            await server.stop()


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


@pytest.fixture
async def mesh(grid: Any) -> AsyncIterator[Mesh]:
    made = Mesh(grid)
    yield made
    async with _bounded():
        await made.stop()


def trailers(error: Any) -> dict[str, Any]:
    return {**dict(error.initial_metadata() or ()), **dict(error.trailing_metadata() or ())}


async def test_calls_of_every_kind_go_through(mesh: Mesh) -> None:
    await mesh.serve()
    mesh.apply()
    assert await mesh.get() == b"a1"
    assert [each async for each in mesh.watch(b"3")] == [b"0", b"1", b"2"]
    chat = mesh.chat()
    for message in (b"ab", b"cd"):
        await chat.write(message)
        assert await chat.read() == message[::-1]
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF
    assert await chat.code() is Code.OK


async def test_what_the_server_answers_is_what_the_client_gets(mesh: Mesh) -> None:
    server = await mesh.serve()
    mesh.apply()
    server.get = failing(Code.NOT_FOUND)
    error = await mesh.failure()
    assert (error.code(), error.details()) == (Code.NOT_FOUND, "on purpose")


# What the proxies answer


async def test_a_denial_says_by_which_policy(mesh: Mesh) -> None:
    await mesh.serve()
    match = Match(grpc=GrpcMatch(service="orders.v1.Orders", method="Get"))
    mesh.apply(intentions=(Intention(name="reads", allow=("web",), match=match),))
    assert await mesh.get() == b"a1"
    error = await mesh.failure(PUT)
    assert error.code() is Code.PERMISSION_DENIED
    assert "no intention of api allows it" in error.details()
    assert trailers(error)["x-mesh-flag"] == "UAEX"
    assert trailers(error)["x-mesh-policy"] == "api/default-deny"


async def test_a_service_without_endpoints_is_unavailable(mesh: Mesh) -> None:
    mesh.apply()
    error = await mesh.failure()
    assert error.code() is Code.UNAVAILABLE
    assert trailers(error)["x-mesh-flag"] == "UH"


async def test_an_application_that_is_not_there_is_unavailable(mesh: Mesh) -> None:
    server = await mesh.serve()
    mesh.apply(retries=Retries(attempts=0))
    await server.stop()
    assert (await mesh.failure()).code() is Code.UNAVAILABLE


async def test_a_rate_limit_exhausts_a_resource(mesh: Mesh) -> None:
    await mesh.serve()
    match = Match(grpc=GrpcMatch(service="orders.v1.Orders", method="Put"))
    mesh.apply(rate_limits=(RateLimit(name="puts", requests=1, per_s=3600, match=match),))
    assert await mesh.get(path=PUT) == b"a1"
    error = await mesh.failure(PUT)
    assert error.code() is Code.RESOURCE_EXHAUSTED
    assert "(puts)" in error.details()
    assert trailers(error)["retry-after"]
    assert await mesh.get() == b"a1"


async def test_a_fault_has_the_status_that_policy_names(mesh: Mesh) -> None:
    await mesh.serve()
    until = datetime.now(UTC) + timedelta(minutes=1)
    mesh.apply(faults=(Fault(name="chaos", until=until, grpc_status="ABORTED"),))
    error = await mesh.failure()
    assert error.code() is Code.ABORTED
    assert trailers(error)["x-mesh-flag"] == "FI"
    mesh.apply(faults=(Fault(name="chaos", until=until, abort_status=503),))
    assert (await mesh.failure()).code() is Code.UNAVAILABLE


async def test_a_fault_for_grpc_leaves_other_requests_alone(grid: Any) -> None:
    await grid.serve("api", "a1")
    until = datetime.now(UTC) + timedelta(minutes=1)
    fault = Fault(name="chaos", until=until, grpc_status="ABORTED")
    grid.policy["api"] = ServicePolicy(faults=(fault,))
    grid.apply()
    assert (await (await grid.connect()).get()).status == 200
    assert grid.metric("near", "mesh_faults_injected_total") == 0


# Deadlines


async def test_a_deadline_reaches_the_server_and_no_more_of_it(mesh: Mesh) -> None:
    server = await mesh.serve()
    mesh.apply()
    await mesh.get(timeout=5.0)
    (remaining_s,) = server.remaining_s
    assert remaining_s is not None
    assert 0 < remaining_s <= 5.1  # grpcio rounds it up
    assert "x-mesh-timeout-ms" not in server.metadata[0]


async def test_a_call_without_a_deadline_has_none_at_the_server(mesh: Mesh) -> None:
    server = await mesh.serve()
    mesh.apply(timeouts=Timeouts(request_s=5.0))
    async with _bounded():
        await mesh.get(timeout=None)
    assert server.remaining_s == [None]


async def test_policy_shortens_a_deadline_and_gives_one(mesh: Mesh) -> None:
    server = await mesh.serve()
    route = Route(
        name="puts",
        match=Match(grpc=GrpcMatch(service="orders.v1.Orders", method="Put")),
        timeouts=RouteTimeouts(grpc_s=2.0),
    )
    mesh.apply(timeouts=Timeouts(grpc_s=4.0), routes=(route,))
    async with _bounded():
        await mesh.get(timeout=None)
        await mesh.get(timeout=8.0)
        await mesh.get(path=PUT, timeout=None)
    first, second, third = (each or 0.0 for each in server.remaining_s)
    assert 2.0 < first <= 4.0
    assert 2.0 < second <= 4.0
    assert 0 < third <= 2.0


async def test_a_call_that_takes_too_long_ends_on_both_sides(mesh: Mesh) -> None:
    server = await mesh.serve()

    async def never(_: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    server.get = never
    mesh.apply(timeouts=Timeouts(grpc_s=0.3))
    async with _bounded():
        error = await mesh.failure(timeout=None)
        assert error.code() is Code.DEADLINE_EXCEEDED
        await server.cancelled.wait()


async def test_the_timeout_of_requests_cuts_no_stream(mesh: Mesh) -> None:
    server = await mesh.serve()
    server.pause_s = 0.7
    mesh.apply(timeouts=Timeouts(request_s=0.1))
    async with _bounded():
        assert [each async for each in mesh.watch(b"2")] == [b"0", b"1"]


async def test_a_stream_ends_at_its_deadline(mesh: Mesh) -> None:
    server = await mesh.serve()
    mesh.apply(timeouts=Timeouts(grpc_s=0.3))
    async with _bounded():
        stream = mesh.watch(b"silent", timeout=None)
        assert await stream.read() == b"0"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        await server.cancelled.wait()
    assert caught.value.code() is Code.DEADLINE_EXCEEDED


async def test_a_stream_that_is_cut_off_ends_with_the_reason(mesh: Mesh) -> None:
    server = await mesh.serve()
    mesh.apply(timeouts=Timeouts(stream_idle_s=0.3))
    async with _bounded():
        stream = mesh.watch(b"silent", timeout=None)
        assert await stream.read() == b"0"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        await server.cancelled.wait()
    assert caught.value.code() is Code.UNAVAILABLE
    assert "nothing was sent in either direction for too long" in caught.value.details()


async def test_a_caller_that_cancels_cancels_at_the_server(mesh: Mesh) -> None:
    server = await mesh.serve()
    mesh.apply()
    async with _bounded():
        stream = mesh.watch(b"silent", timeout=None)
        assert await stream.read() == b"0"
        stream.cancel()
        await server.cancelled.wait()


# Retries


async def test_a_status_that_policy_names_is_tried_again(mesh: Mesh) -> None:
    server = await mesh.serve()
    server.get = failing(Code.UNAVAILABLE, times=1)
    mesh.apply(retries=Retries(on=("unavailable",)))
    assert await mesh.get() == b"well"
    assert len(server.remaining_s) == 2


@pytest.mark.parametrize("on", [("connect-failure", "refused", "reset-reused"), ("internal",)])
async def test_no_other_status_is(mesh: Mesh, on: tuple[RetryOn, ...]) -> None:
    server = await mesh.serve()
    server.get = failing(Code.UNAVAILABLE)
    mesh.apply(retries=Retries(on=on))
    assert (await mesh.failure()).code() is Code.UNAVAILABLE
    assert len(server.remaining_s) == 1


async def test_head_and_trailers_without_a_message_are_tried_again_too(mesh: Mesh) -> None:
    server = await mesh.serve()
    fails = failing(Code.RESOURCE_EXHAUSTED, times=2)

    async def get(message: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("x", "y"),))
        return await fails(message, context)

    server.get = get
    mesh.apply(retries=Retries(on=("resource-exhausted",), attempts=2))
    assert await mesh.get() == b"well"
    assert len(server.remaining_s) == 3


async def test_the_deadline_is_that_of_all_tries(mesh: Mesh) -> None:
    server = await mesh.serve()
    fails = failing(Code.UNAVAILABLE, times=1)

    async def get(message: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "200"),))
        return await fails(message, context)

    server.get = get
    mesh.apply(retries=Retries(on=("unavailable",)))
    await mesh.get(timeout=5.0)
    before_s, after_s = (each or 0.0 for each in server.remaining_s)
    assert 0 < after_s < before_s - 0.19  # it comes in whole milliseconds


async def test_a_server_may_ask_not_to_be_tried_again(mesh: Mesh) -> None:
    server = await mesh.serve()

    async def get(_: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "-1"),))
        await context.abort(Code.UNAVAILABLE, "not now")
        return b""

    server.get = get
    mesh.apply(retries=Retries(on=("unavailable",)))
    assert (await mesh.failure()).code() is Code.UNAVAILABLE
    assert len(server.remaining_s) == 1


# Endpoints


@pytest.mark.parametrize(
    ("code", "is_ejected"), [(Code.UNAVAILABLE, True), (Code.NOT_FOUND, False)]
)
async def test_an_endpoint_is_judged_by_the_status_of_its_calls(
    mesh: Mesh, code: grpc.StatusCode, is_ejected: bool
) -> None:
    policy = ServicePolicy(
        retries=Retries(attempts=0),
        balancing=Balancing(algorithm="round_robin"),
        outlier_detection=OutlierDetection(consecutive_failures=2, panic_percent=0),
    )
    server = await mesh.serve("bad")
    server.get = failing(code, times=2)
    mesh.apply(policy)
    for _ in range(2):
        assert (await mesh.failure()).code() is code
    await mesh.serve("good")
    mesh.apply(policy)
    answers = {await mesh.get() for _ in range(4)}
    assert answers == ({b"good"} if is_ejected else {b"good", b"well"})


async def test_each_call_of_one_channel_is_balanced_by_itself(mesh: Mesh) -> None:
    for name in ("a1", "a2", "a3"):
        await mesh.serve(name)
    mesh.apply(balancing=Balancing(algorithm="round_robin"))
    assert {await mesh.get() for _ in range(6)} == {b"a1", b"a2", b"a3"}


# What the application never began with


class Refusing:
    """A server of HTTP/2 that refuses the first ``times`` streams before it begins with them."""

    def __init__(self, times: int, *, is_leaving: bool = False) -> None:
        self._left = times
        self._is_leaving = is_leaving
        self.streams = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, StreamEnded):
                    self._answer(connection, event.stream_id or 0)
            writer.write(connection.data_to_send())
        writer.close()

    def _answer(self, connection: H2Connection, number: int) -> None:
        self.streams += 1
        self._left -= 1
        if self._left >= 0 and self._is_leaving:
            connection.close_connection(last_stream_id=number - 1)
        elif self._left >= 0:
            connection.reset_stream(number, ErrorCodes.REFUSED_STREAM)
        else:
            kind = ("content-type", "application/grpc")
            connection.send_headers(number, [(":status", "200"), kind])
            connection.send_data(number, b"\0\0\0\0\4well")
            connection.send_headers(number, [("grpc-status", "0")], end_stream=True)


@pytest.mark.parametrize("is_leaving", [False, True])
async def test_what_the_application_refuses_to_begin_with_is_tried_again(
    mesh: Mesh, is_leaving: bool
) -> None:
    server = Refusing(1, is_leaving=is_leaving)
    await mesh.grid.serve("api", "a1", protocol="grpc", port=await server.start())
    mesh.apply()
    try:
        assert await mesh.get() == b"well"
        assert server.streams == 2
    finally:
        async with _bounded():
            await mesh.stop()
            await mesh.grid.planes["a1"].close()
            await server.stop()


async def test_an_endpoint_that_begins_with_nothing_leaves_it_to_another(mesh: Mesh) -> None:
    server = Refusing(100)
    await mesh.grid.serve("api", "refusing", protocol="grpc", port=await server.start())
    await mesh.serve("well")
    mesh.apply(balancing=Balancing(algorithm="round_robin"))
    try:
        assert {await mesh.get() for _ in range(4)} == {b"well"}
        assert server.streams > 1
    finally:
        async with _bounded():
            await mesh.stop()
            await mesh.grid.planes["refusing"].close()
            await server.stop()
