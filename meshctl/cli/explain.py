"""``meshctl explain``: what becomes of a call, and by which line of which file."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from meshctl import artifacts
from meshctl.apply.requests import Remembered, remembered
from meshctl.cli import console, explain_view
from meshctl.cli.apply import through_consul
from meshctl.cli.console import Output
from meshctl.cli.options import InventoryFile, Mesh, OutputFormat, Parallel, StateOption, open_mesh
from meshctl.cli.policy_file import MESH_FILE, MeshFile, read_policy
from meshctl.errors import Exit, InvalidInput, MeshError
from meshctl.inventory.model import Inventory
from meshctl.inventory.shape import closest
from meshctl.policy.explained import Outcome
from meshctl.policy.explaining import Request, explain
from meshctl.policy.hops import hops
from meshctl.policy.origins import Places
from meshctl.policy.parser import MAX_BYTES
from meshctl.policy.text import Text
from meshctl.policy.world import CompiledWorld, World
from meshctl.yamltree import load
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import ServiceName, TrustDomain
from proxy.model.policy import Policy
from proxy.model.violation import Violation

_CLAIMS = """write it as '{"sub": "ann"}'"""
_BAD = (Outcome.DENIED, Outcome.REFUSED)


def explain_command(
    source: Annotated[
        str | None, typer.Argument(metavar="SRC", help="The calling service.")
    ] = None,
    destination: Annotated[
        str | None, typer.Argument(metavar="DST", help="The called service.")
    ] = None,
    method: Annotated[
        str | None, typer.Argument(metavar="METHOD", help="With PATH: one request. grpc: a call.")
    ] = None,
    path: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="With its query. After grpc: SERVICE/METHOD."),
    ] = None,
    *,
    headers: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            help="'name: value' of the request; may be repeated.",
            show_default=False,
        ),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(
            "--request-id",
            show_default=False,
            help="What really happened to the request with this x-request-id, asked of all "
            "proxies; instead of SRC and DST.",
        ),
    ] = None,
    claims: Annotated[
        str | None,
        typer.Option(
            help="JSON object: the claims of a valid token that the request has.",
            show_default=False,
        ),
    ] = None,
    mesh_file: MeshFile = None,
    is_published: Annotated[
        bool, typer.Option("--published", help="The policy in force, instead of mesh.yaml.")
    ] = False,
    inventory: InventoryFile = Path("inventory.yaml"),
    state: StateOption = None,
    parallel: Parallel = 50,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Explain what becomes of a call: route, destinations, settings in force, allowed or not.

    Offline, from the inventory and mesh.yaml, decided by the code of the proxies; where a policy
    decides, its file and line are named. Without METHOD PATH: what holds for every request, and
    what depends. Exit code 3 if it is denied or refused. With --request-id: what the proxies
    remember of one that was made; exit code 1 if none does.
    """
    with console.errors():
        mesh = open_mesh(inventory, state)
        if request_id is not None:
            if source is not None or headers or claims is not None:
                raise _wrong("--request-id", "it stands alone", "leave SRC and the rest away")
            raise SystemExit(int(_happened(mesh, request_id, mesh_file, parallel, output)))
        if source is None or destination is None:
            hint = "meshctl explain SRC DST [METHOD PATH], or --request-id ID"
            raise _wrong("SRC DST", "who calls whom is missing", hint)
        caller, service = _known(mesh.inventory, source, destination)
        request = _request(method, path, headers or [])
        if request is not None and _speaks_tcp(mesh.inventory, service):
            raise _wrong("METHOD", f"{service} speaks tcp: it has no requests", "leave it away")
        now = datetime.now(UTC)
        if is_published:
            policy, places, where = _published(mesh, mesh_file)
        else:
            policy = read_policy(mesh.inventory, mesh_file)
            places = places_of(mesh.inventory, mesh_file)
            where = places.source or "built-in defaults"
        world = world_of(mesh.inventory, mesh.state.trust_domain, policy)
        told = explain(CompiledWorld(world, places, now, _claims(claims)), caller, service, request)
        if output is Output.JSON:
            console.emit_json(told)
        else:
            explain_view.show(told, where)
        raise SystemExit(int(Exit.REFUSED if told.outcome in _BAD else Exit.OK))


def _happened(
    mesh: Mesh, request_id: str, mesh_file: Path | None, parallel: int, output: Output
) -> Exit:
    try:
        policy = read_policy(mesh.inventory, mesh_file)
        places = places_of(mesh.inventory, mesh_file)
    except InvalidInput:  # it only lends its lines
        policy, places = Policy(), Places(None, "")
    found = asyncio.run(_remembered(mesh, request_id, parallel))
    for host, failure in sorted(found.failures.items()):
        console.warn(f"what {host} remembers is missing: {failure}", hint=failure.hint or "")
    way = hops(found.requests, policy, places)
    if output is Output.JSON:
        console.emit_json({"hops": way, "not_asked": sorted(found.failures)})
    elif way:
        explain_view.show_hops(request_id, way)
    if not way:
        raise MeshError(
            f"no proxy remembers a request {request_id!r}",
            hint="they keep the last ones only; the log of the called proxy has denials for longer",
        )
    return Exit.OK


