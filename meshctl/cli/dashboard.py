"""``meshctl dashboard``: the mesh in a browser, served on loopback while the command runs."""

import asyncio
import os
import signal
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Annotated

import typer

from meshctl.cli import console
from meshctl.cli.explain import places_of
from meshctl.cli.options import InventoryFile, Mesh, Parallel, StateOption, open_mesh
from meshctl.cli.policy_file import MeshFile, read_policy
from meshctl.dashboard.mesh import MeshSources, Watched
from meshctl.dashboard.server import serving
from meshctl.policy.origins import Places
from proxy.model.policy import Policy

WINDOW_S = 10.0
"""Rates over less jump about; over more they tell of trouble late."""


def dashboard(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="On 127.0.0.1; 0: any that is free.")
    ] = 0,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.5, max=60, help="Seconds between two looks.")
    ] = 1.0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Only print the address; open no browser.")
    ] = False,
    mesh_file: MeshFile = None,
    parallel: Parallel = 50,
) -> None:
    """Show the mesh in a browser: the live graph of calls, services, hosts, certificates, denials.

    It runs until Ctrl-C, listens on this machine only, changes nothing, and loads nothing from any
    other server. The address on stdout has a token: whoever has it may look.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        asyncio.run(_serve(mesh, port, interval_s, mesh_file, parallel, is_opened=not no_open))


async def _serve(
    mesh: Mesh,
    port: int,
    interval_s: float,
    mesh_file: Path | None,
    parallel: int,
    *,
    is_opened: bool,
) -> None:
    def at_hand() -> tuple[Policy, Places]:
        return read_policy(mesh.inventory, mesh_file), places_of(mesh.inventory, mesh_file)

    connections = mesh.connections()
    watched = MeshSources(
        Watched(
            inventory=mesh.inventory,
            trust_domain=mesh.state.trust_domain,
            trust=mesh.policy_trust,
            connector=connections,
            at_hand=at_hand,
            every_s=interval_s,
            window_s=max(WINDOW_S, 2 * interval_s),
            parallel=parallel,
        )
    )
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        serve = serving(watched.sources(), port=port, past=watched.past, asks=watched.asks())
        async with serve as guard:
            console.out.print(guard.url)
            console.out.file.flush()
            console.err.print("the dashboard runs until Ctrl-C; it listens on this machine only")
            with _opening(guard.url) as page:
                if is_opened and _has_screen():
                    await asyncio.to_thread(webbrowser.open, page.as_uri())
                elif is_opened:
                    own = guard.address.rstrip("/").rpartition(":")[2]
                    console.err.print(
                        "no screen here: from your own machine,"
                        f" ssh -L {own}:127.0.0.1:{own} and the way to this one;"
                        " then open the address there"
                    )
                await stopped.wait()
    finally:
        await connections.close()


def _has_screen() -> bool:
    """Without one ``webbrowser`` would start a text browser in this terminal."""
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


@contextmanager
def _opening(url: str) -> Iterator[Path]:
    """A file that leads to ``url``: all users of a machine can read the arguments of a browser, so
    the token is not among them."""
    with tempfile.TemporaryDirectory(prefix="meshctl-dashboard-") as folder:  # mode 0700
        page = Path(folder) / "open.html"
        page.write_text(
            '<!doctype html><meta charset="utf-8">'
            f'<meta http-equiv="refresh" content="0;url={escape(url)}"><title>meshctl</title>'
            f'<a href="{escape(url)}">Open the dashboard</a>\n',
            encoding="utf-8",
        )
        yield page
