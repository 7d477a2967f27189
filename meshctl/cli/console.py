"""How every command speaks: data on stdout, everything else on stderr, a hint after each error.

Colour follows the terminal, ``NO_COLOR`` and ``--no-color``; ``-o json`` prints one JSON document
and nothing else on stdout.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from meshctl.errors import Exit, InvalidInput, MeshError, Refused, RemoteFailure
from proxy.model.violation import Violation


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def disable_colour() -> None:
    """For ``--no-color``; also told to children through the environment."""
    os.environ["NO_COLOR"] = "1"
    out.no_color = True
    err.no_color = True


def emit_json(document: Any) -> None:
    """One document, deterministic, indented, ending in a newline; never wrapped or coloured."""
    text = msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2)
    out.file.write(text.decode() + "\n")
    out.file.flush()


def table(*columns: str) -> Table:
    """The one look of our tables: no box, so that they can be cut and grepped."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def show_error(error: MeshError) -> None:
    err.print(f"[bold red]error:[/] {escape(str(error))}")
    match error:
        case InvalidInput():
            for violation in error.violations:
                err.print(f"  {escape(str(violation))}")
        case RemoteFailure() if error.output.strip():
            for line in error.output.strip().splitlines():
                err.print(f"  [dim]|[/] {escape(line)}")
        case _:
            pass
    if error.hint:
        err.print(f"[bold]hint:[/] {escape(error.hint)}")


def warn(message: str, *, hint: str) -> None:
    err.print(f"[bold yellow]warning:[/] {escape(message)}")
    err.print(f"[bold]hint:[/] {escape(hint)}")


def with_output(message: str, output: str, hint: str) -> RemoteFailure:
    """An outcome in a report, in the form that ``show_error`` shows."""
    return RemoteFailure(message, output=output, hint=hint)


@contextmanager
def counting(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, where that is a terminal; yields what advances it by one."""
    with Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=err, transient=True, disable=quiet or not err.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def require_consent_possible(yes: bool) -> None:
    """Before anything is asked of a host: raises InvalidInput if there is nobody to ask, and no
    ``--yes``."""
    if not yes and not sys.stdin.isatty():
        raise InvalidInput(
            "the command line",
            [Violation(path="--yes", message="there is no terminal to ask on")],
            hint="look first (--dry-run, where there is one), then add --yes",
        )


def confirm(question: str) -> None:
    """Goes on after a yes; raises Refused after a no, InvalidInput where nobody can be asked."""
    require_consent_possible(yes=False)
    err.print(f"{question} [dim]\\[y/N][/] ", end="")
    if input().strip().lower() not in ("y", "yes"):
        raise Refused("nothing was done")


@contextmanager
def errors() -> Iterator[None]:
    """Wraps the body of each command: expected failures become a message and an exit code."""
    try:
        yield
    except MeshError as error:
        show_error(error)
        raise SystemExit(int(error.exit_code)) from None
    except KeyboardInterrupt:
        err.print("[bold red]interrupted[/]: nothing is half done; run the same command again")
        raise SystemExit(int(Exit.INTERRUPTED)) from None
