"""The root command: what holds for all commands, and their registration."""

from typing import Annotated

import typer

from meshctl import __version__
from meshctl.cli import (
    apply,
    bundle,
    certs,
    check,
    config,
    console,
    dashboard,
    deploy,
    edges,
    endpoints,
    explain,
    graph,
    hosts,
    init,
    intentions,
    logs,
    observe,
    report,
    schema,
    status,
    support_bundle,
    tap,
    top,
    uninstall,
)

app = typer.Typer(
    name="meshctl",
    help="A service mesh for VMs and bare metal: mTLS, discovery and resilience over SSH.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"meshctl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    no_colour: Annotated[
        bool, typer.Option("--no-color", help="Plain text; also: the variable NO_COLOR.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if no_colour:
        console.disable_colour()


app.command(rich_help_panel="Set up")(init.init)
app.command(rich_help_panel="Set up")(deploy.deploy)
app.command(rich_help_panel="Set up")(uninstall.uninstall)
app.command(rich_help_panel="Set up")(schema.schema)
app.add_typer(bundle.app, name="bundle", rich_help_panel="Set up")
app.add_typer(hosts.app, name="hosts", rich_help_panel="Set up")
app.command(rich_help_panel="Look after")(apply.apply)
app.add_typer(config.app, name="config", rich_help_panel="Look after")
app.command(rich_help_panel="Look after")(status.status)
app.command(rich_help_panel="Look after")(check.check)
app.command("explain", rich_help_panel="Look after")(explain.explain_command)
app.add_typer(intentions.app, name="intentions", rich_help_panel="Look after")
app.add_typer(certs.app, name="certs", rich_help_panel="Look after")
app.command(rich_help_panel="Observe")(top.top)
app.command(rich_help_panel="Observe")(edges.edges)
app.command(rich_help_panel="Observe")(endpoints.endpoints)
app.command(rich_help_panel="Observe")(graph.graph)
app.command(rich_help_panel="Observe")(tap.tap)
app.command(rich_help_panel="Observe")(logs.logs)
app.command(rich_help_panel="Observe")(dashboard.dashboard)
app.command(rich_help_panel="Observe")(report.report)
app.command("support-bundle", rich_help_panel="Observe")(support_bundle.support_bundle)
app.add_typer(observe.app, name="observe", rich_help_panel="Observe")


def main() -> None:
    app()
