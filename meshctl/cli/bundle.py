"""``meshctl bundle``: what is pushed to hosts, fetched while there is a network."""

import platform
from pathlib import Path
from typing import Annotated

import typer

from meshctl.apply.preparation import bundle_cache
from meshctl.bundle.model import Kind, Target
from meshctl.cli import console
from meshctl.cli.options import InventoryFile, OutputFormat, StateOption, open_mesh

app = typer.Typer(help="What is pushed to hosts.", no_args_is_help=True)


@app.command("fetch")
def fetch(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    python: Annotated[
        str, typer.Option(help="The hosts' Python, such as 3.11.", show_default="this one")
    ] = ".".join(platform.python_version_tuple()[:2]),
    machine: Annotated[
        str, typer.Option(help="x86_64 or aarch64.", show_default="this one's")
    ] = platform.machine(),
    glibc: Annotated[
        str, typer.Option(help="The hosts' glibc, such as 2.36.", show_default="this one")
    ] = platform.libc_ver()[1],
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Fetch the wheels for a kind of host, so that a later deploy needs no package index."""
    with console.errors():
        mesh = open_mesh(inventory, state)
        target = Target(python=python, machine=machine, glibc=glibc)
        kinds: tuple[Kind, ...] = ("proxy", "signer") if mesh.inventory.signer_hosts else ("proxy",)
        with console.err.status(f"fetching wheels for Python {python} on {machine}"):
            cache = bundle_cache(mesh.state)
            bundles = [cache.resolve(target, kind=kind) for kind in kinds]
        wheels = {wheel.name: wheel for bundle in bundles for wheel in bundle.wheels}
        if output is console.Output.JSON:
            console.emit_json(
                {
                    "target": str(target),
                    "digest": bundles[0].digest,
                    "releases": {bundle.kind: bundle.digest for bundle in bundles},
                    "wheels": [
                        {"name": wheel.name, "sha256": wheel.sha256, "size": wheel.size}
                        for wheel in wheels.values()
                    ],
                }
            )
            return
        rows = console.table("WHEEL", "BYTES", "SHA-256")
        for wheel in wheels.values():
            rows.add_row(wheel.name, str(wheel.size), wheel.sha256[:16])
        console.out.print(rows)
        for bundle in bundles:
            console.err.print(f"{bundle.kind}: release {bundle.digest} for {target} can be pushed")
