"""``meshctl certs status``: everything that can end, when it does, and what to do about it."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape

from meshctl.apply.members import Member, Members, members
from meshctl.apply.trust import look_at_signer
from meshctl.cli import console, when
from meshctl.cli.certs import root_view
from meshctl.cli.certs.listing import Seen, look_all
from meshctl.cli.options import InventoryFile, Mesh, OutputFormat, StateOption, open_mesh
from meshctl.errors import Exit, MeshError
from meshctl.pki import successor
from meshctl.pki.authority import serial_text
from meshctl.pki.rotation import ROTATION_FILE, Rotation
from meshctl.pki.signers import Certificate, SignerCertificates
from meshctl.pki.store import CaStore
from meshctl.renewing import EXPIRY_PROBLEM, EXPIRY_SHARE
from meshctl.transport import Connector
from proxy.model.names import HostName

_RESCUE = "meshctl certs rescue"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signer:
    host: HostName
    certificate: Certificate | None
    """Its intermediate; None: it was never certified from here."""
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    ca: CaStore
    members: Members
    signers: tuple[_Signer, ...]
    leaves: tuple[Seen, ...]
    rotation: Rotation | None
    now: datetime


def show_status(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Show roots, issuing CAs and certificates, when they end, and where a rotation stands.

    Exit code 1 when something has ended, ends within 7 days with nobody to renew it, or does not
    verify on the wire.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        view = asyncio.run(_look(mesh))
        faults = tuple(_faults(view))
        if output is console.Output.JSON:
            console.emit_json(_document(view, faults))
        else:
            _show(view, faults)
        if faults:
            raise SystemExit(int(Exit.FAILED))


async def _look(mesh: Mesh) -> _View:
    ca = CaStore.open(mesh.state)
    found = members(mesh.inventory, mesh.state.read_record())
    kept = SignerCertificates(ca.folder).read()
    workloads = [
        (member.host, service)
        for member in found.deployed
        for service in member.host.services
        if service.name in member.services
    ]
    connections = mesh.connections()
    try:
        signers, leaves = await asyncio.gather(
            asyncio.gather(
                *(
                    _signer(mesh, connections, ca, member, kept)
                    for member in found.deployed
                    if member.is_signer
                )
            ),
            look_all(mesh, workloads),
        )
    finally:
        await connections.close()
    return _View(
        ca=ca,
        members=found,
        signers=tuple(signers),
        leaves=tuple(leaves),
        rotation=mesh.state.read(ROTATION_FILE, Rotation),
        now=datetime.now(UTC),
    )


async def _signer(
    mesh: Mesh,
    connector: Connector,
    ca: CaStore,
    member: Member,
    kept: Mapping[HostName, tuple[Certificate, ...]],
) -> _Signer:
    host, port = member.host, mesh.inventory.certificates.signer_port
    fault = ""
    try:
        transport = await connector.connect(host.name)
        domain = mesh.state.trust_domain
        await look_at_signer(host, transport, domain, port, ca.trust_bundle_pem)
    except MeshError as error:
        fault = str(error)
    certificates = kept.get(host.name, ())
    newest = certificates[0] if certificates else None
    return _Signer(host=host.name, certificate=newest, fault=fault)


def _roots(view: _View) -> Iterator[tuple[str, Certificate]]:
    yield "current", view.ca.root
    following, retiring = successor.next_root(view.ca), successor.retiring_root(view.ca)
    if following is not None:
        yield "next", following
    if retiring is not None:
        yield "retiring", retiring


def _faults(view: _View) -> Iterator[tuple[str, str]]:
    """What is wrong, and the next command; the most urgent first."""
    for role, root in _roots(view):
        if role != "retiring" and (fault := _end_fault(root, view.now)):
            fix = _RESCUE if view.now >= root.not_valid_after_utc else "meshctl certs rotate root"
            yield f"the {role} root {fault}", fix
    if fault := _end_fault(view.ca.issuing, view.now):
        yield f"the issuing CA {fault}", _ca_fix(view.ca.issuing, view.now)
    for signer in view.signers:
        if signer.certificate is None:
            yield f"the signer on {signer.host} was never certified from here", "meshctl deploy"
        elif fault := _end_fault(signer.certificate, view.now):
            fix = _ca_fix(signer.certificate, view.now)
            yield f"the certificate of the signer on {signer.host} {fault}", fix
        elif signer.fault:
            yield (
                f"the signer on {signer.host}: {signer.fault}",
                f"on {signer.host}: journalctl -u meshctl-signer; then meshctl deploy",
            )
    has_all_ended = bool(view.leaves) and all(
        leaf.served is None or view.now >= leaf.served.not_after for leaf in view.leaves
    )
    for leaf in view.leaves:
        if leaf.fault:
            yield (
                f"{leaf.service} on {leaf.host}: {leaf.fault}",
                _RESCUE if has_all_ended else leaf.hint,
            )


def _end_fault(certificate: Certificate, now: datetime) -> str:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= end:
        return f"ended on {when.text(end)}"
    if end - now < min(EXPIRY_PROBLEM, (end - begin) * EXPIRY_SHARE):
        return f"ends on {when.text(end)}"
    return ""


def _ca_fix(certificate: Certificate, now: datetime) -> str:
    has_ended = now >= certificate.not_valid_after_utc
    return _RESCUE if has_ended else "meshctl certs rotate intermediates"


def _next(view: _View, faults: tuple[tuple[str, str], ...]) -> str:
    if faults:
        return faults[0][1]
    return root_view.next_command(view.rotation) if view.rotation else ""


def _document(view: _View, faults: tuple[tuple[str, str], ...]) -> dict[str, object]:
    rotation = view.rotation
    return {
        "is_well": not faults,
        "roots": [
            {
                "role": role,
                "sha256": successor.sha256(root),
                "not_after": when.text(root.not_valid_after_utc),
            }
            for role, root in _roots(view)
        ],
        "issuing": _ca_document(view.ca.issuing),
        "signers": [
            {
                "host": signer.host,
                **(_ca_document(signer.certificate) if signer.certificate else {}),
                "fault": signer.fault,
            }
            for signer in view.signers
        ],
        "leaves": [
            {
                "host": leaf.host,
                "service": leaf.service,
                "serial": leaf.served.serial if leaf.served else "",
                "not_after": when.text(leaf.served.not_after) if leaf.served else "",
                "fault": leaf.fault,
            }
            for leaf in view.leaves
        ],
        "rotation": (
            root_view.document(rotation, not_deployed=view.members.not_deployed)
            if rotation
            else None
        ),
        "faults": [{"message": message, "fix": fix} for message, fix in faults],
        "next": _next(view, faults),
    }


def _ca_document(certificate: Certificate) -> dict[str, str]:
    return {
        "serial": serial_text(certificate),
        "sha256": successor.sha256(certificate),
        "not_after": when.text(certificate.not_valid_after_utc),
    }


def _show(view: _View, faults: tuple[tuple[str, str], ...]) -> None:
    rows = console.table("WHAT", "WHERE", "SHA-256 OR SERIAL", "ENDS")
    for role, root in _roots(view):
        ends = when.remaining(root.not_valid_after_utc, view.now)
        rows.add_row(f"root ({role})", "operator", successor.sha256(root)[:16], ends)
    issuing = view.ca.issuing
    ends = when.remaining(issuing.not_valid_after_utc, view.now)
    rows.add_row("issuing CA", "operator", serial_text(issuing)[:16], ends)
    for signer in view.signers:
        known = signer.certificate
        rows.add_row(
            "signer's CA",
            signer.host,
            serial_text(known)[:16] if known else "-",
            when.remaining(known.not_valid_after_utc, view.now) if known else "-",
        )
    for leaf in view.leaves:
        rows.add_row(
            leaf.service,
            leaf.host,
            leaf.served.serial[:16] if leaf.served else "-",
            when.remaining(leaf.served.not_after, view.now) if leaf.served else "-",
        )
    console.out.print(rows)
    if view.rotation is not None:
        root_view.show_state(view.rotation, view.members.names)
    for message, fix in faults:
        console.err.print(f"[red]problem:[/] {escape(message)}")
        console.err.print(f"  [bold]hint:[/] {escape(fix)}")
    following = _next(view, faults)
    if following:
        console.err.print(f"[bold]next:[/] {following}")
