"""OTLP in protobuf, as far as traces need it: spans to bytes, and what a receiver answers. Pure.

By hand, because what is written is fixed and little: the libraries would cost each proxy some MiB
and more time for each span (docs/decisions/0013). Field numbers are those of
``opentelemetry/proto/trace/v1/trace.proto`` and ``common/v1``, which do not change in version 1.

Text that comes in is valid UTF-8 already: receivers refuse a whole batch for one wrong byte.
"""

import struct
from collections.abc import Iterable
from typing import Final

SERVER: Final = 2
CLIENT: Final = 3
"""``Span.SpanKind``."""

_STATUS_ERROR: Final = b"\x18\x02"
"""Its field ``code``."""

_FLAGS_REMOTE: Final = 0x300
"""``SpanFlags``: that a parent is known to be in another process or not, and that it is."""

_time = struct.Struct("<Bq").pack
_times = struct.Struct("<BqBq").pack
_flags = struct.Struct("<BI").pack
_SMALL: Final = tuple(bytes((n,)) for n in range(128))


def varint(number: int) -> bytes:
    if number < 128:
        return _SMALL[number]
    out = bytearray()
    while number > 127:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(tag: bytes, body: bytes) -> bytes:
    """A field with a length: a message, a string or bytes."""
    return tag + varint(len(body)) + body


class Key:
    """An attribute's name, encoded once."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = message(b"\x0a", name.encode("ascii"))

    def text(self, value: bytes) -> bytes:
        """With ``value``, as the field `attributes` of a span."""
        return message(b"\x4a", self._pair(message(b"\x0a", value)))

    def number(self, value: int) -> bytes:
        """``value`` is not negative."""
        return message(b"\x4a", self._pair(b"\x18" + varint(value)))

    def resource_text(self, value: bytes) -> bytes:
        """As the field `attributes` of a resource."""
        return message(b"\x0a", self._pair(message(b"\x0a", value)))

    def event_text(self, value: bytes) -> bytes:
        """As the field `attributes` of an event."""
        return message(b"\x1a", self._pair(message(b"\x0a", value)))

    def _pair(self, value: bytes) -> bytes:
        return self._name + message(b"\x12", value)


def event(at_ns: int, name: bytes, attributes: bytes) -> bytes:
    """As the field `events` of a span; ``attributes`` as ``Key.event_text`` makes them."""
    body = _time(0x09, at_ns) + message(b"\x12", name) + attributes
    return message(b"\x5a", body)


def span(
    *,
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes,
    state: bytes,
    trace_flags: int,
    name: bytes,
    kind: int,
    started_ns: int,
    ended_ns: int,
    attributes: bytes,
    events: bytes = b"",
    is_error: bool = False,
    reason: bytes = b"",
) -> bytes:
    """As the field `spans` of a scope. Ids in hexadecimal digits, ``parent_id`` may be empty;
    ``attributes`` and ``events`` as ``Key`` and ``event`` make them; times since the epoch."""
    parts = [b"\x0a\x10", bytes.fromhex(trace_id.decode()), b"\x12\x08"]
    parts.append(bytes.fromhex(span_id.decode()))
    if state:
        parts.append(message(b"\x1a", state))
    if parent_id:
        parts += (b"\x22\x08", bytes.fromhex(parent_id.decode()))
    parts += (message(b"\x2a", name), b"\x30", _SMALL[kind])
    parts += (_times(0x39, started_ns, 0x41, ended_ns), attributes, events)
    if is_error:
        text = message(b"\x12", reason) if reason else b""
        parts.append(message(b"\x7a", text + _STATUS_ERROR))
    remote = _FLAGS_REMOTE if parent_id else 0
    # The tag of field 16 takes two bytes.
    parts.append(b"\x85" + _flags(0x01, trace_flags | remote))
    return message(b"\x12", b"".join(parts))


def request(resources: Iterable[tuple[bytes, Iterable[bytes]]], scope: bytes) -> bytes:
    """An ``ExportTraceServiceRequest``. ``resources``: attributes of one resource as
    ``Key.resource_text`` makes them, with its spans; ``scope`` from ``make_scope``."""
    return b"".join(
        message(
            b"\x0a",
            message(b"\x0a", resource) + message(b"\x12", scope + b"".join(spans)),
        )
        for resource, spans in resources
    )


def make_scope(name: str, version: str) -> bytes:
    """Who made the spans."""
    body = message(b"\x0a", name.encode()) + message(b"\x12", version.encode())
    return message(b"\x0a", body)


def parse_answer(body: bytes) -> tuple[int, str]:
    """Of an ``ExportTraceServiceResponse``: how many spans were rejected, and why. An answer that
    is something else rejects nothing."""
    try:
        for number, value in _fields(body):
            if number == 1 and isinstance(value, bytes):
                rejected, reason = 0, b""
                for inner, what in _fields(value):
                    if inner == 1 and isinstance(what, int):
                        rejected = what
                    elif inner == 2 and isinstance(what, bytes):
                        reason = what
                return rejected, reason.decode("utf-8", "replace")
    except (IndexError, ValueError):
        pass
    return 0, ""


def _fields(data: bytes) -> Iterable[tuple[int, int | bytes]]:
    """Raises IndexError or ValueError if it is no message."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        match tag & 7:
            case 0:
                number, at = _read_varint(data, at)
                yield tag >> 3, number
            case 2:
                size, at = _read_varint(data, at)
                if at + size > len(data):
                    raise ValueError("a field is longer than its message")
                yield tag >> 3, data[at : at + size]
                at += size
            case 1 | 5 as kind:
                at += 8 if kind == 1 else 4
            case _:
                raise ValueError("an unknown kind of field")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 128:
            return number, at
        shift += 7
    raise ValueError("a number has more than 64 bits")
