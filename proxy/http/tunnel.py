"""Tunnels: a request to change the protocol (RFC 9110, section 7.8), and the 101 that grants it.

What enters is the text of heads; what leaves is the same with ``connection: upgrade`` and
``upgrade``, which are no lines of a head: they mean something to one hop, and each writes its own.

A request for it is a GET without a body whose ``RequestHead.upgrade`` names one protocol, in lower
case. It is begun without its end (``Exchange.begin(b"", False, [])``), and nothing that its client
sends behind it, nor that it ends, is passed on before the application's 101. That comes as
``response_head(head, b"", False)`` with ``head.length`` UNTIL_CLOSE; from then on ``request_data``
and ``response_data`` carry bytes, whatever they mean. The client's end is passed on and the answer
may go on; the application's ends the tunnel. Any other answer is an ordinary one, after which the
connection of a client in HTTP/1.1 closes: what it may have sent behind its request is no request.
"""

from typing import Final

from proxy.http.fields import (
    CONNECTION,
    UPGRADE,
    ProtocolError,
    Special,
    is_listed,
    memo_get,
    parse_field,
)
from proxy.http.head import UNTIL_CLOSE, RequestHead, ResponseHead

SWITCHING: Final = 101

_NEVER = (b"h2", b"h3", b"http", b"tls", b"ssl")
"""In such a tunnel requests would pass by everything that judges them."""


def with_upgrade(wire: bytes, protocol: bytes) -> bytes:
    """A head in full, up to its empty line, as one that asks for, or grants, a protocol."""
    return b"%bconnection: upgrade\r\nupgrade: %b\r\n\r\n" % (wire[:-2], protocol)


def refused_switch(head: RequestHead) -> str:
    """What of a request to change the protocol is not supported; empty: it may go on.

    A body would have to be sent whole before the first byte of the other protocol (RFC 9110,
    section 7.8), and two readers need not agree on where that is. HTTP/2 has no method to say.
    """
    if head.method == b"CONNECT":
        return "CONNECT"
    if head.upgrade.startswith(_NEVER):
        return "changing the protocol to TLS or another HTTP"
    if head.method != b"GET" or head.length:
        return "changing the protocol by anything but a GET without a body"
    return ""


def grant(head: ResponseHead, protocol: bytes) -> bytes:
    """A 101 on the wire, in HTTP/1.1 or between two proxies."""
    lines = b"".join([line + b"\r\n" for line in head.lines])
    return with_upgrade(b"HTTP/1.1 %b\r\n%b\r\n" % (head.reason, lines), protocol)


def accept(head: ResponseHead, block: bytes, asked: bytes) -> ResponseHead:
    """The head that begins a tunnel, of a 101 and the text that it was parsed from.

    ``asked``: for what the request asked; empty: for nothing. Raises ProtocolError where that is
    not what was granted: the two ends would disagree about what the bytes mean.
    """
    if not asked:
        raise ProtocolError("status", "an interim response that was not asked for")
    protocol = connection = b""
    for raw in block.split(b"\r\n")[1:]:
        field = memo_get(raw) or parse_field(raw)
        if isinstance(field, Special):
            if field.kind == UPGRADE:
                protocol += b"," + field.value if protocol else field.value
            elif field.kind == CONNECTION:
                connection += b"," + field.value
    if protocol.lower() != asked:
        raise ProtocolError("status", "101 names another protocol than the one asked for")
    if not is_listed(b"upgrade", connection.lower()):
        raise ProtocolError("status", "101 without the connection option upgrade")
    begun = head.with_lines(head.lines)
    begun.length = UNTIL_CLOSE
    return begun
