"""A receiver of OTLP traces over HTTP that decodes with OpenTelemetry's own messages.

It answers 200 to every batch; ``answer`` makes it ill in any way.
"""

import asyncio
import gzip
import ssl
from collections.abc import Callable
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


def partial(rejected: int, reason: str) -> bytes:
    """A 200 that has not taken all."""
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = rejected
    answer.partial_success.error_message = reason
    body = answer.SerializeToString()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def failing(status: str, fields: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n{fields}\r\n".encode()


def value_of(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def attributes_of(holder: Any) -> dict[str, Any]:
    """Of a span, an event or a resource; a name that is there twice is a fault."""
    found = {each.key: value_of(each.value) for each in holder.attributes}
    assert len(found) == len(holder.attributes)
    return found


class OtlpReceiver:
    """``start``, then ``url``; ``spans`` has (resource attributes, span) of what was taken."""

    def __init__(self) -> None:
        self.answer: Callable[[int], bytes | None] = lambda number: OK
        """Given the number of the request, from 1. None: says nothing, and leaves the connection
        open; empty: closes it. Only a 200 takes the spans."""
        self.requests = 0
        self.connections = 0
        self.heads: list[str] = []
        self.batches: list[int] = []
        """Sizes, of every request."""
        self.spans: list[tuple[dict[str, Any], Any]] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._scheme = "http" if tls is None else "https"
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self._scheme == "http" else "localhost"
        return f"{self._scheme}://{host}:{self.port}/v1/traces"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._take(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
        body = await reader.readexactly(length)
        if "content-encoding: gzip" in head.lower():
            body = gzip.decompress(body)
        message = ExportTraceServiceRequest.FromString(body)
        self.requests += 1
        self.heads.append(head)
        found = [
            (attributes_of(each.resource), span)
            for each in message.resource_spans
            for scope in each.scope_spans
            for span in scope.spans
        ]
        self.batches.append(len(found))
        answer = self.answer(self.requests)
        if answer is None:
            await reader.read()  # until the other side has had enough
            return False
        if answer.startswith(b"HTTP/1.1 200"):
            self.spans += found
        writer.write(answer)
        await writer.drain()
        return bool(answer)

    def drop_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop_connections()
        for _ in range(5):  # the loop's own closing of handles
            await asyncio.sleep(0)
