"""A ``Report`` as one HTML file that needs nothing else, or as Markdown."""

from functools import cache
from pathlib import Path

import jinja2

from meshctl import __version__
from meshctl.telemetry.plain import plain
from meshctl.telemetry.report.model import Cell, Report, Table

_SPECIAL = str.maketrans(
    {char: f"\\{char}" for char in r"\`*_[]|#~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def html(report: Report) -> str:
    """Every text is escaped; no script, no request, no font."""
    return _templates().get_template("report.html.j2").render(report=report, version=__version__)


def markdown(report: Report) -> str:
    lines = [
        f"# Mesh {_text(report.mesh)}",
        "",
        f"{report.begins} to {report.ends} ({report.span}), measured by meshctl {__version__}.",
        "",
        "| Figure | Value | |",
        "|---|---:|---|",
    ]
    for figure in report.figures:
        note = f"{figure.note} ({figure.word})" if figure.tone in ("bad", "warn") else figure.note
        lines.append(f"| {_text(figure.name)} | {_text(figure.value)} | {_text(note)} |")
    for section in report.sections:
        lines += ["", f"## {section.title}", "", _text(section.said)]
        for table in section.tables:
            lines += ["", *_table(table)]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> list[str]:
    lines = [
        "| " + " | ".join(column.name for column in table.columns) + " |",
        "|" + "|".join("---:" if column.is_number else "---" for column in table.columns) + "|",
    ]
    lines += ("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows)
    if table.left_out:
        lines += ["", f"{table.left_out} more are left out."]
    return lines


def _cell(cell: Cell) -> str:
    return f"**{_text(cell.text)}**" if cell.tone == "bad" else _text(cell.text)


def _text(text: str) -> str:
    return plain(text).translate(_SPECIAL)


@cache
def _templates() -> jinja2.Environment:
    here = Path(__file__).parents[2]
    # In a wheel the templates are package data; in a checkout they are at the top level.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([here / "_templates", here.parent / "templates"]),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    return environment
