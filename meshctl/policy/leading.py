"""Where a route leads: its destinations with their shares, and what each fails over to."""

from collections.abc import Iterator

from meshctl.policy.explained import Destination, Tier
from meshctl.policy.origins import Places, in_force
from proxy.core.routing import CompiledRoute
from proxy.core.table import ClusterSpec, OutboundRoute
from proxy.model.names import ServiceName
from proxy.model.policy import Policy
from proxy.model.routing import Destination as Place

_OWN = ("load_balancing", "limits", "outlier_detection", "health_check")
"""What is of the destination, whatever service was asked for."""


def destinations(
    route: OutboundRoute,
    compiled: CompiledRoute | None,
    pinned: int | None,
    policy: Policy,
    places: Places,
) -> tuple[Destination, ...]:
    """In the route's order. ``pinned``: the one that the request in question belongs to."""
    to = compiled.route.to if compiled is not None else ()
    made = []
    for number, place in enumerate(to or (Place(),)):
        service = place.service or route.service
        spec = route.clusters.get((service, place.subset))
        path = ""
        if compiled is not None and to:
            path = f"services.{route.service}.routes[{compiled.index}].to[{number}]"
        made.append(
            Destination(
                name=led_to(service, place.subset),
                service=service,
                share_percent=_share(to, number),
                at=places.at(path) if path else "",
                is_declared=spec is not None,
                is_pinned=number == pinned,
                tiers=() if spec is None else tuple(_tiers(spec, route)),
                settings=tuple(in_force(_OWN, service, policy, places)),
            )
        )
    return tuple(made)


def led_to(service: ServiceName, subset: str) -> str:
    return f"{service}/{subset}" if subset else service


def _share(to: tuple[Place, ...], number: int) -> float:
    """As ``CompiledRoute.choose`` does: one alone gets all, and so does the first of nothing."""
    total = sum(place.weight for place in to) if len(to) > 1 else 0
    if total <= 0:
        return 100.0 if number == 0 else 0.0
    return 100.0 * to[number].weight / total


def _tiers(spec: ClusterSpec, route: OutboundRoute) -> Iterator[Tier]:
    """The table has their endpoints, the policy their names; the order is the same."""
    names = [(spec.service, spec.subset, "")]
    declared = {service for service, _ in route.clusters}
    for step in spec.policy.failover:
        target = step.service or spec.service
        is_itself = (target, step.subset) == (spec.service, spec.subset)
        if target in declared and not (is_itself and not step.datacenter):
            names.append((target, step.subset, step.datacenter))
    for (service, subset, datacenter), endpoints in zip(names, spec.tiers, strict=True):
        yield Tier(
            name=led_to(service, subset),
            service=service,
            datacenter=datacenter,
            hosts=tuple(each.host for each in endpoints),
        )
