"""``meshctl graph``: who calls whom, drawn."""

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from meshctl.cli import console, looking
from meshctl.cli.options import HostLimit, InventoryFile, Mesh, Parallel, StateOption, open_mesh
from meshctl.errors import Exit
from meshctl.telemetry.graph import Graph, around, declared, seen
from meshctl.telemetry.graph_svg import svg
from meshctl.telemetry.graph_text import dot, tree


class Format(StrEnum):
    TEXT = "text"
    DOT = "dot"
    SVG = "svg"
    JSON = "json"


def graph(
    service: Annotated[
        str | None,
        typer.Argument(
            metavar="SERVICE", help="Only what leads to it, and where it leads.", show_default=False
        ),
    ] = None,
    format_: Annotated[
        Format,
        typer.Option("--format", "-f", help="A tree to read, graphviz, a picture, or data."),
    ] = Format.TEXT,
    is_declared: Annotated[
        bool,
        typer.Option("--declared", help="What the inventory declares; no host is asked."),
    ] = False,
    interval_s: looking.Interval = 2.0,
    since_start: looking.SinceStart = False,
    host: HostLimit = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 50,
    output: Annotated[
        console.Output,
        typer.Option("--output", "-o", help="json: the same as --format json."),
    ] = console.Output.TABLE,
) -> None:
    """Draw the graph of calls, with rate, success, latency and security of each.

    On standard output: meshctl graph -f svg > mesh.svg. Exit code 1 if a host did not answer, 4 if
    none did.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        looking.require_service(mesh.inventory, service)
        wanted = Format.JSON if output is console.Output.JSON else format_
        if is_declared:
            made, end = declared(mesh.inventory), Exit.OK
        else:
            made, end = _asked(mesh, host, interval_s, since_start, parallel)
        emit(around(made, service) if service is not None else made, wanted)
        raise SystemExit(int(end))


def _asked(
    mesh: Mesh, hosts: list[str] | None, interval_s: float, since_start: bool, parallel: int
) -> tuple[Graph, Exit]:
    looked = asyncio.run(
        looking.look(mesh, hosts, interval_s=interval_s, since_start=since_start, parallel=parallel)
    )
    return seen(looked), looking.complain(looked)


def emit(made: Graph, wanted: Format) -> None:
    match wanted:
        case Format.JSON:
            console.emit_json(document(made))
        case Format.TEXT:
            encoding = (console.out.encoding or "").lower().replace("-", "")
            text = tree(made, ascii_only=not encoding.startswith("utf"))
            console.out.print(text or "no service calls another\n", end="", markup=False)
        case Format.DOT:
            console.out.print(dot(made), end="", markup=False)
        case Format.SVG:
            console.out.print(svg(made), end="", markup=False)


def document(made: Graph) -> dict[str, Any]:
    return {"nodes": made.nodes, "links": made.links}
