"""New keys and certificates for workloads that run, without a connection dropped.

Needs SSH and the CA; neither Consul nor working mTLS. Per workload: a key is made on the host, its
request is signed, the chain installed; once a host has all of its new leaves its proxy takes them
for new connections, and each is then looked at on the wire. A host that fails stops no other.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from meshctl.apply.issue import Issuance, issue
from meshctl.apply.placed import Reached, reached
from meshctl.apply.trust import look, reload_proxy
from meshctl.errors import MeshError, RemoteFailure
from meshctl.inventory.model import Host, Inventory
from meshctl.pki.served import Served
from meshctl.transport import Connector
from proxy.model.names import HostName, ServiceName, TrustDomain, spiffe_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What to rotate, and with what."""

    inventory: Inventory
    wanted: Mapping[HostName, Sequence[ServiceName]]
    connector: Connector
    issuance: Issuance
    trust_bundle: bytes
    """PEM: what the new leaves have to verify against on the wire."""
    owner: str
    """Our name in the hosts' deploy locks."""
    parallel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """One workload's outcome."""

    host: HostName
    service: ServiceName
    serial: str = ""
    """Of the leaf seen on the wire; empty: not rotated."""
    not_after: str = ""
    error: str = ""
    output: str = ""
    hint: str = ""


async def rotate(rotation: Rotation, done: Callable[[Rotated], None]) -> tuple[Rotated, ...]:
    """In the order of the inventory; ``done`` is told of each workload as it is finished."""
    gate = asyncio.Semaphore(rotation.parallel)

    async def one(host: Host) -> tuple[Rotated, ...]:
        async with gate:
            try:
                results = await _host(rotation, host)
            except MeshError as error:
                services = rotation.wanted[host.name]
                results = tuple(failed(host.name, service, error) for service in services)
        for result in results:
            done(result)
        return results

    hosts = [host for host in rotation.inventory.hosts if host.name in rotation.wanted]
    results = await asyncio.gather(*(one(host) for host in hosts))
    return tuple(entry for entries in results for entry in entries)


async def _host(rotation: Rotation, host: Host) -> tuple[Rotated, ...]:
    async with reached(host, rotation.connector, rotation.owner) as there:
        if not there.placed.config:
            raise MeshError(
                f"{host.name} has no proxy yet", hint=f"meshctl deploy --limit {host.name}"
            )
        services = rotation.wanted[host.name]
        return await renew(there, services, rotation.issuance, rotation.trust_bundle)


async def renew(
    there: Reached,
    services: Sequence[ServiceName],
    issuance: Issuance,
    trust_bundle: bytes,
    *,
    take: Callable[[Reached], Awaitable[None]] | None = None,
) -> tuple[Rotated, ...]:
    """New leaves for ``services`` of one host, seen on the wire to lead to ``trust_bundle``.

    ``take`` brings its proxy to use them; by default a reload. Never raises for one workload;
    MeshError when no identity could be taken.
    """
    host, transport, domain = there.host, there.transport, issuance.trust_domain
    before: dict[ServiceName, Served] = {}
    refused: dict[ServiceName, MeshError] = {}
    for service in services:
        with contextlib.suppress(MeshError):  # what serves nothing yet has nothing to compare
            before[service] = await look(host, transport, domain, service, None)
        try:
            await _issue(issuance, there, service)
        except MeshError as error:
            refused[service] = error
    if len(refused) < len(services):
        await (take(there) if take is not None else reload_proxy(there.remote))
    results = []
    for service in services:
        try:
            if service in refused:
                raise refused[service]
            served = await look(host, transport, domain, service, trust_bundle)
            _require_new(served, before.get(service), domain, service, host)
        except MeshError as error:
            results.append(failed(host.name, service, error))
            continue
        results.append(
            Rotated(
                host=host.name,
                service=service,
                serial=served.serial,
                not_after=served.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        )
    return tuple(results)


async def _issue(issuance: Issuance, there: Reached, service: ServiceName) -> None:
    release, config = there.placed.release, there.placed.config
    try:
        await issue(issuance, there.remote, service, release=release, config=config)
    except RemoteFailure:
        # The proxy may have begun to renew the same leaf by itself: one of the two keys is lost.
        await issue(issuance, there.remote, service, release=release, config=config)


def _require_new(
    served: Served,
    before: Served | None,
    trust_domain: TrustDomain,
    service: ServiceName,
    host: Host,
) -> None:
    expected = spiffe_id(trust_domain, service)
    if served.identities != (expected,):
        raise MeshError(
            f"{host.name} serves {', '.join(served.identities) or 'no identity'} for {service}"
        )
    if before is not None and before.fingerprint == served.fingerprint:
        raise MeshError(
            f"{host.name} still serves the old certificate of {service} ({served.serial})",
            hint=f"on {host.name}: journalctl -u meshctl-proxy",
        )


def failed(host: HostName, service: ServiceName, error: MeshError) -> Rotated:
    """The outcome of a workload whose leaf is not, or not provably, a new one."""
    return Rotated(
        host=host,
        service=service,
        error=str(error),
        output=error.output if isinstance(error, RemoteFailure) else "",
        hint=error.hint,
    )
