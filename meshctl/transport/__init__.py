"""How meshctl reaches a host: one small Protocol, over SSH or on this machine.

Everything a host is asked or told goes through ``run``. A file is put in place by a command that
reads it from standard input, so that no second channel (SFTP, scp) has to be allowed, escalated
and audited, and secrets never stand in argv.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from proxy.model.names import HostName
from proxy.model.settings import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A command that ran to its end on the host."""

    exit_status: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """A connection to one host. Raises ``Unreachable`` when it breaks, ``Refused`` when the
    host's key is not the one expected; a command that exits non-zero is a result, not an error.
    """

    host: HostName

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
    ) -> Completed:
        """Run ``argv`` (no shell) as root, or as the operator where the host has no root."""
        ...

    def lines(
        self, argv: Sequence[str], *, timeout_s: float | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A command that goes on: what it prints, line by line, without the line's end.

        Leaving the context ends the command; its standard input stays open until then. Reading
        slowly slows it down. Iteration ends when the command has ended well; it raises
        RemoteFailure if that was not well, a line was too long or ``timeout_s`` is over, and
        Unreachable when the connection broke.
        """
        ...

    def tunnel(self, target: Address) -> AbstractAsyncContextManager[Address]:
        """A loopback address on this machine that leads to ``target`` as the host sees it."""
        ...

    async def close(self) -> None: ...


class Connector(Protocol):
    """Opens transports; one per command run, so that SSH connections are shared."""

    async def connect(self, host: HostName) -> Transport:
        """Raises ``Unreachable`` or ``Refused`` (host key, authentication)."""
        ...

    async def close(self) -> None: ...
