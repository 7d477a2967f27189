"""``meshctl logs``: what all proxies wrote, in one order."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from meshctl import durations
from meshctl.cli import call_view, console
from meshctl.cli.console import Output
from meshctl.cli.options import (
    HostLimit,
    InventoryFile,
    Mesh,
    OutputFormat,
    Parallel,
    StateOption,
    open_mesh,
    selected_hosts,
    selected_workloads,
)
from meshctl.errors import Exit, InvalidInput, MeshError
from meshctl.inventory.model import Host
from meshctl.inventory.shape import closest
from meshctl.plan.desired import carries_proxy
from meshctl.telemetry import logs as reading
from meshctl.telemetry.lines import Line
from meshctl.telemetry.plain import plain
from meshctl.telemetry.where import Where
from meshctl.telemetry.where import parse as parse_where
from proxy.core.access_format import FIELDS
from proxy.model.names import HostName
from proxy.model.violation import Violation

MAX_LINES = 100_000
_OWN = frozenset(("ts", "level", "logger", "msg", "error"))
_LEVELS = {"error": "bold red", "critical": "bold red", "warning": "yellow"}


def logs(
    service: Annotated[
        str | None,
        typer.Argument(metavar="[SERVICE]", help="Only what is about this service."),
    ] = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            help="How far back: 30s, 10m, 2h. By default 10m; with --follow from now on.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Only lines with these fields: 'status >= 500 and caller = web'.",
            show_default=False,
        ),
    ] = None,
    hosts: HostLimit = None,
    is_all: Annotated[
        bool,
        typer.Option("--all", help="With SERVICE: also what the proxies say of no service."),
    ] = False,
    most: Annotated[
        int,
        typer.Option("--lines", "-n", min=1, max=MAX_LINES, help="At most so many, the newest."),
    ] = 500,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 50,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Show the lines of calls and of the proxies themselves, of all hosts, in the order of time.

    --where compares fields: = != < <= > >= and ~ (regular expression), with and, or, not and
    parentheses; `*` in a value stands for anything, `total_ms > 1.5s` has a unit. With -o json one
    object a line. Exit code 1 if a host could not be asked.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        if service is not None:
            selected_workloads(mesh.inventory, None, [service])
        chosen = selected_hosts(mesh.inventory, hosts, option="--host")
        asked = tuple(host for host in chosen if carries_proxy(host))
        test = parse_where(where) if where is not None else None
        wanted = Wanted(service, test, is_all=is_all)
        since_s = _seconds(since, 0.0 if follow else 600.0)
        show = _emit if output is Output.JSON else _print
        if follow:
            asyncio.run(_follow(mesh, asked, since_s, wanted, show))
            return
        looked = asyncio.run(_look(mesh, asked, since_s, most, wanted, parallel))
        for line in looked.lines:
            show(line)
        if looked.left_out:
            console.err.print(
                "[dim]there are older lines: --lines shows more, --since and --where less[/]"
            )
        wanted.say_unknown()
        _say_failures(looked.failures)
        raise SystemExit(int(Exit.FAILED if looked.failures else Exit.OK))


class Wanted:
    """Which lines are shown; remembers which fields there were."""

    def __init__(self, service: str | None, where: Where | None, *, is_all: bool) -> None:
        self._service, self._where, self._is_all = service, where, is_all
        self._unseen = set(where.fields) if where is not None else set()
        self._seen: set[str] = set()

    @property
    def is_choosy(self) -> bool:
        return self._service is not None or self._where is not None

    def __call__(self, line: Line) -> bool:
        service = self._service
        if service is not None and not line.names(service):
            is_of_none = line.kind == "proxy" and "service" not in line.fields
            if not (self._is_all and is_of_none):
                return False
        if self._where is None:
            return True
        if self._unseen and line.fields:
            self._unseen.difference_update(line.fields)
            if len(self._seen) < 200:
                self._seen.update(line.fields)
        return bool(line.fields) and self._where(line.document)

    def say_unknown(self) -> None:
        for name in sorted(self._unseen.difference(FIELDS)):
            if self._seen and "." not in name:
                known = sorted(self._seen.union(FIELDS))
                guess = closest(name, known)
                hint = f"did you mean {guess!r}?" if guess else f"there are: {_listed(known)}"
                console.warn(f"no line has a field {name!r}", hint=hint)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(plain(name, 40) for name in names[:60])


def _seconds(text: str | None, usual: float) -> float:
    if text is None:
        return usual
    try:
        return durations.parse(text)
    except durations.InvalidDuration as error:
        raise InvalidInput(
            "the command line",
            [Violation(path="--since", message=str(error), hint=durations.RULE)],
        ) from error


async def _look(
    mesh: Mesh, hosts: tuple[Host, ...], since_s: float, most: int, wanted: Wanted, parallel: int
) -> reading.Looked:
    connections = mesh.connections()
    try:
        with console.err.status(f"reading the logs of {len(hosts)} host(s)"):
            return await reading.look(
                hosts,
                connections,
                since_s=since_s,
                most=most,
                is_wanted=wanted if wanted.is_choosy else None,
                parallel=parallel,
            )
    finally:
        await connections.close()


async def _follow(
    mesh: Mesh,
    hosts: tuple[Host, ...],
    since_s: float,
    wanted: Wanted,
    show: Callable[[Line], None],
) -> None:
    connections = mesh.connections()

    def failed(host: HostName, error: MeshError) -> None:
        hint = "the others go on; this one is tried again"
        console.warn(f"the lines of {host} are missing: {error}", hint=hint)

    try:
        async with reading.following(
            hosts, connections, since_s=since_s, is_wanted=wanted, failed=failed
        ) as lines:
            # Ctrl-C is how one ends this; nothing is half done.
            with suppress(asyncio.CancelledError):
                async for line in lines:
                    show(line)
    finally:
        await connections.close()


def _say_failures(failures: dict[HostName, MeshError]) -> None:
    for host, error in sorted(failures.items()):
        console.warn(
            f"the lines of {host} are missing: {error}", hint=error.hint or "meshctl check"
        )


def _emit(line: Line) -> None:
    console.out.file.write(msgspec.json.encode(line.document).decode() + "\n")
    console.out.file.flush()


def _print(line: Line) -> None:
    console.out.print(render(line, has_ids=call_view.is_wide(console.out)))


def render(line: Line, *, has_ids: bool = True) -> Text:
    at = _time(line.at)
    if line.kind == "access":
        call = call_view.from_access(at, line.host, line.fields)
        return call_view.render(call, has_ids=has_ids)
    made = Text()
    made.append(f"{at}  ", style="dim")
    made.append(f"{line.host}  ", style="dim")
    if line.kind == "text":
        made.append(plain(line.text))
        return made
    level = plain(line.fields.get("level", ""), 20)
    made.append(f"{level}: ", style=_LEVELS.get(level, ""))
    made.append(plain(line.fields.get("msg", "")))
    for name, value in line.fields.items():
        if name not in _OWN and value not in ("", None):
            made.append(f"  {plain(name, 40)}={plain(value, 300)}", style="dim")
    if error := line.fields.get("error"):
        made.append(f"  ({plain(str(error).strip().rpartition(chr(10))[2], 500)})")
    return made


def _time(at: float | None) -> str:
    if at is not None:
        with suppress(ValueError, OverflowError, OSError):
            moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
            return moment.replace("+00:00", "Z")
    return "-"
