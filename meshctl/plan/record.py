"""Which identities each host may have once a plan is carried out. Pure."""

from collections.abc import Collection

from meshctl.inventory.model import Inventory
from meshctl.pki.record import DeployRecord, HostRecord
from proxy.model.names import HostName


def planned(
    inventory: Inventory, touched: Collection[HostName], before: DeployRecord
) -> DeployRecord:
    """``touched``: the hosts that the plan brings to what the inventory says.

    A host that is left out keeps what it had; one that left the inventory may have none, but
    stays on record until ``uninstall``: something of the mesh still runs there.
    """
    hosts = {}
    for host in inventory.hosts:
        if host.name in touched:
            services = tuple(sorted(service.name for service in host.services))
            hosts[host.name] = HostRecord(services=services)
        elif host.name in before.hosts:
            hosts[host.name] = before.hosts[host.name]
    gone = {host: HostRecord(services=()) for host in left_behind(inventory, before)}
    return DeployRecord(hosts=hosts | gone)


def left_behind(inventory: Inventory, record: DeployRecord) -> tuple[HostName, ...]:
    """Hosts that were deployed to and are not in the inventory any more."""
    known = {host.name for host in inventory.hosts}
    return tuple(sorted(host for host in record.hosts if host not in known))
