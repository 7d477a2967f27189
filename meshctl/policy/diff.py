"""What a change of policy changes: settings, the services they are for, the hosts that feel it.

Pure: two policies and the inventory in, values out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshctl.inventory.model import Inventory
from meshctl.policy.pieces import Many, Piece
from meshctl.policy.section import Section, Table, Whole
from meshctl.policy.service import DEFAULTS, SERVICE_POLICY
from meshctl.policy.telemetry import TELEMETRY
from meshctl.policy.tokens import TOKEN_PROVIDER
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy, Route, ServicePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting. An empty side: it is not set there, so the defaults hold."""

    path: str
    """As in ``mesh.yaml``, items of lists by their names: ``services.api.routes.canary.to``."""
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    changes: tuple[Change, ...]
    services: tuple[ServiceName, ...]
    """Those whose policy in force differs; a changed default counts for who inherits it."""
    hosts: tuple[HostName, ...]
    """Whose proxies carry or call one of them, or call one whose routes lead there; all that
    carry any service, if what the whole mesh tells differs."""

    @property
    def is_empty(self) -> bool:
        return not self.changes


def difference(before: Policy | None, after: Policy, inventory: Inventory) -> Difference:
    """``before`` None: nothing was published, so the built-in defaults were in force."""
    old = Policy() if before is None else before
    left, right = dict(_settings(old)), dict(_settings(after))
    changes = tuple(
        Change(path=path, before=left.get(path, ""), after=right.get(path, ""))
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path)
    )
    known = {service.name for host in inventory.hosts for service in host.services}
    services = {name for name in known if _own(name, old) != _own(name, after)}
    felt = {name for name in known if not services.isdisjoint(_reached(name, old, after))}
    is_everywhere = old.telemetry != after.telemetry
    hosts = tuple(
        host.name
        for host in inventory.hosts
        if any(
            is_everywhere
            or service.name in services
            or any(use.service in felt for use in service.upstreams)
            for service in host.services
        )
    )
    return Difference(changes=changes, services=tuple(sorted(services)), hosts=hosts)


def _own(service: ServiceName, policy: Policy) -> tuple[object, ...]:
    """All that is in force when it is called, with those whose tokens it asks for."""
    own = policy.of(service)
    asked = {each.token.provider for each in own.intentions if each.token is not None}
    return own, [policy.tokens.get(name) for name in sorted(asked)]


def _reached(service: ServiceName, *policies: Policy) -> set[ServiceName]:
    """``service``, and where its callers are led."""
    found = {service}
    for policy in policies:
        own = policy.of(service)
        for route in own.routes:
            found.update(place.service for place in route.to if place.service)
            if route.mirror is not None and route.mirror.service is not None:
                found.add(route.mirror.service)
        found.update(step.service for step in own.failover if step.service)
    return found


def _settings(policy: Policy) -> Iterator[tuple[str, str]]:
    """Every setting with its path in ``mesh.yaml``, as it would be written there.

    A service's own settings are those in which it differs from the defaults.
    """
    defaults = dict(_leaves("", DEFAULTS, policy.defaults))
    yield from ((f"defaults.{path}", text) for path, text in defaults.items())
    for path, text in TELEMETRY.leaves(policy.telemetry):
        yield f"telemetry.{path}", text
    for name, provider in policy.tokens.items():
        for path, text in TOKEN_PROVIDER.leaves(provider):
            yield f"tokens.{name}.{path}", text
    for name, own in policy.services.items():
        for path, text in _leaves("", SERVICE_POLICY, own):
            if defaults.get(path) != text:
                yield f"services.{name}.{path}", text
        if own.health_check is None and policy.defaults.health_check is not None:
            yield f"services.{name}.health_check", "off"


def _leaves(path: str, section: Section, value: Any) -> Iterator[tuple[str, str]]:
    for field, found in section.values(value):
        here = f"{path}.{field.key}" if path else field.key
        match _inner(field.shape):
            case Section() as inner if section is SERVICE_POLICY or section is DEFAULTS:
                yield from _leaves(here, inner, found)
            case Many(item=item) if isinstance(inner := _inner(item), Section) and inner.is_named:
                yield here, ", ".join(each.name for each in found)
                for each in found:
                    yield from _item(f"{here}.{each.name}", inner, each, value)
            case Table(value=inner):
                yield from ((f"{here}.{key}", inner.show(each)) for key, each in found.items())
            case shape:
                yield here, shape.show(found)


def _item(
    path: str, section: Section, item: Any, service: ServicePolicy
) -> Iterator[tuple[str, str]]:
    """One entry of a list, which goes by its name; of its sections what is not the default."""
    for field, found in section.values(item):
        here = f"{path}.{field.key}"
        match _inner(field.shape):
            case Section() as inner if isinstance(item, Route) and field.key == "retries":
                yield from _differing(here, inner, found, service.retries)
            case Section() as inner:
                yield from ((f"{here}.{key}", text) for key, text in inner.leaves(found))
            case shape if field.key != "name":
                yield here, shape.show(found)
            case _:
                pass


def _differing(path: str, section: Section, value: Any, base: Any) -> Iterator[tuple[str, str]]:
    inherited = dict(_leaves(path, section, base))
    for here, text in _leaves(path, section, value):
        if inherited.get(here) != text:
            yield here, text


def _inner(shape: Piece) -> Piece:
    return shape.section if isinstance(shape, Whole) else shape
