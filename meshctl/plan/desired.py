"""What the mesh should be: everything a plan depends on besides the facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from meshctl.artifacts import ManagedConsul
from meshctl.bundle.model import Bundle
from meshctl.inventory.model import Host, Inventory, Role
from meshctl.pki.record import DeployRecord
from proxy.model.names import HostName, TrustDomain
from proxy.model.policy import Policy
from proxy.model.policy_keys import PolicyTrust
from proxy.model.signed import key_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    inventory: Inventory
    trust_domain: TrustDomain
    bundles: Mapping[HostName, Bundle]
    """Of each host that could be asked and carries a proxy."""
    trust_bundle: bytes
    """PEM: the roots that a peer may chain to."""
    issuer: str
    """SHA-256 of the DER of the operator's CA that signs leaves now."""
    signers: frozenset[str] = frozenset()
    """The same of the signers' certificates under the current root, earlier ones included."""
    certified: frozenset[HostName] = frozenset()
    """Hosts whose signer was certified once, as far as the state directory knows."""
    root_key_id: str = ""
    """Key identifier of the root that certifies, hex."""
    signer_bundles: Mapping[HostName, Bundle] = field(default_factory=dict)
    """Of each host that could be asked and runs a signer."""
    before: DeployRecord = field(default_factory=DeployRecord)
    """Which identities each host may have so far."""
    policy: Policy
    policy_key: bytes | None = None
    """Public; None: a plan that is only shown, for a mesh that has no such key yet."""
    generation: int = 0
    """The highest that was ever published from here."""
    consul: ManagedConsul | None = None
    """Set where the inventory says ``managed``."""
    owner: str = ""
    """Our name in the hosts' deploy locks."""
    now: datetime = field()

    @property
    def policy_trust(self) -> PolicyTrust:
        """By which what is published is verified."""
        keys = () if self.policy_key is None else (self.policy_key,)
        return PolicyTrust(keys={key_id(key): key for key in keys})


def runs_signer(desired: Desired, host: Host) -> bool:
    return any(signer.name == host.name for signer in desired.inventory.signer_hosts)


def carries_proxy(host: Host) -> bool:
    """A host that is only a Consul server gets no proxy."""
    return bool(host.services) or Role.WORKLOAD in host.roles
