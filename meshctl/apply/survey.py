"""Looks at the whole mesh and changes nothing: every host's facts, and what Consul says."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from meshctl.apply.consul_access import open_consul
from meshctl.apply.gather import Gathered, gather
from meshctl.errors import MeshError, Unreachable
from meshctl.inventory.model import Host, Inventory
from meshctl.status import Catalogue, MeshStatus, build
from meshctl.transport import Connector
from proxy.model.names import TrustDomain
from proxy.model.policy_keys import PolicyTrust


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    gathered: Gathered
    catalogue: Catalogue | MeshError

    def status(self, inventory: Inventory, trust_domain: TrustDomain, now: datetime) -> MeshStatus:
        return build(
            inventory,
            trust_domain,
            facts=self.gathered.facts,
            failures=self.gathered.failures,
            catalogue=self.catalogue,
            now=now,
        )


async def survey(
    inventory: Inventory,
    trust_domain: TrustDomain,
    connector: Connector,
    *,
    trust: PolicyTrust,
    parallel: int,
) -> Survey:
    """Never raises for a host or Consul that does not answer: that is what is being found out."""
    gathered, catalogue = await asyncio.gather(
        gather(inventory, inventory.hosts, connector, parallel=parallel),
        _catalogue(inventory, trust_domain, connector, trust),
    )
    return Survey(gathered=gathered, catalogue=catalogue)


async def _catalogue(
    inventory: Inventory, trust_domain: TrustDomain, connector: Connector, trust: PolicyTrust
) -> Catalogue | MeshError:
    """Through all hosts' agents at the same time; the first answer counts."""
    asked = [
        asyncio.create_task(_read(inventory, trust_domain, connector, trust, host), name=host.name)
        for host in inventory.hosts
    ]
    failure: MeshError = Unreachable("no host of the inventory was asked for Consul")
    try:
        for finished in asyncio.as_completed(asked):
            try:
                return await finished
            except MeshError as error:
                failure = error
        return failure
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def _read(
    inventory: Inventory,
    trust_domain: TrustDomain,
    connector: Connector,
    trust: PolicyTrust,
    host: Host,
) -> Catalogue:
    async with open_consul(inventory, connector, host.name) as edge:
        (snapshot, _), registered = await asyncio.gather(
            edge.fetch_snapshot(trust), edge.workloads()
        )
    return Catalogue(
        generation=snapshot.generation if snapshot is not None else None,
        checks={
            (workload.service, workload.host): str(workload.worst)
            for workload in registered
            if workload.trust_domain == trust_domain
        },
    )
