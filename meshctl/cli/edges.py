"""``meshctl edges``: who calls whom, and whether it is secured."""

import asyncio
from pathlib import Path

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
from meshctl.cli.traffic_view import By
from meshctl.telemetry.view import View


def edges(
    service: looking.ServiceName = None,
    interval_s: looking.Interval = 2.0,
    since_start: looking.SinceStart = False,
    host: HostLimit = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 50,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Show who calls whom: secured or not, rate, success, latency, refusals, and which side says
    so.

    Whoever has called since the proxies' start has a line; figures are of the time between two
    looks. Exit code 1 if a host did not answer, 4 if none did.
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
            looking.emit(seen, "at", "window_s", "edges", "denials")
        else:
            show(seen)
        raise SystemExit(int(looking.complain(looked)))


def show(seen: View) -> None:
    if not seen.edges:
        console.err.print("nobody has called anybody yet")
        return
    columns.show(
        traffic_view.COLUMNS[By.EDGE], [row.cells for row in traffic_view.rows(seen, By.EDGE)]
    )
    if seen.denials:
        console.out.print()
        denied: list[list[Cell]] = [
            [*map(figures.name, key), figures.count(count)] for key, count in seen.denials.items()
        ]
        titles = [Column(title, is_name=True) for title in ("REFUSED", "BY", "POLICY")]
        columns.show([*titles, Column("TIMES")], denied)
