"""What the commands that show traffic share: their options, two looks or many, who is missing."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Annotated

import typer
from rich.text import Text

from meshctl.cli import console
from meshctl.cli.options import Mesh, selected_hosts
from meshctl.errors import Exit, InvalidInput
from meshctl.inventory.model import Inventory
from meshctl.inventory.shape import closest
from meshctl.telemetry.collect import Round, collect_once, collecting
from meshctl.telemetry.plain import plain
from meshctl.telemetry.rates import view
from meshctl.telemetry.view import View, document
from proxy.model.violation import Violation

Interval = Annotated[
    float, typer.Option("--interval", min=0.5, max=3600, help="Seconds between two looks.")
]
SinceStart = Annotated[
    bool,
    typer.Option("--since-start", help="Since the proxies' start, by one look instead of two."),
]
ServiceName = Annotated[
    str | None, typer.Argument(metavar="SERVICE", help="Only this one.", show_default=False)
]


async def look(
    mesh: Mesh, hosts: Sequence[str] | None, *, interval_s: float, since_start: bool, parallel: int
) -> View:
    """By one look or two, over connections that are closed afterwards."""
    asked = selected_hosts(mesh.inventory, hosts, option="--host")
    connections = mesh.connections()
    words = f"asking {len(asked)} host(s)" + ("" if since_start else f" twice in {interval_s:g} s")
    try:
        with console.err.status(words):
            first = await collect_once(asked, connections, parallel=parallel)
            if since_start or not first.stats:
                return shown(mesh.inventory, first)
            await asyncio.sleep(max(0.0, first.at + interval_s - time.time()))
            second = await collect_once(asked, connections, parallel=parallel)
            return shown(mesh.inventory, second, before=first)
    finally:
        await connections.close()


async def watch(
    mesh: Mesh, hosts: Sequence[str] | None, *, interval_s: float, window_s: float, parallel: int
) -> AsyncGenerator[View, None]:
    """For ever; to be closed. The first is since the proxies' start: there is nothing to compare it
    with yet."""
    asked = selected_hosts(mesh.inventory, hosts, option="--host")
    connections = mesh.connections()
    try:
        async with collecting(
            asked, connections, every_s=interval_s, window_s=window_s, parallel=parallel
        ) as collector:
            async for looked in collector:
                yield shown(mesh.inventory, looked)
    finally:
        await connections.close()


def shown(inventory: Inventory, looked: Round, *, before: Round | None = None) -> View:
    return view(
        looked.before if before is None else before.stats,
        looked.stats,
        at=looked.at,
        faults={host: str(error) for host, error in looked.faults.items()},
        protocols={own.name: own.protocol for host in inventory.hosts for own in host.services},
    )


def complain(seen: View) -> Exit:
    """Who is missing, on standard error. The exit code of a command that shows the rest."""
    missing = [row for row in seen.hosts if row.fault]
    for row in missing:
        console.err.print(Text.assemble(("warning:", "bold yellow"), f" {plain(row.fault)}"))
    if not missing:
        return Exit.OK
    left = "the figures are without it" if len(missing) == 1 else "the figures are without them"
    console.err.print(f"[bold]hint:[/] {left}: meshctl status")
    return Exit.UNREACHABLE if len(missing) == len(seen.hosts) else Exit.FAILED


def emit(seen: View, *keys: str) -> None:
    """These parts of it, or the whole, for programs."""
    whole = document(seen)
    console.emit_json({key: whole[key] for key in keys or whole})


def narrowed(seen: View, service: str | None) -> View:
    """To what calls ``service`` or is called by it; of the rest, to what it is called with."""
    if service is None:
        return seen
    return replace(
        seen,
        services=tuple(row for row in seen.services if row.service == service),
        edges=tuple(row for row in seen.edges if service in (row.caller, row.service)),
        routes=tuple(row for row in seen.routes if row.service == service),
        endpoints=tuple(row for row in seen.endpoints if row.service == service),
        denials={key: count for key, count in seen.denials.items() if service in key[:2]},
    )


def require_service(inventory: Inventory, service: str | None) -> None:
    """Raises InvalidInput, with a suggestion."""
    known = sorted({own.name for host in inventory.hosts for own in host.services})
    if service is not None and service not in known:
        raise InvalidInput(
            "the command line",
            [
                Violation(
                    path="SERVICE",
                    message=f"{service!r} is not in the inventory",
                    hint=closest(service, known) or f"known: {', '.join(known)}",
                )
            ],
        )


def heading(seen: View) -> str:
    """Of the time the figures are of."""
    return f"over {seen.window_s:.0f} s" if seen.window_s else "since the proxies' start"
