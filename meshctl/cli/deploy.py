"""``meshctl deploy``: ask the hosts, show the plan, apply that very plan, report."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from meshctl.apply import registry
from meshctl.apply.consul_access import open_consul
from meshctl.apply.consul_acl import ConsulAcl
from meshctl.apply.consul_tokens import ConsulTokens
from meshctl.apply.means import Means
from meshctl.apply.preparation import Mesh, prepare
from meshctl.apply.report import Outcome, Report
from meshctl.apply.run import run
from meshctl.cli import console
from meshctl.cli.console import Output
from meshctl.cli.options import (
    AssumeYes,
    InventoryFile,
    Limit,
    OutputFormat,
    Parallel,
    PassphraseFile,
    StateOption,
    open_mesh,
    selected_hosts,
)
from meshctl.cli.plan_view import show_plan, show_report
from meshctl.cli.policy_file import MeshFile, read_policy
from meshctl.cli.progress import observer
from meshctl.durations import show
from meshctl.errors import Exit, InvalidInput
from meshctl.inventory.files import missing_files
from meshctl.inventory.model import ConsulMode, Inventory, SignerMode
from meshctl.pki.authority import Issuer
from meshctl.pki.consul import ConsulCa
from meshctl.pki.passphrase import Source, once, source
from meshctl.pki.signers import SignerCertificates
from meshctl.pki.signing import Signing, make_missing_key, unlocked
from meshctl.pki.store import CaStore, Signer
from meshctl.plan.document import to_document
from meshctl.plan.model import Action, Plan, Verdict
from meshctl.plan.record import left_behind
from meshctl.transport.connect import Connections
from proxy.model.names import HostName
from proxy.model.policy import Policy


def deploy(
    inventory: InventoryFile = Path("inventory.yaml"),
    mesh: MeshFile = None,
    state: StateOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and change nothing.")
    ] = False,
    yes: AssumeYes = False,
    limit: Limit = None,
    parallel: Parallel = 10,
    passphrase_file: PassphraseFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Bring the hosts to what the inventory says: show the plan, ask, apply it.

    A second run without a change does nothing. A host that fails stops no other.
    """
    with console.errors():
        opened = open_mesh(inventory, state)
        subject = Mesh(
            inventory=opened.inventory,
            state=opened.state,
            ca=CaStore.open(opened.state),
            policy=read_policy(opened.inventory, mesh),
        )
        require_files(opened.inventory)
        if note := no_signer(opened.inventory):
            console.err.print(f"[dim]{note}[/]")
        hosts = selected_hosts(opened.inventory, limit, option="--limit")
        chosen = tuple(host.name for host in hosts) if limit else ()
        for name in left_behind(opened.inventory, opened.state.read_record()):
            console.warn(
                f"{name} has left the inventory, but its proxy still runs, with the identities"
                " that it has until they end",
                hint=f"put it back, run `meshctl uninstall --limit {name}`, then take it out",
            )
        if dry_run:
            code = asyncio.run(_plan_only(subject, chosen, parallel, output))
        else:
            console.require_consent_possible(yes)
            passphrase = once(source(passphrase_file))
            with opened.state.lock():
                if make_missing_key(subject.ca, passphrase):
                    console.err.print("this mesh has a key now that its policy is signed with")
                code = asyncio.run(_deploy(subject, chosen, parallel, output, yes, passphrase))
        raise SystemExit(int(code))


def no_signer(inventory: Inventory) -> str:
    """What it means that nobody renews identities by itself; empty: signers do."""
    if inventory.signer_hosts:
        return ""
    why = (
        "certificates.signer is none"
        if inventory.certificates.signer is SignerMode.NONE
        else "no host reached over ssh has the role control"
    )
    return (
        f"no signer ({why}): identities live {show(inventory.leaf_life_s)}, and"
        " `meshctl certs rotate` renews them"
    )


def require_files(inventory: Inventory) -> None:
    """Raises InvalidInput for every file that the inventory names and that cannot be read."""
    missing = missing_files(inventory)
    if missing:
        raise InvalidInput(str(inventory.source), missing)


async def _plan_only(
    mesh: Mesh, limit: tuple[HostName, ...], parallel: int, output: Output
) -> Exit:
    connector = Connections(mesh.inventory.hosts, known_hosts=mesh.state.known_hosts)
    try:
        plan = await _prepared(mesh, connector, limit, parallel)
    finally:
        await connector.close()
    if output is Output.JSON:
        console.emit_json({"plan": to_document(plan)})
    else:
        show_plan(plan)
    return plan_exit(plan)


def plan_exit(plan: Plan) -> Exit:
    """Non-zero when a host that was asked for is left out."""
    if not plan.has_obstacles:
        return Exit.OK
    if not plan.count(Verdict.BLOCKED):
        codes = {host.exit_code for host in plan.hosts if host.exit_code}
        return Exit(codes.pop()) if len(codes) == 1 else Exit.UNREACHABLE
    return Exit.FAILED


