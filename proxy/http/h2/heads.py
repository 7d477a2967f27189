"""Heads in HTTP/2: header blocks to the same values that HTTP/1.1 makes, strictly, and back.

RFC 9113, section 8. A field goes through the very parser of HTTP/1.1's lines (``pseudo.parse``),
so that both versions agree about each of them; what is stricter here is refused before. Because
what leaves is built of canonical lines only, nothing in HTTP/2 can become two lines in HTTP/1.1.

Refused (ProtocolError: the stream is reset with PROTOCOL_ERROR): pseudo-fields that are missing,
repeated, unknown, empty or behind another field, names in upper case, fields that belong to a
connection, values with blanks around them or control characters, two lengths, a length where
there is no body, a host other than the authority, and all that HTTP/1.1 refuses of a target, a
method or an authority.

HOT. A peer without a dynamic table sends equal bytes for equal fields: a block that came before
is looked up as a whole, any other field by field.
"""

from typing import Final

from proxy.http.blocks import Blocks
from proxy.http.fields import (
    EXPECT,
    FLAG,
    FORBIDDEN_TRAILERS,
    GRPC,
    GRPC_TIMEOUT,
    HOST,
    LENGTH,
    POLICY,
    REQUEST_ID,
    TRACE,
    ProtocolError,
)
from proxy.http.h2.encoding import request_block, response_block, trailers_block
from proxy.http.h2.hpack import Decoder
from proxy.http.h2.pseudo import CHANGING, FLEETING, PSEUDO, STATUS, Field, fields_of
from proxy.http.h2.request import parse_request
from proxy.http.head import POLICY_ID, UNTIL_CLOSE, ResponseHead, framing

__all__ = [
    "parse_request",
    "parse_response",
    "parse_trailers",
    "request_block",
    "response_block",
    "trailers_block",
]

_responses: "Blocks[ResponseHead]" = Blocks()
_trailers: "Blocks[tuple[bytes, ...]]" = Blocks()
_PASSED: Final = frozenset((GRPC, REQUEST_ID, TRACE, HOST, EXPECT, GRPC_TIMEOUT, FLEETING))
"""Means nothing in a response, and is passed on."""
_NOT_KEPT: Final = CHANGING | {FLAG, POLICY}


def parse_response(decoder: Decoder, block: bytes, method: bytes, is_end: bool) -> ResponseHead:
    """A response, or an interim one (1xx); ``method`` is the request's.

    The head may be shared by several responses: who changes it makes a copy. A body of no stated
    length is UNTIL_CLOSE, also where ``is_end`` says that nothing comes. Raises ProtocolError and
    HpackError.
    """
    is_kept = decoder.is_stateless and method != b"HEAD"
    head = _responses.get(block) if is_kept else None
    if head is None:
        fields = fields_of(decoder, block, 1)
        head = _make_response(fields, method)
        if is_kept and not _has_changing(fields) and _responses.is_due(block):
            _responses.keep(block, head)
    if is_end:
        if head.length > 0:
            raise ProtocolError("length", "a length, and no body")
        if head.status < 200:
            raise ProtocolError("framing", "an interim response ends the stream")
    return head


def _has_changing(fields: list[Field]) -> bool:
    """Whether there is a secret among them, or what differs in each response."""
    return any(not isinstance(field, bytes) and field.kind in _NOT_KEPT for field in fields)


def _make_response(fields: list[Field], method: bytes) -> ResponseHead:
    first = fields[0] if fields else b""
    if isinstance(first, bytes) or first.kind != STATUS:
        raise ProtocolError("start_line", "a response does not begin with its status")
    status = int(first.value)
    if status == 101:
        raise ProtocolError("status", "101 in HTTP/2")  # RFC 9113, section 8.6
    head = ResponseHead(status, first.line, True)
    append = head.lines.append
    length: bytes | None = None
    for field in fields[1:]:
        if isinstance(field, bytes):
            append(field)
            continue
        kind = field.kind
        if kind == LENGTH:
            if length is not None:
                raise ProtocolError("length", "more than one content-length")
            length = field.value
            append(field.line)
        elif kind in _PASSED:
            append(field.line)
        elif kind == FLAG:
            head.flag = field.value
        elif kind == POLICY:
            if POLICY_ID.fullmatch(field.value) is not None:
                head.policy = field.value
        elif kind >= PSEUDO:
            raise ProtocolError("start_line", "a pseudo-field twice, late, or a request's")
    if status < 200 or status == 204:
        # RFC 9110, section 8.6: neither has a length, and a client may believe one.
        if length is not None:
            head.lines = [line for line in head.lines if not line.startswith(b"content-length:")]
    elif status == 304 or method == b"HEAD":
        if length is not None:
            framing(length, None, False)
    else:
        head.length = UNTIL_CLOSE if length is None else framing(length, None, False)
    return head


def parse_trailers(decoder: Decoder, block: bytes) -> list[bytes]:
    """The lines, without those that may not be a trailer. Raises ProtocolError and HpackError."""
    known = _trailers.get(block) if decoder.is_stateless else None
    if known is not None:
        return [*known]
    fields = fields_of(decoder, block, 0)
    lines: list[bytes] = []
    for field in fields:
        if isinstance(field, bytes):
            line = field
        elif field.kind == FLEETING:
            line = field.line
        elif field.kind >= PSEUDO:
            raise ProtocolError("start_line", "a pseudo-field among the trailers")
        else:
            continue
        if line[: line.index(b":")] not in FORBIDDEN_TRAILERS:
            lines.append(line)
    if decoder.is_stateless and not _has_changing(fields) and _trailers.is_due(block):
        _trailers.keep(block, (*lines,))
    return lines
