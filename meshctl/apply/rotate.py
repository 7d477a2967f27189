"""New keys and certificates for workloads that run, without a connection dropped.

Needs SSH and the CA; neither Consul nor working mTLS. Per workload: a key is made on the host, its
request is signed, the chain installed; once a host has all of its new leaves its proxy takes them
for new connections, and each is then looked at on the wire. A host that fails stops no other.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meshctl.apply.issue import Issuance, issue
from meshctl.apply.operate import Remote
from meshctl.errors import MeshError, RemoteFailure
from meshctl.facts.model import HostFacts
from meshctl.facts.request import layout_of
from meshctl.inventory.model import Host, Inventory
from meshctl.pki.served import Served, fetch_served
from meshctl.transport import Connector, Transport
from proxy.model.names import HostName, ServiceName, TrustDomain, server_name, spiffe_id
from proxy.model.settings import Address

_RELOAD_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What to rotate, and with what."""

    inventory: Inventory
    wanted: Mapping[HostName, Sequence[ServiceName]]
    facts: Mapping[HostName, HostFacts]
    failures: Mapping[HostName, MeshError]
    """Why a wanted host has no facts."""
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
                results = tuple(_failed(host.name, service, error) for service in services)
        for result in results:
            done(result)
        return results

    hosts = [host for host in rotation.inventory.hosts if host.name in rotation.wanted]
    results = await asyncio.gather(*(one(host) for host in hosts))
    return tuple(entry for entries in results for entry in entries)


async def _host(rotation: Rotation, host: Host) -> tuple[Rotated, ...]:
    if host.name in rotation.failures:
        raise rotation.failures[host.name]
    facts = rotation.facts[host.name]
    if not facts.seen.current or facts.seen.python is None:
        raise MeshError(f"{host.name} has no proxy yet", hint=f"meshctl deploy --limit {host.name}")
    transport = await rotation.connector.connect(host.name)
    python = facts.seen.python.executable
    remote = Remote(host=host, transport=transport, python=python, owner=rotation.owner)
    await remote.operate("lock")
    try:
        return await _workloads(rotation, remote, facts)
    finally:
        with contextlib.suppress(MeshError):
            await remote.operate("unlock")


async def _workloads(rotation: Rotation, remote: Remote, facts: HostFacts) -> tuple[Rotated, ...]:
    host, services = remote.host, rotation.wanted[remote.host.name]
    domain = rotation.issuance.trust_domain
    before: dict[ServiceName, Served] = {}
    refused: dict[ServiceName, MeshError] = {}
    for service in services:
        with contextlib.suppress(MeshError):  # what serves nothing yet has nothing to compare
            before[service] = await look(host, remote.transport, domain, service, None)
        try:
            await issue(
                rotation.issuance, remote, service,
                release=facts.release, config=facts.seen.current,
            )  # fmt: skip
        except MeshError as error:
            refused[service] = error
    if len(refused) < len(services):
        await _reload(remote)
    results = []
    for service in services:
        try:
            if service in refused:
                raise refused[service]
            served = await look(host, remote.transport, domain, service, rotation.trust_bundle)
            _require_new(served, before.get(service), domain, service, host)
        except MeshError as error:
            results.append(_failed(host.name, service, error))
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


async def _reload(remote: Remote) -> None:
    # Over HTTP rather than by a signal: the answer comes once the new identities are in force.
    admin = f"127.0.0.1:{remote.host.proxy.admin_port}"
    await remote.run(
        layout_of(remote.host).python,
        *("-I", "-m", "proxy.query", "--admin", admin, "POST", "/reload"),
        timeout_s=_RELOAD_S,
    )


async def look(
    host: Host,
    transport: Transport,
    trust_domain: TrustDomain,
    service: ServiceName,
    trust_bundle: bytes | None,
) -> Served:
    """The leaf that ``host`` serves for ``service``, seen through the transport, so that no
    firewall between the operator and the mesh port matters."""
    bind = host.proxy.inbound_address
    target = Address(
        host="127.0.0.1" if bind in ("0.0.0.0", "::") else bind,  # noqa: S104
        port=host.proxy.inbound_port,
    )
    async with transport.tunnel(target) as local:
        return await fetch_served(
            local, server_name(trust_domain, service), trust_bundle=trust_bundle
        )


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


def _failed(host: HostName, service: ServiceName, error: MeshError) -> Rotated:
    return Rotated(
        host=host,
        service=service,
        error=str(error),
        output=error.output if isinstance(error, RemoteFailure) else "",
        hint=error.hint,
    )
