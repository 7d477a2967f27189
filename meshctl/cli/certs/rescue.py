"""``meshctl certs rescue``: everything has expired, and SSH is all there is."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from meshctl.apply.preparation import owner_of
from meshctl.apply.rescue import Rescue, Rescued
from meshctl.cli import console
from meshctl.cli.options import (
    AssumeYes,
    InventoryFile,
    Mesh,
    OutputFormat,
    Parallel,
    PassphraseFile,
    StateOption,
    open_mesh,
)
from meshctl.errors import Exit
from meshctl.pki import passphrase as passphrases
from meshctl.pki.rotation import AGAIN
from meshctl.pki.store import remembered


def rescue_mesh(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    yes: AssumeYes = False,
    parallel: Parallel = 20,
    passphrase_file: PassphraseFile = None,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Bring back a mesh whose certificates have ended, by SSH and the CA alone.

    Makes anew what has ended of the CA, even the root; gives every host its trust bundle, certifies
    the signers, issues every certificate, starts what does not run, and looks at what is served.
    Consul may be down. Where nothing is wrong, it only gives every workload a new certificate.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        if not yes:
            console.confirm("Give every host of the mesh new certificates?")
        source = remembered(passphrases.source(passphrase_file))
        with mesh.state.lock():
            done = asyncio.run(_rescue(mesh, source, parallel))
        _show(done, output)
        if not done.is_good:
            raise SystemExit(int(Exit.FAILED))


async def _rescue(mesh: Mesh, source: passphrases.Source, parallel: int) -> Rescued:
    connections = mesh.connections()
    try:
        return await Rescue(
            inventory=mesh.inventory,
            state=mesh.state,
            connector=connections,
            passphrase=source,
            owner=owner_of(mesh.state),
            parallel=parallel,
            now=lambda: datetime.now(UTC),
            say=lambda line: console.err.print(line, markup=False),
        ).run()
    finally:
        await connections.close()


def _show(done: Rescued, output: console.Output) -> None:
    if output is console.Output.JSON:
        console.emit_json(
            {
                "root_is_new": done.is_root_new,
                "issuing_is_new": done.is_issuing_new,
                "is_good": done.is_good,
                "hosts": [
                    {
                        "host": host.host,
                        "leaves": list(host.leaves),
                        "signer": host.has_signer,
                        "error": host.error,
                        "output": host.output,
                        "hint": host.hint,
                    }
                    for host in done.hosts
                ],
                "not_deployed": list(done.not_deployed),
            }
        )
        return
    rows = console.table("HOST", "CERTIFICATES", "SIGNER", "STATE")
    for host in done.hosts:
        rows.add_row(
            host.host,
            ", ".join(host.leaves) or "-",
            "certified" if host.has_signer else "-",
            "[red]failed[/]" if host.error else "[green]verified on the wire[/]",
        )
    console.out.print(rows)
    for host in done.hosts:
        if host.error:
            subject = f"{host.host}: {host.error}"
            console.show_error(console.with_output(subject, host.output, host.hint))
    for name in done.not_deployed:
        console.err.print(f"{name} was never deployed to: nothing was done there", markup=False)
    if done.is_root_new:
        console.err.print(f"[bold]next:[/] {AGAIN}, which retires the root that has ended")
    else:
        console.err.print("[bold]next:[/] meshctl certs status")
