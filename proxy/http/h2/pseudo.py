"""One field of HTTP/2: a canonical line, or a Special, as every pseudo-field is.

RFC 9113, sections 8.2 and 8.3: what can be said of a field by itself. What there must be of them,
and in which order, is for ``heads``. In the mode without state the result is remembered by the
field's bytes on the wire, unless it is secret or different in each request.
"""

import re
from http import HTTPStatus
from typing import Final

from proxy.http.fields import (
    CONNECTION,
    ENCODING,
    GRPC_TIMEOUT,
    HOP,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    REQUEST_ID,
    TE,
    TRACE,
    UPGRADE,
    ProtocolError,
    Special,
    is_fleeting,
    memo_get,
    parse_field,
    protocol_of,
)
from proxy.http.h2.hpack import Decoder, decode_field
from proxy.http.head import AUTHORITY, METHODS

Field = bytes | Special

FLEETING: Final = 31
"""Secret, or different in each message: goes last, and is not remembered."""
PSEUDO: Final = 32
"""The kinds from here on are pseudo-fields."""
METHOD: Final = 32
SCHEME: Final = 33
PATH: Final = 34
AUTHORITY_OF: Final = 35
PROTOCOL: Final = 36
STATUS: Final = 37
"""Its line is the status and its phrase, as HTTP/1.1 has them."""

CHANGING: Final = frozenset((FLEETING, GRPC_TIMEOUT, REQUEST_ID, TRACE))
_CHANGING = {b"grpc-timeout": GRPC_TIMEOUT, b"traceparent": TRACE, b"x-request-id": REQUEST_ID}
SAFE_BYTES: Final = 28 * 1024
"""Of a block without state: Huffman's code makes at most eight bytes of five, and the static
table less than 4 KiB of a hundred fields, so no list of it exceeds ``MAX_HEAD_BYTES``."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_PLAIN = re.compile(rb"[!-~]+")
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_STATUS = re.compile(rb"[1-9][0-9]{2}")
_SCHEMES = frozenset((b"http", b"https"))
_OF_A_CONNECTION = frozenset((CONNECTION, ENCODING, UPGRADE))
_KEPT: Final = 2048
_KEPT_BYTES: Final = 128
_known: dict[bytes, Field] = {}
known_get = _known.get


def fields_of(decoder: Decoder, block: bytes, pseudo: int) -> list[Field]:
    """HOT. Every field of a block, in order; besides ``pseudo`` of them as many as HTTP/1.1 may
    have lines. Raises HpackError, and ProtocolError for the first field that may not be."""
    most = MAX_FIELDS + pseudo
    if decoder.is_stateless:
        encoded = decoder.split(block, most)
        if len(encoded) > most:
            raise ProtocolError("too_large", "more than 100 header fields")
        fields = [known_get(field) or read(field) for field in encoded]
        if len(block) <= SAFE_BYTES:
            return fields
    else:
        pairs = decoder.decode(block)
        if len(pairs) > most:
            raise ProtocolError("too_large", "more than 100 header fields")
        fields = [parse(name, value) for name, value in pairs]
    size = 0
    for field in fields:
        size += len(field if isinstance(field, bytes) else field.line)
    if size > MAX_HEAD_BYTES:
        raise ProtocolError("too_large", "the head exceeds 60 KiB")
    return fields


def read(encoded: bytes) -> Field:
    """One field where there is no dynamic table."""
    field = parse(*decode_field(encoded))
    if len(encoded) <= _KEPT_BYTES and (isinstance(field, bytes) or field.kind not in CHANGING):
        if len(_known) >= _KEPT:
            _known.clear()
        _known[encoded] = field
    return field


def parse(name: bytes, value: bytes) -> Field:
    """One field by itself."""
    kind = _CHANGING.get(name)
    if kind is not None and _PLAIN.fullmatch(value) is not None:
        return Special(kind, value, b"%b: %b" % (name, value))  # as ``parse_field`` would
    if name.startswith(b":"):
        return _parse_pseudo(name, value)
    # The very name: with a colon or a blank in it the line would be another's.
    if _NAME.fullmatch(name) is None:
        raise ProtocolError("field", "a field name is not a token in lower case")
    if value.strip(b" \t") != value:
        raise ProtocolError("field", "a field value has blanks around it")
    line = b"%b: %b" % (name, value)
    field = memo_get(line) or parse_field(line)
    if isinstance(field, bytes):
        if is_fleeting(field):
            return Special(FLEETING, value, field)
    else:
        kind = field.kind
        # RFC 9113, section 8.2.2. HTTP2-Settings alone is dropped: there it is not named.
        if kind in _OF_A_CONNECTION or (kind == HOP and name != b"http2-settings"):
            raise ProtocolError("field", "a field that belongs to a connection")
        if kind == TE and value.lower() != b"trailers":
            raise ProtocolError("field", "te may only say trailers")
    return field


def _parse_pseudo(name: bytes, value: bytes) -> Special:
    line = name + b": " + value
    if name == b":path":
        if _PATH.fullmatch(value) is None and value != b"*":
            raise ProtocolError("target", "the path is malformed")
        return Special(PATH, value, line)
    if name == b":method":
        if value not in METHODS:
            raise ProtocolError("method", "the method is not a known one")
        return Special(METHOD, value, line)
    if name == b":authority":
        if not value or AUTHORITY.fullmatch(value) is None:
            raise ProtocolError("host", "the authority is not a host")
        return Special(AUTHORITY_OF, value, line)
    if name == b":scheme":
        if value not in _SCHEMES:
            raise ProtocolError("target", "the scheme is neither http nor https")
        return Special(SCHEME, value, line)
    if name == b":protocol":
        protocol = b"" if b"," in value else protocol_of(value)
        if not protocol:
            raise ProtocolError("upgrade", "not a protocol to change to")
        return Special(PROTOCOL, protocol, line)
    if name == b":status":
        if _STATUS.fullmatch(value) is None:
            raise ProtocolError("status", "the status is not a number of three digits")
        return Special(STATUS, value, value + b" " + _phrase(int(value)))
    raise ProtocolError("start_line", "an unknown pseudo-field")


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
