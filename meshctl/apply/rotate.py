"""New keys and certificates for workloads that run, without a connection dropped.

Needs SSH and the CA; neither Consul nor working mTLS. Per workload: a key is made on the host, its
request is signed, the chain installed; once a host has all of its new leaves its proxy takes them
for new connections, and each is then looked at on the wire. A host that fails stops no other.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from meshctl.apply.means import Means
from meshctl.apply.operate import Remote
from meshctl.apply.steps import perform
from meshctl.errors import MeshError, RemoteFailure
from meshctl.facts.model import HostFacts
from meshctl.facts.request import layout_of
from meshctl.inventory.model import Host
from meshctl.pki.served import Served, fetch_served
from meshctl.plan.model import Action, IssueLeaf, Step
from meshctl.transport import Transport
from proxy.model.names import HostName, ServiceName, TrustDomain, server_name, spiffe_id
from proxy.model.settings import Address

_RELOAD_S = 30.0


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


async def rotate(
    means: Means,
    wanted: Mapping[HostName, Sequence[ServiceName]],
    facts: Mapping[HostName, HostFacts],
    failures: Mapping[HostName, MeshError],
    trust_bundle: bytes,
    done: Callable[[Rotated], None],
) -> tuple[Rotated, ...]:
    """In the order of the inventory; ``done`` is told of each workload as it is finished."""
    gate = asyncio.Semaphore(means.parallel)

    async def one(host: Host) -> tuple[Rotated, ...]:
        services = wanted[host.name]
        async with gate:
            try:
                results = await _host(means, host, services, facts, failures, trust_bundle)
            except MeshError as error:
                results = tuple(_failed(host.name, service, error) for service in services)
        for result in results:
            done(result)
        return results

    hosts = [host for host in means.inventory.hosts if host.name in wanted]
    results = await asyncio.gather(*(one(host) for host in hosts))
    return tuple(entry for entries in results for entry in entries)


async def _host(
    means: Means,
    host: Host,
    services: Sequence[ServiceName],
    facts: Mapping[HostName, HostFacts],
    failures: Mapping[HostName, MeshError],
    trust_bundle: bytes,
) -> tuple[Rotated, ...]:
    if host.name in failures:
        raise failures[host.name]
    seen = facts[host.name]
    if not seen.seen.current or seen.seen.python is None:
        raise MeshError(f"{host.name} has no proxy yet", hint=f"meshctl deploy --limit {host.name}")
    transport = await means.connector.connect(host.name)
    remote = Remote(
        host=host, transport=transport, python=seen.seen.python.executable, owner=means.owner
    )
    await remote.operate("lock")
    try:
        before = await _all(services, lambda service: _look(means, host, transport, service, None))
        issued = await _each(services, lambda service: _issue(means, remote, seen, service))
        await _reload(remote)
        results = []
        for service in services:
            if error := issued.get(service):
                results.append(_failed(host.name, service, error))
                continue
            try:
                served = await _look(means, host, transport, service, trust_bundle)
                _require_new(served, before.get(service), means.trust_domain, service, host)
                results.append(
                    Rotated(
                        host=host.name,
                        service=service,
                        serial=served.serial,
                        not_after=served.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    )
                )
            except MeshError as error:
                results.append(_failed(host.name, service, error))
        return tuple(results)
    finally:
        with contextlib.suppress(MeshError):
            await remote.operate("unlock")


async def _issue(
    means: Means, remote: Remote, facts: HostFacts, service: ServiceName
) -> MeshError | None:
    step = Step(
        host=remote.host.name,
        action=Action.ISSUE_LEAF,
        title=f"issue the identity of {service}",
        why="rotation",
        payload=IssueLeaf(service=service, release=facts.release, config=facts.seen.current),
    )
    try:
        await perform(step, remote, means)
    except MeshError as error:
        return error
    return None


async def _each(
    services: Sequence[ServiceName],
    act: Callable[[ServiceName], Awaitable[MeshError | None]],
) -> dict[ServiceName, MeshError | None]:
    return {service: await act(service) for service in services}


async def _all(
    services: Sequence[ServiceName], look: Callable[[ServiceName], Awaitable[Served]]
) -> dict[ServiceName, Served]:
    """What can be seen of each; a workload that serves nothing yet is simply not in it."""
    found = {}
    for service in services:
        with contextlib.suppress(MeshError):
            found[service] = await look(service)
    return found


async def _reload(remote: Remote) -> None:
    # Over HTTP rather than by a signal: the answer comes once the new identities are in force.
    admin = f"127.0.0.1:{remote.host.proxy.admin_port}"
    await remote.run(
        layout_of(remote.host).python,
        *("-I", "-m", "proxy.query", "--admin", admin, "POST", "/reload"),
        timeout_s=_RELOAD_S,
    )


async def _look(
    means: Means,
    host: Host,
    transport: Transport,
    service: ServiceName,
    trust_bundle: bytes | None,
) -> Served:
    return await look(host, transport, means.trust_domain, service, trust_bundle)


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
