"""``meshctl certs list`` and ``show``: what is served, looked at on the wire."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from meshctl.apply.trust import look
from meshctl.cli import console, when
from meshctl.cli.options import (
    HostLimit,
    InventoryFile,
    Mesh,
    OutputFormat,
    ServiceLimit,
    StateOption,
    open_mesh,
    selected_workloads,
)
from meshctl.errors import Exit, MeshError
from meshctl.inventory.model import Host, Service
from meshctl.pki.served import Served
from meshctl.pki.store import CaStore
from meshctl.status import leaf_fault
from meshctl.transport.connect import Connections
from proxy.model.names import HostName, ServiceName, spiffe_id
from proxy.model.status import IdentityStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    host: HostName
    service: ServiceName
    served: Served | None
    fault: str
    hint: str = ""


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
        seen = asyncio.run(look_all(mesh, wanted))
        _print_list(seen, output, datetime.now(UTC))
        if any(entry.fault for entry in seen):
            raise SystemExit(int(Exit.FAILED))


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
        entry = asyncio.run(look_all(mesh, wanted))[0]
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


async def look_all(mesh: Mesh, wanted: Sequence[tuple[Host, Service]]) -> list[Seen]:
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
) -> Seen:
    domain = mesh.state.trust_domain
    again = f"meshctl certs rotate --host {host.name} --service {service.name}"
    try:
        transport = await connections.connect(host.name)
        # First whatever is served, so that what does not verify can be shown; then strictly.
        served = await look(host, transport, domain, service.name, None)
        fault = leaf_fault(
            _as_status(served),
            spiffe_id(domain, service.name),
            datetime.now(UTC),
            is_renewed=bool(mesh.inventory.signer_hosts),
        )
        if not fault:
            try:
                await look(host, transport, domain, service.name, bundle)
            except MeshError as error:
                fault = str(error)
        return Seen(host=host.name, service=service.name, served=served, fault=fault, hint=again)
    except MeshError as error:
        return Seen(
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


def _document(entry: Seen) -> dict[str, object]:
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


def _print_list(seen: Sequence[Seen], output: console.Output, now: datetime) -> None:
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
