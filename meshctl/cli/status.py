"""``meshctl status``: the whole mesh at a glance, and what is wrong with it."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from meshctl.apply.survey import Survey, survey
from meshctl.cli import console, when
from meshctl.cli.options import (
    InventoryFile,
    Mesh,
    OutputFormat,
    Parallel,
    StateOption,
    open_mesh,
)
from meshctl.errors import Exit
from meshctl.renewing import SignerView
from meshctl.status import Finding, HostStatus, MeshStatus, Severity, UpstreamView, WorkloadView

_COLOURS = {
    "ready": "green",
    "passing": "green",
    "leader known": "green",
    "embedded": "green",
    "starting": "yellow",
    "draining": "yellow",
    "warning": "yellow",
    "unknown": "yellow",
}
"""Any other word is red; the word itself says it all without colour."""


def status(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again and again until Ctrl-C.")
    ] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.5, max=3600, help="Seconds between two looks.")
    ] = 2.0,
    parallel: Parallel = 50,
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Show hosts, proxies, workloads, certificates and drift; exit code 1 if anything is wrong."""
    with console.errors():
        mesh = open_mesh(inventory, state)
        if watch:
            asyncio.run(_watch(mesh, interval_s, parallel, output))
            return
        looked = asyncio.run(look(mesh, parallel))
        seen = looked.status(mesh.inventory, mesh.state.trust_domain, datetime.now(UTC))
        show(seen, output)
        raise SystemExit(int(Exit.OK if seen.is_well else Exit.FAILED))


def show(seen: MeshStatus, output: console.Output) -> None:
    if output is console.Output.JSON:
        console.emit_json(document(seen))
    else:
        console.out.print(_render(seen, datetime.now(UTC)))


def document(seen: MeshStatus) -> dict[str, Any]:
    """The whole of it for programs; dataclasses are encoded field by field."""
    return {
        "trust_domain": seen.trust_domain,
        "is_well": seen.is_well,
        "generation": seen.generation,
        "hosts": seen.hosts,
        "signers": seen.signers,
        "workloads": seen.workloads,
        "findings": seen.findings,
    }


async def look(mesh: Mesh, parallel: int) -> Survey:
    """One look at everything, over connections that are closed afterwards."""
    connections = mesh.connections()
    try:
        with console.err.status(f"asking {len(mesh.inventory.hosts)} host(s)"):
            return await survey(
                mesh.inventory,
                mesh.state.trust_domain,
                connections,
                trust=mesh.policy_trust,
                parallel=parallel,
            )
    finally:
        await connections.close()


async def _watch(mesh: Mesh, interval_s: float, parallel: int, output: console.Output) -> None:
    """Over the same SSH connections; one that breaks is opened anew at the next look."""
    connections = mesh.connections()
    domain = mesh.state.trust_domain
    try:
        with Live(console=console.out, auto_refresh=False, screen=console.out.is_terminal) as live:
            while True:
                began = time.monotonic()
                seen = await survey(
                    mesh.inventory, domain, connections, trust=mesh.policy_trust, parallel=parallel
                )
                now = datetime.now(UTC)
                built = seen.status(mesh.inventory, domain, now)
                if output is console.Output.JSON:
                    console.emit_json(document(built))
                else:
                    heading = Text(f"{when.text(now)}, every {interval_s:g} s, Ctrl-C ends it\n")
                    live.update(Group(heading, _render(built, now)), refresh=True)
                await asyncio.sleep(max(0.0, interval_s - (time.monotonic() - began)))
    finally:
        await connections.close()


def _render(seen: MeshStatus, now: datetime) -> RenderableType:
    generation = "none published" if seen.generation is None else f"generation {seen.generation}"
    return Group(
        f"[bold]Mesh {seen.trust_domain}[/], policy: {generation}\n",
        _hosts(seen.hosts),
        "",
        *((_signers(seen.signers, now), "") if seen.signers else ()),
        _workloads(seen.workloads, now),
        "",
        *_findings(seen.findings),
    )


def _hosts(hosts: Sequence[HostStatus]) -> RenderableType:
    rows = console.table("HOST", "ADDRESS", "PROXY", "CONFIG", "RELEASE", "POLICY", "CONSUL")
    for host in hosts:
        rows.add_row(
            host.host,
            host.address,
            _word(host.state),
            host.config[:8] or "-",
            host.release[:8] or "-",
            "-" if host.generation is None else str(host.generation),
            _word(host.consul) if host.consul else "-",
        )
    return rows


def _signers(signers: Sequence[SignerView], now: datetime) -> RenderableType:
    rows = console.table("SIGNER", "ADDRESS", "STATE", "CERT ENDS", "SIGNED", "REFUSED")
    for signer in signers:
        rows.add_row(
            signer.host,
            signer.address,
            _word(signer.state),
            _remaining(signer.not_after, now),
            "-" if signer.signed is None else str(signer.signed),
            "-" if signer.refused is None else str(signer.refused),
        )
    return rows


def _remaining(moment: str, now: datetime) -> str:
    return when.remaining(datetime.fromisoformat(moment), now) if moment else "-"


def _renewal(own: WorkloadView, now: datetime) -> str:
    """When the next one is; ``failing`` and ``by hand`` say the rest."""
    if own.renewal_error:
        return _word("failing")
    if own.renews_at:
        return _remaining(own.renews_at, now)
    return "soon" if own.is_renewed else "by hand"


def _workloads(workloads: Sequence[WorkloadView], now: datetime) -> RenderableType:
    rows = console.table(
        "SERVICE",
        "HOST",
        "VERSION",
        "KIND",
        "APP",
        "REGISTRY",
        "CERT ENDS",
        "RENEWAL",
        "CALLS",
    )
    for own in sorted(workloads, key=lambda own: (own.service, own.host)):
        rows.add_row(
            own.service,
            own.host,
            own.version,
            own.protocol,
            _word(own.health),
            _word(own.registered) if own.registered else "-",
            _remaining(own.not_after, now),
            _renewal(own, now) if own.not_after else "-",
            ", ".join(map(_call, own.upstreams)) or "-",
        )
    return rows


def _call(upstream: UpstreamView) -> str:
    """``api:9001 (2)``: the port that leads there, be it its own or the outbound one, and how many
    endpoints it has."""
    _, colon, port = upstream.listen.rpartition(":")
    return f"{upstream.service}{colon}{port} ({upstream.endpoints})"


def _findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["[green]Everything is well.[/]"]
    lines = []
    for finding in findings:
        colour = "red" if finding.severity is Severity.PROBLEM else "yellow"
        lines.append(
            f"[bold {colour}]{finding.severity}[/] {escape(finding.subject)}:"
            f" {escape(finding.message)}\n        [dim]{escape(finding.fix)}[/]"
        )
    return lines


def _word(word: str) -> str:
    return word if word == "-" else f"[{_COLOURS.get(word, 'red')}]{escape(word)}[/]"
