"""gRPC's health question, ``grpc.health.v1.Health/Check``, and what its answer says.

Two protobuf messages of one field each are written and read by hand: a protobuf runtime on every
host would be larger than the proxy. Reading is strict where the answer would be a guess: a message
that does not parse is a failure, while unknown fields are passed over as protobuf wants it.

The service: github.com/grpc/grpc/blob/master/doc/health-checking.md. The framing of messages:
PROTOCOL-HTTP2.md beside it.
"""

from proxy.core.grpc import STATUSES, decode_message
from proxy.core.otlp import message as field

PATH = b"/grpc.health.v1.Health/Check"

LINES = (b"content-type: application/grpc", b"te: trailers")
"""What a gRPC call has to say besides its path."""

MAX_ANSWER_BYTES = 4096
"""A right one has 7; more is kept by nobody."""

_SERVING = 1
_WORDS = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_MAX_SAID = 100
_PREFIX_BYTES = 5
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def question(service: str) -> bytes:
    """``HealthCheckRequest`` as one gRPC message; ``service`` empty: the server as a whole."""
    name = service.encode()
    message = field(b"\x0a", name) if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def failure(status: int, lines: list[bytes], body: bytes) -> str | None:
    """None if the answer says SERVING, else why not, in a few words.

    ``lines``: canonical ones of the head and of the trailers; ``body``: all of it. The status of
    the call stands in the trailers, or in the head of an answer that is nothing else.
    """
    if status != 200:
        return f"gRPC health check answered HTTP {status}"
    said = {name: value for name, _, value in (line.partition(b": ") for line in lines)}
    code = said.get(b"grpc-status")
    if code is None:
        return "gRPC health check answered without a grpc-status"
    if code != b"0":
        why = decode_message(said.get(b"grpc-message", b""))[:_MAX_SAID]
        return f"gRPC health check answered {_code(code)}" + (f": {why}" if why else "")
    try:
        serving = _status(_message(body))
    except ValueError as error:
        return f"gRPC health check answered {error}"
    if serving == _SERVING:
        return None
    return f"gRPC health check answered {_WORDS.get(serving, f'status {serving}')}"


def _code(text: bytes) -> str:
    known = STATUSES.get(text)
    return known.name if known else f"grpc-status {text.decode('latin-1')[:_MAX_SAID]}"


def _message(body: bytes) -> bytes:
    """The one message of an answer. Raises ValueError, whose text ends "it answered ..."."""
    if len(body) < _PREFIX_BYTES:
        raise ValueError("without a message")
    if body[0]:
        raise ValueError("a compressed message, which was not asked for")
    if int.from_bytes(body[1:_PREFIX_BYTES], "big") != len(body) - _PREFIX_BYTES:
        raise ValueError("something other than one message")
    return body[_PREFIX_BYTES:]


def _status(message: bytes) -> int:
    """Field 1 of ``HealthCheckResponse``, an enum; of several the last; 0 if there is none."""
    found, at = 0, 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            if tag >> 3 == 1:
                found = value
            continue
        if tag >> 3 == 1:
            raise ValueError("a message of another type")
        if kind == _LENGTH:
            length, at = _read_varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("a message that is not protobuf")
        at += length
    if at > len(message):
        raise ValueError("a message that is cut off")
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):  # 64 bits take ten bytes
        if at >= len(data):
            raise ValueError("a message that is cut off")
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a message that is not protobuf")
