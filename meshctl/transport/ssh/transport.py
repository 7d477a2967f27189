"""One host over one SSH connection: many commands and tunnels at a time."""

import asyncio
import math
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import asyncssh

from meshctl.errors import Refused, RemoteFailure, Unreachable
from meshctl.transport import Completed
from meshctl.transport.command import (
    MAX_OUTPUT_BYTES,
    ended_badly,
    overflowed,
    overran,
    printed_no_lines,
    shown,
)
from meshctl.transport.lines import MAX_LINE_BYTES, LineTooLong
from meshctl.transport.ssh import channel, streaming
from proxy.model.names import HostName
from proxy.model.settings import Address

MAX_SESSIONS = 8
"""Below OpenSSH's default ``MaxSessions 10``: more commands at a time wait here instead of being
refused there."""

_OPEN_S = 30.0
"""For a channel, of a connection that is there."""
_CLOSE_S = 3.0
_REMOTE_GRACE_S = 5
"""The host's own deadline is this much later, so that the first to speak is always meshctl."""


class SshTransport:
    """SSH hands the host one string, which the user's shell splits: ``shlex.join`` makes it.

    A command that is given up is ended on the host through another channel; one that is orphaned
    by a cut connection ends by its own deadline, for which it runs under the host's ``timeout``.
    """

    def __init__(
        self,
        host: HostName,
        connection: asyncssh.SSHClientConnection,
        *,
        become_from: str | None,
        max_output_bytes: int = MAX_OUTPUT_BYTES,
    ) -> None:
        self.host = host
        self._connection = connection
        self._become_from = become_from
        self._max_output_bytes = max_output_bytes
        self._slots = asyncio.Semaphore(MAX_SESSIONS)
        self._endings: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<SshTransport {self.host} {'open' if self.is_open else 'closed'}>"

    @property
    def _become(self) -> tuple[str, ...]:
        return ("sudo", "-n", "--") if self._become_from else ()

    @property
    def is_open(self) -> bool:
        return not self._connection.is_closed()

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
    ) -> Completed:
        limit = ["timeout", "-k", "5", str(math.ceil(timeout_s) + _REMOTE_GRACE_S)]
        full = [*self._become, *channel.ANNOUNCE, *limit, *argv]
        return await self._run(full, argv, stdin, timeout_s)

    async def check_become(self, *, timeout_s: float) -> None:
        """Once per connection, so that no later failure has to be guessed to be sudo's."""
        if not self._become:
            return
        probe = [*self._become, "true"]
        done = await self._run(probe, probe, b"", timeout_s)
        if done.exit_status == 127:
            raise Refused(
                f"{self.host}: there is no sudo, and {self._become_from} is not root",
                hint="install sudo on the host, or set `ssh.user: root` in the inventory",
            )
        if done.exit_status != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise Refused(
                f"{self.host}: {self._become_from} cannot become root without a password"
                f" ({said[-1] if said else f'sudo exited with {done.exit_status}'})",
                hint="on the host, with `visudo -f /etc/sudoers.d/meshctl`, add: "
                f"{self._become_from} ALL=(root) NOPASSWD: ALL",
            )

    @asynccontextmanager
    async def lines(
        self, argv: Sequence[str], *, timeout_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        remote_s = math.ceil(timeout_s or streaming.STREAM_MAX_S) + _REMOTE_GRACE_S
        limit = ["timeout", "-k", "5", str(remote_s)]
        full = [*self._become, *channel.ANNOUNCE, *limit, *argv]
        session = streaming.StreamSession(
            lambda error, status, said: self._stream_failure(argv, error, status, said, timeout_s)
        )
        timer: asyncio.TimerHandle | None = None
        await self._take_slot(argv)
        try:
            await self._open_stream(full, argv, session)
            if timeout_s is not None:
                loop = asyncio.get_running_loop()
                timer = loop.call_later(timeout_s, session.give_up, TimeoutError())
            yield session.lines
        finally:
            if timer is not None:
                timer.cancel()
            session.stop()
            self._slots.release()
            self._end_orphan(session)

    @asynccontextmanager
    async def tunnel(self, target: Address) -> AsyncIterator[Address]:
        """Raises Refused at once when the host's SSH server forbids forwarding; a target that
        does not listen shows, as without a tunnel, when it is dialled.
        """
        try:
            await self._check_forwarding(target)
            listener = await self._connection.forward_local_port(
                "127.0.0.1", 0, target.host, target.port
            )
        except (OSError, asyncssh.Error) as error:
            raise self._lost(f"a tunnel to {target.host}:{target.port}", error) from error
        try:
            yield Address(host="127.0.0.1", port=listener.get_port())
        finally:
            listener.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await listener.wait_closed()

    async def close(self) -> None:
        if self._endings:
            await asyncio.wait(self._endings, timeout=_CLOSE_S)
        await close_connection(self._connection)

    async def _run(
        self, full: Sequence[str], argv: Sequence[str], stdin: bytes, timeout_s: float
    ) -> Completed:
        session = channel.CommandSession(self._max_output_bytes)
        try:
            async with asyncio.timeout(timeout_s) as deadline, self._slots:
                return await channel.run(self._connection, shlex.join(full), session, stdin)
        except channel.Overflow:
            raise overflowed(self.host, argv, self._max_output_bytes, session.output) from None
        except channel.Cut as error:
            raise self._lost(f"`{shown(argv)}`", error) from error
        except (OSError, asyncssh.Error) as error:
            if deadline.expired():
                raise overran(self.host, argv, timeout_s, session.output) from None
            raise self._lost(f"`{shown(argv)}`", error) from error
        finally:
            self._end_orphan(session)

    async def _take_slot(self, argv: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(_OPEN_S):
                await self._slots.acquire()
        except TimeoutError:
            raise RemoteFailure(
                f"{self.host}: `{shown(argv)}` was not started: {MAX_SESSIONS} other commands"
                f" of this meshctl run there since {_OPEN_S:g} s"
            ) from None

    async def _open_stream(
        self, full: Sequence[str], argv: Sequence[str], session: streaming.StreamSession
    ) -> None:
        try:
            async with asyncio.timeout(_OPEN_S):
                await self._connection.create_session(
                    lambda: session, shlex.join(full), encoding=None, request_pty=False
                )
        except (OSError, asyncssh.Error) as error:
            raise self._lost(f"`{shown(argv)}`", error) from error

    def _stream_failure(
        self,
        argv: Sequence[str],
        error: Exception | None,
        status: int | None,
        said: bytes,
        timeout_s: float | None,
    ) -> Exception | None:
        match error:
            case LineTooLong():
                return printed_no_lines(self.host, argv, MAX_LINE_BYTES)
            case TimeoutError() if timeout_s is not None:
                return overran(self.host, argv, timeout_s, said)
            case None if status is not None:
                return ended_badly(self.host, argv, status, said) if status else None
            case _:
                return self._lost(f"`{shown(argv)}`", error or channel.Cut())

    def _end_orphan(self, session: channel.CommandSession) -> None:
        orphan = session.orphan
        if orphan is not None and self.is_open:
            ending = asyncio.create_task(self._end(orphan), name=f"{self.host}: end {orphan}")
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def _end(self, orphan: int) -> None:
        """``timeout`` passes the signal on to the command and to what it started."""
        command = shlex.join([*self._become, "kill", "-TERM", str(orphan)])
        session = channel.CommandSession(self._max_output_bytes)
        # Best effort: it may have ended, or the connection with it.
        with suppress(OSError, asyncssh.Error, channel.Cut, channel.Overflow):
            async with asyncio.timeout(_CLOSE_S):
                await channel.run(self._connection, command, session, b"")

    async def _check_forwarding(self, target: Address) -> None:
        try:
            _, writer = await self._connection.open_connection(target.host, target.port)
        except asyncssh.ChannelOpenError as error:
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                raise Refused(
                    f"{self.host}: the SSH server forbids a tunnel to {target.host}:{target.port}",
                    hint="set `AllowTcpForwarding local` in the host's sshd_config",
                ) from error
            if error.code != asyncssh.OPEN_CONNECT_FAILED:
                raise
        else:
            writer.close()

    def _lost(self, during: str, error: Exception) -> Unreachable:
        reason = error.reason if isinstance(error, asyncssh.DisconnectError) else str(error)
        return Unreachable(
            f"{self.host}: the SSH connection was lost during {during}"
            + (f": {reason}" if reason else ""),
            hint="run the same command again: it continues where the host stands",
        )


async def close_connection(connection: asyncssh.SSHClientConnection) -> None:
    """Says goodbye, but does not wait long for an answer."""
    connection.close()
    try:
        async with asyncio.timeout(_CLOSE_S):
            await connection.wait_closed()
    except TimeoutError:
        connection.abort()
