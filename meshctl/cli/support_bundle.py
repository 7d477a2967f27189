"""``meshctl support-bundle``: the state of everything, without its secrets, for whoever helps."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from meshctl import durations
from meshctl.apply.survey import survey
from meshctl.cli import console
from meshctl.cli.options import InventoryFile, Mesh, Parallel, StateOption, open_mesh
from meshctl.cli.policy_file import MESH_FILE, MeshFile
from meshctl.cli.status import document
from meshctl.errors import Exit, InvalidInput
from meshctl.pki.passphrase import VARIABLE
from meshctl.support import collect
from meshctl.support.archive import Archive, creating
from meshctl.support.scrub import Scrubber
from proxy.model.violation import Violation

_SECRET_VARIABLES = (VARIABLE, "CONSUL_HTTP_TOKEN")


def support_bundle(
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Where to; by default meshctl-support-<time>.tar.gz in this folder.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[str, typer.Option(help="How far back log lines go: 30m, 1h.")] = "1h",
    mesh_file: MeshFile = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 50,
) -> None:
    """Collect the redacted state of all hosts in one archive, for whoever helps.

    What is collected is a fixed list, and each byte of it goes through a scrubber; manifest.json in
    it says what is there, what is missing and why. No key, token or passphrase is. Exit code 1 if
    something could not be had.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        try:
            since_s = durations.parse(since)
        except durations.InvalidDuration as error:
            raise InvalidInput(
                "the command line",
                [Violation(path="--since", message=str(error), hint=durations.RULE)],
            ) from error
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = file if file is not None else Path(f"meshctl-support-{stamp}.tar.gz")
        values = (os.environ.get(name, "") for name in _SECRET_VARIABLES)
        scrubber = Scrubber(collect.known_secrets(mesh.state, values))
        source = mesh_file if mesh_file is not None else mesh.inventory.source.parent / MESH_FILE
        with creating(path, scrubber) as archive:
            asyncio.run(_collect(archive, mesh, source, since_s, parallel))
            archive.finish(since)
        _say(path, archive)
        console.out.print(str(path), markup=False)
        raise SystemExit(int(Exit.FAILED if archive.missing else Exit.OK))


async def _collect(
    archive: Archive, mesh: Mesh, mesh_file: Path, since_s: float, parallel: int
) -> None:
    inventory, hosts = mesh.inventory, mesh.inventory.hosts
    collect.from_here(archive, inventory, mesh.state, mesh_file)
    connections = mesh.connections()
    try:
        with console.counting("hosts", len(hosts), quiet=False) as done:
            domain, trust = mesh.state.trust_domain, mesh.policy_trust
            seen = await survey(inventory, domain, connections, trust=trust, parallel=parallel)
            status = seen.status(inventory, domain, datetime.now(UTC))
            collect.from_survey(archive, seen, document(status))
            # The others would only wait for their connections, each item anew.
            reached = tuple(host for host in hosts if host.name in seen.gathered.facts)
            for host in hosts:
                if host not in reached:
                    archive.lack(f"hosts/{host.name}", str(seen.gathered.failures.get(host.name)))
                    done()
            await collect.from_consul(archive, inventory, connections, trust)
            await collect.proxy_logs(
                archive, reached, connections, since_s=since_s, parallel=parallel
            )
            await collect.from_hosts(
                archive, reached, connections, since_s=since_s, parallel=parallel, done=done
            )
    finally:
        await connections.close()


def _say(path: Path, archive: Archive) -> None:
    removed = sum(entry.removed for entry in archive.entries)
    console.err.print(
        f"{len(archive.entries)} file(s), {-(-path.stat().st_size // 1024):,} KiB;"
        f" {removed} place(s) were taken out as secret"
    )
    if archive.missing:
        console.err.print("[yellow]missing[/]:")
        for each in archive.missing[:20]:
            console.err.print(f"  {each.file}: {each.why}", markup=False)
        if len(archive.missing) > 20:
            console.err.print(f"  and {len(archive.missing) - 20} more, in its manifest.json")
    console.err.print(
        "[bold]hint:[/] look at it before you send it: names of hosts and services, addresses and"
        " paths are in it"
    )
