"""The head of a request in HTTP/2: what there must be in it (RFC 9113, section 8.3.1), and how
it becomes the value that HTTP/1.1's parser makes of the same request.

HOT. A block that came before is looked up as a whole; one that begins like earlier ones of its
peer by that, and only the rest is read: what differs in each request comes last with most
clients, as deadlines and ids do with gRPC's.
"""

from typing import Final

from proxy.core.deadline import merge_grpc
from proxy.http.blocks import Blocks
from proxy.http.fields import (
    DEADLINE,
    EXPECT,
    GRPC,
    GRPC_TIMEOUT,
    HOST,
    LENGTH,
    MAX_FIELDS,
    REQUEST_ID,
    TE,
    TRACE,
    ProtocolError,
)
from proxy.http.h2.hpack import Decoder, split
from proxy.http.h2.pseudo import (
    AUTHORITY_OF,
    CHANGING,
    FLEETING,
    METHOD,
    PATH,
    PROTOCOL,
    PSEUDO,
    SAFE_BYTES,
    SCHEME,
    Field,
    fields_of,
    known_get,
    read,
)
from proxy.http.head import (
    AUTHORITY,
    CHUNKED,
    RequestHead,
    framing,
)

_requests: "Blocks[RequestHead]" = Blocks()
"""As if a body followed. Whole blocks, and what they begin with."""

_PSEUDO_FIELDS: Final = 3
"""Without the authority, which is a line in HTTP/1.1."""
_REST_FIELDS: Final = 32
_CUTS: Final = 4
_COOKIE: Final = b"cookie: "
_KEY: Final = b"sec-websocket-key: "


def parse_request(decoder: Decoder, block: bytes, is_end: bool) -> RequestHead:
    """A request; of an extended CONNECT (RFC 8441) a GET with ``upgrade``, without the key that
    HTTP/1.1 needs.

    ``is_end``: the stream ends with it. A body of no stated length is CHUNKED. Raises
    ProtocolError and HpackError.
    """
    if decoder.is_stateless:
        known = _requests.get(block)
        if known is not None:
            head = known.with_start(known.method, known.target)
        else:
            head = _parse_rest(decoder, block) or _parse_whole(decoder, block)
    else:
        head = _make_request(fields_of(decoder, block, _PSEUDO_FIELDS))
    if is_end and head.length:
        if head.length > 0:
            raise ProtocolError("length", "a length, and no body")
        head.length = 0
    return head


def _parse_rest(decoder: Decoder, block: bytes) -> RequestHead | None:
    """A block that begins like earlier ones and ends with what differs: deadlines, ids, secrets."""
    for cut in decoder.cuts:
        known = _requests.get(block[:cut])
        if known is None or known.timeout_ms:  # a deadline after another one
            continue
        most = min(_REST_FIELDS, MAX_FIELDS - 1 - len(known.lines))
        encoded = split(block[cut:], most + 1)
        if len(encoded) > most or len(block) > SAFE_BYTES:
            return None
        fields = [known_get(field) or read(field) for field in encoded]
        if not _is_rest(fields):
            return None
        head = known.with_start(known.method, known.target)
        _take_fields(head, fields)
        _keep(block, head)
        return head
    return None


def _is_rest(fields: list[Field]) -> bool:
    """Nothing in them has to do with what comes before."""
    for field in fields:
        if not isinstance(field, bytes) and field.kind not in CHANGING:
            return False
    return True


def _parse_whole(decoder: Decoder, block: bytes) -> RequestHead:
    fields = fields_of(decoder, block, _PSEUDO_FIELDS)
    head = _make_request(fields)
    if head.fleeting or head.timeout_ms:
        _learn(decoder, block, fields)
    _keep(block, head)
    return head


def _keep(block: bytes, head: RequestHead) -> None:
    """Deadlines differ, but those of one program are often the same."""
    if not head.fleeting and _requests.is_due(block):
        _requests.keep(block, head.with_start(head.method, head.target))


def _learn(decoder: Decoder, block: bytes, fields: list[Field]) -> None:
    """Where the fields of this peer begin to differ, and what is before."""
    at = 0
    for field in fields:
        if not isinstance(field, bytes) and field.kind in CHANGING:
            break
        at += 1
    if not 0 < at <= MAX_FIELDS - _REST_FIELDS or not _is_rest(fields[at:]):
        return
    encoded = split(block)
    cut = len(b"".join(encoded[: at + len(encoded) - len(fields)]))  # with changes of size
    begin = block[:cut]
    if _requests.is_due(begin):
        head = _make_request(fields[:at])
        if not head.upgrade:
            _requests.keep(begin, head)
    if cut not in decoder.cuts:
        decoder.cuts = (cut, *decoder.cuts[: _CUTS - 1])


