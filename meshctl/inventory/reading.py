"""How the checks and the builder look at an inventory as it was read, before it is a model."""

from meshctl.inventory.model import Role, TransportKind
from meshctl.inventory.shape import Entry


def transport_of(host: Entry) -> str:
    found: str = host.plain("transport", TransportKind.SSH)
    return found


def is_local(host: Entry) -> bool:
    return transport_of(host) == TransportKind.LOCAL


def services_of(host: Entry) -> tuple[Entry, ...]:
    return host["services"].parts() if "services" in host else ()


def upstreams_of(service: Entry) -> tuple[Entry, ...]:
    return service["upstreams"].parts() if "upstreams" in service else ()


def roles_of(host: Entry) -> set[str]:
    if "roles" not in host:
        return {Role.WORKLOAD}
    return {role.value for role in host["roles"].parts()}


def overlay(root: Entry, host: Entry, key: str) -> Entry:
    """The host's own fields over the inventory's."""
    merged: dict[str, Entry] = {}
    for entry in (root.get(key), host.get(key)):
        merged |= {} if entry is None else entry.value
    return Entry(merged, f"{host.path}.{key}", host.line)


def protocols_of(root: Entry) -> dict[str, str]:
    """By service; of two that differ the first, which the checks then complain about."""
    defaults = root.get("defaults")
    inherited = "tcp" if defaults is None else defaults.plain("protocol", "tcp")
    found: dict[str, str] = {}
    for host in root["hosts"].parts() if "hosts" in root else ():
        for service in services_of(host):
            if "name" in service:
                found.setdefault(service["name"].value, service.plain("protocol", inherited))
    return found


def machines_of(hosts: tuple[Entry, ...]) -> list[tuple[Entry, ...]]:
    """The hosts by whose ports they share: the local ones all have this machine's."""
    local = tuple(host for host in hosts if is_local(host))
    found: list[tuple[Entry, ...]] = [local] if local else []
    return [*found, *((host,) for host in hosts if not is_local(host))]
