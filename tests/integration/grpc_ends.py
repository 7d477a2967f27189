"""A gRPC service of every kind of call, by grpcio's threads and by its asyncio; messages are bytes.

``Unary``    answers the message; ``fail``, ``die`` and ``wait`` say how it ends otherwise
``Sum``      a stream of messages: answers how many bytes there were
``Repeat``   ``<count> <size>``: a stream of so many messages; ``wait`` after the first
``Mirror``   a stream of messages, each one answered, reversed
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grpc
import grpc.aio

NAME = "every.v1.Kind"
LARGE_BYTES = 4 * 1024 * 1024
Options = tuple[tuple[str, Any], ...]
OPTIONS: Options = (
    ("grpc.max_receive_message_length", LARGE_BYTES + 1024),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)
DETAILS = bytes(range(256))
"""In ``grpc-status-details-bin``: any bytes at all."""
ECHOED = {"x-text": "x-text-end", "x-bytes-bin": "x-bytes-end-bin"}
"""Metadata that comes back in the head, and by another name in the trailers."""
WAITS_S = 30.0


class Kinds(Protocol):
    """A server, of either kind."""

    port: int
    cancelled: threading.Event
    """A call whose handler waits was cancelled."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


def echoed(context: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    sent = [(key, value) for key, value in context.invocation_metadata() if key in ECHOED]
    return sent, [(ECHOED[key], value) for key, value in sent]


def _size_of(message: bytes) -> tuple[int, int]:
    count, size = message.split()
    return int(count), int(size)


class ThreadedKinds:
    """grpcio's synchronous server."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Sum": grpc.stream_unary_rpc_method_handler(self._sum),
            "Repeat": grpc.unary_stream_rpc_method_handler(self._repeat),
            "Mirror": grpc.stream_stream_rpc_method_handler(self._mirror),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, kinds),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    async def start(self) -> None:
        self._server.start()

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.stop(0).wait, WAITS_S)

    def _wait(self, context: Any) -> None:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(WAITS_S)
        if not context.is_active():
            self.cancelled.set()

    def _unary(self, message: bytes, context: Any) -> bytes:
        head, end = echoed(context)
        if head:
            context.send_initial_metadata(head)
        context.set_trailing_metadata(end)
        if message == b"fail":
            context.set_trailing_metadata([*end, ("grpc-status-details-bin", DETAILS)])
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 % \u00e9\n")
        if message == b"die":
            raise RuntimeError("on purpose")
        if message == b"wait":
            self._wait(context)
        return message

    def _sum(self, messages: Iterator[bytes], context: Any) -> bytes:
        return b"%d" % sum(map(len, messages))

    def _repeat(self, message: bytes, context: Any) -> Iterator[bytes]:
        if message == b"wait":
            yield b"first"
            self._wait(context)
            return
        count, size = _size_of(message)
        for number in range(count):
            yield bytes([number % 256]) * size

    def _mirror(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for message in messages:
            yield message[::-1]


class AsyncKinds:
    """grpcio's server on the event loop."""

    def __init__(self, options: Options = (), *, port: int = 0, compression: Any = None) -> None:
        self.cancelled = threading.Event()
        self._server = grpc.aio.server(options=(*OPTIONS, *options), compression=compression)
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Sum": grpc.stream_unary_rpc_method_handler(self._sum),
            "Repeat": grpc.unary_stream_rpc_method_handler(self._repeat),
            "Mirror": grpc.stream_stream_rpc_method_handler(self._mirror),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, kinds),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_s: float | None = None) -> None:
        """New calls are refused; those under way have ``grace_s`` to end."""
        await self._server.stop(grace_s)

    async def _wait(self) -> None:
        try:
            await asyncio.sleep(WAITS_S)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _unary(self, message: bytes, context: Any) -> bytes:
        head, end = echoed(context)
        if head:
            await context.send_initial_metadata(head)
        context.set_trailing_metadata(end)
        if message == b"fail":
            context.set_trailing_metadata([*end, ("grpc-status-details-bin", DETAILS)])
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 % \u00e9\n")
        if message == b"die":
            raise RuntimeError("on purpose")
        if message == b"wait":
            await self._wait()
        return message

    async def _sum(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        total = 0
        async for message in messages:
            total += len(message)
        return b"%d" % total

    async def _repeat(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        if message == b"wait":
            yield b"first"
            await self._wait()
            return
        count, size = _size_of(message)
        for number in range(count):
            yield bytes([number % 256]) * size

    async def _mirror(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message[::-1]
