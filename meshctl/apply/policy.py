"""Policy put in force over a mesh that runs: published through one agent, acknowledged by all."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from meshctl.apply.consul_access import open_consul
from meshctl.consul import CheckStatus, ConsulEdge, RegisteredWorkload
from meshctl.errors import MeshError, Unreachable
from meshctl.inventory.model import Inventory
from meshctl.transport import Connector
from proxy.model.names import HostName, TrustDomain

ACKNOWLEDGE_S = 15.0
_POLL_S = 0.3

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """What the proxies that live said of a generation."""

    hosts: tuple[HostName, ...]
    late: dict[HostName, str]
    """Hosts that do not run it, with the reason as far as it is known."""


async def through_any(
    inventory: Inventory, connector: Connector, act: Callable[[ConsulEdge], Awaitable[T]]
) -> T:
    """``act`` through the first host's agent that can be reached. Raises what ``act`` raises
    otherwise, or Unreachable when no agent answers."""
    failure: MeshError = Unreachable("there is no host in the inventory to reach Consul through")
    for host in inventory.hosts:
        try:
            async with open_consul(inventory, connector, host.name) as edge:
                return await act(edge)
        except Unreachable as error:
            failure = error
    raise failure


async def await_acknowledged(
    edge: ConsulEdge, trust_domain: TrustDomain, generation: int, deadline_s: float = ACKNOWLEDGE_S
) -> Acknowledged:
    """Returns once every proxy that lives runs ``generation`` or a later one, or in time."""
    deadline = time.monotonic() + deadline_s
    while True:
        alive = [
            workload
            for workload in await edge.workloads()
            if workload.trust_domain == trust_domain
            and workload.proxy_status in (CheckStatus.PASSING, CheckStatus.WARNING)
        ]
        late = {w.host: reason for w in alive if (reason := _reason(w, generation))}
        if not late or time.monotonic() > deadline:
            hosts = sorted({workload.host for workload in alive} - late.keys())
            return Acknowledged(hosts=tuple(hosts), late=late)
        await asyncio.sleep(_POLL_S)


def _reason(workload: RegisteredWorkload, generation: int) -> str:
    said = workload.acknowledgement
    if said is None:
        return "it has not said what it runs"
    if said.generation >= generation:
        return ""
    return f"it runs generation {said.generation}" + (f": {said.refused}" if said.refused else "")
