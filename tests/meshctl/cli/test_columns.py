"""Tables that fit: what is left out first, and what is never cut."""

import pytest
from rich.text import Text

from meshctl.cli import figures
from meshctl.cli.columns import Column, fitted

COLUMNS = (
    Column("NAME", is_name=True),
    Column("RATE"),
    Column("RARE", 2),
    Column("SOME", 1),
)
ROWS = [["a-very-long-name", Text("1.0"), "22", "333"], ["b", "4.0", "5", "6"]]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            None,
            [
                "NAME              RATE  RARE  SOME",
                "a-very-long-name   1.0    22   333",
                "b                  4.0     5     6",
            ],
        ),
        (
            30,
            [
                "NAME              RATE  SOME",
                "a-very-long-name   1.0   333",
                "b                  4.0     6",
            ],
        ),
        (
            20,
            [
                "NAME            RATE",
                "a-very-long-n…   1.0",
                "b                4.0",
            ],
        ),
        (
            5,
            [
                "NAME      RATE",
                "a-very-…   1.0",
                "b          4.0",
            ],
        ),
    ],
)
def test_a_table_fits_by_leaving_out_columns_and_then_by_cutting_names(
    width: int | None, lines: list[str]
) -> None:
    assert [line.plain for line in fitted(COLUMNS, ROWS, width)] == lines


def test_a_table_without_rows_has_its_titles() -> None:
    assert [line.plain for line in fitted(COLUMNS, [], None)] == ["NAME  RATE  RARE  SOME"]


def test_a_name_from_a_host_is_neither_markup_nor_a_command_to_the_terminal() -> None:
    assert figures.name("[red]x[/]\x1b[2J").plain == "[red]x[/]\\x1b[2J"
