"""Header lines: raw bytes to canonical lines, strictly, and what each one means to a proxy.

A canonical line is ``name: value`` with a lower-case name and no white space around the value;
what is forwarded is always the canonical line, never the bytes that came, so that two readers
cannot see two things in it. Most lines repeat from request to request, so the result is kept in
a bounded memo: one dictionary lookup instead of a regular expression.

Refused (ProtocolError): anything but a token before the colon (so also white space before it
and folded lines), control characters, bare CR or LF.
"""

import re
from collections.abc import Iterable
from typing import Final

MAX_FIELDS: Final = 100
MAX_HEAD_BYTES: Final = 60 * 1024
"""Envoy's limits."""

MAX_LENGTH_DIGITS: Final = 18
"""Of a body's length: fits a signed 64-bit integer."""

_MEMO_LINES = 2048
_MEMO_LINE_BYTES = 128
_memo: dict[bytes, "bytes | Special"] = {}
memo_get = _memo.get

_GRPC = re.compile(rb"application/grpc(?![^+; \t])", re.IGNORECASE)
"""Not ``application/grpc-web``, which is another protocol."""
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")


class ProtocolError(Exception):
    """A message that is not valid HTTP/1.1. ``reason`` is from a small set: a metric label."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


HOST: Final = 1
LENGTH: Final = 2
ENCODING: Final = 3
CONNECTION: Final = 4
HOP: Final = 5
"""Means something to the next hop only: dropped."""
UPGRADE: Final = 6
EXPECT: Final = 7
TE: Final = 8
REQUEST_ID: Final = 9
IDENTITY: Final = 10
"""Says who somebody is, or what the mesh thinks: only the mesh may write it; dropped."""
FLAG: Final = 11
TRACE: Final = 12
DEADLINE: Final = 13
POLICY: Final = 14
GRPC: Final = 15
"""The content type of gRPC; any other is a field like all others."""
GRPC_TIMEOUT: Final = 16

_KINDS: dict[bytes, int] = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"connection": CONNECTION,
    b"proxy-connection": HOP,
    b"keep-alive": HOP,
    b"http2-settings": HOP,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"te": TE,
    b"x-request-id": REQUEST_ID,
    b"x-forwarded-client-cert": IDENTITY,
    b"x-mesh-flag": FLAG,
    b"traceparent": TRACE,
    b"x-mesh-policy": POLICY,
    b"x-mesh-timeout-ms": DEADLINE,
    b"content-type": GRPC,
    b"grpc-timeout": GRPC_TIMEOUT,
}

# Different in each request, or secret: not worth, or not right, to remember.
NOT_REMEMBERED: Final = frozenset(
    (
        b"authorization",
        b"baggage",
        b"b3",
        b"cookie",
        b"etag",
        b"grpc-timeout",
        b"proxy-authorization",
        b"sec-websocket-accept",
        b"sec-websocket-key",
        b"set-cookie",
        b"traceparent",
        b"tracestate",
        b"x-b3-flags",
        b"x-b3-parentspanid",
        b"x-b3-sampled",
        b"x-b3-spanid",
        b"x-b3-traceid",
        b"x-request-id",
    )
)

_FLEETING = tuple(name + b": " for name in sorted(NOT_REMEMBERED - {b"etag"}))

# What a peer may not have removed by naming it in `Connection` (RFC 9110, section 7.6.1 lets an
# intermediary remove what is listed; an attacker uses that to take away what the next hop
# trusts).
_PROTECTED = frozenset(
    (
        b"b3",
        b"host",
        b"content-length",
        b"content-type",
        b"authorization",
        b"cookie",
        b"cache-control",
        b"forwarded",
        b"traceparent",
        b"tracestate",
        b"x-request-id",
    )
)
_PROTOCOL = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]{1,64}(?:/[!#$%&'*+.^_`|~0-9a-z-]{1,64})?")
_FOLDED = bytes.maketrans(b"!#$%&'*+.^_`|~", b"-" * 14)
_PROTECTED_PREFIXES = (b"x-b3-", b"x-forwarded-", b"x-mesh-", b"x-real-")

FORBIDDEN_TRAILERS: Final = _PROTECTED | frozenset(_KINDS) | frozenset((b"set-cookie", b"trailer"))
"""RFC 9110, section 6.5.1: fields for framing, routing, authentication and the like."""


class Special:
    """A field that the proxy itself acts on."""

    __slots__ = ("kind", "line", "value")

    def __init__(self, kind: int, value: bytes, line: bytes) -> None:
        self.kind = kind
        self.value = value
        self.line = line


def parse_field(raw: bytes) -> bytes | Special:
    """One line without its CRLF: a canonical line, or a Special."""
    match = _FIELD.fullmatch(raw)
    if match is None:
        raise ProtocolError("field", "a header line is malformed")
    name, value = match.groups()
    name = name.lower()
    value = value.strip(b" \t")
    kind = _KINDS.get(name) or _kind_of_lookalike(name)
    if kind == GRPC and _GRPC.match(value) is None:
        kind = 0
    if kind == LENGTH and value.isdigit() and len(value) <= MAX_LENGTH_DIGITS:
        value = b"%d" % int(value)  # zeros in front mean octal to some
    line = name + b": " + value
    field: bytes | Special = line if kind == 0 else Special(kind, value, line)
    if len(raw) <= _MEMO_LINE_BYTES and name not in NOT_REMEMBERED:
        if len(_memo) >= _MEMO_LINES:
            _memo.clear()
        _memo[raw] = field
    return field


def is_fleeting(field: bytes | Special) -> bool:
    """Whether a message with this line is not to be remembered either."""
    line = field if isinstance(field, bytes) else field.line
    return line.startswith(_FLEETING)


def _kind_of_lookalike(name: bytes) -> int:
    """Gateways such as WSGI and CGI see ``-`` and ``_`` as one, and so may an attacker's name;
    some see every character that is neither a letter nor a digit as one."""
    if name.startswith(b"x"):
        folded = name.translate(_FOLDED)
        if folded.startswith(b"x-mesh-") or folded == b"x-forwarded-client-cert":
            return IDENTITY
    if b"_" in name:
        plain = name.replace(b"_", b"-")
        kind = _KINDS.get(plain)
        if kind in (LENGTH, ENCODING, HOST, CONNECTION):
            raise ProtocolError("field", "a header name imitates one that frames the message")
    return 0


def is_listed(token: bytes, value: bytes) -> bool:
    """Whether a list in lower case has it."""
    return token in [part.strip(b" \t") for part in value.split(b",")]


def protocol_of(value: bytes) -> bytes:
    """For which protocol an Upgrade field asks, of those that a proxy may pass on; else empty.

    The client's first: it lists them as it prefers them (RFC 9110, section 7.8). One alone, for
    the answer must name the one that was asked for. An offer of h2c is passed over, as a server
    may, for HTTP clients make it with any request.
    """
    for part in value.lower().split(b","):
        token = part.strip(b" \t")
        if not token or token.startswith(b"h2c"):
            continue
        if _PROTOCOL.fullmatch(token) is None:
            raise ProtocolError("upgrade", "the upgrade field is malformed")
        return token
    return b""


def without_listed(lines: list[bytes], tokens: Iterable[bytes]) -> list[bytes]:
    """``lines`` without those that a Connection field names, except the protected ones."""
    listed = {
        token + b": "
        for token in tokens
        if token not in _PROTECTED and not token.startswith(_PROTECTED_PREFIXES)
    }
    return [line for line in lines if line[: line.index(b":") + 2] not in listed]


def parse_trailers(block: bytes) -> list[bytes]:
    """The lines after the last chunk, without those that may not be a trailer. HOT for gRPC, whose
    answers mostly end with the same few."""
    field = memo_get(block)  # a single line, which is all of them
    if field.__class__ is bytes and field[: field.index(b":")] not in FORBIDDEN_TRAILERS:
        return [field]
    lines: list[bytes] = []
    raw_lines = block.split(b"\r\n")
    if len(raw_lines) > MAX_FIELDS:
        raise ProtocolError("too_large", "more than 100 trailers")
    for raw in raw_lines:
        field = memo_get(raw) or parse_field(raw)
        if isinstance(field, bytes) and field[: field.index(b":")] not in FORBIDDEN_TRAILERS:
            lines.append(field)
    return lines
