"""The options that several commands share, so that they are spelled and explained once."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from meshctl.apply.consul_access import with_operator_token
from meshctl.cli.console import Output
from meshctl.errors import InvalidInput
from meshctl.inventory.model import Host, Inventory, Service
from meshctl.inventory.parse import parse
from meshctl.pki import policykey, store
from meshctl.state import StateDir
from meshctl.transport.connect import Connections
from proxy.model.policy_keys import PolicyTrust
from proxy.model.violation import Violation

InventoryFile = Annotated[
    Path,
    typer.Option("--inventory", "-i", help="The inventory file.", envvar="MESHCTL_INVENTORY"),
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="The state directory; by default .meshctl beside the inventory.",
        envvar="MESHCTL_STATE",
        show_default=False,
    ),
]
OutputFormat = Annotated[
    Output, typer.Option("--output", "-o", help="For people (table) or for programs (json).")
]
HostLimit = Annotated[
    list[str] | None,
    typer.Option("--host", help="Only this host; may be repeated.", show_default=False),
]
ServiceLimit = Annotated[
    list[str] | None,
    typer.Option("--service", help="Only this service; may be repeated.", show_default=False),
]
Limit = Annotated[
    list[str] | None,
    typer.Option("--limit", help="Only this host; may be repeated.", show_default=False),
]
AssumeYes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


Parallel = Annotated[
    int, typer.Option("--parallel", min=1, max=200, help="How many hosts at the same time.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="First line: the passphrase of the CA's keys. Also: the variable MESHCTL_PASSPHRASE.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Mesh:
    """What a command works on: a valid inventory and the state that belongs to it."""

    inventory: Inventory
    state: StateDir

    @property
    def policy_trust(self) -> PolicyTrust:
        """By which what is published is verified."""
        return policykey.trust(self.state.path / store.FOLDER)

    def connections(self) -> Connections:
        """Closed by whoever asked for it."""
        return Connections(self.inventory.hosts, known_hosts=self.state.known_hosts)


def open_mesh(inventory_file: Path, state: Path | None) -> Mesh:
    """Raises InvalidInput with all violations; StateCorrupt or Refused when there is no mesh."""
    source = inventory_file.absolute()
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            str(inventory_file),
            [Violation(path="", message=f"cannot be read: {reason_of(error)}")],
            hint="name the inventory with -i FILE, or make a mesh here: meshctl init",
        ) from error
    opened = StateDir.open(state or source.parent / ".meshctl")
    return Mesh(with_operator_token(parse(text, source), opened), opened)


def reason_of(error: Exception) -> str:
    """What the system says, without Python's ``[Errno 2]`` and the repeated path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def selected_hosts(
    inventory: Inventory, names: Sequence[str] | None, *, option: str
) -> tuple[Host, ...]:
    """The hosts named, in the order of the inventory; all, if none is. An unknown name is a
    violation."""
    _require_known(option, names, (host.name for host in inventory.hosts))
    return tuple(host for host in inventory.hosts if not names or host.name in names)


def selected_workloads(
    inventory: Inventory, hosts: Sequence[str] | None, services: Sequence[str] | None
) -> tuple[tuple[Host, Service], ...]:
    """What ``--host`` and ``--service`` leave of the workloads."""
    _require_known(
        "--service",
        services,
        (service.name for host in inventory.hosts for service in host.services),
    )
    return tuple(
        (host, service)
        for host in selected_hosts(inventory, hosts, option="--host")
        for service in host.services
        if not services or service.name in services
    )


def _require_known(option: str, names: Sequence[str] | None, known: Iterable[str]) -> None:
    candidates = sorted(set(known))
    violations = []
    for name in names or ():
        if name not in candidates:
            close = difflib.get_close_matches(name, candidates, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(candidates)}"
            violations.append(
                Violation(path=option, message=f"{name!r} is not in the inventory", hint=hint)
            )
    if violations:
        raise InvalidInput("the command line", violations)
