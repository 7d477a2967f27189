"""Cells and words that the sections of a report share; ``-`` where nothing was seen."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from meshctl.telemetry import words
from meshctl.telemetry.report.model import Cell, Column, Table, Tone
from meshctl.telemetry.view import Signals

MOST_ROWS: Final = 25
"""Of a table that names the worst."""


def columns_of(*names: str) -> tuple[Column, ...]:
    """``#`` in front: of numbers."""
    return tuple(Column(name=name.lstrip("#"), is_number=name.startswith("#")) for name in names)


def tables_of(
    caption: str,
    columns: tuple[Column, ...],
    rows: Sequence[tuple[Cell, ...]],
    most: int = MOST_ROWS,
) -> tuple[Table, ...]:
    if not rows:
        return ()
    left_out = max(0, len(rows) - most)
    kept = tuple(rows[:most])
    return (Table(caption=caption, columns=columns, rows=kept, left_out=left_out),)


def signal_cells(signals: Signals | None) -> tuple[Cell, ...]:
    if signals is None:
        return (Cell(text="-"),) * 4
    return (
        Cell(text=words.share(signals.success), tone=success_tone(signals.success)),
        Cell(text=words.milliseconds(signals.p50_ms)),
        Cell(text=words.milliseconds(signals.p95_ms)),
        Cell(text=words.milliseconds(signals.p99_ms)),
    )


def success_tone(success: float | None) -> Tone:
    if success is None:
        return ""
    return "bad" if success < 0.99 else "warn" if success < 0.999 else "good"


def counts(counts: Mapping[str, int]) -> str:
    found = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} x {count:,}" for name, count in found if count) or "-"


def listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
