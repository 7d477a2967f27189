"""Something that is wrong with a mesh, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    PROBLEM = "problem"
    """Requests fail of it, or will within days."""
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    severity: Severity
    subject: str
    """``web-1`` or ``api on web-1``."""
    message: str
    fix: str
    """The next command or edit."""


def problem(subject: str, message: str, fix: str) -> Finding:
    return Finding(severity=Severity.PROBLEM, subject=subject, message=message, fix=fix)


def warning(subject: str, message: str, fix: str) -> Finding:
    return Finding(severity=Severity.WARNING, subject=subject, message=message, fix=fix)
