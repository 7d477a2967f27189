"""The commands as a page: ``python -m meshctl.cli.reference > docs/cli.md``.

A test compares the page with what is generated, so that the documentation cannot fall behind.
"""

from collections.abc import Iterator
from typing import Any

import typer.main

from meshctl.cli.app import app
from meshctl.errors import Exit

_MEANING = {
    Exit.OK: "well; nothing to complain about",
    Exit.FAILED: "the command ran and something is wrong: a step failed, a check found a fault",
    Exit.USAGE: "the input is wrong; nothing was done",
    Exit.REFUSED: "refused for safety; nothing was done (host keys, locks, an existing CA)",
    Exit.UNREACHABLE: "a host or Consul could not be reached",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


def page() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "Data goes to stdout, everything else to stderr. `-o json` prints one JSON document."
    yield "Colour follows the terminal, `NO_COLOR` and `meshctl --no-color`."
    yield ""
    yield "| exit code | meaning |"
    yield "|---|---|"
    for code, meaning in _MEANING.items():
        yield f"| {int(code)} | {meaning} |"
    yield from _command("meshctl", typer.main.get_command(app))


def _command(path: str, command: Any) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if not children:
        yield ""
        yield f"## `{path}`"
        yield ""
        yield _paragraph(command.help)
        rows = [row for parameter in command.params if (row := _row(parameter))]
        if rows:
            yield ""
            yield "| option | meaning |"
            yield "|---|---|"
            yield from rows
    for name in sorted(children):
        yield from _command(f"{path} {name}", children[name])


def _row(parameter: Any) -> str:
    if parameter.name in ("help", "install_completion", "show_completion"):
        return ""
    is_argument = parameter.param_type_name == "argument"
    if is_argument:
        name = (parameter.name or "").upper()
    else:
        name = ", ".join([*parameter.opts, *parameter.secondary_opts])
    meaning = _paragraph(getattr(parameter, "help", "") or "")
    default = parameter.default
    stated = getattr(parameter, "show_default", None)
    if isinstance(stated, str):
        shown = f" Default: {stated}."
    elif default in (None, False, (), "") or stated is False:
        shown = ""
    else:
        shown = f" Default: `{getattr(default, 'value', default)}`."
    return f"| `{name}` | {meaning}{shown} |"


def _paragraph(text: str) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    print(page(), end="")
