"""What a proxy has to know of the mesh: the services it may send to, and where they are.

A workload is only ever sent to services that it declares among its upstreams: everybody else's
inbound side refuses it anyway, as callers are derived from the same declarations. So whatever a
route, a mirror or a failover names besides is left out, here and in the route table.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from proxy.model.names import ServiceName
from proxy.model.policy import Policy
from proxy.model.settings import Settings, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    services: frozenset[ServiceName]
    """In the proxy's own datacenter."""
    elsewhere: frozenset[tuple[str, ServiceName]]
    """Datacenter and service: where a failover may go."""


def needed(settings: Settings, policy: Policy) -> Reach:
    """Whose endpoints to watch under ``policy``.

    Every declared upstream is reached, by its port, by Host or by a route; so the destinations of
    routes and mirrors add nothing. A failover adds the other datacenters.
    """
    return Reach(
        services=frozenset(up.service for work in settings.workloads for up in work.upstreams),
        elsewhere=frozenset(
            place for work in settings.workloads for place in _elsewhere(work, policy)
        ),
    )


def concerned(settings: Settings) -> frozenset[ServiceName]:
    """The services whose policy matters to this proxy: those it calls, and those it carries."""
    return frozenset(
        name
        for work in settings.workloads
        for name in (work.service, *(upstream.service for upstream in work.upstreams))
    )


def _elsewhere(workload: Workload, policy: Policy) -> Iterator[tuple[str, ServiceName]]:
    declared = {upstream.service for upstream in workload.upstreams}
    for service in declared:
        for step in policy.of(service).failover:
            target = step.service or service
            if step.datacenter and target in declared:
                yield step.datacenter, target
