"""What carrying out a plan needs besides the plan."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from meshctl.apply.consul_acl import ConsulAcl
from meshctl.apply.issue import Issuance
from meshctl.apply.observer import Observer
from meshctl.inventory.model import Host, Inventory
from meshctl.pki.authority import Issuer
from meshctl.pki.consul import ConsulCa
from meshctl.pki.signers import SignerCertificates
from meshctl.pki.store import Signer
from meshctl.state import DeployRecord
from meshctl.transport import Connector
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy

RESTART_SHARE = 4
"""A quarter of a service's replicas restart at the same time (Kubernetes' maxUnavailable), but
at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    inventory: Inventory
    trust_domain: TrustDomain
    connector: Connector
    signer: Signer | None
    """None: the plan issues nothing, so that the CA stays locked."""
    record: DeployRecord
    """What the CA decides by: already written when a plan is carried out."""
    root: Issuer | None = None
    """None: the plan certifies no signer, so that the root stays locked."""
    trust_bundle: bytes = b""
    """PEM: what a signer's certificate has to lead to. Set where ``root`` is."""
    signer_certificates: SignerCertificates | None = None
    """Where they are kept. None: this side remembers none."""
    certified: frozenset[HostName] = frozenset()
    """Hosts whose signer was certified before."""
    owner: str
    start_registry: Callable[[], Awaitable[None]]
    consul_acl: ConsulAcl | None = None
    """Set where Consul is managed."""
    consul_ca: ConsulCa | None = None
    """The same."""
    publish: Callable[[Policy, HostName], Awaitable[int]]
    """Through that host's agent; returns the generation that is published now."""
    now: Callable[[], datetime]
    observer: Observer
    parallel: int = 10
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: finish the steps that have begun, begin no other."""
    replicas: dict[ServiceName, asyncio.Semaphore] = field(default_factory=dict)
    """How many more proxies may restart that carry the service: never all of its replicas."""
    one_server: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a Consul server restarts: two at once would lose the quorum of three."""
    one_signer: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a signer restarts: somebody has to be there for those that renew just then."""

    @contextlib.asynccontextmanager
    async def taking_turns(self, host: Host) -> AsyncIterator[None]:
        """Held while the proxy of ``host`` restarts. Always in the same order: no deadlock."""
        async with contextlib.AsyncExitStack() as stack:
            for service in sorted({service.name for service in host.services}):
                count = sum(
                    service in {own.name for own in other.services}
                    for other in self.inventory.hosts
                )
                gate = self.replicas.setdefault(
                    service, asyncio.Semaphore(max(1, count // RESTART_SHARE))
                )
                await stack.enter_async_context(gate)
            yield

    @property
    def issuance(self) -> Issuance:
        assert self.signer is not None, "a plan that issues is carried out with an unlocked CA"
        return Issuance(
            signer=self.signer,
            record=self.record,
            trust_domain=self.trust_domain,
            now=self.now,
            life_s=self.inventory.leaf_life_s,
        )
