"""What a change of policy changes: settings, the services they are for, the hosts that feel it.

Pure: two policies and the inventory in, values out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshctl import durations
from meshctl.inventory.model import Inventory
from proxy.model.codec import encode
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting. An empty side: it is not set there, so the defaults hold."""

    path: str
    """As in ``mesh.yaml``: ``services.api.timeouts.request``."""
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    changes: tuple[Change, ...]
    services: tuple[ServiceName, ...]
    """Those whose policy in force differs; a changed default counts for who inherits it."""
    hosts: tuple[HostName, ...]
    """Whose proxies carry or call one of them."""

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
    services = {name for name in known if old.of(name) != after.of(name)}
    hosts = tuple(
        host.name
        for host in inventory.hosts
        if any(
            service.name in services or any(use.service in services for use in service.upstreams)
            for service in host.services
        )
    )
    return Difference(changes=changes, services=tuple(sorted(services)), hosts=hosts)


def _settings(policy: Policy) -> Iterator[tuple[str, str]]:
    """Every setting with its path in ``mesh.yaml``, as it would be written there.

    A service's own settings are those in which it differs from the defaults.
    """
    document: dict[str, Any] = json.loads(encode(policy))
    defaults = dict(_leaves("", document["defaults"]))
    yield from ((f"defaults.{path}", text) for path, text in defaults.items())
    for name, service in document["services"].items():
        for path, text in _leaves("", service):
            if defaults.get(path) != text:
                yield f"services.{name}.{path}", text


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, inner)
    elif path.endswith("_s"):
        yield path.removesuffix("_s"), durations.show(value)
    else:
        yield path, str(value)
