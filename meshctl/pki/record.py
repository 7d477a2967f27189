"""Which identities each host may have: the CA's one source when it decides whom to certify.

Written from the inventory when a plan is accepted; never from anything that a host says.
"""

from proxy.model.codec import Value
from proxy.model.names import HostName, ServiceName


class HostRecord(Value, frozen=True, kw_only=True):
    """What was deployed, or is being deployed, to one host."""

    services: tuple[ServiceName, ...] = ()


class DeployRecord(Value, frozen=True, kw_only=True):
    """All hosts of the mesh that may have identities."""

    hosts: dict[HostName, HostRecord] = {}

    def allows(self, host: HostName, service: ServiceName) -> bool:
        """Whether ``host`` carries ``service``, hence may hold its identity."""
        entry = self.hosts.get(host)
        return entry is not None and service in entry.services
