"""The steps of the mesh that bring a managed Consul's access control to what it should be. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meshctl.acl import digest, grants
from meshctl.artifacts import ManagedConsul
from meshctl.facts.model import HostFacts
from meshctl.inventory.model import Inventory
from meshctl.layout import Layout
from meshctl.pki.record import DeployRecord
from meshctl.plan import model
from meshctl.plan.model import Action, Step
from proxy.model.names import HostName, ServiceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the agents of a plan come to know access control."""

    is_enforced: bool
    """From their first start with this configuration on."""
    is_enforced_last: bool = False
    """In a phase of its own, once every proxy has its token."""
    is_fresh: bool = False
    """No agent runs yet anywhere."""
    is_whole: bool = True
    """Every host of the inventory takes part."""
    why: str = ""
    """Why there is something to change; empty: there is not."""


def access(
    inventory: Inventory,
    consul: ManagedConsul,
    facts: Mapping[HostName, HostFacts],
    record: DeployRecord,
    *,
    is_whole: bool,
) -> Access:
    """``is_whole``: every host of the inventory takes part in the plan."""
    acl = consul.acl
    has_run = any(
        f"{Layout(host.root).etc}/consul.json" in facts[host.name].seen.paths
        for host in inventory.hosts
        if host.name in facts
    )
    # A host that could not be asked may run an agent that lets everybody in, and a proxy with it.
    is_fresh = not has_run and len(facts) == len(inventory.hosts)
    is_enforced = acl.is_enforced or is_fresh
    why = ""
    if not acl.applied:
        why = "every host gets tokens of its own" if not has_run else "Consul has none yet"
    elif digest(grants(acl, _services(record))) != acl.applied:
        why = "hosts or their services change"
    elif not has_run:
        why = "Consul is new"
    elif _is_denied(inventory, facts):
        why = "Consul does not know the token of a host"
    return Access(
        is_enforced=is_enforced,
        is_enforced_last=not is_enforced and is_whole,
        is_fresh=is_fresh,
        is_whole=is_whole,
        why=why,
    )


def between(
    consul: ManagedConsul,
    access: Access,
    before: DeployRecord,
    record: DeployRecord,
    *,
    is_tls_enforced: bool,
) -> Iterator[Step]:
    if not access.why:
        return
    either = {host: set(services) for host, services in _services(record).items()}
    for host, services in _services(before).items():
        # Until its proxy is restarted a host still registers what it is about to lose.
        either.setdefault(host, set()).update(services)
    yield Step(
        host=None,
        action=Action.SET_UP_ACCESS,
        title="bring Consul's policies and tokens to each host's services",
        why=access.why,
        phase=model.Phase.CONSUL,
        payload=model.SetUpAccess(
            grants=grants(consul.acl, either),
            tokens=consul.acl.hosts,
            is_fresh=access.is_fresh,
            is_tls_enforced=is_tls_enforced,
        ),
    )


def after(consul: ManagedConsul, access: Access, record: DeployRecord) -> Iterator[Step]:
    if not access.why:
        return
    if not consul.acl.applied and not access.is_whole:
        return  # hosts that are left out may have tokens of a state directory that was lost
    yield Step(
        host=None,
        action=Action.TRIM_ACCESS,
        title="remove what is not needed of Consul's policies and tokens",
        why=access.why,
        payload=model.TrimAccess(
            grants=grants(consul.acl, _services(record)), hosts=frozenset(consul.acl.hosts)
        ),
    )


def warnings(access: Access) -> Iterator[str]:
    if not access.is_enforced and not access.is_enforced_last:
        yield (
            "Consul goes on letting in who has no token, because not every host takes part;"
            " run `meshctl deploy` for all of them"
        )


def _services(record: DeployRecord) -> dict[HostName, tuple[ServiceName, ...]]:
    return {HostName(host): entry.services for host, entry in record.hosts.items()}


def _is_denied(inventory: Inventory, facts: Mapping[HostName, HostFacts]) -> bool:
    return any(
        facts[host.name].seen.consul.is_denied
        and Layout(host.root).consul_token in facts[host.name].seen.paths
        for host in inventory.hosts
        if host.name in facts
    )
