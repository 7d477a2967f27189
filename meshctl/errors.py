"""The few kinds of failure an operator can meet, and the one table from them to exit codes.

Library exceptions are translated into these once, at the edge that called the library.
"""

from collections.abc import Sequence
from enum import IntEnum

from proxy.model.violation import Violation


class Exit(IntEnum):
    """Exit codes of ``meshctl``; documented in docs/reference.md."""

    OK = 0
    FAILED = 1
    """The command ran and something is wrong: a step failed, a check found a fault."""
    USAGE = 2
    """The input is wrong; nothing was done."""
    REFUSED = 3
    """Refused for safety; nothing was done: host keys, locks, an existing CA. ``explain``: the call
    would be refused."""
    UNREACHABLE = 4
    """A host or Consul could not be reached."""
    INTERRUPTED = 130


class MeshError(Exception):
    """An expected failure. ``str(error)`` is one sentence that names the subject."""

    exit_code: Exit = Exit.FAILED
    can_retry = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        """The next command or edit, as an instruction."""


class InvalidInput(MeshError):
    """The operator's file or arguments are wrong; every violation at once."""

    exit_code = Exit.USAGE

    def __init__(self, source: str, violations: Sequence[Violation], *, hint: str = "") -> None:
        super().__init__(f"{source} has {len(violations)} violation(s)", hint=hint)
        self.source = source
        self.violations = tuple(violations)


class Refused(MeshError):
    """Nothing was done, because doing it might destroy something or trust a stranger."""

    exit_code = Exit.REFUSED


class Unreachable(MeshError):
    """A host or Consul did not answer; nothing is known about its state."""

    exit_code = Exit.UNREACHABLE
    can_retry = True


class StateCorrupt(MeshError):
    """A file in the state directory cannot be read as what it should be."""


class RemoteFailure(MeshError):
    """A command on a host failed; carries what the host printed."""

    def __init__(self, message: str, *, output: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.output = output
