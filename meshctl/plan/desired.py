"""What the mesh should be: everything a plan depends on besides the facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from meshctl.artifacts import ManagedConsul
from meshctl.bundle.model import Bundle
from meshctl.inventory.model import Host, Inventory, Role
from proxy.model.names import HostName, TrustDomain
from proxy.model.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    inventory: Inventory
    trust_domain: TrustDomain
    bundles: Mapping[HostName, Bundle]
    """Of each host that could be asked and carries a proxy."""
    trust_bundle: bytes
    """PEM: the roots that a peer may chain to."""
    issuer: str
    """SHA-256 of the DER of the CA that signs leaves now."""
    policy: Policy
    consul: ManagedConsul | None = None
    """Set where the inventory says ``managed``."""
    owner: str = ""
    """Our name in the hosts' deploy locks."""
    now: datetime = field()


def carries_proxy(host: Host) -> bool:
    """A host that is only a Consul server gets no proxy."""
    return bool(host.services) or Role.WORKLOAD in host.roles
