"""Heads and trailers to header blocks without state, of literals that nobody has to remember.

What a peer needs no table for needs no order either: each line is encoded by itself, once, and
most lines come again. Secrets are never indexed (RFC 7541, section 6.2.3) and not kept. Strings
are not compressed: it would cost more than the bytes do between neighbours.
"""

from typing import Final

from proxy.http.fields import NOT_REMEMBERED
from proxy.http.h2.representation import encode_field, encode_static
from proxy.http.head import RequestHead, ResponseHead

_KEPT: Final = 2048
_KEPT_BYTES: Final = 256
"""What says who calls, in two SPIFFE IDs, is longer than most."""
_STARTS_KEPT: Final = 1024
_START_BYTES: Final = 256
_lines: dict[bytes, bytes] = {}
_line_get = _lines.get
_starts: dict[tuple[bytes, bytes, bytes, bytes], bytes] = {}

_METHODS = {b"GET": encode_static(2), b"POST": encode_static(3)}
_SCHEMES = {b"http": encode_static(6), b"https": encode_static(7)}
_STATUSES = {
    **{status: encode_field(b":status", b"%d" % status) for status in range(100, 1000)},
    **{
        status: encode_static(index)
        for index, status in enumerate((200, 204, 206, 304, 400, 404, 500), 8)
    },
    # RFC 8441, section 5: what HTTP/1.1 grants with 101 is a 2xx.
    101: encode_static(8),
}
_KEY: Final = b"sec-websocket-key: "
_ACCEPT: Final = b"sec-websocket-accept: "


def request_block(head: RequestHead, authority: bytes, scheme: bytes = b"http") -> bytes:
    """HOT. ``authority`` stands in for a missing one. With ``head.upgrade`` an extended CONNECT
    (RFC 8441), which has no key."""
    if head.authority is not None:
        authority = head.authority
    lines = head.lines
    upgrade = head.upgrade
    if upgrade:
        start = _start(b"CONNECT", head.target, authority, scheme)
        start += encode_field(b":protocol", upgrade)
        lines = [line for line in lines if not line.startswith(_KEY)]
        return start + b"".join([_encode(line) for line in lines])
    key = (head.method, head.target, authority, scheme)
    start = _starts.get(key) or _start(*key)
    return start + b"".join([_line_get(line) or _remember(line) for line in lines])


def response_block(head: ResponseHead) -> bytes:
    """HOT. With the lines of a proxy's own, if ``head`` has a flag; 101 as RFC 8441 has it."""
    block = head.block
    if not block:
        lines = head.lines
        if head.flag:
            lines = lines + head.own_lines()
        if head.status == 101:
            lines = [line for line in lines if not line.startswith(_ACCEPT)]
        fields = b"".join([_line_get(line) or _remember(line) for line in lines])
        block = head.block = _STATUSES[head.status] + fields
    return block


def trailers_block(lines: list[bytes]) -> bytes:
    """Empty if there are none."""
    return b"".join([_line_get(line) or _remember(line) for line in lines])


def _start(method: bytes, target: bytes, authority: bytes, scheme: bytes) -> bytes:
    start = b"".join(
        (
            _METHODS.get(method) or encode_field(b":method", method),
            _SCHEMES.get(scheme) or encode_field(b":scheme", scheme),
            encode_field(b":path", target),
            encode_field(b":authority", authority),
        )
    )
    if len(start) <= _START_BYTES:
        if len(_starts) >= _STARTS_KEPT:
            _starts.clear()
        _starts[method, target, authority, scheme] = start
    return start


def _encode(line: bytes) -> bytes:
    name, _, value = line.partition(b": ")
    return encode_field(name, value)


def _remember(line: bytes) -> bytes:
    name, _, value = line.partition(b": ")
    block = encode_field(name, value)
    if name not in NOT_REMEMBERED and len(line) <= _KEPT_BYTES:
        if len(_lines) >= _KEPT:
            _lines.clear()
        _lines[line] = block
    return block
