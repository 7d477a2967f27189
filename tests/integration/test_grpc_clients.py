"""grpcio, synchronous and asyncio, as client and as server, with two proxies between them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from integration.grpc_ends import (
    DETAILS,
    LARGE_BYTES,
    NAME,
    OPTIONS,
    AsyncKinds,
    Kinds,
    ThreadedKinds,
)

from proxy.model.names import ServiceName

pytestmark = pytest.mark.timeout(120)

ENDS_IN_S = 30.0
Metadata = tuple[tuple[str, Any], ...]
METADATA: Metadata = (("x-text", 'a b, c; d="e" %20'), ("x-bytes-bin", bytes(range(256)) * 8))


class ThreadedCalls:
    """grpcio's synchronous client, each call in a thread."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=OPTIONS)

    async def close(self) -> None:
        self._channel.close()

    async def unary(self, message: bytes, metadata: Metadata = ()) -> tuple[bytes, Any]:
        call = self._channel.unary_unary(f"/{NAME}/Unary")
        return await asyncio.to_thread(
            lambda: call.with_call(message, timeout=ENDS_IN_S, metadata=metadata)
        )

    async def failure(
        self, message: bytes, timeout_s: float = ENDS_IN_S, method: str = "Unary"
    ) -> Any:
        call = self._channel.unary_unary(f"/{NAME}/{method}")

        def fail() -> Any:
            with pytest.raises(grpc.RpcError) as caught:
                call(message, timeout=timeout_s)
            return caught.value

        return await asyncio.to_thread(fail)

    async def sum(self, messages: Iterable[bytes]) -> bytes:
        call = self._channel.stream_unary(f"/{NAME}/Sum")
        return await asyncio.to_thread(lambda: call(iter(messages), timeout=ENDS_IN_S))

    async def repeat(self, message: bytes) -> list[bytes]:
        call = self._channel.unary_stream(f"/{NAME}/Repeat")
        return await asyncio.to_thread(lambda: list(call(message, timeout=ENDS_IN_S)))

    async def mirror(self, messages: Iterable[bytes]) -> list[bytes]:
        call = self._channel.stream_stream(f"/{NAME}/Mirror")
        return await asyncio.to_thread(lambda: list(call(iter(messages), timeout=ENDS_IN_S)))

    async def cancel_after_the_first(self) -> grpc.StatusCode:
        call = self._channel.unary_stream(f"/{NAME}/Repeat")

        def cancel() -> Any:
            stream = call(b"wait", timeout=ENDS_IN_S)
            assert next(stream) == b"first"
            stream.cancel()
            return stream.code()

        return await asyncio.to_thread(cancel)


