"""How much memory this process holds, and giving back what it does not use."""

import ctypes
import gc
import mmap
from contextlib import suppress


def resident_bytes() -> int:
    """From /proc/self/statm; 0 where there is none."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


def return_free_memory() -> None:
    """What Python and the C library keep for later; without it, shedding load frees nothing."""
    gc.collect()
    with suppress(OSError, AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
