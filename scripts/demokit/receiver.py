"""A small receiver of traces: OTLP over HTTP, as much of it as it takes to draw one trace."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from demokit.stage import ActFailed

KINDS = {2: "SERVER", 3: "CLIENT"}
_ARRIVES_S = 15.0
_STOP_S = 5.0

# Numbers of fields in opentelemetry/proto/trace/v1/trace.proto and what it is made of.
_RESOURCE_SPANS, _RESOURCE, _SCOPE_SPANS, _SPANS = 1, 1, 2, 2
_TRACE_ID, _SPAN_ID, _PARENT_ID, _NAME, _KIND, _START, _END = 1, 2, 4, 5, 6, 7, 8
_ATTRIBUTES, _KEY, _VALUE, _TEXT = 1, 1, 2, 1


@dataclass(frozen=True, kw_only=True)
class Span:
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    ms: float
    start_ns: int


class Receiver:
    """Listens from ``start`` on, and keeps what arrives."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                receiver.take(body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_STOP_S)

    def take(self, body: bytes) -> None:
        found = list(_spans(body))
        with self._arrived:
            self._spans += found
            self._arrived.notify_all()

    def trace(self, trace_id: str, spans: int) -> list[Span]:
        """Its spans, once there are so many. Raises ActFailed at a deadline."""
        deadline = time.monotonic() + _ARRIVES_S
        with self._arrived:
            while True:
                found = [span for span in self._spans if span.trace_id == trace_id]
                if len(found) >= spans:
                    return sorted(found, key=lambda span: span.start_ns)
                left = deadline - time.monotonic()
                if left <= 0 or not self._arrived.wait(left):
                    raise ActFailed(f"{len(found)} spans of the trace arrived, not {spans}")


def _spans(request: bytes) -> Iterator[Span]:
    for resource_spans in _messages(request, _RESOURCE_SPANS):
        service = ""
        for resource in _messages(resource_spans, _RESOURCE):
            for attribute in _messages(resource, _ATTRIBUTES):
                if _text(attribute, _KEY) == "service.name":
                    (value,) = _messages(attribute, _VALUE)
                    service = _text(value, _TEXT)
        for scope_spans in _messages(resource_spans, _SCOPE_SPANS):
            for span in _messages(scope_spans, _SPANS):
                yield _span(service, span)


def _span(service: str, data: bytes) -> Span:
    numbers = {field: value for field, value in _fields(data) if isinstance(value, int)}
    return Span(
        service=service,
        trace_id=_bytes(data, _TRACE_ID).hex(),
        span_id=_bytes(data, _SPAN_ID).hex(),
        parent_id=_bytes(data, _PARENT_ID).hex(),
        name=_text(data, _NAME),
        kind=KINDS.get(numbers.get(_KIND, 0), "?"),
        ms=(numbers[_END] - numbers[_START]) / 1e6,
        start_ns=numbers[_START],
    )


def _messages(data: bytes, number: int) -> list[bytes]:
    return [value for field, value in _fields(data) if field == number and isinstance(value, bytes)]


def _bytes(data: bytes, number: int) -> bytes:
    return next(iter(_messages(data, number)), b"")


def _text(data: bytes, number: int) -> str:
    return _bytes(data, number).decode()


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The protobuf wire format: numbers of fields with a number, or with what they contain."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        match wire_type:
            case 0:
                value, at = _varint(data, at)
                yield number, value
            case 2:
                length, at = _varint(data, at)
                yield number, data[at : at + length]
                at += length
            case 1 | 5:
                width = 8 if wire_type == 1 else 4
                yield number, int.from_bytes(data[at : at + width], "little")
                at += width
            case _:
                raise ValueError(f"wire type {wire_type}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
