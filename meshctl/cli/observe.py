"""``meshctl observe``: files for an operator's own Prometheus and Grafana."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from meshctl import durable, durations
from meshctl.apply.consul_tokens import FOLDER, OBSERVER_FILE
from meshctl.cli import console
from meshctl.cli.options import InventoryFile, OutputFormat, StateOption, open_mesh
from meshctl.errors import InvalidInput, MeshError, Refused
from meshctl.inventory.model import ConsulMode, Inventory
from meshctl.inventory.shape import Invalid
from meshctl.inventory.words import consul_address
from meshctl.observe import grafana, prometheus
from meshctl.observe.alerting import Objectives
from meshctl.observe.alerts import alert_groups
from meshctl.observe.prometheus import ALERTING_FILE, HEADER, RECORDING_FILE, TOKEN_FILE, Discovery
from meshctl.observe.recording import groups
from meshctl.observe.yamltext import alerting_rules, recording_rules
from proxy.model.violation import Violation

_MARK = b"`meshctl observe "
"""In each file that this makes; one without it is somebody else's."""

app = typer.Typer(
    help="Files for your own Prometheus and Grafana; neither is needed.", no_args_is_help=True
)


@app.command("prometheus")
def write_prometheus(
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the files go; made if it is not there.")
    ] = Path("prometheus"),
    scrape_only: Annotated[
        bool,
        typer.Option(
            "--scrape-only",
            help="Print the scrape job alone, for a prometheus.yml that you have.",
        ),
    ] = False,
    static: Annotated[
        bool,
        typer.Option(
            "--static",
            help="Name the inventory's hosts, for a Prometheus that cannot ask Consul.",
        ),
    ] = False,
    consul: Annotated[
        str | None,
        typer.Option(
            "--consul",
            metavar="HOST:PORT",
            help="The Consul agent that Prometheus asks; by default the inventory's.",
            show_default=False,
        ),
    ] = None,
    success: Annotated[
        float,
        typer.Option(
            "--success", min=50, max=99.9999, help="Objective: percent that do not fail, a month."
        ),
    ] = 99.9,
    latency: Annotated[
        str, typer.Option("--latency", help="Objective: what 99 of 100 requests take at most.")
    ] = "1s",
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Write prometheus.yml, which finds the proxies through Consul, and recording and alerting
    rules."""
    with console.errors():
        objectives, server = _objectives(success, latency), _server(consul)
        mesh = open_mesh(inventory, state)
        discovery = Discovery(
            server=server or mesh.inventory.consul.address.removeprefix("http://"),
            datacenter=mesh.inventory.consul.datacenter,
            trust_domain=mesh.state.trust_domain,
            token_file=TOKEN_FILE if _has_tokens(mesh.inventory) else None,
        )
        job = prometheus.static_job(mesh.inventory) if static else prometheus.consul_job(discovery)
        _warn_of_silence(mesh.inventory)
        if scrape_only:
            console.out.file.write(job)
            return
        _write(
            directory,
            {
                "prometheus.yml": prometheus.configuration(job),
                RECORDING_FILE: f"{HEADER}\n{recording_rules(groups())}",
                ALERTING_FILE: f"{HEADER}\n{alerting_rules(alert_groups(objectives))}",
            },
            output,
        )
        if not static and discovery.token_file is not None:
            console.warn(
                f"Consul asks for a token, which is not there yet: {directory / TOKEN_FILE}",
                hint=_token_hint(mesh.inventory, mesh.state.path, directory),
            )


@app.command("grafana")
def write_grafana(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the files go; made if it is not there.")
    ] = Path("grafana"),
    output: OutputFormat = console.Output.TABLE,
) -> None:
    """Write dashboards as JSON, to be imported into Grafana: the mesh, a service, the proxies."""
    with console.errors():
        _write(directory, grafana.files(), output)


def _objectives(success: float, latency: str) -> Objectives:
    try:
        p99_s = durations.parse(latency)
    except durations.InvalidDuration as error:
        raise _wrong("--latency", str(error), f"use {durations.RULE}") from error
    if not p99_s:
        raise _wrong("--latency", "nothing is answered in no time", "use 250ms, 1s or the like")
    return Objectives(success=round(success / 100, 8), p99_s=p99_s)


def _server(consul: str | None) -> str | None:
    try:
        return consul and consul_address(f"http://{consul}").removeprefix("http://")
    except Invalid as error:
        hint = "use HOST:PORT, such as 127.0.0.1:8500"
        raise _wrong("--consul", f"{consul!r} is not the place of an agent", hint) from error


def _wrong(option: str, message: str, hint: str) -> InvalidInput:
    return InvalidInput("the command line", [Violation(path=option, message=message, hint=hint)])


def _has_tokens(inventory: Inventory) -> bool:
    return inventory.consul.token_file is not None


def _token_hint(inventory: Inventory, state: Path, directory: Path) -> str:
    place = directory / TOKEN_FILE
    if inventory.consul.mode is ConsulMode.MANAGED:
        made = state / FOLDER / OBSERVER_FILE
        return f"after a deploy: install -m 600 -o prometheus {made} {place}"
    return f"put a token that may read services and nodes into {place}; docs/observability.md"


def _warn_of_silence(inventory: Inventory) -> None:
    if not prometheus.scraped(inventory):
        console.warn(
            "no proxy lets itself be scraped yet",
            hint="add 'metrics: {from: [ADDRESS OF PROMETHEUS]}' to the inventory, then run"
            " meshctl deploy",
        )


def _write(directory: Path, files: Mapping[str, str], output: console.Output) -> None:
    """All of them or none: raises Refused before it would replace what somebody else wrote."""
    paths = {directory / name: text for name, text in files.items()}
    for path in paths:
        _refuse_anothers(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MeshError(
            f"{directory} cannot be made: {error.strerror}", hint="name another with --dir"
        ) from error
    for path, text in paths.items():
        durable.write(path, text.encode(), mode=0o644)
    if output is console.Output.JSON:
        console.emit_json({"files": [str(path) for path in paths]})
        return
    for path in paths:
        console.out.print(str(path), markup=False)


def _refuse_anothers(path: Path) -> None:
    try:
        data = durable.read(path)
    except FileNotFoundError:
        return
    if _MARK not in data:
        raise Refused(
            f"{path} is there already, and not from meshctl",
            hint="name another folder with --dir, or take the scrape job alone: --scrape-only",
        )
