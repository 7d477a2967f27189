"""Who takes part when certificates are replaced: hosts of the inventory that were deployed to."""

from dataclasses import dataclass

from meshctl.inventory.model import Host, Inventory
from meshctl.plan.desired import carries_proxy
from meshctl.state import DeployRecord
from proxy.model.names import HostName, ServiceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    host: Host
    services: tuple[ServiceName, ...]
    """Both deployed and wanted: one that the next deploy removes gets no new identity, and one
    that it adds gets its first one there."""
    has_proxy: bool
    is_signer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    deployed: tuple[Member, ...]
    """In the order of the inventory."""
    not_deployed: tuple[HostName, ...]
    """In the inventory, but nothing of the mesh was ever put there: nobody waits for them."""

    @property
    def names(self) -> tuple[HostName, ...]:
        return tuple(member.host.name for member in self.deployed)


def members(inventory: Inventory, record: DeployRecord) -> Members:
    signers = {host.name for host in inventory.signer_hosts}
    deployed = []
    missing = []
    for host in inventory.hosts:
        has_proxy, is_signer = carries_proxy(host), host.name in signers
        if host.name not in record.hosts:
            missing.append(host.name)
        elif has_proxy or is_signer:
            services = tuple(
                service.name for service in host.services if record.allows(host.name, service.name)
            )
            deployed.append(
                Member(host=host, services=services, has_proxy=has_proxy, is_signer=is_signer)
            )
    return Members(deployed=tuple(deployed), not_deployed=tuple(missing))
