"""How much memory this process holds, keeping a little at hand, giving back what is not used."""

import ctypes
import gc
import mmap
from contextlib import suppress
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES = 2 * 1024 * 1024
_MAPPED_BYTES = 1024 * 1024
_YOUNG_OBJECTS: Final = 5000
"""More than before by so many, they are looked through: some 0.1 ms, for at most some 2 MiB."""


def keep_some_at_hand() -> None:
    """Lets the C library keep what a few large reads need.

    By default it gives back the end of its heap as soon as a read of a quarter of a megabyte is
    done with, and fetches it again for the next: depending on how the heap happens to lie, page
    faults double the CPU that a large answer costs.
    """
    with suppress(OSError, AttributeError):  # a C library other than glibc
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def resident_bytes() -> int:
    """From /proc/self/statm; 0 where there is none."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


def settle_in() -> None:
    """What lives now lives for good: collections need not look at it again. And they are fewer:
    requests in flight are many objects, and Python's default has them looked at again and again,
    though hardly any of them is garbage by then."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def return_free_memory() -> None:
    """What Python and the C library keep for later; without it, shedding load frees nothing."""
    gc.collect()
    with suppress(OSError, AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
