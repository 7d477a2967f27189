"""``meshctl config``: the policy in force, what it was before, and the way back."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from meshctl.apply.policy import ACKNOWLEDGE_S
from meshctl.cli import console
from meshctl.cli.apply import Consent, WaitOption, put_in_force, through_consul
from meshctl.cli.console import Output
from meshctl.cli.options import (
    AssumeYes,
    InventoryFile,
    Mesh,
    OutputFormat,
    PassphraseFile,
    StateOption,
    open_mesh,
)
from meshctl.cli.policy_file import MeshFile, read_policy
from meshctl.cli.policy_view import document, show_difference
from meshctl.consul.history import Entry
from meshctl.errors import Exit, MeshError
from meshctl.pki.passphrase import source
from meshctl.policy.diff import difference
from proxy.model.codec import encode
from proxy.model.policy import Snapshot

app = typer.Typer(help="The policy in force, its history, and the way back.", no_args_is_help=True)


@app.command("show")
def show(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Show the published policy, setting by setting."""
    with console.errors():
        mesh = open_mesh(inventory, state)
        snapshot = _published(mesh)
        if output is Output.JSON:
            console.emit_json(json.loads(encode(snapshot)))
            return
        console.out.print(f"generation {snapshot.generation} of {snapshot.trust_domain}")
        changed = difference(None, snapshot.policy, mesh.inventory)
        if changed.is_empty:
            console.out.print("every setting is at its built-in default")
        else:
            rows = console.table("SETTING", "VALUE", "BUILT-IN DEFAULT")
            for change in changed.changes:
                rows.add_row(change.path, change.after or "-", change.before or "-")
            console.out.print(rows)


@app.command("diff")
def diff(
    mesh_file: MeshFile = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Show how mesh.yaml differs from the published policy. Exit code 1 if it does."""
    with console.errors():
        mesh = open_mesh(inventory, state)
        changed = difference(
            _published(mesh).policy, read_policy(mesh.inventory, mesh_file), mesh.inventory
        )
        if output is Output.JSON:
            console.emit_json(document(changed))
        elif changed.is_empty:
            console.out.print("mesh.yaml is what is published")
        else:
            show_difference(changed)
        raise SystemExit(int(Exit.OK if changed.is_empty else Exit.FAILED))


@app.command("history")
def list_history(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """List the policies that were published, the newest first, and what each changed."""
    with console.errors():
        mesh = open_mesh(inventory, state)
        entries = _history(mesh)
        older = {entry.generation: before for entry, before in itertools.pairwise(entries)}
        if output is Output.JSON:
            console.emit_json([json.loads(encode(entry)) for entry in entries])
            return
        rows = console.table("GENERATION", "PUBLISHED", "BY", "CHANGES", "")
        for entry in entries:
            before = older.get(entry.generation)
            changed = difference(before.policy if before else None, entry.policy, mesh.inventory)
            rows.add_row(
                str(entry.generation),
                entry.published_at or "-",
                entry.by or "-",
                ", ".join(change.path for change in changed.changes) or "-",
                entry.why,
            )
        console.out.print(rows)


@app.command("rollback")
def rollback(
    generation: Annotated[
        int | None,
        typer.Argument(help="Which one; by default the one before the last.", show_default=False),
    ] = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    yes: AssumeYes = False,
    wait_s: WaitOption = ACKNOWLEDGE_S,
    passphrase_file: PassphraseFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Put an earlier policy in force again, as a new generation. mesh.yaml stays as it is.

    Only one that this mesh has signed: what else lies in Consul is named, and not gone back to.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        wanted = _chosen(_history(mesh), generation)
        code = asyncio.run(
            put_in_force(
                mesh, wanted.policy, Consent(is_given=yes), source(passphrase_file), output, wait_s,
                why=f"rollback to {wanted.generation}",
            )
        )  # fmt: skip
        console.err.print("mesh.yaml is unchanged: `meshctl config diff` shows what it would bring")
        raise SystemExit(int(code))


def _chosen(entries: Sequence[Entry], generation: int | None) -> Entry:
    known = ", ".join(str(entry.generation) for entry in entries) or "none"
    if generation is None:
        if len(entries) < 2:
            raise MeshError("there is no earlier policy to go back to", hint=f"known: {known}")
        return entries[1]
    for entry in entries:
        if entry.generation == generation:
            return entry
    raise MeshError(f"generation {generation} is not in the history", hint=f"known: {known}")


def _published(mesh: Mesh) -> Snapshot:
    trust = mesh.policy_trust
    snapshot, _ = asyncio.run(through_consul(mesh, lambda edge: edge.fetch_snapshot(trust)))
    if snapshot is None:
        raise MeshError("no policy is published yet", hint="meshctl apply, or meshctl deploy")
    return snapshot


def _history(mesh: Mesh) -> tuple[Entry, ...]:
    """What this mesh has signed; the rest is named."""
    trust = mesh.policy_trust
    found = asyncio.run(through_consul(mesh, lambda edge: edge.history(trust)))
    for what in found.unverified:
        console.warn(
            f"an entry of the history is left out: {what}",
            hint="only what this mesh signed is shown; earlier releases did not sign",
        )
    return found.entries
