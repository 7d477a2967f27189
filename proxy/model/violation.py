"""What is wrong with an input, where, and what would be right."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One finding; validators return all of them at once, in the order of the input."""

    path: str
    """Where, as the operator would write it: ``hosts[2].services[0].port``."""
    message: str
    """What is wrong, with the offending value."""
    hint: str = ""
    """What would be right, as an instruction; empty only if the message says it already."""
    line: int | None = None
    """1-based line in the source text, where it is known."""

    def __str__(self) -> str:
        at = f"line {self.line}: " if self.line is not None else ""
        return f"{at}{self.path}: {self.message}" + (f" ({self.hint})" if self.hint else "")
