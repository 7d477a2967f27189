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
LEAST_TAKEN_BYTES: Final = int(PATIENCE_S * MIN_BYTES_PER_S)
"""From a response in that time."""
HELD_BODY_BYTES: Final = 16 * 1024
"""A request's body of at most this length goes upstream in one piece: whoever sends it slowly then
holds nothing there."""
LINGER_S: Final = 2.0
"""How long a closed connection is still read, so that the last response is not lost to a
reset (RFC 9112, section 9.6)."""
LINGER_BYTES: Final = 1024 * 1024
"""How much of it."""

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


class Uptake:
    """Whether the peer takes what was sent before, where something has to wait for that.

    Looked at about once a second.
    """

    __slots__ = ("_acked", "_since")

    def __init__(self) -> None:
        self._acked = -1
        """What the peer had acknowledged at ``_since``; -1: nothing waits."""
        self._since = 0.0

    @property
    def is_awaited(self) -> bool:
        """Something waited when it was last looked at."""
        return self._acked >= 0

    def forget(self) -> None:
        """Nothing waits, or not what waited before."""
        self._acked = -1

    def is_stuck(self, transport: Output, now: float, least: int = LEAST_TAKEN_BYTES) -> bool:
        """Something waits: whether less than ``least`` bytes were taken in ``PATIENCE_S``."""
        acked = acked_bytes(transport)
        if self._acked < 0 or acked - self._acked >= least:
            self._acked = acked
            self._since = now
            return False
        return now - self._since > PATIENCE_S
