"""``meshctl report``: a span of time of the whole mesh, as a page to keep or to send."""

import asyncio
import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from meshctl import durable, durations
from meshctl.apply.survey import Survey, survey
from meshctl.cli import console
from meshctl.cli.options import InventoryFile, Mesh, Parallel, StateOption, open_mesh
from meshctl.errors import Exit, InvalidInput, MeshError
from meshctl.pki.store import CaStore
from meshctl.plan.desired import carries_proxy
from meshctl.telemetry.collect import collect_once
from meshctl.telemetry.rates import view
from meshctl.telemetry.report import page
from meshctl.telemetry.report.building import build
from meshctl.telemetry.report.condition import endings
from meshctl.telemetry.report.model import Ending
from meshctl.telemetry.view import View
from proxy.model.violation import Violation

MIN_S, MAX_S = 1.0, 24 * 3600.0


class Format(StrEnum):
    HTML = "html"
    MARKDOWN = "markdown"


def report(
    for_: Annotated[
        str, typer.Option("--for", help="The span of time that is measured: 60s, 10m, 1h.")
    ] = "60s",
    page_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="By default that of the file's name; markdown on standard output.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Where to; by default standard output.", show_default=False
        ),
    ] = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 50,
) -> None:
    """Summarise a span of time: traffic, slow and failing calls, retries, denials, certificates.

    Measured by two looks at every proxy, one at its beginning and one at its end; no metrics stack
    is needed. The HTML is one file without scripts, for screen and paper. Exit code 1 if a proxy
    could not be measured.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        span_s = _seconds(for_)
        looked, seen = asyncio.run(_measure(mesh, span_s, parallel))
        now = datetime.now(UTC)
        status = seen.status(mesh.inventory, mesh.state.trust_domain, now)
        made = build(looked, status, endings(status, _authorities(mesh)), now=now)
        is_html = _chosen(page_format, file) is Format.HTML
        text = page.html(made) if is_html else page.markdown(made)
        if file is None:
            console.out.file.write(text)
        else:
            durable.write(file, text.encode(), mode=0o644 & ~_umask())
            console.err.print(f"written to {file}", markup=False)
        silent = [row for row in looked.hosts if row.fault]
        for row in silent:
            console.warn(f"{row.host} is not measured: {row.fault}", hint="meshctl status")
        raise SystemExit(int(Exit.FAILED if silent else Exit.OK))


async def _measure(mesh: Mesh, span_s: float, parallel: int) -> tuple[View, Survey]:
    connections = mesh.connections()
    hosts = tuple(host for host in mesh.inventory.hosts if carries_proxy(host))
    protocols = {str(each.name): str(each.protocol) for host in hosts for each in host.services}
    try:
        with console.err.status(f"measuring for {durations.show(span_s)}"):
            before = await collect_once(hosts, connections, parallel=parallel)
            due = asyncio.get_running_loop().time() + span_s
            seen = await survey(
                mesh.inventory,
                mesh.state.trust_domain,
                connections,
                trust=mesh.policy_trust,
                parallel=parallel,
            )
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            after = await collect_once(hosts, connections, parallel=parallel)
    finally:
        await connections.close()
    faults = {name: str(error) for name, error in after.faults.items()}
    return (
        view(before.stats, after.stats, at=after.at, faults=faults, protocols=protocols),
        seen,
    )


def _authorities(mesh: Mesh) -> tuple[Ending, ...]:
    try:
        ca = CaStore.open(mesh.state)
    except MeshError:
        return ()
    return tuple(
        Ending(
            subject=subject,
            not_after=found.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            renewed=f"by the operator: {how}",
            is_renewed=False,
        )
        for subject, found, how in (
            ("root", ca.root, "meshctl certs rotate root"),
            ("issuing CA", ca.issuing, "meshctl certs rotate intermediates"),
        )
    )


def _chosen(page_format: Format | None, file: Path | None) -> Format:
    if page_format is not None:
        return page_format
    is_html = file is not None and file.suffix.lower() in (".html", ".htm")
    return Format.HTML if is_html else Format.MARKDOWN


def _seconds(text: str) -> float:
    message, hint = f"between {MIN_S:g} s and 24 h", durations.RULE
    try:
        seconds = durations.parse(text)
        if MIN_S <= seconds <= MAX_S:
            return seconds
    except durations.InvalidDuration as error:
        message = str(error)
    raise InvalidInput("the command line", [Violation(path="--for", message=message, hint=hint)])


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found
