"""The operator's way to Consul: through the agent of one of the hosts, over its transport."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from meshctl import durable
from meshctl.apply.consul_tokens import operator_token_file
from meshctl.consul import ConsulEdge
from meshctl.errors import InvalidInput, Refused, RemoteFailure
from meshctl.inventory.model import ConsulMode, Inventory
from meshctl.state import StateDir
from meshctl.transport import Connector, Transport
from proxy.model.names import HostName
from proxy.model.settings import Address
from proxy.model.violation import Violation

_MAX_TOKEN_BYTES = 4096


def with_operator_token(inventory: Inventory, state: StateDir) -> Inventory:
    """Where a managed Consul's token for meshctl itself is, once there is one."""
    path = operator_token_file(state)
    if inventory.consul.mode is not ConsulMode.MANAGED:
        return inventory
    return replace(inventory, consul=replace(inventory.consul, operator_token_file=path))


@asynccontextmanager
async def open_consul(
    inventory: Inventory, connector: Connector, through: HostName
) -> AsyncIterator[ConsulEdge]:
    """Raises Unreachable when ``through`` cannot be reached; the edge raises for Consul itself."""
    settings = inventory.consul
    url = urlsplit(settings.address)
    transport = await connector.connect(through)
    if settings.operator_token_file is not None:
        token = _own_token(settings.operator_token_file, settings.mode)
    else:
        token = await _token_of_host(transport, settings.token_file)
    target = Address(host=url.hostname or "127.0.0.1", port=url.port or 8500)
    async with transport.tunnel(target) as near:
        host = f"[{near.host}]" if ":" in near.host else near.host
        async with ConsulEdge(
            f"{url.scheme}://{host}:{near.port}", token, datacenter=settings.datacenter
        ) as edge:
            yield edge


def _own_token(path: Path, mode: ConsulMode) -> str | None:
    try:
        token = durable.read(path, limit=_MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        if mode is ConsulMode.MANAGED:
            return None  # a Consul that no deploy has brought access control to yet
        raise InvalidInput(
            "the inventory",
            [
                Violation(
                    path="consul.operator_token_file",
                    message=f"there is no file {path}",
                    hint="correct the path",
                )
            ],
        ) from None
    if not token or not token.isascii() or not token.isprintable():
        raise Refused(
            f"{path} has no token of Consul in it", hint="put one there: one line of text"
        )
    return token


async def _token_of_host(transport: Transport, token_file: str | None) -> str | None:
    if token_file is None:
        return None
    done = await transport.run(["cat", "--", token_file], timeout_s=15.0)
    if done.exit_status != 0:
        raise RemoteFailure(
            f"the token file of Consul cannot be read on {transport.host}",
            output=done.stderr.decode("utf-8", "replace"),
            hint=f"put it there, or correct consul.token_file ({token_file})",
        )
    return done.stdout.decode("utf-8", "replace").strip()
