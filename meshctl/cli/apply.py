"""``meshctl apply``: put ``mesh.yaml`` in force, and wait until every proxy that lives runs it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from meshctl.apply.policy import ACKNOWLEDGE_S, Acknowledged, await_acknowledged, through_any
from meshctl.cli import console
from meshctl.cli.access_view import losses_document, show_losses
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
from meshctl.cli.policy_file import read_policy
from meshctl.cli.policy_view import document, show_difference
from meshctl.consul import ConsulEdge, Publication
from meshctl.errors import Exit, RemoteFailure
from meshctl.pki.passphrase import Source, once, source
from meshctl.pki.signing import Signing, last_published, make_missing_key, unlocked
from meshctl.pki.store import CaStore
from meshctl.policy.access import losses
from meshctl.policy.diff import Difference, difference
from proxy.model.policy import Policy, Snapshot

T = TypeVar("T")

WaitOption = Annotated[
    float,
    typer.Option("--wait", min=0, max=600, help="Seconds that proxies have to run it."),
]


def apply(
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="The traffic policy; by default mesh.yaml beside the inventory.",
            show_default=False,
        ),
    ] = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the difference and change nothing.")
    ] = False,
    cut: Annotated[
        bool,
        typer.Option("--cut", help="End live connections of callers that lose all access."),
    ] = False,
    yes: AssumeYes = False,
    wait_s: WaitOption = ACKNOWLEDGE_S,
    passphrase_file: PassphraseFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Put the traffic policy in force: show what changes and for whom, publish, await all proxies.

    Exit code 1 if a proxy that lives does not run it in time; it is named, with its reason.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        policy = read_policy(mesh.inventory, file)
        ask = Consent(is_dry_run=dry_run, is_given=yes, is_cutting=cut)
        passphrase = source(passphrase_file)
        code = asyncio.run(put_in_force(mesh, policy, ask, passphrase, output, wait_s))
        raise SystemExit(int(code))


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    is_dry_run: bool = False
    is_given: bool = False
    is_cutting: bool = False
    """Live connections of callers that lose all access are ended."""


async def put_in_force(
    mesh: Mesh,
    policy: Policy,
    consent: Consent,
    passphrase: Source,
    output: Output,
    wait_s: float,
    why: str = "",
) -> Exit:
    """Shows, asks, signs, publishes, waits. ``passphrase`` is called only when something is to be
    signed. Raises MeshError when Consul cannot be asked."""

    async def act(edge: ConsulEdge) -> Exit:
        return await _act(edge, mesh, policy, consent, passphrase, output, wait_s, why)

    return await through_consul(mesh, act)


async def through_consul(mesh: Mesh, act: Callable[[ConsulEdge], Awaitable[T]]) -> T:
    """``act`` through the first agent that answers, over connections closed afterwards."""
    connections = mesh.connections()
    try:
        return await through_any(mesh.inventory, connections, act)
    finally:
        await connections.close()


async def _act(
    edge: ConsulEdge,
    mesh: Mesh,
    policy: Policy,
    consent: Consent,
    passphrase: Source,
    output: Output,
    wait_s: float,
    why: str,
) -> Exit:
    current = await _believed(edge, mesh)
    changed = difference(current.policy if current else None, policy, mesh.inventory)
    is_new = current is None or current.policy != policy
    lost = losses(current.policy if current else None, policy, mesh.inventory)
    is_cutting = is_new and consent.is_cutting
    access = losses_document(lost, is_cutting=is_cutting)
    if output is Output.TABLE and is_new:
        show_difference(changed)
        show_losses(lost, is_cutting=is_cutting)
    if consent.is_cutting and not is_new:
        console.warn(
            "nothing is cut: the policy is in force already, so there is nothing to publish",
            hint="on a host of the called service, `systemctl restart meshctl-proxy` ends what an "
            "earlier policy left",
        )
    if not is_new or consent.is_dry_run:
        _report(output, current, changed, access, None, None)
        return Exit.OK
    if not consent.is_given:
        await asyncio.to_thread(console.confirm, "Put it in force?")
    domain = mesh.state.trust_domain
    with mesh.state.lock():
        signing = await asyncio.to_thread(_signing, mesh, once(passphrase))
        published = await edge.publish(policy, signing, why=why, cut_denied=is_cutting)
    with console.err.status(f"waiting for proxies to run generation {published.generation}"):
        said = await await_acknowledged(edge, domain, published.generation, wait_s)
    _report(output, current, changed, access, published, said)
    return Exit.FAILED if said.late else Exit.OK


async def _believed(edge: ConsulEdge, mesh: Mesh) -> Snapshot | None:
    """What is published, if it is signed by this mesh and not older than what it published last.
    Otherwise it counts for nothing: it is said, and published over."""
    try:
        current, _ = await edge.fetch_snapshot(mesh.policy_trust)
    except RemoteFailure as error:
        console.warn(str(error), hint=error.hint)
        return None
    last = last_published(mesh.state)
    if current is not None and current.generation < last:
        console.warn(
            f"Consul has generation {current.generation}, older than {last}, which was published "
            "from here",
            hint="it was given an old one back, or it lost the last: proxies keep the newer one",
        )
        return None
    return current


def _signing(mesh: Mesh, passphrase: Source) -> Signing:
    make_missing_key(CaStore.open(mesh.state), passphrase)
    return unlocked(mesh.state, passphrase)


def _report(
    output: Output,
    current: Snapshot | None,
    changed: Difference,
    access: dict[str, Any],
    published: Publication | None,
    said: Acknowledged | None,
) -> None:
    generation = current.generation if current else None
    if output is Output.JSON:
        made: dict[str, Any] = {"difference": document(changed), "generation": generation} | access
        if published is not None and said is not None:
            made |= {
                "generation": published.generation,
                "acknowledged": said.hosts,
                "late": said.late,
            }
        console.emit_json(made)
        return
    if published is None or said is None:
        console.err.print("nothing was changed" if not changed.is_empty else "no change")
        return
    for host, reason in sorted(said.late.items()):
        console.warn(
            f"{host} does not run generation {published.generation}: {reason}",
            hint="meshctl status",
        )
    console.out.print(f"generation {published.generation} runs on {len(said.hosts)} proxies")
