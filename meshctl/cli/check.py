"""``meshctl check``: is this machine, the CA and every host fit, and what to do where not."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape

from meshctl.apply.preparation import owner_of
from meshctl.apply.survey import Survey
from meshctl.cli import console, when
from meshctl.cli.deploy import no_signer
from meshctl.cli.options import (
    InventoryFile,
    Mesh,
    OutputFormat,
    Parallel,
    StateOption,
    open_mesh,
)
from meshctl.cli.status import look
from meshctl.errors import Exit
from meshctl.facts.preflight import examine
from meshctl.inventory.files import missing_files
from meshctl.pki.authority import CA_WARN_S
from meshctl.pki.signers import SignerCertificates
from meshctl.pki.store import CaStore
from meshctl.renewing import EXPIRY_PROBLEM, EXPIRY_WARNING
from meshctl.status import Finding, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One subject: what was looked at, and what was found; nothing found is good news."""

    subject: str
    what: str
    findings: tuple[Finding, ...]


def check(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 50,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Look for what stands in the way of a deploy, or is wrong with a mesh that runs.

    Each finding comes with its fix. Changes nothing. Exit code 1 if there is a problem; an
    expiring certificate is one.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        now = datetime.now(UTC)
        checked = [
            _files(mesh),
            _authority(mesh, now),
            *_judged(mesh, asyncio.run(look(mesh, parallel)), now),
        ]
        problems = sum(
            finding.severity is Severity.PROBLEM for entry in checked for finding in entry.findings
        )
        if output is console.Output.JSON:
            console.emit_json({"is_well": not problems, "checked": checked})
        else:
            if note := no_signer(mesh.inventory):
                console.err.print(f"[dim]{note}[/]")
            _show(checked, problems)
        raise SystemExit(int(Exit.FAILED if problems else Exit.OK))


def _files(mesh: Mesh) -> Checked:
    return Checked(
        subject="inventory",
        what=f"{mesh.inventory.source.name}: {len(mesh.inventory.hosts)} host(s), files it names",
        findings=tuple(
            Finding(
                severity=Severity.PROBLEM,
                subject=violation.path,
                message=violation.message,
                fix=violation.hint,
            )
            for violation in missing_files(mesh.inventory)
        ),
    )


def _authority(mesh: Mesh, now: datetime) -> Checked:
    ca = CaStore.open(mesh.state)
    findings = []
    for name, certificate, fix in (
        ("the issuing CA", ca.issuing, "meshctl init --renew-issuing, then meshctl certs rotate"),
        ("the root", ca.root, "plan a new root: leaves cannot outlive it"),
    ):
        left = certificate.not_valid_after_utc - now
        if left.total_seconds() < CA_WARN_S:
            findings.append(
                Finding(
                    severity=Severity.PROBLEM if left < EXPIRY_PROBLEM else Severity.WARNING,
                    subject=name,
                    message=f"{name} ends {when.remaining(certificate.not_valid_after_utc, now)}",
                    fix=fix,
                )
            )
    for host, certificates in SignerCertificates(ca.folder).read().items():
        # Also of a signer that is out of reach: it may well go on until its certificate ends.
        end = certificates[0].not_valid_after_utc
        if end - now < EXPIRY_WARNING:
            is_problem = end - now < EXPIRY_PROBLEM
            findings.append(
                Finding(
                    severity=Severity.PROBLEM if is_problem else Severity.WARNING,
                    subject=f"the signer on {host}",
                    message=f"the certificate of the signer on {host} ends"
                    f" {when.remaining(end, now)}",
                    fix=f"meshctl deploy --limit {host}",
                )
            )
    return Checked(
        subject="CA",
        what=f"trust domain {mesh.state.trust_domain}, keys"
        f" {'encrypted' if ca.is_encrypted else 'NOT encrypted'} at rest, validity",
        findings=tuple(findings),
    )


def _judged(mesh: Mesh, seen: Survey, now: datetime) -> Iterator[Checked]:
    whole = seen.status(mesh.inventory, mesh.state.trust_domain, now)
    owner = owner_of(mesh.state)
    is_new = not any(facts.seen.current for facts in seen.gathered.facts.values())
    for host in mesh.inventory.hosts:
        facts = seen.gathered.facts.get(host.name)
        findings: list[Finding] = []
        if facts is not None:
            findings += (
                Finding(
                    severity=Severity.PROBLEM,
                    subject=host.name,
                    message=found.message,
                    fix=found.fix,
                )
                for found in examine(mesh.inventory, host, facts, owner)
            )
        signs = host in mesh.inventory.signer_hosts and not is_new
        if facts is None or facts.seen.current or facts.seen.signer.is_there or signs:
            # Of a new host, what follows would only say that nothing is there yet.
            about = {host.name, *(f"{service.name} on {host.name}" for service in host.services)}
            told = {finding.message for finding in findings}
            findings += (
                finding
                for finding in whole.findings
                if finding.subject in about and finding.message not in told
            )
        yield Checked(
            subject=host.name,
            what="access, Python, architecture, systemd, ports, disk, clock"
            + (", proxy, workloads, certificates" if facts and facts.seen.current else "")
            + (", signer" if facts and facts.seen.signer.is_there else ""),
            findings=tuple(findings),
        )
    if not is_new:
        yield Checked(
            subject="Consul",
            what=f"{mesh.inventory.consul.mode}, the published policy",
            findings=tuple(found for found in whole.findings if found.subject == "Consul"),
        )


def _show(checked: list[Checked], problems: int) -> None:
    for entry in checked:
        mark = "[green]ok[/]  "
        if entry.findings:
            is_problem = any(found.severity is Severity.PROBLEM for found in entry.findings)
            mark = "[red]bad[/] " if is_problem else "[yellow]warn[/]"
        console.out.print(f"{mark}  [bold]{escape(entry.subject)}[/]  {escape(entry.what)}")
        for found in entry.findings:
            console.out.print(f"      {escape(found.message)}")
            if found.fix:
                console.out.print(f"      [bold]fix:[/] {escape(found.fix)}")
    console.err.print(f"{problems} problem(s)" if problems else "fit")
