"""``meshctl tap``: the calls of a service as they end."""

import asyncio
import re
from collections import Counter
from contextlib import aclosing, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from meshctl import durations
from meshctl.cli import call_view, console
from meshctl.cli.console import Output
from meshctl.cli.options import (
    HostLimit,
    InventoryFile,
    OutputFormat,
    StateOption,
    open_mesh,
    selected_hosts,
    selected_workloads,
)
from meshctl.errors import Exit, InvalidInput, MeshError
from meshctl.inventory.model import Host
from meshctl.plan.desired import carries_proxy
from meshctl.telemetry.tapping import Filter, Gap, Held, Silent
from meshctl.telemetry.tapping import tap as tapping
from meshctl.transport import Connector
from proxy.model.flags import Flag
from proxy.model.names import HostName
from proxy.model.recent import SeenRequest
from proxy.model.violation import Violation

_STATUS = re.compile(r"[0-9]{3}|[1-5]xx|0", re.I)


class Side(StrEnum):
    SOURCE = "source"
    DESTINATION = "destination"


def tap(
    service: Annotated[str, typer.Argument(help="The called service.")],
    *,
    caller: Annotated[
        str | None, typer.Option("--from", help="Only from this service.", show_default=False)
    ] = None,
    method: Annotated[str | None, typer.Option(help="Only with it.", show_default=False)] = None,
    path: Annotated[
        str | None,
        typer.Option(help="Only such paths; `*` stands for anything.", show_default=False),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="Only 503, or 5xx; 0: no answer was sent.", show_default=False),
    ] = None,
    flag: Annotated[
        str | None,
        typer.Option(help="Only with this response flag, as UF.", show_default=False),
    ] = None,
    side: Annotated[
        Side | None,
        typer.Option(
            help="Only as this side's proxy saw it; else each call once.", show_default=False
        ),
    ] = None,
    hosts: HostLimit = None,
    for_: Annotated[str, typer.Option("--for", help="How long: 30s, 10m, 1h.")] = "10m",
    most: Annotated[
        int, typer.Option("--max", min=1, max=1_000_000, help="End after so many.")
    ] = 1000,
    per_s: Annotated[
        int, typer.Option("--rate", min=1, max=10_000, help="Show at most so many a second.")
    ] = 100,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Show the calls of a service as they end; Ctrl-C ends it.

    From what the proxies remember anyhow: requests pay nothing for it. What was too much to be
    remembered or shown is counted on stderr. With -o json one object a line. Exit code 1 if a
    host could not be asked.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        known = selected_workloads(mesh.inventory, None, None)
        selected_workloads(mesh.inventory, None, [service])
        wanted = Filter(
            service=service,
            caller=caller,
            method=method,
            path=path,
            status=_checked_status(status),
            flag=_checked_flag(flag),
            side=None if side is None else side.value,
            workloads=frozenset(each.name for _, each in known),
        )
        chosen = selected_hosts(mesh.inventory, hosts, option="--host")
        asked = tuple(host for host in chosen if carries_proxy(host))
        shown = _Shown(output)
        with suppress(KeyboardInterrupt):
            asyncio.run(
                _tap(mesh.connections(), asked, wanted, shown, _seconds(for_), most, float(per_s))
            )
        shown.say_end()
        raise SystemExit(int(Exit.FAILED if shown.silent else Exit.OK))


async def _tap(
    connections: Connector,
    hosts: tuple[Host, ...],
    wanted: Filter,
    shown: "_Shown",
    for_s: float,
    most: int,
    per_s: float,
) -> None:
    try:
        async with aclosing(
            tapping(hosts, connections, wanted, for_s=for_s, most=most, per_s=per_s)
        ) as events:
            async for event in events:
                match event:
                    case SeenRequest():
                        shown.call(event)
                    case Gap():
                        shown.gap(event)
                    case Held():
                        shown.held(event)
                    case Silent():
                        shown.silence(event)
    finally:
        await connections.close()


class _Shown:
    def __init__(self, output: Output) -> None:
        self._output = output
        self._calls = self._held = 0
        self._missed: Counter[HostName] = Counter()
        self.silent: dict[HostName, MeshError] = {}

    def call(self, seen: SeenRequest) -> None:
        self._calls += 1
        if self._output is Output.JSON:
            console.out.file.write(msgspec.json.encode(seen).decode() + "\n")
            console.out.file.flush()
        else:
            has_ids = call_view.is_wide(console.out)
            console.out.print(call_view.render(_call(seen), has_ids=has_ids))

    def gap(self, gap: Gap) -> None:
        self._missed[gap.host] += gap.missed
        console.err.print(f"[dim]... {gap.missed} call(s) missed on {gap.host}[/]")

    def held(self, held: Held) -> None:
        self._held += held.count
        console.err.print(f"[dim]... {held.count} call(s) not shown[/]")

    def silence(self, event: Silent) -> None:
        self.silent[event.host] = event.error
        hint = event.error.hint or "meshctl check"
        console.warn(f"the calls of {event.host} are missing: {event.error}", hint=hint)

    def say_end(self) -> None:
        said = f"{self._calls} call(s) shown"
        if self._held:
            said += f"; {self._held} not shown, for there were more a second than --rate"
        if self._missed:
            where = ", ".join(f"{count} on {host}" for host, count in sorted(self._missed.items()))
            said += (
                f"; missed, of any service, because they came faster than they are read: {where}"
            )
        console.err.print(f"[dim]{said}[/]")


def _call(seen: SeenRequest) -> call_view.Call:
    return call_view.Call(
        at=seen.ended_at.partition("T")[2].removesuffix("Z") or seen.ended_at,
        host=seen.host,
        side=seen.side,
        caller=seen.caller,
        service=seen.service,
        is_tcp=seen.protocol == "tcp",
        method=seen.method,
        path=seen.path,
        status=seen.status,
        flag=seen.flag,
        duration_ms=seen.duration_ms,
        endpoint=seen.endpoints[-1] if seen.endpoints else "",
        attempts=seen.tries,
        received_bytes=seen.request_bytes,
        sent_bytes=seen.response_bytes,
        why=f"denied by {seen.policy}" if seen.policy else seen.reason,
        request_id=seen.id,
        trace_id=seen.trace_id,
        grpc_status=seen.grpc_status,
    )


def _seconds(text: str) -> float:
    try:
        return durations.parse(text)
    except durations.InvalidDuration as error:
        raise _wrong("--for", str(error), durations.RULE) from error


def _checked_status(text: str | None) -> str | None:
    if text is not None and not _STATUS.fullmatch(text):
        raise _wrong("--status", f"{text!r} is no status", "write 503, 5xx, or 0")
    return text


def _checked_flag(text: str | None) -> str | None:
    if text is not None and text.upper() not in tuple(Flag):
        raise _wrong("--flag", f"{text!r} is no response flag", f"known: {', '.join(Flag)}")
    return text.upper() if text is not None else None


def _wrong(path: str, message: str, hint: str) -> InvalidInput:
    return InvalidInput("the command line", [Violation(path=path, message=message, hint=hint)])
