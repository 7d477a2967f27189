"""What an alerting rule is: what somebody has to look at, and with which command.

Each says what it means for whom in its summary, what is known in its description, and in
``command`` what to run next on the operator's machine. ``critical`` is worth waking somebody,
``warning`` can wait for the morning.
"""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning"]

SERVICE_IS = "{{ $labels.service }}"
ON_HOST = "{{ $labels.host }}"
CALLER = "{{ $labels.source_workload }}"
CALLED = "{{ $labels.destination_service }}"
SHARE = "{{ $value | humanizePercentage }}"
NUMBER = "{{ $value | humanize }}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What is promised to callers, of every service alike."""

    success: float = 0.999
    """Share of requests that do not fail, over a month."""
    p99_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    name: str
    expression: str
    lasts: str
    """How long it must hold before it fires."""
    severity: Severity
    summary: str
    description: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertGroup:
    name: str
    alerts: tuple[Alert, ...]
