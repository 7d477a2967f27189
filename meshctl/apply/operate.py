"""One operation of ``meshctl.onhost`` on a host, and its answer as a value or an error."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from meshctl.artifacts import RenderedFile
from meshctl.errors import RemoteFailure
from meshctl.facts.request import lock_path, uses_systemd
from meshctl.inventory.model import Host
from meshctl.onhost import ship
from meshctl.transport import Transport
from proxy.model.names import HostName

_MARGIN_S = 45.0
"""On top of an operation's own deadline: the wait for the host's lock, and the way there."""


class StepFailed(RemoteFailure):
    """An operation that the host refused or could not finish."""

    def __init__(self, message: str, *, output: str, hint: str, code: str, outcome: str) -> None:
        super().__init__(message, output=output, hint=hint)
        self.code = code
        self.outcome = outcome
        """``rolled-back``, ``stopped``, ``unchanged``, ``broken``; empty: nothing had begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A connected host with the interpreter that runs operations on it."""

    host: Host
    transport: Transport
    python: str
    owner: str
    """Our name in the host's deploy lock."""

    async def operate(
        self, operation: str, *, timeout_s: float = 60.0, **arguments: Any
    ) -> dict[str, Any]:
        """Raises StepFailed for what the host says, RemoteFailure or Unreachable otherwise."""
        request = {
            "operation": operation,
            "lock": lock_path(self.host),
            "owner": self.owner,
            **arguments,
        }
        done = await self.transport.run(
            ship.command(self.python), stdin=ship.stdin(request), timeout_s=timeout_s + _MARGIN_S
        )
        return _read(self.host.name, operation, done.stdout, done.stderr)

    async def run(self, *argv: str, stdin: bytes = b"", timeout_s: float = 60.0) -> bytes:
        """Standard output of a command that must succeed."""
        done = await self.transport.run(argv, stdin=stdin, timeout_s=timeout_s)
        if done.exit_status != 0:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
            raise RemoteFailure(
                f"`{_shown(argv)}` failed on {self.host.name}",
                output=said,
            )
        return done.stdout


def file_argument(host: Host, file: RenderedFile) -> dict[str, Any]:
    """A file as operations take it; without systemd everything is the operator's own."""
    is_owned = uses_systemd(host)
    return {
        "path": file.path,
        "content": base64.b64encode(file.content).decode(),
        "mode": file.mode,
        "owner": file.owner if is_owned else "",
        "group": file.group if is_owned else "",
    }


def _shown(argv: tuple[str, ...]) -> str:
    """What was run, without its options: ``proxy.keys request``."""
    if "-m" in argv[:-1]:
        module = argv.index("-m") + 1
        return " ".join(word for word in argv[module : module + 2] if not word.startswith("-"))
    return argv[0].rpartition("/")[2]


def _read(host: HostName, operation: str, stdout: bytes, stderr: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(stdout.decode().strip().rpartition("\n")[2])
        is_good = bool(answer["ok"])
    except (ValueError, KeyError, TypeError):
        raise RemoteFailure(
            f"{host}: the operation {operation} ended without an answer",
            output=(stderr or stdout).decode("utf-8", "replace")[-4096:],
        ) from None
    if is_good:
        return dict(answer["result"])
    raise StepFailed(
        str(answer["error"]),
        output=str(answer["output"]),
        hint="run the same command again: it plans anew" if answer["code"] == "moved" else "",
        code=str(answer["code"]),
        outcome=str(answer["outcome"]),
    )
