"""What the proxies remember of one request: every host asked at the same time, over SSH."""

import asyncio
from dataclasses import dataclass
from urllib.parse import quote

from meshctl.errors import MeshError, RemoteFailure
from meshctl.facts.request import admin_query
from meshctl.inventory.model import Host, Inventory
from meshctl.transport import Connector
from meshctl.transport.command import tail
from proxy.model.codec import Malformed, decode
from proxy.model.names import HostName
from proxy.model.recent import SeenRequest, SeenRequests

_TIMEOUT_S = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    requests: tuple[SeenRequest, ...]
    failures: dict[HostName, MeshError]
    """Hosts that could not be asked: what they know is missing."""


async def remembered(
    inventory: Inventory, request_id: str, connector: Connector, *, parallel: int
) -> Remembered:
    """Of the hosts that carry a workload; never raises for one that does not answer."""
    hosts = [host for host in inventory.hosts if host.services]
    gate = asyncio.Semaphore(parallel)

    async def one(host: Host) -> tuple[SeenRequest, ...] | MeshError:
        async with gate:
            try:
                return await _ask(host, request_id, connector)
            except MeshError as error:
                return error

    answers = await asyncio.gather(*map(one, hosts))
    pairs = list(zip(hosts, answers, strict=True))
    return Remembered(
        requests=tuple(
            each for _, found in pairs if not isinstance(found, MeshError) for each in found
        ),
        failures={host.name: found for host, found in pairs if isinstance(found, MeshError)},
    )


async def _ask(host: Host, request_id: str, connector: Connector) -> tuple[SeenRequest, ...]:
    transport = await connector.connect(host.name)
    path = f"/requests/{quote(request_id, safe='', encoding='latin-1', errors='replace')}"
    done = await transport.run(admin_query(host, "GET", path), timeout_s=_TIMEOUT_S)
    if done.exit_status:
        raise RemoteFailure(
            f"{host.name}: its proxy does not say what it remembers",
            output=tail(done.stderr or done.stdout),
            hint="meshctl status",
        )
    try:
        return decode(done.stdout, SeenRequests).requests
    except Malformed as error:
        raise RemoteFailure(
            f"{host.name}: what its proxy remembers cannot be read: {error}",
            hint="it is of another release: meshctl deploy",
        ) from error
