"""``meshctl intentions``: learn them from what is called, and see who has no identity yet."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from meshctl import durations
from meshctl.apply.asked import Asked, ask
from meshctl.cli import console
from meshctl.cli.console import Output
from meshctl.cli.options import (
    InventoryFile,
    Mesh,
    OutputFormat,
    Parallel,
    ServiceLimit,
    StateOption,
    open_mesh,
    selected_workloads,
)
from meshctl.errors import Exit, InvalidInput, MeshError
from meshctl.inventory.model import Host
from meshctl.policy.learning import fragment
from proxy.model.codec import Malformed, Value, decode
from proxy.model.names import HostName
from proxy.model.observed import Observed, PlaintextCaller, together
from proxy.model.violation import Violation

app = typer.Typer(help="Intentions: learn them from real calls.", no_args_is_help=True)

T = TypeVar("T", Observed, "_Plaintext")
_LEAST_S, _MOST_S = 1.0, 3600.0


@app.command("learn")
def learn_intentions(
    for_: Annotated[
        str, typer.Option("--for", help="How long calls are looked at: 1s to 1h.")
    ] = "60s",
    service: ServiceLimit = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 10,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Look at calls for a while, and print intentions that allow them and nothing else.

    What is printed is a fragment of mesh.yaml with remarks, to be looked through: nothing is
    published. Only callers, methods and paths are looked at; ids in paths become `*`. The proxies
    stop by themselves. Exit code 1 if a proxy could not be asked: then calls are missing.
    """
    with console.errors():
        seconds = _seconds(for_)
        mesh = open_mesh(inventory, state)
        wanted = selected_workloads(mesh.inventory, None, service)
        hosts = _hosts(host for host, _ in wanted)
        seen, failures = asyncio.run(_learn(mesh, hosts, int(seconds), parallel))
        names = {each.name for _, each in wanted}
        whole = together(seen)
        calls = [call for call in whole.calls if call.service in names]
        if output is Output.JSON:
            failed = {host: str(error) for host, error in failures.items()}
            console.emit_json({"calls": calls, "left_out": whole.left_out, "failed": failed})
        else:
            console.out.file.write(fragment(calls, seconds=seconds, left_out=whole.left_out))
        _fail(failures)


@app.command("plaintext")
def plaintext_callers(
    service: ServiceLimit = None,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 10,
    output: OutputFormat = Output.TABLE,
) -> None:
    """List who still calls without an identity, on plaintext ports, since each proxy's start.

    While nobody is listed for long enough, `mode: strict` takes nothing from anybody.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        wanted = selected_workloads(mesh.inventory, None, service)
        hosts = _hosts(host for host, each in wanted if each.plaintext_port is not None)
        asked = asyncio.run(_ask(mesh, hosts, "GET", "/plaintext", parallel))
        names = {each.name for _, each in wanted}
        found = [
            (host, caller)
            for host, each in _read(asked, _Plaintext).items()
            for caller in each.plaintext
            if caller.service in names
        ]
        if output is Output.JSON:
            failed = {host: str(error) for host, error in asked.failures.items()}
            callers = [
                {
                    "host": host,
                    "service": each.service,
                    "source": each.source,
                    "count": each.count,
                    "first_at": _when(each.first_at),
                    "last_at": _when(each.last_at),
                }
                for host, each in found
            ]
            console.emit_json({"callers": callers, "failed": failed})
        else:
            _show(found, bool(hosts))
        _fail(asked.failures)


class _Plaintext(Value, frozen=True, kw_only=True):
    plaintext: tuple[PlaintextCaller, ...] = ()


def _show(found: Sequence[tuple[HostName, PlaintextCaller]], is_possible: bool) -> None:
    if not found:
        none = "nobody has called without an identity" if is_possible else "no plaintext ports"
        console.out.print(none)
        return
    rows = console.table("SERVICE", "HOST", "SOURCE", "CALLS", "FIRST", "LAST")
    for host, each in sorted(found, key=lambda pair: (pair[1].service, -pair[1].last_at)):
        first, last = _when(each.first_at), _when(each.last_at)
        rows.add_row(each.service, host, each.source, str(each.count), first, last)
    console.out.print(rows)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str) -> float:
    try:
        seconds = durations.parse(text)
    except durations.InvalidDuration as error:
        message = str(error)
    else:
        if _LEAST_S <= seconds <= _MOST_S:
            return seconds
        message = f"{text} is out of range"
    violation = Violation(path="--for", message=message, hint="use 1s to 1h, such as 60s")
    raise InvalidInput("the command line", [violation])


def _hosts(hosts: Iterable[Host]) -> tuple[Host, ...]:
    return tuple({host.name: host for host in hosts}.values())


async def _learn(
    mesh: Mesh, hosts: tuple[Host, ...], seconds: int, parallel: int
) -> tuple[list[Observed], dict[HostName, MeshError]]:
    connections = mesh.connections()
    try:
        begun = await ask(hosts, connections, "POST", f"/observe/{seconds}", parallel=parallel)
        there = tuple(host for host in hosts if host.name in begun.bodies)
        if there:
            console.err.print(f"looking at calls on {len(there)} host(s) for {seconds} s")
            await asyncio.sleep(seconds)
        asked = await ask(there, connections, "GET", "/observed", parallel=parallel)
        # Forgets what was seen; where that fails, it ends by itself.
        await ask(there, connections, "POST", "/observe/0", parallel=parallel)
    finally:
        await connections.close()
    return list(_read(asked, Observed).values()), begun.failures | asked.failures


async def _ask(mesh: Mesh, hosts: tuple[Host, ...], method: str, path: str, parallel: int) -> Asked:
    connections = mesh.connections()
    try:
        return await ask(hosts, connections, method, path, parallel=parallel)
    finally:
        await connections.close()


def _read(asked: Asked, kind: type[T]) -> dict[HostName, T]:
    """Answers that make no sense become failures."""
    found: dict[HostName, T] = {}
    for host, body in asked.bodies.items():
        try:
            found[host] = decode(body, kind)
        except Malformed as error:
            asked.failures[host] = MeshError(
                f"the proxy on {host} gave an answer that makes no sense: {error}",
                hint=f"meshctl deploy --limit {host}",
            )
    return found


def _fail(failures: dict[HostName, MeshError]) -> None:
    for error in failures.values():
        console.warn(str(error), hint=error.hint)
    if failures:
        raise SystemExit(int(Exit.FAILED))
