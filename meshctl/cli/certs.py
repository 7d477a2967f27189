"""``meshctl certs``: what is in force, what is served, and how it is renewed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from meshctl.apply.gather import gather
from meshctl.apply.issue import Issuance
from meshctl.apply.preparation import owner_of
from meshctl.apply.rotate import Rotated, Rotation, look, rotate
from meshctl.cli import console, when
from meshctl.cli.options import (
    AssumeYes,
    HostLimit,
    InventoryFile,
    Mesh,
    OutputFormat,
    Parallel,
    PassphraseFile,
    ServiceLimit,
    StateOption,
    open_mesh,
    selected_workloads,
)
from meshctl.errors import Exit, MeshError
from meshctl.inventory.model import Host, Service
from meshctl.pki import passphrase
from meshctl.pki.served import Served
from meshctl.pki.store import CaStore
from meshctl.status import leaf_fault
from meshctl.transport.connect import Connections
from proxy.model.names import HostName, ServiceName, spiffe_id
from proxy.model.status import IdentityStatus

app = typer.Typer(help="Certificates: what is served, and rotation.", no_args_is_help=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    host: HostName
    service: ServiceName
    served: Served | None
    fault: str
    hint: str = ""


@app.command("list")
def list_certificates(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    host: HostLimit = None,
    service: ServiceLimit = None,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """List the certificate that each workload serves, looked at on the wire.

    Exit code 1 when one does not verify, is another service's, or is about to end.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        wanted = selected_workloads(mesh.inventory, host, service)
        seen = asyncio.run(_look_all(mesh, wanted))
        _print_list(seen, output, datetime.now(UTC))
        if any(entry.fault for entry in seen):
            raise SystemExit(int(Exit.FAILED))