async def _remembered(mesh: Mesh, request_id: str, parallel: int) -> Remembered:
    connections = mesh.connections()
    try:
        return await remembered(mesh.inventory, request_id, connections, parallel=parallel)
    finally:
        await connections.close()


def _speaks_tcp(inventory: Inventory, service: ServiceName) -> bool:
    return any(
        each.name == service and each.protocol == "tcp"
        for host in inventory.hosts
        for each in host.services
    )


def world_of(inventory: Inventory, domain: TrustDomain, policy: Policy) -> World:
    """As if every instance of the inventory were healthy."""
    endpoints: dict[ServiceName, list[Endpoint]] = {}
    for host in inventory.hosts:
        for each in host.services:
            endpoints.setdefault(each.name, []).append(
                Endpoint(
                    service=each.name,
                    host=host.name,
                    address=host.address,
                    port=host.proxy.inbound_port,
                    version=each.version,
                    zone=host.zone,
                    weight=each.weight,
                )
            )
    return World(
        settings=tuple(
            artifacts.settings(inventory, host, trust_domain=domain, release="")
            for host in inventory.hosts
        ),
        policy=policy,
        catalogue=Catalogue(endpoints={name: tuple(each) for name, each in endpoints.items()}),
    )


def _known(inventory: Inventory, *names: str) -> tuple[ServiceName, ...]:
    """Raises InvalidInput for names that the inventory does not have."""
    known = sorted({each.name for host in inventory.hosts for each in host.services})
    violations = []
    for argument, name in zip(("SRC", "DST"), names, strict=True):
        if name not in known:
            guess = closest(name, known)
            listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
            hint = f"did you mean {guess!r}?" if guess else f"known: {listed or 'none'}"
            message = f"no service {name!r} is in the inventory"
            violations.append(Violation(path=argument, message=message, hint=hint))
    if violations:
        raise InvalidInput("the command line", violations)
    return tuple(map(ServiceName, names))


def _request(method: str | None, path: str | None, headers: list[str]) -> Request | None:
    if method is None:
        if headers:
            raise _wrong("-H", "there is no request to have it", "add METHOD and PATH")
        return None
    if path is None:
        hint = f"meshctl explain SRC DST {method} /"
        raise _wrong("PATH", "a request has a method and a path", hint)
    fields = []
    for each in headers:
        name, colon, value = each.partition(":")
        if not colon or not name.strip():
            raise _wrong("-H", f"{each!r} is not a header", "write it as 'name: value'")
        fields.append((name.strip(), value.strip()))
    if method.lower() == "grpc":
        return _grpc_call(path, fields)
    return Request(method=method, target=path, fields=tuple(fields))


def _grpc_call(path: str, fields: list[tuple[str, str]]) -> Request:
    """``pkg.Greeter/SayHello``, with the slash in front or without."""
    names = path.removeprefix("/")
    service, slash, method = names.partition("/")
    if not (service and slash and method) or "/" in method:
        hint = "meshctl explain SRC DST grpc orders.v1.Orders/GetOrder"
        raise _wrong("PATH", f"{path!r} is not a gRPC method", hint)
    given = {name.lower() for name, _ in fields}
    added = (("content-type", "application/grpc"), ("te", "trailers"))
    own = tuple(each for each in added if each[0] not in given)
    return Request(method="POST", target=f"/{names}", fields=(*own, *fields))


def _claims(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _wrong("--claims", f"it is not JSON: {error}", _CLAIMS) from error
    if not isinstance(found, dict):
        raise _wrong("--claims", "it is not an object", _CLAIMS)
    return found


def _wrong(path: str, message: str, hint: str) -> InvalidInput:
    return InvalidInput("the command line", [Violation(path=path, message=message, hint=hint)])


def places_of(inventory: Inventory, file: Path | None) -> Places:
    """The lines of a file that was read without a violation."""
    path = file if file is not None else inventory.source.parent / MESH_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Places(None, "")
    name = str(file) if file is not None else path.name
    return Places(Text(load(text, name, MAX_BYTES)), name)


def _published(mesh: Mesh, file: Path | None) -> tuple[Policy, Places, str]:
    """With lines, if the file at hand says the same."""
    trust = mesh.policy_trust
    snapshot, _ = asyncio.run(through_consul(mesh, lambda edge: edge.fetch_snapshot(trust)))
    if snapshot is None:
        raise MeshError("no policy is published yet", hint="meshctl apply, or meshctl deploy")
    where = f"generation {snapshot.generation}"
    try:
        is_same = read_policy(mesh.inventory, file) == snapshot.policy
    except InvalidInput:
        is_same = False
    if is_same:
        return snapshot.policy, places_of(mesh.inventory, file), where
    return snapshot.policy, Places(None, ""), f"{where}, which differs from the file at hand"
