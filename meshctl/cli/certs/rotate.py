"""``meshctl certs rotate``: new leaves, new issuing CAs, or a new root."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from meshctl.apply.intermediates import CertifiedSigner, certify_signers
from meshctl.apply.issue import Issuance
from meshctl.apply.preparation import owner_of
from meshctl.apply.root_rotation import Outcome, RootRotation
from meshctl.apply.rotate import Rotated, Rotation, rotate
from meshctl.cli import console, when
from meshctl.cli.certs import root_view
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
from meshctl.errors import Exit, InvalidInput, MeshError
from meshctl.inventory.model import Host, Service
from meshctl.pki import passphrase as passphrases
from meshctl.pki.passphrase import Source
from meshctl.pki.rotation import ROTATION_FILE
from meshctl.pki.rotation import Rotation as RootState
from meshctl.pki.store import CaStore, remembered
from proxy.model.names import HostName, ServiceName
from proxy.model.violation import Violation


class What(StrEnum):
    LEAVES = "leaves"
    INTERMEDIATES = "intermediates"
    ROOT = "root"


def rotate_certificates(
    what: Annotated[
        What, typer.Argument(help="Workloads' certificates, the CAs that issue them, or the root.")
    ] = What.LEAVES,
    *,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    host: HostLimit = None,
    service: ServiceLimit = None,
    retire_now: Annotated[
        bool,
        typer.Option(
            "--retire-now",
            help="root: do not keep the old root for twice the life of a certificate. Every host "
            "still has to confirm.",
        ),
    ] = False,
    abort: Annotated[
        bool,
        typer.Option(
            "--abort", help="root: go back to the old root, as long as nothing was switched."
        ),
    ] = False,
    yes: AssumeYes = False,
    parallel: Parallel = 10,
    passphrase_file: PassphraseFile = None,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Give workloads new keys and certificates, or renew what they come from.

    Connections that are open go on. Keys are made on their hosts and never leave them. Needs SSH
    and the CA; neither Consul nor working mTLS. What is served afterwards is verified on the wire.

    root: adds the new root on every host, switches the issuers, re-issues, proves, and retires the
    old root, which it keeps for a while: run it again when it says so. Interrupted, or held up by
    a host, it goes on where it was when it is run again.
    """
    with console.errors():
        _require_fitting(what, host, service, retire_now=retire_now, abort=abort)
        mesh = open_mesh(inventory, state)
        source = remembered(passphrases.source(passphrase_file))
        if what is What.ROOT:
            _rotate_root(mesh, source, yes, parallel, output, retire_now=retire_now, abort=abort)
            return
        wanted = selected_workloads(mesh.inventory, host, service)
        if not wanted:
            raise MeshError("no workload is left by --host and --service")
        if not yes:
            hosts = len({entry[0].name for entry in wanted})
            before = "Make new issuing CAs and rotate" if what is What.INTERMEDIATES else "Rotate"
            console.confirm(f"{before} {len(wanted)} certificate(s) on {hosts} host(s)?")
        with mesh.state.lock():
            more: dict[str, object] = {}
            if what is What.INTERMEDIATES:
                more = _renew_intermediates(mesh, source)
            ca = CaStore.open(mesh.state)
            issuance = Issuance(
                signer=ca.unlock(source),
                record=mesh.state.read_record(),
                trust_domain=mesh.state.trust_domain,
                now=lambda: datetime.now(UTC),
                life_s=mesh.inventory.leaf_life_s,
            )
            done = asyncio.run(
                _rotate(mesh, wanted, issuance, ca.trust_bundle_pem, parallel, output)
            )
        _print_rotated(done, output, more)
        if any(entry.error for entry in done):
            raise SystemExit(int(Exit.FAILED))


def _require_fitting(
    what: What,
    host: list[str] | None,
    service: list[str] | None,
    *,
    retire_now: bool,
    abort: bool,
) -> None:
    violations = []
    if what is not What.LEAVES:
        violations += [
            Violation(path=option, message=f"it does not go with {what}: all hosts take part")
            for option, given in (("--host", host), ("--service", service))
            if given
        ]
    if what is not What.ROOT:
        violations += [
            Violation(path=option, message="it goes with root only")
            for option, given in (("--retire-now", retire_now), ("--abort", abort))
            if given
        ]
    if retire_now and abort:
        violations.append(Violation(path="--abort", message="it contradicts --retire-now"))
    if violations:
        raise InvalidInput("the command line", violations)


def _rotate_root(
    mesh: Mesh,
    source: Source,
    yes: bool,
    parallel: int,
    output: console.Output,
    *,
    retire_now: bool,
    abort: bool,
) -> None:
    if not yes:
        under_way = mesh.state.read(ROTATION_FILE, RootState)
        at = f" (under way: {under_way.phase})" if under_way else ""
        console.confirm(f"{'Abandon' if abort else 'Go on with'} the rotation of the root{at}?")
    with mesh.state.lock():
        failures, outcome = asyncio.run(
            _root(mesh, source, parallel, retire_now=retire_now, abort=abort)
        )
    if outcome is None:
        for name, error in failures.items():
            console.warn(
                f"{name} was not told that the new root is abandoned: {error}",
                hint=f"meshctl deploy --limit {name}, once it is back",
            )
        root_view.show_aborted(output)
        return
    root_view.show_outcome(outcome, output)


async def _root(
    mesh: Mesh, source: Source, parallel: int, *, retire_now: bool, abort: bool
) -> tuple[dict[HostName, MeshError], Outcome | None]:
    connections = mesh.connections()
    try:
        rotation = RootRotation(
            inventory=mesh.inventory,
            state=mesh.state,
            connector=connections,
            passphrase=source,
            owner=owner_of(mesh.state),
            parallel=parallel,
            now=lambda: datetime.now(UTC),
            say=lambda line: console.err.print(line, markup=False),
        )
        if abort:
            return await rotation.abort(), None
        return {}, await rotation.run(retire_now=retire_now)
    finally:
        await connections.close()


def _renew_intermediates(mesh: Mesh, source: Source) -> dict[str, object]:
    """What was made, for the report. Raises MeshError before a leaf is touched."""
    ca = CaStore.open(mesh.state).renew_issuing(source, datetime.now(UTC))
    ends = when.text(ca.issuing.not_valid_after_utc)
    console.err.print(f"the issuing CA is new and lives until {ends}", markup=False)
    done = asyncio.run(_certify(mesh, ca, source))
    return {
        "issuing": {"serial": f"{ca.issuing.serial_number:x}", "not_after": ends},
        "signers": [
            {"host": entry.host, "serial": entry.serial, "not_after": when.text(entry.not_after)}
            for entry in done
        ],
    }


async def _certify(mesh: Mesh, ca: CaStore, source: Source) -> tuple[CertifiedSigner, ...]:
    connections = mesh.connections()
    try:
        return await certify_signers(
            mesh.inventory,
            mesh.state,
            ca,
            connections,
            passphrase=source,
            owner=owner_of(mesh.state),
            now=datetime.now(UTC),
            say=lambda line: console.err.print(line, markup=False),
        )
    finally:
        await connections.close()


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
        rotation = Rotation(
            inventory=mesh.inventory,
            wanted=by_host,
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


def _print_rotated(
    done: Sequence[Rotated], output: console.Output, more: dict[str, object]
) -> None:
    good = [entry for entry in done if not entry.error]
    bad = [entry for entry in done if entry.error]
    if output is console.Output.JSON:
        console.emit_json(
            {
                **more,
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
