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

SETTLE_S = 240.0
"""A restart that drains for a minute, does not get ready and goes back takes about this long."""
_SETTLE_POLL_S = 0.5
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


async def settled(
    inventory: Inventory,
    hosts: Iterable[Host],
    connector: Connector,
    *,
    owner: str,
    parallel: int,
    paths: tuple[str, ...] = (),
) -> Gathered:
    """The facts once no operation of ``owner`` runs on a host any more: one that a killed meshctl
    left behind goes on to its end, and a plan made in the middle of it would be wrong by the time
    it is read. Not waited for longer than ``SETTLE_S``.
    """
    wanted = tuple(hosts)
    deadline = time.monotonic() + SETTLE_S
    seen = await gather(inventory, wanted, connector, parallel=parallel, paths=paths)
    while time.monotonic() < deadline:
        busy = [host for host in wanted if _is_busy(seen.facts.get(host.name), owner)]
        if not busy:
            break
        await asyncio.sleep(_SETTLE_POLL_S)
        again = await gather(inventory, busy, connector, parallel=parallel, paths=paths)
        names = {host.name for host in busy}
        kept = {name: facts for name, facts in seen.facts.items() if name not in names}
        seen = Gathered(facts=kept | again.facts, failures=seen.failures | again.failures)
    return seen


def _is_busy(facts: HostFacts | None, owner: str) -> bool:
    lock = facts.seen.lock if facts is not None else None
    return lock is not None and lock.is_busy and lock.owner == owner


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
