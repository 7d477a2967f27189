"""WebSockets that are opened, used once and kept."""

import base64
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchkit.contestants import REQUEST_PREFIX, ROUTING_HEADER
from benchkit.processes import Failed

_ASK_S = 5.0
_KEY = base64.b64encode(b"sixteen bytes ok")
_REQUEST = (
    b"GET %b/socket HTTP/1.1\r\nHost: api\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n%b: t1\r\n\r\n"
    % (REQUEST_PREFIX.encode(), _KEY, ROUTING_HEADER.encode())
)
_PING = b"\x82\x84\0\0\0\0ping"
"""A frame as clients send it (RFC 6455, section 5.2), masked with zeros."""
_PONG = b"\x82\x04pong"


@contextmanager
def held(port: int, count: int) -> Iterator[None]:
    """``count`` of them, each after one frame either way. Raises Failed if one has none."""
    with ExitStack() as cleanup:
        for number in range(1, count + 1):
            try:
                one = cleanup.enter_context(socket.create_connection(("127.0.0.1", port), _ASK_S))
                _open(one)
            except (OSError, ValueError) as error:
                raise Failed(f"WebSocket {number} of {count}: {error}") from error
        yield


def _open(one: socket.socket) -> None:
    """Raises ValueError unless it is accepted and a frame is answered."""
    one.sendall(_REQUEST)
    got = b""
    while b"\r\n\r\n" not in got:
        got += _more(one)
    head, _, rest = got.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        raise ValueError(f"answered with {head.splitlines()[0].decode(errors='replace')}")
    one.sendall(_PING)
    while len(rest) < len(_PONG):
        rest += _more(one)
    if rest != _PONG:
        raise ValueError(f"a frame was answered with {rest!r}")


def _more(one: socket.socket) -> bytes:
    data = one.recv(65536)
    if not data:
        raise ValueError("closed before the answer was complete")
    return data
