"""Tables of figures that fit the terminal: columns of less interest go before anything folds."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from meshctl.cli import console

GAP = 2
_NAME_MIN = 8
"""A name is cut no shorter than this."""

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    drop: int = 0
    """The higher, the sooner it is left out where there is no room; 0: never."""
    is_name: bool = False
    """To the left, and may be cut; figures stand to the right."""


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None
) -> list[Text]:
    """A line of titles, then one a row. ``width`` None: as wide as it is."""
    widths = [
        max(len(column.title), *(_length(row[place]) for row in rows), 0)
        for place, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    while width is not None and _sum(widths, kept) > width:
        loose = max(kept, key=lambda place: (columns[place].drop, place))
        if columns[loose].drop == 0:
            break
        kept.remove(loose)
    if width is not None:
        _cut_names(columns, widths, kept, width)

    def line(cells: Sequence[Cell]) -> Text:
        made = Text(" " * GAP).join(
            _padded(cells[place], widths[place], columns[place]) for place in kept
        )
        made.rstrip()
        return made

    titles = [Text(column.title, style="bold") for column in columns]
    return [line(titles), *map(line, rows)]


def terminal_width() -> int | None:
    """None: what is printed goes to a file or another program, which has none."""
    return console.out.width if console.out.is_terminal else None


def show(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """On standard output, once."""
    for line in fitted(columns, rows, terminal_width()):
        console.out.print(line)


def _padded(cell: Cell, width: int, column: Column) -> Text:
    made = cell.copy() if isinstance(cell, Text) else Text(cell)
    made.truncate(width, overflow="ellipsis")
    made.align("left" if column.is_name else "right", width)
    return made


def _length(cell: Cell) -> int:
    return cell.cell_len if isinstance(cell, Text) else len(cell)


def _sum(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[place] for place in kept) + GAP * max(0, len(kept) - 1)


def _cut_names(columns: Sequence[Column], widths: list[int], kept: list[int], width: int) -> None:
    """The longest first, until it fits."""
    while (excess := _sum(widths, kept) - width) > 0:
        names = [place for place in kept if columns[place].is_name and widths[place] > _NAME_MIN]
        if not names:
            return
        longest = max(names, key=lambda place: widths[place])
        second = max((widths[place] for place in names if place != longest), default=_NAME_MIN)
        cut = max(1, min(excess, widths[longest] - max(second, _NAME_MIN)))
        widths[longest] = max(_NAME_MIN, widths[longest] - cut)
