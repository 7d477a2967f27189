"""``meshctl top``: what the mesh does right now."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from meshctl.cli import columns, console, looking, traffic_view
from meshctl.cli.options import (
    HostLimit,
    InventoryFile,
    Mesh,
    OutputFormat,
    Parallel,
    StateOption,
    open_mesh,
)
from meshctl.cli.traffic_view import By, Sort
from meshctl.errors import Exit
from meshctl.telemetry.plain import plain
from meshctl.telemetry.view import View

_FAULTS_SHOWN = 3
_LINES_AROUND = 4
"""Of the heading, the columns' titles, what was left out, and the cursor's."""


def top(
    service: looking.ServiceName = None,
    *,
    by: Annotated[By, typer.Option("--by", help="What a line is of.")] = By.SERVICE,
    sort: Annotated[Sort, typer.Option("--sort", help="What comes first.")] = Sort.RATE,
    once: Annotated[
        bool, typer.Option("--once", help="Two looks an interval apart, shown once: for scripts.")
    ] = False,
    interval_s: looking.Interval = 2.0,
    window_s: Annotated[
        float,
        typer.Option("--window", min=0, max=60, help="Live: seconds that figures are of."),
    ] = 10.0,
    host: HostLimit = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 50,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Show live traffic: rate, success, latency and retry load, by service, route, endpoint or
    edge.

    Ends with Ctrl-C. With --once or -o json it looks twice and ends; exit code 1 if a host did not
    answer, 4 if none did. A SERVICE limits it to calls to it.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        looking.require_service(mesh.inventory, service)
        if not once and output is console.Output.TABLE:
            _follow(mesh, host, service, by, sort, interval_s, window_s, parallel)
            return
        looked = asyncio.run(
            looking.look(mesh, host, interval_s=interval_s, since_start=False, parallel=parallel)
        )
        seen = _of(looked, service)
        if output is console.Output.JSON:
            looking.emit(seen)
        else:
            found = traffic_view.ordered(traffic_view.rows(seen, by), sort)
            columns.show(traffic_view.COLUMNS[by], [row.cells for row in found])
        raise SystemExit(int(looking.complain(seen)))


def _of(seen: View, service: str | None) -> View:
    narrowed = looking.narrowed(seen, service)
    if service is None:
        return narrowed
    return replace(
        narrowed, edges=tuple(edge for edge in narrowed.edges if edge.service == service)
    )


def _follow(
    mesh: Mesh,
    hosts: list[str] | None,
    service: str | None,
    by: By,
    sort: Sort,
    interval_s: float,
    window_s: float,
    parallel: int,
) -> None:
    async def follow() -> None:
        views = looking.watch(
            mesh, hosts, interval_s=interval_s, window_s=window_s, parallel=parallel
        )
        is_terminal = console.out.is_terminal
        waiting = Text("waiting for the first answers; Ctrl-C ends it")
        async with aclosing(views):
            with Live(waiting, console=console.out, auto_refresh=False, screen=is_terminal) as live:
                live.refresh()
                async for seen in views:
                    height = console.out.height if is_terminal else None
                    live.update(screen(_of(seen, service), by, sort, height), refresh=True)

    try:
        asyncio.run(follow())
    except KeyboardInterrupt:
        raise SystemExit(int(Exit.OK)) from None


def screen(seen: View, by: By, sort: Sort, height: int | None) -> RenderableType:
    """As much as fits; ``height`` None: everything."""
    faults = [row for row in seen.hosts if row.fault]
    told = [Text(plain(row.fault), style="yellow") for row in faults[:_FAULTS_SHOWN]]
    if len(faults) > _FAULTS_SHOWN:
        told.append(Text(f"and {len(faults) - _FAULTS_SHOWN} more hosts do not answer"))
    found = traffic_view.ordered(traffic_view.rows(seen, by), sort)
    room = len(found) if height is None else max(1, height - _LINES_AROUND - len(told))
    table = columns.fitted(
        traffic_view.COLUMNS[by], [row.cells for row in found[:room]], columns.terminal_width()
    )
    hidden = len(found) - room
    return Group(
        _heading(seen, len(found), by),
        *told,
        "",
        *(table if found else [Text("no traffic has been seen yet")]),
        *([Text(f"{hidden} more: a larger window, or --sort", style="dim")] if hidden > 0 else []),
    )


def _heading(seen: View, number: int, by: By) -> Text:
    answering = sum(1 for row in seen.hosts if not row.fault)
    at = datetime.fromtimestamp(seen.at, UTC).strftime("%H:%M:%SZ")
    hosts = f"{answering} of {len(seen.hosts)} hosts answer"
    lines = f"{number} {by}{'' if number == 1 else 's'}"
    return Text(f"{at}  {hosts}  {lines}  {looking.heading(seen)}  Ctrl-C ends it")
