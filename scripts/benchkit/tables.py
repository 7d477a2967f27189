"""Cells and tables as Markdown and as plain text. Pure."""

from collections.abc import Sequence

from benchkit.chart import number
from benchkit.figures import Spread


def cell(spread: Spread | None, scale: float = 1.0) -> str:
    if spread is None:
        return "-"
    median, low, high = (
        number(value * scale) for value in (spread.median, spread.low, spread.high)
    )
    return median if spread.count == 1 else f"{median} ({low}..{high})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])] if len(head) > 2 else ["---" for _ in head]
    return [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for row in (head, rule, *rows)
    ]


def first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