@app.command("show")
def show_certificate(
    host: Annotated[str, typer.Argument(help="A host of the inventory.")],
    service: Annotated[str, typer.Argument(help="A service on it.")],
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Show the certificate that one workload serves, and the CA it comes from."""
    with console.errors():
        mesh = open_mesh(inventory, state)
        wanted = selected_workloads(mesh.inventory, [host], [service])
        if not wanted:
            raise MeshError(
                f"{service} does not run on {host}", hint="meshctl certs list shows what does"
            )
        ca = CaStore.open(mesh.state)
        entry = asyncio.run(_look_all(mesh, wanted))[0]
        if output is console.Output.JSON:
            console.emit_json({**_document(entry), "root_sha256": ca.root_fingerprint})
        elif entry.served is not None:
            rows = console.table("", "")
            rows.show_header = False
            for name, value in (
                ("identity", ", ".join(entry.served.identities)),
                ("serial", entry.served.serial),
                ("valid from", when.text(entry.served.not_before)),
                ("valid until", when.text(entry.served.not_after)),
                ("key", entry.served.key),
                ("SHA-256", entry.served.fingerprint),
                ("issued by", entry.served.issuer),
                ("root SHA-256", ca.root_fingerprint),
                ("trust domain", mesh.state.trust_domain),
            ):
                rows.add_row(name, value)
            console.out.print(rows)
        if entry.fault:
            raise MeshError(f"{entry.service} on {entry.host}: {entry.fault}", hint=entry.hint)


@app.command("rotate")
def rotate_certificates(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    host: HostLimit = None,
    service: ServiceLimit = None,
    yes: AssumeYes = False,
    parallel: Parallel = 10,
    passphrase_file: PassphraseFile = None,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Give workloads new keys and certificates; connections that are open go on.

    Keys are made on their hosts and never leave them. Needs SSH and the CA; neither Consul nor
    working mTLS. What is served afterwards is verified on the wire.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        wanted = selected_workloads(mesh.inventory, host, service)
        if not wanted:
            raise MeshError("no workload is left by --host and --service")
        if not yes:
            hosts = len({entry[0].name for entry in wanted})
            console.confirm(f"Rotate {len(wanted)} certificate(s) on {hosts} host(s)?")
        with mesh.state.lock():
            ca = CaStore.open(mesh.state)
            signer = ca.unlock(passphrase.source(passphrase_file))
            issuance = Issuance(
                signer=signer,
                record=mesh.state.read_record(),
                trust_domain=mesh.state.trust_domain,
                now=lambda: datetime.now(UTC),
            )
            done = asyncio.run(
                _rotate(mesh, wanted, issuance, ca.trust_bundle_pem, parallel, output)
            )
        _print_rotated(done, output)
        if any(entry.error for entry in done):
            raise SystemExit(int(Exit.FAILED))


async def _rotate(
    mesh: Mesh,
    wanted: Sequence[tuple[Host, Service]],
    issuance: Issuance,
    trust_bundle: bytes,
    parallel: int,
    output: console.Output,
) -> tuple[Rotated, ...]:
    by_host: dict[HostName, list[ServiceName]] = {}
    for host, service in wanted:
        by_host.setdefault(host.name, []).append(service.name)
    connections = mesh.connections()
    try:
        hosts = [host for host in mesh.inventory.hosts if host.name in by_host]
        seen = await gather(mesh.inventory, hosts, connections, parallel=parallel)
        rotation = Rotation(
            inventory=mesh.inventory,
            wanted=by_host,
            facts=seen.facts,
            failures=seen.failures,
            connector=connections,
            issuance=issuance,
            trust_bundle=trust_bundle,
            owner=owner_of(mesh.state),
            parallel=parallel,
        )
        with console.counting("rotating", len(wanted), quiet=output is console.Output.JSON) as tick:
            return await rotate(rotation, lambda _: tick())
    finally:
        await connections.close()


async def _look_all(mesh: Mesh, wanted: Sequence[tuple[Host, Service]]) -> list[_Seen]:
    connections = mesh.connections()
    bundle = CaStore.open(mesh.state).trust_bundle_pem
    try:
        return list(
            await asyncio.gather(
                *(_look(mesh, connections, host, service, bundle) for host, service in wanted)
            )
        )
    finally:
        await connections.close()


async def _look(
    mesh: Mesh, connections: Connections, host: Host, service: Service, bundle: bytes
) -> _Seen:
    domain = mesh.state.trust_domain
    again = f"meshctl certs rotate --host {host.name} --service {service.name}"
    try:
        transport = await connections.connect(host.name)
        # First whatever is served, so that what does not verify can be shown; then strictly.
        served = await look(host, transport, domain, service.name, None)
        fault = leaf_fault(_as_status(served), spiffe_id(domain, service.name), datetime.now(UTC))
        if not fault:
            try:
                await look(host, transport, domain, service.name, bundle)
            except MeshError as error:
                fault = str(error)
        return _Seen(host=host.name, service=service.name, served=served, fault=fault, hint=again)
    except MeshError as error:
        return _Seen(
            host=host.name,
            service=service.name,
            served=None,
            fault=str(error),
            hint=error.hint or "meshctl status",
        )


def _as_status(served: Served) -> IdentityStatus:
    return IdentityStatus(
        spiffe_id=", ".join(served.identities),
        serial=served.serial,
        not_before=when.text(served.not_before),
        not_after=when.text(served.not_after),
    )


def _document(entry: _Seen) -> dict[str, object]:
    served = entry.served
    return {
        "host": entry.host,
        "service": entry.service,
        "spiffe_id": ", ".join(served.identities) if served else "",
        "serial": served.serial if served else "",
        "not_before": when.text(served.not_before) if served else "",
        "not_after": when.text(served.not_after) if served else "",
        "issuer": served.issuer if served else "",
        "sha256": served.fingerprint if served else "",
        "fault": entry.fault,
        "hint": entry.hint if entry.fault else "",
    }


def _print_list(seen: Sequence[_Seen], output: console.Output, now: datetime) -> None:
    if output is console.Output.JSON:
        console.emit_json([_document(entry) for entry in seen])
        return
    rows = console.table("SERVICE", "HOST", "IDENTITY", "SERIAL", "ENDS", "STATE")
    for entry in seen:
        served = entry.served
        rows.add_row(
            entry.service,
            entry.host,
            ", ".join(served.identities) if served else "-",
            served.serial[:16] if served else "-",
            when.remaining(served.not_after, now) if served else "-",
            f"[red]{entry.fault}[/]" if entry.fault else "[green]verified[/]",
        )
    console.out.print(rows)


def _print_rotated(done: Sequence[Rotated], output: console.Output) -> None:
    good = [entry for entry in done if not entry.error]
    bad = [entry for entry in done if entry.error]
    if output is console.Output.JSON:
        console.emit_json(
            {
                "rotated": [
                    {
                        "host": entry.host,
                        "service": entry.service,
                        "serial": entry.serial,
                        "not_after": entry.not_after,
                    }
                    for entry in good
                ],
                "failed": [
                    {
                        "host": entry.host,
                        "service": entry.service,
                        "error": entry.error,
                        "output": entry.output,
                        "hint": entry.hint,
                    }
                    for entry in bad
                ],
            }
        )
        return
    rows = console.table("SERVICE", "HOST", "SERIAL", "ENDS", "STATE")
    for entry in done:
        rows.add_row(
            entry.service,
            entry.host,
            entry.serial[:16] or "-",
            entry.not_after or "-",
            "[red]failed[/]" if entry.error else "[green]verified on the wire[/]",
        )
    console.out.print(rows)
    for entry in bad:
        subject = f"{entry.service} on {entry.host}: {entry.error}"
        console.show_error(console.with_output(subject, entry.output, entry.hint))
    console.err.print(f"{len(good)} rotated, {len(bad)} failed")
