"""What every transport shares about a command: its limits, and how it is named in an error."""

import shlex
from collections.abc import Sequence

from meshctl.errors import RemoteFailure
from proxy.model.names import HostName

MAX_OUTPUT_BYTES = 16 * 2**20
"""Of one command, standard output and standard error together: far above what any step prints,
far below what would hurt the operator's machine with hundreds of hosts."""

CHUNK_BYTES = 64 * 2**10

_SHOWN_MAX = 80
_TAIL_BYTES = 4096


def shown(argv: Sequence[str]) -> str:
    """``argv`` on one short line; an inline script is cut. Safe: no secret stands in argv."""
    text = " ".join(shlex.join(argv).split())
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."


def tail(output: bytes) -> str:
    """The end of what a command printed, as text."""
    return output[-_TAIL_BYTES:].decode(errors="replace")


def overran(host: HostName, argv: Sequence[str], timeout_s: float, output: bytes) -> RemoteFailure:
    return RemoteFailure(
        f"{host}: `{shown(argv)}` did not end within {timeout_s:g} s and was stopped",
        output=tail(output),
    )


def ended_badly(host: HostName, argv: Sequence[str], status: int, output: bytes) -> RemoteFailure:
    """Of a command that should have gone on, or ended with 0."""
    return RemoteFailure(
        f"{host}: `{shown(argv)}` ended with {status}", output=tail(output).strip()
    )


def printed_no_lines(host: HostName, argv: Sequence[str], limit: int) -> RemoteFailure:
    return RemoteFailure(
        f"{host}: `{shown(argv)}` printed a line of more than {limit / 2**20:g} MiB and was stopped"
    )


def overflowed(host: HostName, argv: Sequence[str], limit: int, output: bytes) -> RemoteFailure:
    return RemoteFailure(
        f"{host}: `{shown(argv)}` printed more than {limit / 2**20:g} MiB and was stopped",
        output=tail(output),
    )
