"""How the demo speaks: claims, what was seen, and whether it held."""

import textwrap
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from demokit.load import Load

console = Console(highlight=False, soft_wrap=True)

_BAR_CELLS = 40
_INDENT = "   "
_COLOURS = ("cyan", "magenta")
_is_unicode = console.encoding.lower().startswith("utf")
_CELLS = "█░" if _is_unicode else "#."


class ActFailed(Exception):
    """What an act set out to show did not hold."""


def claim(number: int, text: str) -> None:
    console.print(f"\n[bold]{number}. {escape(text)}[/]")


def say(text: str, style: str = "") -> None:
    """In whole words on a terminal; elsewhere a line stays one."""
    for line in text.splitlines():
        width = max(40, console.width - len(_INDENT)) if console.is_terminal else len(line)
        for part in textwrap.wrap(line, width or 1, break_on_hyphens=False) or [""]:
            console.print(f"{_INDENT}{escape(part)}", style=style)


def quote(policy: str) -> None:
    """What is said in ``mesh.yaml``."""
    for line in policy.splitlines():
        console.print(f"{_INDENT}| {escape(line)}", style="dim")


def holds(condition: bool, sentence: str) -> None:
    """Raises ActFailed if it does not."""
    mark = "[bold green]ok[/]  " if condition else "[bold red]FAILED[/]"
    console.print(f"{_INDENT}{mark} {escape(sentence)}")
    if not condition:
        raise ActFailed(sentence)


def outcomes(rows: Mapping[str, Load]) -> None:
    """A table of who answered how often, in the look of meshctl's own."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    made.add_column("")
    for column in ("requests", "answered by v1", "by v2", "failed"):
        made.add_column(column, justify="right")
    for label, load in rows.items():
        answers = load.answers
        figures = (load.total, answers["api v1"], answers["api v2"], load.failed)
        made.add_row(label, *map(str, figures))
    console.print(Padding(made, (0, 0, 0, len(_INDENT))))


def shares(label: str, counts: Mapping[str, int]) -> None:
    """One line: how much of the whole each of two got, as a bar and in figures."""
    total = sum(counts.values()) or 1
    left = round(_BAR_CELLS * next(iter(counts.values())) / total)
    bar = "".join(
        f"[{colour}]{cell * count}[/]"
        for colour, cell, count in zip(_COLOURS, _CELLS, (left, _BAR_CELLS - left), strict=True)
    )
    figures = "  ".join(f"{name} {count / total:6.1%}" for name, count in counts.items())
    console.print(f"{_INDENT}{escape(label):22} {bar}  {figures}")
