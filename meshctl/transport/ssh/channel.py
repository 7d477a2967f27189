"""One command on one SSH channel: bytes in under flow control, bounded bytes out, a status."""

import asyncio
import re
import signal
from contextlib import suppress
from typing import Any

import asyncssh

from meshctl.transport import Completed
from meshctl.transport.command import CHUNK_BYTES

ANNOUNCE = ("sh", "-c", 'echo "meshctl-pid:$$" >&2; exec "$@"', "sh")
"""Put before a command: tells its process id on standard error. Needed because closing a channel
ends nothing on the host, and OpenSSH does not pass signals on for root or to what sudo runs."""

_ANNOUNCED = re.compile(rb"^meshctl-pid:([0-9]+)\n", re.MULTILINE)
"""Not always the first line: sudo and login scripts speak before."""


class Overflow(Exception):
    """The command printed more than the limit."""


class Cut(Exception):
    """The channel ended without a status: the connection broke or the server gave up."""


class CommandSession(asyncssh.SSHClientSession[bytes]):
    """Collects what one command prints; asyncssh calls it, ``exchange`` awaits it."""

    def __init__(self, max_output_bytes: int) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._max_output_bytes = max_output_bytes
        self._exit_status: int | None = None
        self._failure: Exception | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        self._was_stopped = False
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None

    @property
    def output(self) -> bytes:
        return _without_announcement(self.stderr) or bytes(self.stdout)

    @property
    def orphan(self) -> int | None:
        """Process id of a command that was given up and may still run."""
        if not self._was_stopped or self._exit_status is not None:
            return None
        return announced(self.stderr)

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        into = self.stderr if datatype == asyncssh.EXTENDED_DATA_STDERR else self.stdout
        into += data
        if len(self.stdout) + len(self.stderr) > self._max_output_bytes and not self._failure:
            self._failure = Overflow()
            self.stop()

    def eof_received(self) -> bool:
        # A command may close its output and go on reading.
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def exit_status_received(self, status: int) -> None:
        self._exit_status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._exit_status = 128 + _number(signal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._failure = self._failure or exc
        self._closed.set()
        self._writable.set()

    def stop(self) -> None:
        """Drops the channel, without waiting; nothing if it has ended."""
        if self._channel is None or self._closed.is_set():
            return
        self._was_stopped = True
        self._channel.abort()

    async def exchange(self, stdin: bytes) -> Completed:
        """Raises Overflow, Cut or what broke the connection."""
        assert self._channel is not None
        view = memoryview(stdin)
        # The command may end, and close the channel, without reading everything.
        with suppress(OSError):
            for start in range(0, len(view), CHUNK_BYTES):
                await self._writable.wait()
                if self._closed.is_set():
                    break
                self._channel.write(bytes(view[start : start + CHUNK_BYTES]))
            if not self._closed.is_set():
                self._channel.write_eof()
        await self._closed.wait()
        if self._failure is not None:
            raise self._failure
        if self._exit_status is None:
            raise Cut
        return Completed(
            exit_status=self._exit_status,
            stdout=bytes(self.stdout),
            stderr=_without_announcement(self.stderr),
        )


def announced(stderr: bytes | bytearray) -> int | None:
    """The process id that ``ANNOUNCE`` told, once it has arrived."""
    found = _ANNOUNCED.search(stderr)
    return int(found[1]) if found else None


async def run(
    connection: asyncssh.SSHClientConnection, command: str, session: CommandSession, stdin: bytes
) -> Completed:
    """Whatever ends this early (a deadline, a cancellation) also ends the command's channel."""

    def factory() -> asyncssh.SSHClientSession[Any]:
        return session

    try:
        await connection.create_session(factory, command, encoding=None, request_pty=False)
        return await session.exchange(stdin)
    finally:
        session.stop()


def _without_announcement(stderr: bytearray) -> bytes:
    return _ANNOUNCED.sub(b"", bytes(stderr), count=1)


def _number(name: str) -> int:
    with suppress(KeyError):
        return int(signal.Signals[f"SIG{name}"])
    return 0
