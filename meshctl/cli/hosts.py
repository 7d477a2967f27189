"""``meshctl hosts``: whose SSH keys are trusted, and which hosts there are."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from meshctl.cli import console
from meshctl.cli.options import (
    AssumeYes,
    InventoryFile,
    Mesh,
    OutputFormat,
    StateOption,
    open_mesh,
    selected_hosts,
)
from meshctl.errors import Exit, MeshError, Refused
from meshctl.inventory.model import Host, TransportKind
from meshctl.transport.ssh.connector import scan_host_key
from meshctl.transport.ssh.hostkeys import HostKey
from meshctl.transport.ssh.hostkeys import trust as record

_ROUNDS = 3
"""A jump host first, then what is behind it, and one look that everything is known."""

app = typer.Typer(help="The hosts of the inventory and their SSH keys.", no_args_is_help=True)


@app.command("list")
def list_hosts(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """List the hosts of the inventory and what runs on them; asks none of them."""
    with console.errors():
        mesh = open_mesh(inventory, state)
        if output is console.Output.JSON:
            console.emit_json(
                [
                    {
                        "host": host.name,
                        "address": host.address,
                        "roles": sorted(host.roles),
                        "zone": host.zone,
                        "labels": dict(host.labels),
                        "services": [service.name for service in host.services],
                    }
                    for host in mesh.inventory.hosts
                ]
            )
            return
        rows = console.table("HOST", "ADDRESS", "ROLES", "ZONE", "SERVICES", "LABELS")
        for host in mesh.inventory.hosts:
            rows.add_row(
                host.name,
                host.address,
                ", ".join(sorted(host.roles)),
                host.zone or "-",
                ", ".join(service.name for service in host.services),
                ", ".join(f"{key}={value}" for key, value in sorted(host.labels.items())),
            )
        console.out.print(rows)


@app.command("trust")
def trust_hosts(
    names: Annotated[
        list[str] | None, typer.Argument(help="Hosts of the inventory; by default all.")
    ] = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Accept a key that differs from the known one.")
    ] = False,
    yes: AssumeYes = False,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Show the SSH keys that hosts present and, once you agree, trust them from now on.

    Nothing but the key exchange takes place: no login, no payload.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        hosts = [
            host
            for host in selected_hosts(mesh.inventory, names, option="NAME")
            if host.transport is TransportKind.SSH
        ]
        seen: dict[str, HostKey] = {}
        for _ in range(_ROUNDS):
            keys, failures = asyncio.run(_scan(mesh, hosts))
            seen |= {key.name: key for key in keys if key.name not in seen}
            new = [key for key in keys if not key.is_trusted]
            if not new:
                break
            _refuse_changed(new, replace)
            if output is console.Output.TABLE:
                _show(new)
            if not yes:
                console.confirm(f"Trust {len(new)} key(s)?")
            for key in new:
                record(key, _known_hosts(mesh, key), replace=replace)
        count = sum(not key.is_trusted for key in seen.values())
        if output is console.Output.JSON:
            console.emit_json(
                [
                    {
                        "host": key.host,
                        "name": key.name,
                        "type": key.key_type,
                        "fingerprint": key.fingerprint,
                        "was_trusted": key.is_trusted,
                    }
                    for key in seen.values()
                ]
            )
        elif count:
            console.err.print(f"{count} key(s) are trusted from now on")
        elif seen:
            console.err.print("every key was trusted already")
        for error in failures:
            console.show_error(error)
        if failures:
            raise SystemExit(int(Exit.UNREACHABLE))


def _refuse_changed(new: list[HostKey], replace: bool) -> None:
    changed = [key for key in new if key.known]
    if changed and not replace:
        raise Refused(
            f"the key of {changed[0].subject} HAS CHANGED: known {', '.join(changed[0].known)},"
            f" presented {changed[0].key_type} {changed[0].fingerprint}",
            hint="only if you know why: compare it with the host's console, then run "
            f"meshctl hosts trust --replace {changed[0].host}",
        )


def _known_hosts(mesh: Mesh, key: HostKey) -> Path:
    host = next(host for host in mesh.inventory.hosts if host.name == key.host)
    return host.ssh.known_hosts or mesh.state.known_hosts


def _show(keys: list[HostKey]) -> None:
    rows = console.table("HOST", "TYPE", "FINGERPRINT", "")
    for key in keys:
        word = "trusted" if key.is_trusted else "CHANGED" if key.known else "new"
        rows.add_row(key.subject, key.key_type, key.fingerprint, word)
    console.out.print(rows)


async def _scan(mesh: Mesh, hosts: list[Host]) -> tuple[list[HostKey], list[MeshError]]:
    """One key a name: hosts behind the same jump host all present that one first."""
    results = await asyncio.gather(
        *(scan_host_key(host, known_hosts=mesh.state.known_hosts) for host in hosts),
        return_exceptions=True,
    )
    keys: dict[str, HostKey] = {}
    failures: list[MeshError] = []
    for result in results:
        if isinstance(result, MeshError):
            failures.append(result)
        elif isinstance(result, BaseException):
            raise result
        else:
            keys.setdefault(result.name, result)
    return list(keys.values()), failures
