"""This machine as a host, without root: what the demo deploys to, by the same plan and apply.

A command sees a small environment and nothing of the operator's ``PYTHON*``. ``python3`` is the
interpreter that runs meshctl, because a machine's own may be older than what the proxy needs.
A process that a command leaves running must have redirected its own output, as over SSH.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from meshctl.errors import RemoteFailure
from meshctl.transport import Completed
from meshctl.transport.command import (
    CHUNK_BYTES,
    MAX_OUTPUT_BYTES,
    ended_badly,
    overflowed,
    overran,
    printed_no_lines,
    shown,
)
from meshctl.transport.lines import MAX_LINE_BYTES, Lines, LineTooLong
from proxy.model.names import HostName
from proxy.model.settings import Address

_KEPT_VARIABLES = ("HOME", "LANG", "LC_ALL", "LOGNAME", "TMPDIR", "USER")
_REAP_S = 2.0
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class LocalTransport:
    """Commands run as subprocesses of meshctl, as the operator, in a session of their own."""

    def __init__(self, host: HostName, *, max_output_bytes: int = MAX_OUTPUT_BYTES) -> None:
        self.host = host
        self._max_output_bytes = max_output_bytes

    def __repr__(self) -> str:
        return f"<LocalTransport {self.host}>"

    @property
    def is_open(self) -> bool:
        return True

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
    ) -> Completed:
        command = _Command(self._max_output_bytes)
        try:
            process, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: command, *argv, env=_environment(), cwd="/", start_new_session=True
            )
        except FileNotFoundError:
            # What a shell on a remote host would answer, so that callers need one reading only.
            return Completed(exit_status=127, stdout=b"", stderr=f"{argv[0]}: not found\n".encode())
        except OSError as error:
            raise RemoteFailure(
                f"{self.host}: `{shown(argv)}` cannot be started: {error.strerror or error}"
            ) from error
        try:
            async with asyncio.timeout(timeout_s):
                await command.exchange(process, stdin)
        except TimeoutError:
            raise overran(self.host, argv, timeout_s, command.output) from None
        finally:
            await command.end(process)
        if command.has_overflowed:
            raise overflowed(self.host, argv, self._max_output_bytes, command.output)
        status = process.get_returncode()
        assert status is not None
        return Completed(
            exit_status=status if status >= 0 else 128 - status,
            stdout=bytes(command.stdout),
            stderr=bytes(command.stderr),
        )

    @asynccontextmanager
    async def lines(
        self, argv: Sequence[str], *, timeout_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        command = _Stream(self.host, argv)
        loop = asyncio.get_running_loop()
        try:
            process, _ = await loop.subprocess_exec(
                lambda: command, *argv, env=_environment(), cwd="/", start_new_session=True
            )
        except FileNotFoundError:
            # As over SSH, where it shows when the output is read.
            said = f"{argv[0]}: not found".encode()
            command.lines.end(ended_badly(self.host, argv, 127, said))
            yield command.lines
            return
        except OSError as error:
            raise RemoteFailure(
                f"{self.host}: `{shown(argv)}` cannot be started: {error.strerror or error}"
            ) from error
        timer = loop.call_later(timeout_s, command.overrun, timeout_s) if timeout_s else None
        try:
            yield command.lines
        finally:
            if timer is not None:
                timer.cancel()
            await command.end(process)

    @asynccontextmanager
    async def tunnel(self, target: Address) -> AsyncIterator[Address]:
        """The address itself: the host is this machine."""
        yield target

    async def close(self) -> None:
        """Nothing stays open between commands."""


class _Command(asyncio.SubprocessProtocol):
    """Collects what one command prints; asyncio calls it, ``exchange`` awaits it."""

    def __init__(self, max_output_bytes: int) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.has_overflowed = False
        self._max_output_bytes = max_output_bytes
        self._open = {_STDOUT, _STDERR}
        self._has_exited = asyncio.Event()
        self._done = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def output(self) -> bytes:
        return bytes(self.stderr or self.stdout)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if self.has_overflowed:
            return
        into = self.stdout if fd == _STDOUT else self.stderr
        into += data
        if len(self.stdout) + len(self.stderr) > self._max_output_bytes:
            self.has_overflowed = True
            self._finish()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == _STDIN:
            self._writable.set()
        self._open.discard(fd)
        self._check()

    def process_exited(self) -> None:
        self._has_exited.set()
        self._check()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def exchange(self, process: asyncio.SubprocessTransport, stdin: bytes) -> None:
        """Until the command has ended and closed its output, or printed too much."""
        pipe = cast(asyncio.WriteTransport, process.get_pipe_transport(_STDIN))
        view = memoryview(stdin)
        for start in range(0, len(view), CHUNK_BYTES):
            await self._writable.wait()
            # A command may end, or close its input, without reading everything.
            if self._done.is_set() or pipe.is_closing():
                break
            pipe.write(view[start : start + CHUNK_BYTES])
        pipe.close()
        await self._done.wait()

    async def end(self, process: asyncio.SubprocessTransport) -> None:
        """Ends the whole session of a command that was given up: asked first, so that it may put
        away what it has half done. Nothing for one that has ended.
        """
        if not self._has_exited.is_set():
            # Its input ends first: Python runs no signal handler while it waits for a pipe, if
            # the signal came just before the wait.
            pipe = cast(asyncio.WriteTransport, process.get_pipe_transport(_STDIN))
            if pipe.get_write_buffer_size():
                pipe.abort()
            else:
                pipe.close()
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if self._has_exited.is_set():
                    break
                with suppress(ProcessLookupError):
                    os.killpg(process.get_pid(), number)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_REAP_S):
                        await self._has_exited.wait()
        finally:
            process.close()

    def _check(self) -> None:
        if self._has_exited.is_set() and not self._open:
            self._finish()

    def _finish(self) -> None:
        self._done.set()
        self._writable.set()


class _Stream(_Command):
    """One command's output as lines. Of what it says on standard error, the end is kept."""

    def __init__(self, host: HostName, argv: Sequence[str]) -> None:
        super().__init__(MAX_OUTPUT_BYTES)
        self.lines = Lines(pause=self._pause, resume=self._resume)
        self._host, self._argv = host, argv
        self._process: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != _STDOUT:
            self.stderr += data
            del self.stderr[:-CHUNK_BYTES]
            return
        try:
            self.lines.feed(data)
        except LineTooLong:
            self._give_up(printed_no_lines(self._host, self._argv, MAX_LINE_BYTES))

    def overrun(self, timeout_s: float) -> None:
        self._give_up(overran(self._host, self._argv, timeout_s, self.output))

    def _give_up(self, failure: RemoteFailure) -> None:
        """What it still prints is not read; it ends with the context."""
        self.lines.end(failure)
        self._pause()

    def _finish(self) -> None:
        super()._finish()
        assert self._process is not None
        status = self._process.get_returncode()
        if status:
            status = status if status > 0 else 128 - status
            self.lines.end(ended_badly(self._host, self._argv, status, self.output))
        else:
            self.lines.end()

    def _pause(self) -> None:
        self._reading().pause_reading()

    def _resume(self) -> None:
        self._reading().resume_reading()

    def _reading(self) -> asyncio.ReadTransport:
        assert self._process is not None
        return cast(asyncio.ReadTransport, self._process.get_pipe_transport(_STDOUT))


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    own = str(Path(sys.executable).parent)
    return kept | {"PATH": f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
