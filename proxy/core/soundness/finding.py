"""One thing that is wrong with a policy, before it is known where its text says so."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from proxy.model.violation import Violation


class Wrong(NamedTuple):
    """A value that breaks its rule."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    paths: tuple[str, ...]
    """Whose values contradict each other; one of them was written, the others may be defaults."""
    message: str
    hint: str = ""

    def violation(self) -> Violation:
        return Violation(path=self.paths[0], message=self.message, hint=self.hint)


Findings: TypeAlias = Iterator[Finding]


def at(path: str, message: str, hint: str = "") -> Finding:
    return Finding(paths=(path,), message=message, hint=hint)


def judged(path: str, wrong: Wrong | None) -> Findings:
    """What a rule for one value said of the value at ``path``."""
    if wrong is not None:
        yield Finding(paths=(path,), message=wrong.message, hint=wrong.hint)


def shown(text: str) -> str:
    """Short enough for a line of a terminal, and without control characters."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
