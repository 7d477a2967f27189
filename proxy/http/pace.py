"""How slow a client may be (docs/decisions/0008): a patience, and a rate that extends it.

Asked for by the sweeper once a second; a request that is in no trouble pays one addition for
each piece of its body and nothing else.
"""

import fcntl
import termios
from typing import Any, Final, Protocol

PATIENCE_S: Final = 12.0
"""For a head from its first byte, and before the rate below counts. With the sweeper's second and
the two of lingering, a slow client is gone 15 s after it began."""
MIN_BYTES_PER_S: Final = 500
"""Of a request's body on average, and taken from a response in each PATIENCE_S: the default of
Apache's mod_reqtimeout; IIS and Kestrel have 240."""


class Output(Protocol):
    def get_write_buffer_size(self) -> int: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


def untaken_bytes(transport: Output) -> int:
    """Written, and not yet acknowledged by the peer's kernel.

    Without the kernel's part a reader of 50 KB/s would seem to stand still: the kernel asks for
    more only when a third of a send buffer of megabytes is free. 0 if nothing waits above it.
    """
    unsent = transport.get_write_buffer_size()
    if not unsent:
        return 0
    sock = transport.get_extra_info("socket")
    if sock is None:
        return unsent
    try:
        # SIOCOUTQ (tcp(7)), the same number as TIOCOUTQ.
        queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (OSError, ValueError):  # closed under us
        return unsent
    return unsent + int.from_bytes(queued, "little")
