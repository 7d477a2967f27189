"""Reads hosts: one command each, all at the same time."""

import asyncio
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from meshctl.errors import MeshError, RemoteFailure
from meshctl.facts import request
from meshctl.facts.model import HostFacts
from meshctl.inventory.model import Host, Inventory, TransportKind
from meshctl.transport import Connector
from proxy.model.codec import Malformed
from proxy.model.names import HostName

_TIMEOUT_S = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    facts: dict[HostName, HostFacts]
    failures: dict[HostName, MeshError]
    """Why a host could not be asked."""


async def gather(
    inventory: Inventory,
    hosts: Iterable[Host],
    connector: Connector,
    *,
    parallel: int,
    paths: tuple[str, ...] = (),
) -> Gathered:
    """``paths``: looked at besides what every deploy looks at."""
    wanted = tuple(hosts)
    gate = asyncio.Semaphore(parallel)

    async def one(host: Host) -> HostFacts | MeshError:
        async with gate:
            try:
                return await read(inventory, host, connector, paths=paths)
            except MeshError as error:
                return error

    results = await asyncio.gather(*(one(host) for host in wanted))
    pairs = tuple(zip(wanted, results, strict=True))
    return Gathered(
        facts={host.name: found for host, found in pairs if isinstance(found, HostFacts)},
        failures={host.name: found for host, found in pairs if isinstance(found, MeshError)},
    )


async def read(
    inventory: Inventory, host: Host, connector: Connector, *, paths: tuple[str, ...] = ()
) -> HostFacts:
    """Raises Unreachable or Refused from the transport, RemoteFailure for a useless answer."""
    transport = await connector.connect(host.name)
    interpreters: tuple[str, ...] = request.INTERPRETERS
    if host.transport is TransportKind.LOCAL:
        interpreters = (sys.executable, *interpreters)
    sent_at = time.time()
    done = await transport.run(
        request.command(interpreters),
        stdin=request.stdin(inventory, host, paths),
        timeout_s=_TIMEOUT_S,
    )
    try:
        return request.parse(done.stdout, sent_at=sent_at, received_at=time.time())
    except Malformed as error:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise RemoteFailure(
            f"{host.name} did not answer what it was asked ({error})",
            output=said[-2000:],
            hint=f"see what `ssh {host.ssh.user}@{host.address}` prints when it logs in:"
            " a profile may write to its output, or sudo may ask for a password",
        ) from error
