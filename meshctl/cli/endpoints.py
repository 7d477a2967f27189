"""``meshctl endpoints``: what each calling proxy thinks of a service's endpoints, and why."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from meshctl.cli import columns, console, figures, looking, traffic_view
from meshctl.cli.columns import Cell, Column
from meshctl.cli.options import (
    HostLimit,
    InventoryFile,
    OutputFormat,
    Parallel,
    StateOption,
    open_mesh,
)
from meshctl.telemetry import words
from meshctl.telemetry.view import EndpointRow, View

_COLUMNS = (
    Column("HOST", is_name=True),
    Column("ADDRESS", 6, is_name=True),
    Column("VERSION", 7, is_name=True),
    Column("ZONE", 8, is_name=True),
    Column("CALLER", is_name=True),
    Column("FROM", is_name=True),
    Column("STATE", is_name=True),
    Column("FOR", 1),
    Column("IN FLIGHT", 5),
    Column("CONNS", 9),
    Column("EWMA", 10),
    Column("REQ/S"),
    Column("SUCCESS"),
    Column("P50", 4),
    Column("P95"),
    Column("P99", 3),
    Column("WHY", 2, is_name=True),
)


def endpoints(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Whose endpoints.")],
    interval_s: looking.Interval = 2.0,
    since_start: looking.SinceStart = False,
    host: HostLimit = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 50,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Show a service's endpoints as each calling proxy sees them: state, reason, load, latency.

    Every try counts, retries too. --host limits whose view it is. Exit code 1 if a host did not
    answer, 4 if none did.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        looking.require_service(mesh.inventory, service)
        looked = asyncio.run(
            looking.look(
                mesh, host, interval_s=interval_s, since_start=since_start, parallel=parallel
            )
        )
        seen = looking.narrowed(looked, service)
        if output is console.Output.JSON:
            looking.emit(seen, "at", "window_s", "endpoints")
        else:
            show(seen, service)
        raise SystemExit(int(looking.complain(looked)))


def show(seen: View, service: str) -> None:
    if not seen.endpoints:
        console.err.print(
            f"no proxy that answers knows an endpoint of {service}: nobody declares it as an"
            " upstream, or nothing of it is healthy"
        )
        return
    rows = [_cells(row) for row in seen.endpoints]
    if columns.terminal_width() is None:
        columns.show(_COLUMNS, rows)
        return
    # Sentences have no room beside the figures.
    columns.show(_COLUMNS[:-1], [row[:-1] for row in rows])
    for row in seen.endpoints:
        if row.why:
            said = f"{row.host}, as {row.caller} on {row.caller_host} sees it: {row.why}"
            console.out.print(figures.name(said))


def _cells(row: EndpointRow) -> list[Cell]:
    names = (row.host, row.address, row.version, row.zone, row.caller, row.caller_host)
    return [
        *(figures.name(text or words.NOTHING) for text in names),
        traffic_view.state(row.state),
        Text(f"{row.ejected_for_s:.0f}s") if row.ejected_for_s else Text(words.NOTHING),
        str(row.in_flight),
        str(row.connections),
        words.milliseconds(row.ewma_ms or None),
        *traffic_view.cells(row.signals),
        figures.name(row.why or words.NOTHING),
    ]
