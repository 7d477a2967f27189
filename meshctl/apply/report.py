"""What came of a plan: per host how far it got, and if it stopped, why and what to do next."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from meshctl.plan.model import Action, Step
from proxy.model.names import HostName


class Outcome(StrEnum):
    DONE = "done"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"
    """A step failed, and the proxy runs the configuration that it ran before."""
    INTERRUPTED = "interrupted"
    """Stopped between two steps; the next deploy goes on from there."""
    BLOCKED = "blocked"
    UNREACHABLE = "unreachable"
    SKIPPED = "skipped"

    @property
    def is_good(self) -> bool:
        return self in (Outcome.DONE, Outcome.UNCHANGED, Outcome.SKIPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    host: HostName
    outcome: Outcome
    done: int = 0
    """Steps that were carried out."""
    total: int = 0
    failed: Step | None = None
    error: str = ""
    output: str = ""
    """What the host printed, the journal's last lines included."""
    hint: str = ""
    """The next command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshStepReport:
    action: Action
    title: str
    error: str = ""
    hint: str = ""
    note: str = ""
    """Of a step that was done: ``generation 3``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    hosts: tuple[HostReport, ...]
    mesh: tuple[MeshStepReport, ...] = ()
    warnings: tuple[str, ...] = ()
    pushed_bytes: int = 0
    is_interrupted: bool = False

    @property
    def is_good(self) -> bool:
        return (
            not self.is_interrupted
            and all(host.outcome.is_good for host in self.hosts)
            and not any(step.error for step in self.mesh)
        )

    def count(self, outcome: Outcome) -> int:
        return sum(host.outcome is outcome for host in self.hosts)

    @property
    def summary(self) -> str:
        """``3 done, 1 unchanged, 0 failed`` and, where there are any, the others."""
        always = (Outcome.DONE, Outcome.UNCHANGED, Outcome.FAILED)
        return ", ".join(
            f"{self.count(outcome)} {outcome}"
            for outcome in Outcome
            if outcome in always or self.count(outcome)
        )

    def to_document(self) -> dict[str, Any]:
        return {
            "summary": self.summary,
            "is_good": self.is_good,
            "is_interrupted": self.is_interrupted,
            "pushed_bytes": self.pushed_bytes,
            "warnings": list(self.warnings),
            "mesh": [
                {
                    "action": str(step.action), "title": step.title, "error": step.error,
                    "hint": step.hint, "note": step.note,
                }
                for step in self.mesh
            ],
            "hosts": [
                {
                    "host": host.host, "outcome": str(host.outcome), "done": host.done,
                    "total": host.total, "failed_step": host.failed.title if host.failed else None,
                    "failed_action": str(host.failed.action) if host.failed else None,
                    "error": host.error, "output": host.output, "hint": host.hint,
                }
                for host in self.hosts
            ],
        }  # fmt: skip