def _make_request(fields: list[Field]) -> RequestHead:
    method = target = scheme = authority = protocol = b""
    count = 0
    for field in fields:
        if isinstance(field, bytes):
            break
        kind = field.kind
        if kind < PSEUDO:
            break
        count += 1
        if kind == PATH and not target:
            target = field.value
        elif kind == METHOD and not method:
            method = field.value
        elif kind == AUTHORITY_OF and not authority:
            authority = field.value
        elif kind == SCHEME and not scheme:
            scheme = field.value
        elif kind == PROTOCOL and not protocol:
            protocol = field.value
        else:
            raise ProtocolError("start_line", "a pseudo-field twice, or a response's")
    if method == b"CONNECT" and not protocol:
        # RFC 9113, section 8.5. Refused later, with a reason of its own.
        if target or scheme or not authority:
            raise ProtocolError("start_line", "CONNECT has an authority, no scheme and no path")
        target = authority
    elif not method or not target or not scheme:
        raise ProtocolError("start_line", "a request without method, scheme or path")
    elif protocol and (method != b"CONNECT" or not authority or target == b"*"):
        raise ProtocolError("start_line", "a protocol without CONNECT, an authority and a path")
    elif target == b"*" and method != b"OPTIONS":
        raise ProtocolError("target", "the request target is not a path")
    head = RequestHead(b"GET" if protocol else method, target, authority or None, False)
    head.length = CHUNKED
    _take_fields(head, fields[count:] if count else fields)
    if protocol:
        if head.length >= 0:
            raise ProtocolError("framing", "a tunnel has no length")
        head.length = 0
        head.upgrade = protocol
        head.is_grpc = False
        kept = [line for line in head.lines if not line.startswith(_KEY)]
        head.fleeting -= len(head.lines) - len(kept)
        head.lines = kept
    return head


def _take_fields(head: RequestHead, fields: list[Field]) -> None:
    """All but the pseudo-fields, as HTTP/1.1's parser takes them."""
    ids: list[bytes] = []
    others: list[bytes] = []
    cookies: list[bytes] = []
    lines = head.lines
    append = lines.append
    hosts: list[bytes] = []
    length: bytes | None = None
    grpc_timeout = b""
    for field in fields:
        if isinstance(field, bytes):
            append(field)
            continue
        kind = field.kind
        if kind == GRPC:
            head.is_grpc = True
            append(field.line)
        elif kind == TE:
            head.has_te = True
            append(b"te: trailers")
        elif kind == GRPC_TIMEOUT:
            grpc_timeout = field.value
        elif kind == REQUEST_ID:
            head.has_request_id = True
            ids.insert(0, field.line)
        elif kind == TRACE:
            head.has_trace = True
            ids.append(field.line)
        elif kind == DEADLINE:
            head.timeout_ms = field.value
        elif kind == LENGTH:
            if length is not None:
                raise ProtocolError("length", "more than one content-length")
            length = field.value
            append(field.line)
        elif kind == EXPECT:
            head.is_expecting = field.value.lower() == b"100-continue"
            append(field.line)
        elif kind == HOST:
            hosts.append(field.value)
        elif kind >= PSEUDO:
            raise ProtocolError("start_line", "a pseudo-field behind another field")
        elif kind == FLEETING:
            if field.line.startswith(_COOKIE):
                cookies.append(field.value)
                if len(cookies) > 1:
                    continue
            others.append(field.line)
    if len(cookies) > 1:
        # RFC 9113, section 8.2.3: crumbs are one line for whoever speaks another version.
        others[others.index(_COOKIE + cookies[0])] = _COOKIE + b"; ".join(cookies)
    if hosts:
        _take_host(head, hosts)
    elif head.authority is None:
        raise ProtocolError("host", "neither an authority nor a host field")
    if length is not None:
        head.length = framing(length, None, False)
    if grpc_timeout:
        if head.is_grpc:
            head.timeout_ms = merge_grpc(head.timeout_ms, grpc_timeout)
        else:  # a gateway's from JSON: the application's own business
            others.append(b"grpc-timeout: " + grpc_timeout)
    if ids or others:
        lines += ids
        lines += others
        head.fleeting = len(ids) + len(others)


def _take_host(head: RequestHead, hosts: list[bytes]) -> None:
    """RFC 9113, section 8.3.1: the field may stand in for the authority, and say no other."""
    if len(hosts) > 1:
        raise ProtocolError("host", "there must be at most one host field")
    host = hosts[0]
    if head.authority is None:
        if not host or AUTHORITY.fullmatch(host) is None:
            raise ProtocolError("host", "the host field is not a host")
        head.authority = host
    elif host != head.authority and host.lower() != head.authority.lower():
        raise ProtocolError("host", "the host field is not the authority")
