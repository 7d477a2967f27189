"""Where finished lines of the access log go: the process's stdout, or a file.

A sink takes a batch of whole lines or says that it cannot now; it never blocks the event loop, and
what it took is either written whole or told as lost.

Stdout is the journal where systemd started the process, and there it is one stream socket with the
proxy's own log, and with that of every worker. A send of at most 32 KiB goes into such a socket
whole or not at all (the kernel makes one buffer of it), so that processes that share it do not
tear each other's lines, at one system call for some fifty lines; datagrams to the journal would be
one call a line, and their queue is some hundreds of lines short. Half of the socket's buffer is
left to the proxy's own log, whose writes would block the event loop otherwise.
"""

import asyncio
import errno
import fcntl
import os
import socket
import stat
import struct
import sys
import termios
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

from proxy.net.log_file import LogFile

_SOCKET_BYTES: Final = 32 * 1024
_PIPE_BYTES: Final = 4096
"""PIPE_BUF: what a pipe takes whole."""
_FILE_BYTES: Final = 1024 * 1024
"""To be handed to a thread costs as much as some fifty lines."""
_FULL: Final = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS))


class Told(Protocol):
    """By a sink, in the event loop."""

    def wrote(self, count: int) -> None: ...
    def lost(self, count: int, error: OSError) -> None: ...
    def freed(self) -> None:
        """It takes more now."""


class Sink(Protocol):
    max_bytes: int
    """Of one batch."""
    is_bounded: bool
    """Whether what reads it must be spared more lines than it can take."""

    def offer(self, batch: Sequence[bytes], count: int) -> bool:
        """Of ``count`` lines, some in each piece. False: not now."""

    async def settle(self, within_s: float) -> None:
        """Returns when what it took is written, or the time is over."""

    def close(self) -> None:
        """After what it took is written; waits for nothing."""


class StdoutSink:
    """As it is: a socket, a pipe, a terminal or a file."""

    def __init__(self, fd: int, told: Told) -> None:
        """``fd`` stays the caller's."""
        self._told = told
        self._socket: socket.socket | None = None
        self._fd = self._own = -1
        mode = os.fstat(fd).st_mode
        self.is_bounded = not stat.S_ISREG(mode)
        self.max_bytes = _PIPE_BYTES
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self.max_bytes = _SOCKET_BYTES
        elif stat.S_ISREG(mode):
            self._fd = fd
            self.max_bytes = _SOCKET_BYTES
        else:
            # Not O_NONBLOCK on the one that is there: other processes have it as well.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            self._fd = self._own = os.open(f"/proc/self/fd/{fd}", flags)

    def offer(self, batch: Sequence[bytes], count: int) -> bool:
        lines = b"".join(batch)
        try:
            if self._socket is not None:
                if self._is_half_full(self._socket):
                    return False
                sent = self._socket.send(lines, socket.MSG_DONTWAIT)
            else:
                sent = os.write(self._fd, lines)
            if sent != len(lines):
                raise OSError(errno.EIO, "a batch was written in part")
        except OSError as error:
            if error.errno in _FULL:
                return False
            self._told.lost(count, error)
            return True
        self._told.wrote(count)
        return True

    @staticmethod
    def _is_half_full(sock: socket.socket) -> bool:
        waiting = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        return bool(struct.unpack("i", waiting)[0] > room // 2)

    async def settle(self, within_s: float) -> None:
        """It never has anything left to write."""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._own >= 0:
            os.close(self._own)
        self._fd = self._own = -1


class FileSink:
    """A ``LogFile``, written by a thread: a disk may take its time."""

    max_bytes = _FILE_BYTES
    is_bounded = False

    def __init__(self, file: LogFile, told: Told) -> None:
        self._file, self._told = file, told
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="access-log")
        self._running: asyncio.Future[None] | None = None

    def offer(self, batch: Sequence[bytes], count: int) -> bool:
        if self._running is not None:
            return False
        loop = asyncio.get_running_loop()
        running = self._running = loop.run_in_executor(self._thread, self._file.write, batch)
        running.add_done_callback(lambda done: self._done(done, count))
        return True

    def _done(self, done: "asyncio.Future[None]", count: int) -> None:
        self._running = None
        if done.cancelled():
            self._told.lost(count, OSError(errno.ECANCELED, "the process ends"))
            return
        error = done.exception()
        if error is None:
            self._told.wrote(count)
        elif isinstance(error, OSError):
            self._told.lost(count, error)
        else:
            raise error
        self._told.freed()

    async def settle(self, within_s: float) -> None:
        if self._running is not None:
            await asyncio.wait((self._running,), timeout=within_s)

    def close(self) -> None:
        # In the thread: a batch that is still being written has the file.
        self._thread.submit(self._file.close)
        self._thread.shutdown(wait=False)


def is_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether systemd connected ``fd`` to the journal (systemd.exec(5), ``JOURNAL_STREAM``)."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def stdout_fd() -> int | None:
    """None: it was closed by whoever started the process, and its number may be anything's."""
    try:
        return sys.__stdout__.fileno() if sys.__stdout__ is not None else None
    except (OSError, ValueError):
        return None


def open_stdout(told: Told) -> Sink | None:
    fd = stdout_fd()
    return StdoutSink(fd, told) if fd is not None else None


def open_file(path: Path, max_bytes: int, kept: int, told: Told) -> Sink:
    return FileSink(LogFile(path, max_bytes=max_bytes, kept=kept), told)
