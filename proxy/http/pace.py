"""How slow a client may be (docs/decisions/0008): a patience, and a rate that extends it.

Asked for by the sweeper once a second; a request that is in no trouble pays one addition for
each piece of its body and nothing else.
"""

import fcntl
import socket
import termios
from typing import Any, Final, Protocol

PATIENCE_S: Final = 10.0
"""For a head from its first byte, and before the rate below counts. With the sweeper's second and
the two of lingering, a slow client is gone well within 15 s."""
MIN_BYTES_PER_S: Final = 500
"""Of a request's body on average, and taken from a response in each PATIENCE_S: the default of
Apache's mod_reqtimeout; IIS and Kestrel have 240."""

_BYTES_ACKED = slice(120, 128)
"""``tcpi_bytes_acked`` in Linux's ``struct tcp_info`` (since 4.1)."""
_MANY = 1 << 40


class Output(Protocol):
    def get_write_buffer_size(self) -> int: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


def queued_bytes(transport: Output) -> int:
    """What the kernel holds until the peer's has acknowledged it; 0 if it does not tell."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return 0
    try:
        # SIOCOUTQ (tcp(7)), the same number as TIOCOUTQ.
        queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (OSError, ValueError):  # closed under us
        return 0
    return int.from_bytes(queued, "little")


def acked_bytes(transport: Output) -> int:
    """What the peer's kernel has acknowledged since the connection began.

    The proxy's own buffer says little: it moves in steps of a third of the kernel's, which may be
    megabytes and which grows for a while even if nobody reads. Where the kernel does not tell,
    the buffer's shrinking has to do.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None:
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
        except OSError:
            info = b""
        if len(info) == _BYTES_ACKED.stop:
            return int.from_bytes(info[_BYTES_ACKED], "little")
    return max(0, _MANY - transport.get_write_buffer_size())
