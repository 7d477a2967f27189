"""A log file that several processes append to, and that is rotated by whichever finds it full.

Whole batches of lines are written, each under a lock on the file, so that no line is torn: what a
full disk took only a part of is taken back. Before each batch the name is looked up again, so that
whoever moves the file away, this program's other processes or logrotate, needs to tell nobody.

Everything here may block for as long as a disk does: it is called in a thread of its own.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
_WAIT_S: Final = 5.0
"""For other processes' batches and rotations; a longer wait is a failure."""
_LOCK_POLL_S: Final = 0.002
_MAX_KEPT: Final = 1000
"""Rotated files that are looked for when fewer are to be kept than before."""


class LogFile:
    """``path``, ``path.1`` the newest rotated one, up to ``path.<kept>``."""

    def __init__(self, path: Path, *, max_bytes: int, kept: int) -> None:
        self.path = path
        self._max_bytes, self._kept = max_bytes, kept
        self._fd = -1

    def write(self, batch: Sequence[bytes]) -> None:
        """Whole lines, some in each piece: all of it, or nothing and OSError."""
        length = sum(map(len, batch))
        deadline = time.monotonic() + _WAIT_S
        while True:
            fd = self._opened()
            self._lock(fd, deadline)
            try:
                size = self._size_if_named(fd)
                if size is None:
                    self.close()
                elif size and size + length > self._max_bytes:
                    self._rotate()
                    self.close()
                else:
                    _append(fd, batch, length, size)
                    return
            finally:
                if self._fd == fd:
                    fcntl.flock(fd, fcntl.LOCK_UN)
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "the file is renamed again and again")

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)  # and with it goes the lock

    def _opened(self) -> int:
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                self._fd = os.open(self.path, flags, MODE)
            except FileNotFoundError:
                self.path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
                self._fd = os.open(self.path, flags, MODE)
            with contextlib.suppress(PermissionError):
                os.fchmod(self._fd, MODE)  # whatever the process's mask says
        return self._fd

    def _lock(self, fd: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOCK_POLL_S)
            else:
                return

    def _size_if_named(self, fd: int) -> int | None:
        """None: another file has the name now, or none has."""
        opened = os.fstat(fd)
        try:
            named = os.lstat(self.path)
        except FileNotFoundError:
            return None
        is_same = (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)
        return opened.st_size if is_same else None

    def _rotate(self) -> None:
        """Under the lock of the file that has the name: there is one who does."""
        for number in range(self._kept + 1, _MAX_KEPT):
            try:
                os.unlink(self._numbered(number))
            except FileNotFoundError:
                break
        if not self._kept:
            os.unlink(self.path)
            return
        for number in range(self._kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._numbered(number), self._numbered(number + 1))
        os.rename(self.path, self._numbered(1))

    def _numbered(self, number: int) -> str:
        return f"{self.path}.{number}"


def _append(fd: int, batch: Sequence[bytes], length: int, size: int) -> None:
    """Under the lock, so that ``size`` is where the lines begin."""
    try:
        if os.writev(fd, batch) == length:
            return
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as found:
        error = found
    os.ftruncate(fd, size)
    raise error
