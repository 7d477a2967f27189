"""Large buffers that all connections of the process share, since each is used within one call.

What a bulk transfer costs depends on how much is read at once: below a quarter of a megabyte, what
the kernel does for each turn (waking the other end, switching to it) outweighs the bytes. Half a
megabyte for each connection would be too much memory, and allocating it each time costs page
faults; one for all costs neither.

The kernel gives pages as they are first written: a proxy without bulk transfers has none of it.
"""

import mmap
from collections.abc import Callable
from typing import Any, Final

SCRATCH_BYTES = 512 * 1024
"""Measured with two mTLS hops: 256 KiB cost a tenth more CPU for each byte, a megabyte as much."""
BULK_BYTES: Final = 128 * 1024
"""In one read: then more is read at a time."""
_LITTLE_BYTES = 32 * 1024
_MOST_LITTLE = 16
"""Reads in a row: then the loop's own way of reading costs less again."""
_SPARE = 2


class Scratch:
    """One buffer for everybody."""

    __slots__ = ("_spare", "view")

    def __init__(self) -> None:
        self.view = _fresh()
        self._spare: list[memoryview] = []

    def get_buffer(self, _hint: int) -> memoryview:
        return self.view

    def lend(self) -> memoryview:
        """Somebody still needs what is in there: from now on another one is ``view``."""
        lent = self.view
        self.view = self._spare.pop() if self._spare else _fresh()
        return lent

    def take_back(self, lent: memoryview) -> None:
        if len(self._spare) < _SPARE:
            self._spare.append(lent)


def _fresh() -> memoryview:
    return memoryview(mmap.mmap(-1, SCRATCH_BYTES))


arrived = Scratch()
"""Ciphertext, as the loop has read it."""
plain = Scratch()
"""Plaintext, read or decrypted."""


class ScratchReader:
    """A buffered protocol in all but its base: ``received`` gets a view of what was read, which is
    valid during the call only. The loop's other calls go straight to ``protocol``."""

    __slots__ = (
        "_received",
        "_scratch",
        "connection_lost",
        "eof_received",
        "get_buffer",
        "pause_writing",
        "resume_writing",
    )

    def __init__(
        self,
        scratch: Scratch,
        protocol: Any,
        received: Callable[[memoryview], None],
    ) -> None:
        self._scratch = scratch
        self._received = received
        self.get_buffer = scratch.get_buffer
        self.eof_received = protocol.eof_received
        self.connection_lost = protocol.connection_lost
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing

    def buffer_updated(self, nbytes: int) -> None:
        self._received(self._scratch.view[:nbytes])


class BulkReader(ScratchReader):
    """For as long as there is much to read: then whoever had the transport before has it again."""

    __slots__ = ("_little", "_protocol", "_transport")

    def __init__(
        self,
        scratch: Scratch,
        transport: Any,
        protocol: Any,
        received: Callable[[memoryview], None],
    ) -> None:
        super().__init__(scratch, protocol, received)
        self._transport = transport
        self._protocol = protocol
        self._little = 0
        self._read_by(self)

    def buffer_updated(self, nbytes: int) -> None:
        if nbytes > _LITTLE_BYTES:
            self._little = 0
        else:
            self._little += 1
            if self._little == _MOST_LITTLE:
                self._read_by(self._protocol)
        self._received(self._scratch.view[:nbytes])

    def _read_by(self, protocol: Any) -> None:
        """The loop looks at how a protocol reads when reading begins."""
        transport = self._transport
        is_reading = transport.is_reading()
        transport.pause_reading()
        transport.set_protocol(protocol)
        if is_reading:
            transport.resume_reading()