class AsyncCalls:
    """grpcio's client on the event loop."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)

    async def close(self) -> None:
        await self._channel.close()

    async def unary(self, message: bytes, metadata: Metadata = ()) -> tuple[bytes, Any]:
        call = self._channel.unary_unary(f"/{NAME}/Unary")(
            message, timeout=ENDS_IN_S, metadata=metadata
        )
        head, reply, end = (
            await call.initial_metadata(),
            await call,
            await call.trailing_metadata(),
        )
        return reply, _Done(head, end)

    async def failure(
        self, message: bytes, timeout_s: float = ENDS_IN_S, method: str = "Unary"
    ) -> Any:
        call = self._channel.unary_unary(f"/{NAME}/{method}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(message, timeout=timeout_s)
        return caught.value

    async def sum(self, messages: Iterable[bytes]) -> bytes:
        return await self._channel.stream_unary(f"/{NAME}/Sum")(iter(messages), timeout=ENDS_IN_S)

    async def repeat(self, message: bytes) -> list[bytes]:
        call = self._channel.unary_stream(f"/{NAME}/Repeat")(message, timeout=ENDS_IN_S)
        return [each async for each in call]

    async def mirror(self, messages: Iterable[bytes]) -> list[bytes]:
        call = self._channel.stream_stream(f"/{NAME}/Mirror")(iter(messages), timeout=ENDS_IN_S)
        return [each async for each in call]

    async def cancel_after_the_first(self) -> grpc.StatusCode:
        call = self._channel.unary_stream(f"/{NAME}/Repeat")(b"wait", timeout=ENDS_IN_S)
        assert await call.read() == b"first"
        call.cancel()
        return await call.code()


class _Done:
    """What ``with_call`` gives of a call that has ended."""

    def __init__(self, head: Any, end: Any) -> None:
        self._head, self._end = head, end

    def initial_metadata(self) -> Any:
        return self._head

    def trailing_metadata(self) -> Any:
        return self._end


@pytest.fixture(params=[ThreadedKinds, AsyncKinds], ids=["to-threads", "to-asyncio"])
async def kinds(request: pytest.FixtureRequest) -> AsyncIterator[Kinds]:
    server = request.param()
    await server.start()
    yield server
    async with asyncio.timeout(ENDS_IN_S):
        await server.stop()


@pytest.fixture(params=[ThreadedCalls, AsyncCalls], ids=["threads", "asyncio"])
async def calls(
    request: pytest.FixtureRequest, kinds: Kinds, make_grid: Callable[..., Any], tmp_path: Path
) -> AsyncIterator[Any]:
    grid = await make_grid()
    await grid.serve("api", "a1", protocol="grpc", port=kinds.port)
    grid.apply()
    host, port = grid.planes["near"].outbound_address(ServiceName("web"), ServiceName("api"))
    client = request.param(f"{host}:{port}")
    yield client
    async with asyncio.timeout(ENDS_IN_S):
        await client.close()


def digest(messages: Iterable[bytes]) -> str:
    return hashlib.sha256(b"|".join(messages)).hexdigest()


async def test_unary_calls_many_at_once(calls: Any) -> None:
    messages = [b"%d" % number for number in range(50)]
    replies = await asyncio.gather(*(calls.unary(message) for message in messages))
    assert [reply for reply, _ in replies] == messages


async def test_metadata_text_and_binary_in_head_and_trailers(calls: Any) -> None:
    reply, call = await calls.unary(b"hello", METADATA)
    assert reply == b"hello"
    text, binary = (value for _, value in METADATA)
    head, end = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert (head["x-text"], head["x-bytes-bin"]) == (text, binary)
    assert (end["x-text-end"], end["x-bytes-end-bin"]) == (text, binary)


async def test_messages_of_4_mib_both_ways(calls: Any) -> None:
    message = b"0123456789abcdef" * (LARGE_BYTES // 16)
    reply, _ = await calls.unary(message)
    assert digest([reply]) == digest([message])


async def test_an_empty_message(calls: Any) -> None:
    assert (await calls.unary(b""))[0] == b""


async def test_a_stream_from_the_client(calls: Any) -> None:
    assert await calls.sum([b"x" * 1000] * 500) == b"500000"
    assert await calls.sum([]) == b"0"


async def test_a_stream_from_the_server(calls: Any) -> None:
    expected = [bytes([number % 256]) * 1024 for number in range(1000)]
    assert digest(await calls.repeat(b"1000 1024")) == digest(expected)
    assert await calls.repeat(b"0 0") == []


async def test_streams_both_ways(calls: Any) -> None:
    messages = [b"%d-" % number * 100 for number in range(500)]
    replies = await calls.mirror(messages)
    assert digest(replies) == digest(message[::-1] for message in messages)


async def test_an_error_has_its_status_its_text_and_its_details(calls: Any) -> None:
    error = await calls.failure(b"fail")
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "not today: 100 % é\n"
    assert dict(error.trailing_metadata())["grpc-status-details-bin"] == DETAILS
    error = await calls.failure(b"die")
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "on purpose" in error.details()


async def test_a_deadline_ends_the_call_on_both_sides(calls: Any, kinds: Kinds) -> None:
    error = await calls.failure(b"wait", timeout_s=0.5)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await asyncio.to_thread(kinds.cancelled.wait, ENDS_IN_S)


async def test_a_client_that_cancels_ends_the_call_at_the_server(calls: Any, kinds: Kinds) -> None:
    assert await calls.cancel_after_the_first() is grpc.StatusCode.CANCELLED
    assert await asyncio.to_thread(kinds.cancelled.wait, ENDS_IN_S)


async def test_an_unknown_method_is_unimplemented(calls: Any) -> None:
    error = await calls.failure(b"", method="Other")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_server_that_stops_cancels_its_calls(calls: Any, kinds: Kinds) -> None:
    waiting = asyncio.ensure_future(calls.failure(b"wait"))
    _, _ = await calls.unary(b"there")
    await kinds.stop()
    async with asyncio.timeout(ENDS_IN_S):
        error = await waiting
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
