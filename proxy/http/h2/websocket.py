"""WebSocket over HTTP/2 (RFC 8441) and over HTTP/1.1: what one handshake has and the other has not.

HTTP/2 asks with an extended CONNECT and grants with 2xx. HTTP/1.1 asks with GET and a key, and
grants with 101 and what shows that the key was understood. Between the halves an exchange always
has the latter (``proxy.http.tunnel``).
"""

from base64 import b64encode
from hashlib import sha1
from secrets import token_bytes

from proxy.http.head import UNTIL_CLOSE, RequestHead, ResponseHead

WEBSOCKET = b"websocket"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LENGTH = b"content-length: "


def add_key(head: RequestHead) -> None:
    """To a request that came over HTTP/2 (RFC 6455, section 4.1: 16 random bytes)."""
    if head.upgrade == WEBSOCKET:
        head.lines.append(b"sec-websocket-key: " + b64encode(token_bytes(16)))
        head.fleeting += 1


def granted(head: ResponseHead, request: RequestHead) -> ResponseHead:
    """The 101 that an application's 2xx in HTTP/2 stands for."""
    begun = ResponseHead(101, b"101 Switching Protocols", True)
    begun.length = UNTIL_CLOSE
    begun.lines = [line for line in head.lines if not line.startswith(_LENGTH)]
    key = request.get(b"sec-websocket-key") if request.upgrade == WEBSOCKET else None
    if key is not None:
        # RFC 6455, section 4.2.2; no secret depends on it.
        proof = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
        begun.lines.append(b"sec-websocket-accept: " + proof)
    return begun
