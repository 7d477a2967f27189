"""All that the embedded registry knows, as one value with one index; no I/O, no clock.

``now`` is handed in, in seconds of any clock that does not go back. ``server`` turns HTTP into
calls of this and waits; ``persistence`` turns it into a file and back.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from meshctl.registry.catalogue import Catalogue, Check, CheckDefinition, Service, Status
from meshctl.registry.definitions import Registration
from meshctl.registry.kv import Failure, KeyValues, Operation, Result

CHECK_UPDATE_INTERVAL_S = 300.0
"""Consul's check_update_interval."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The one node of the catalogue: this machine."""

    name: str = "embedded"
    address: str = "127.0.0.1"
    datacenter: str = "dc1"
    index: int = 1

    @property
    def id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.{self.datacenter}.consul"))


class State:
    """Writes take the next index and count it only if something changed."""

    def __init__(
        self,
        node: Node | None = None,
        *,
        check_update_interval_s: float = CHECK_UPDATE_INTERVAL_S,
        index: int = 1,
    ) -> None:
        self.node = node if node is not None else Node()
        self.index = index
        """Of the latest change; never goes back."""
        self.kv = KeyValues()
        self.catalogue = Catalogue(check_update_interval_s=check_update_interval_s)
        consul = Service(id="consul", name="consul", port=8300, meta={}, is_local=False)
        self._write(
            lambda index: self.catalogue.register(
                consul, (), replaces_checks=False, now=0.0, index=index
            )
        )
        self.catalogue.add_node_check(_serf_health(self.index))

    def put(self, key: str, value: bytes, *, flags: int, cas: int | None) -> bool:
        return self._write(lambda index: self.kv.put(key, value, flags=flags, cas=cas, index=index))

    def delete(self, key: str, *, cas: int | None = None) -> bool:
        return self._write(lambda index: self.kv.delete(key, cas=cas, index=index))

    def delete_under(self, prefix: str) -> None:
        self._write(lambda index: self.kv.delete_under(prefix, index=index))

    def transact(
        self, operations: tuple[Operation, ...]
    ) -> tuple[tuple[Result, ...], tuple[Failure, ...]]:
        return self._write(lambda index: self.kv.transact(operations, index=index))

    def register(self, registration: Registration, *, replaces_checks: bool, now: float) -> None:
        self._write(
            lambda index: self.catalogue.register(
                registration.service,
                registration.checks,
                replaces_checks=replaces_checks,
                now=now,
                index=index,
            )
        )

    def register_check(self, definition: CheckDefinition, service_id: str, *, now: float) -> None:
        self._write(
            lambda index: self.catalogue.register_check(
                definition, service_id, now=now, index=index
            )
        )

    def update_check(self, check_id: str, status: Status, output: str, *, now: float) -> None:
        self._write(
            lambda index: self.catalogue.update(check_id, status, output, now=now, index=index)
        )

    def deregister(self, service_id: str) -> bool:
        return self._write(lambda index: self.catalogue.deregister(service_id, index=index))

    def deregister_check(self, check_id: str) -> bool:
        return self._write(lambda index: self.catalogue.deregister_check(check_id, index=index))

    def expire(self, *, now: float) -> None:
        self._write(lambda index: self.catalogue.expire(now=now, index=index))

    def health(self, name: str) -> tuple[tuple[Service, tuple[Check, ...]], ...]:
        """Each instance with the node's checks and its own."""
        node_checks = self.catalogue.checks_of("")
        return tuple(
            (service, node_checks + self.catalogue.checks_of(service.id))
            for service in self.catalogue.instances(name)
        )

    def _write(self, change: Callable[[int], T]) -> T:
        result = change(self.index + 1)
        highest = max(
            self.kv.table_index, self.catalogue.services_index, self.catalogue.checks_index
        )
        self.index = max(self.index, highest)
        return result


def _serf_health(index: int) -> Check:
    definition = CheckDefinition(id="serfHealth", name="Serf Health Status", ttl_s=0.0)
    return Check(
        definition=definition,
        service_id="",
        service_name="",
        service_tags=(),
        status=Status.PASSING,
        output="Agent alive and reachable",
        published_output="Agent alive and reachable",
        create_index=index,
        modify_index=index,
    )