async def _prepared(
    mesh: Mesh, connector: Connections, limit: tuple[HostName, ...], parallel: int
) -> Plan:
    count = len(limit) or len(mesh.inventory.hosts)
    with console.err.status(f"asking {count} host(s)"):
        return await prepare(mesh, connector, limit=limit, parallel=parallel)


async def _deploy(
    mesh: Mesh,
    limit: tuple[HostName, ...],
    parallel: int,
    output: Output,
    yes: bool,
    passphrase: Source,
) -> Exit:
    connector = Connections(mesh.inventory.hosts, known_hosts=mesh.state.known_hosts)
    try:
        plan = await _prepared(mesh, connector, limit, parallel)
        if output is Output.TABLE:
            show_plan(plan)
        if plan.is_empty:
            if output is Output.JSON:
                console.emit_json({"plan": to_document(plan), "report": None})
            return plan_exit(plan)
        # On a thread: the transports' keep-alives go on while somebody reads the plan.
        if not yes and not await asyncio.to_thread(
            typer.confirm, "Apply this plan?", default=False, err=True
        ):
            console.err.print("nothing was changed")
            return Exit.OK
        report = await _apply(mesh, plan, connector, parallel, passphrase)
    finally:
        await connector.close()
    if output is Output.JSON:
        console.emit_json({"plan": to_document(plan), "report": report.to_document()})
    else:
        show_report(report)
    return report_exit(report)


def report_exit(report: Report) -> Exit:
    if report.is_interrupted:
        return Exit.INTERRUPTED
    if report.is_good:
        return Exit.OK
    bad = {host.outcome for host in report.hosts if not host.outcome.is_good}
    is_only_unreachable = bad == {Outcome.UNREACHABLE} and not any(s.error for s in report.mesh)
    return Exit.UNREACHABLE if is_only_unreachable else Exit.FAILED


async def _apply(
    mesh: Mesh, plan: Plan, connector: Connections, parallel: int, passphrase: Source
) -> Report:
    signer = await _unlocked(mesh, plan, passphrase)
    root = await _unlocked_root(mesh, plan, passphrase)
    signing = await _signing(mesh, plan, passphrase)
    record = plan.record
    if record != mesh.state.read_record():
        mesh.state.write_record(record)

    async def publish(policy: Policy, through: HostName) -> int:
        assert signing is not None, "a plan that publishes is carried out with an unlocked key"
        async with open_consul(mesh.inventory, connector, through) as edge:
            return (await edge.publish(policy, signing)).generation

    consul = mesh.inventory.consul
    kept = SignerCertificates(mesh.ca.folder)
    with observer(plan) as watching:
        means = Means(
            inventory=mesh.inventory,
            trust_domain=mesh.state.trust_domain,
            connector=connector,
            signer=signer,
            record=record,
            root=root,
            trust_bundle=mesh.ca.trust_bundle_pem,
            signer_certificates=kept,
            certified=frozenset(kept.read()),
            owner=mesh.owner,
            start_registry=lambda: registry.start(mesh.state, consul.address, consul.datacenter),
            consul_acl=(
                ConsulAcl(mesh.inventory, connector, ConsulTokens.of(mesh.state))
                if consul.mode is ConsulMode.MANAGED
                else None
            ),
            consul_ca=(ConsulCa.of(mesh.state) if consul.mode is ConsulMode.MANAGED else None),
            publish=publish,
            now=lambda: datetime.now(UTC),
            observer=watching,
            parallel=parallel,
        )
        with interruptible(means.stop):
            return await run(plan, means)


async def _signing(mesh: Mesh, plan: Plan, passphrase: Source) -> Signing | None:
    """Only if policy is to be published."""
    if not any(step.action is Action.PUBLISH for step in plan.after):
        return None
    return await asyncio.to_thread(unlocked, mesh.state, passphrase)


async def _unlocked(mesh: Mesh, plan: Plan, passphrase: Source) -> Signer | None:
    """Only if something is to be signed, and before the first host is changed."""
    if not any(step.action is Action.ISSUE_LEAF for host in plan.hosts for step in host.steps):
        return None
    return await asyncio.to_thread(mesh.ca.unlock, passphrase)


async def _unlocked_root(mesh: Mesh, plan: Plan, passphrase: Source) -> Issuer | None:
    """Only if a signer is to be certified: the root stays locked otherwise."""
    if not any(step.action is Action.CERTIFY_SIGNER for host in plan.hosts for step in host.steps):
        return None
    return await asyncio.to_thread(mesh.ca.unlock_root, passphrase)


@contextmanager
def interruptible(stop: asyncio.Event) -> Iterator[None]:
    """First Ctrl-C: the steps that have begun are finished. Second: at once; hosts finish or
    undo by themselves what they are in the middle of."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None, "called from the task that is to be interrupted"

    def interrupt() -> None:
        if stop.is_set():
            task.cancel()
            return
        stop.set()
        console.err.print("finishing what has begun; press Ctrl-C again to leave it to the hosts")

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if stop.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)
