"""``meshctl uninstall``: take the mesh off the hosts and leave them as they were."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from meshctl.apply import registry
from meshctl.apply.consul_acl import ConsulAcl
from meshctl.apply.consul_tokens import ConsulTokens
from meshctl.apply.preparation import owner_of
from meshctl.apply.remove import Removal, remove
from meshctl.apply.signers import tell_all
from meshctl.cli import console
from meshctl.cli.console import Output
from meshctl.cli.options import (
    AssumeYes,
    InventoryFile,
    Limit,
    Mesh,
    OutputFormat,
    Parallel,
    StateOption,
    open_mesh,
    selected_hosts,
)
from meshctl.errors import Exit, MeshError
from meshctl.inventory.model import ConsulMode, Host
from meshctl.pki.signers import SignerCertificates
from meshctl.pki.store import FOLDER
from meshctl.plan.signer import untold
from meshctl.state import DeployRecord
from meshctl.transport.connect import Connections
from proxy.model.names import HostName


def uninstall(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    limit: Limit = None,
    yes: AssumeYes = False,
    parallel: Parallel = 10,
    output: OutputFormat = Output.TABLE,
    keep_registry: Annotated[
        bool, typer.Option("--keep-registry", help="Leave the embedded registry running.")
    ] = False,
) -> None:
    """Take the mesh off the hosts: services, units, users, files and keys; applications stay.

    The CA and the inventory on this machine are kept, so that `meshctl deploy` brings it back.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        hosts = selected_hosts(mesh.inventory, limit, option="--limit")
        console.require_consent_possible(yes)
        with mesh.state.lock():
            names = ", ".join(host.name for host in hosts)
            if not yes and not typer.confirm(f"Take the mesh off {names}?", err=True):
                console.err.print("nothing was changed")
                raise SystemExit(int(Exit.OK))
            removals = asyncio.run(_uninstall(mesh, hosts, parallel))
            is_registry_ended = False
            is_embedded = mesh.inventory.consul.mode is ConsulMode.EMBEDDED
            if is_embedded and not limit and not keep_registry:
                is_registry_ended = asyncio.run(registry.stop(mesh.state))
        if output is Output.JSON:
            console.emit_json(_document(removals, is_registry_ended))
        else:
            _show_summary(removals, is_registry_ended)
        codes = {removal.exit_code for removal in removals if removal.error}
        raise SystemExit(codes.pop() if len(codes) == 1 else int(bool(codes)))


async def _uninstall(mesh: Mesh, hosts: tuple[Host, ...], parallel: int) -> tuple[Removal, ...]:
    connector = mesh.connections()
    try:
        removals = await remove(
            mesh.inventory,
            hosts,
            connector,
            trust_domain=mesh.state.trust_domain,
            owner=owner_of(mesh.state),
            is_whole_mesh=len(hosts) == len(mesh.inventory.hosts),
            parallel=parallel,
            ended=_show,
        )
        gone = {removal.host for removal in removals if not removal.error}
        record = mesh.state.read_record()
        left = {name: entry for name, entry in record.hosts.items() if name not in gone}
        if left != record.hosts:
            mesh.state.write_record(DeployRecord(hosts=left))
        if gone:
            await _tell_signers(mesh, gone, DeployRecord(hosts=left), connector)
            await _forget_access(mesh, gone, DeployRecord(hosts=left), connector)
    finally:
        await connector.close()
    return removals


async def _tell_signers(
    mesh: Mesh, gone: set[HostName], record: DeployRecord, connector: Connections
) -> None:
    """Who is removed is refused from now on; a signer that is removed is believed no more."""
    kept = SignerCertificates(mesh.state.path / FOLDER)
    certified = set(kept.read())
    for host in certified & gone:
        kept.forget(host)
    staying = [
        host
        for host in mesh.inventory.signer_hosts
        if host.name in certified and host.name not in gone
    ]
    failed = await tell_all(mesh.inventory, staying, record, connector, owner=owner_of(mesh.state))
    for name, error in failed.items():
        console.warn(untold(name, str(error)), hint=error.hint)


async def _forget_access(
    mesh: Mesh, gone: set[HostName], record: DeployRecord, connector: Connections
) -> None:
    """Whoever copied the tokens of a host has nothing of them."""
    if mesh.inventory.consul.mode is not ConsulMode.MANAGED:
        return
    acl = ConsulAcl(mesh.inventory, connector, ConsulTokens.of(mesh.state))
    try:
        await acl.forget(gone, record)
    except MeshError as error:
        console.warn(
            f"the tokens for Consul of {', '.join(sorted(gone))} are still good: {error}",
            hint="take the host out of the inventory and run meshctl deploy",
        )


def _show(removal: Removal) -> None:
    name = escape(removal.host)
    if removal.error:
        console.err.print(f"[bold red]{name}[/]: {escape(removal.error)}")
        for line in removal.output.strip().splitlines():
            console.err.print(f"  [dim]|[/] {escape(line)}")
        console.err.print(f"  [bold]next:[/] {escape(removal.hint)}")
    elif removal.done:
        console.err.print(f"{name}: removed {escape(', '.join(removal.done))}")
    else:
        console.err.print(f"{name}: nothing to remove")


def _show_summary(removals: tuple[Removal, ...], is_registry_ended: bool) -> None:
    failed = sum(bool(removal.error) for removal in removals)
    removed = sum(bool(removal.done) for removal in removals)
    clean = len(removals) - failed - removed
    if is_registry_ended:
        console.out.print("the embedded registry has ended")
    console.out.print(f"[bold]uninstalled:[/] {removed} removed, {clean} clean, {failed} failed")


def _document(removals: tuple[Removal, ...], is_registry_ended: bool) -> dict[str, object]:
    return {
        "registry_ended": is_registry_ended,
        "hosts": [
            {
                "host": removal.host,
                "removed": list(removal.done),
                "error": removal.error,
                "output": removal.output,
                "hint": removal.hint,
            }
            for removal in removals
        ],
    }
