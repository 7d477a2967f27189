"""The admin ports of all proxies asked at the same time, over SSH."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from meshctl.errors import MeshError, RemoteFailure
from meshctl.facts.request import admin_query
from meshctl.inventory.model import Host
from meshctl.transport import Connector
from proxy.model.names import HostName

_TIMEOUT_S = 60.0
_MAX_SAID = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    bodies: dict[HostName, bytes]
    failures: dict[HostName, MeshError]


async def ask(
    hosts: Iterable[Host], connector: Connector, method: str, path: str, *, parallel: int
) -> Asked:
    """``method`` GET or POST; only answers with a 2xx are bodies."""
    gate = asyncio.Semaphore(parallel)
    wanted = tuple(hosts)

    async def one(host: Host) -> bytes | MeshError:
        async with gate:
            try:
                return await _ask(host, connector, method, path)
            except MeshError as error:
                return error

    results = dict(
        zip((host.name for host in wanted), await asyncio.gather(*map(one, wanted)), strict=True)
    )
    return Asked(
        bodies={name: found for name, found in results.items() if isinstance(found, bytes)},
        failures={name: found for name, found in results.items() if isinstance(found, MeshError)},
    )


async def _ask(host: Host, connector: Connector, method: str, path: str) -> bytes:
    transport = await connector.connect(host.name)
    done = await transport.run(admin_query(host, method, path), timeout_s=_TIMEOUT_S)
    if done.exit_status != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise RemoteFailure(
            f"the proxy on {host.name} does not answer {method} {path}",
            output=said[-_MAX_SAID:],
            hint=f"meshctl status, then meshctl deploy --limit {host.name}",
        )
    return done.stdout
