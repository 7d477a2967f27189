"""The catalogue half of the registry's state: services, TTL checks, their expiry; no I/O.

After Consul there are two views of a check's output. The agent's own is always current. The
catalogue's, which every other host sees, follows at once when the status changes or the service
is registered again, but only after ``check_update_interval_s`` when nothing but the output
changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

MIN_DEREGISTER_AFTER_S = 60.0
"""Consul takes anything shorter for this."""
MAX_OUTPUT_BYTES = 4096
"""Consul keeps no more of an output set with a JSON body."""


class Status(StrEnum):
    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    id: str
    name: str
    tags: tuple[str, ...] = ()
    address: str = ""
    port: int = 0
    meta: Mapping[str, str]
    enable_tag_override: bool = False
    weights: tuple[int, int] = (1, 1)
    is_local: bool = True
    """False for ``consul`` itself, which is in the catalogue but not the agent's to change."""
    create_index: int = 0
    modify_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDefinition:
    """A TTL check as it was asked for."""

    id: str
    name: str
    ttl_s: float
    notes: str = ""
    status: Status = Status.CRITICAL
    deregister_after_s: float = 0.0
    """0: the service stays however long the check is critical."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    definition: CheckDefinition
    service_id: str
    service_name: str
    service_tags: tuple[str, ...]
    status: Status
    output: str = ""
    published_output: str = ""
    """The catalogue's view of ``output``."""
    last_note: str = ""
    """Of the latest update since registration; quoted when the TTL expires."""
    expires_at: float | None = None
    publish_at: float | None = None
    critical_since: float | None = None
    create_index: int = 0
    modify_index: int = 0


class UnknownService(Exception):
    """A check was given for a service that is not registered."""


class UnknownCheck(Exception):
    """An update was sent for a check that is not registered."""


class Catalogue:
    """Times are seconds of one clock, handed in as ``now``; indexes as in ``kv``."""

    def __init__(self, *, check_update_interval_s: float) -> None:
        self._check_update_interval_s = check_update_interval_s
        self.services: dict[str, Service] = {}
        """By service id."""
        self.checks: dict[str, Check] = {}
        """By check id."""
        self._touched: dict[str, int] = {}
        """By service name: the last change of an instance or of one of its checks."""
        self._instances_touched: dict[str, int] = {}
        self.services_index = 1
        self.checks_index = 1

    def instances(self, name: str) -> tuple[Service, ...]:
        return tuple(
            service for _, service in sorted(self.services.items()) if service.name == name
        )

    def checks_of(self, service_id: str) -> tuple[Check, ...]:
        """Of one instance; with an empty id, those of the node itself."""
        return tuple(
            check for _, check in sorted(self.checks.items()) if check.service_id == service_id
        )

    def index_of(self, name: str) -> int:
        """X-Consul-Index for health/service: an absent service has the catalogue's."""
        if any(service.name == name for service in self.services.values()):
            return self._touched[name]
        return max(self.services_index, self.checks_index)

    def instances_index_of(self, name: str) -> int:
        """X-Consul-Index for catalog/service, which does not look at checks."""
        if any(service.name == name for service in self.services.values()):
            return self._instances_touched[name]
        return self.services_index

    def touched(self, name: str) -> int:
        return self._touched.get(name, 0)

    def instances_touched(self, name: str) -> int:
        return self._instances_touched.get(name, 0)

    def register(
        self,
        service: Service,
        definitions: tuple[CheckDefinition, ...],
        *,
        replaces_checks: bool,
        now: float,
        index: int,
    ) -> None:
        """Adds or updates an instance. A check that exists keeps its status and output, whatever
        the definition says; checks that are not given again stay unless ``replaces_checks``.
        """
        existing = self.services.get(service.id)
        if existing is not None and existing.name != service.name:
            self.deregister(service.id, index=index)
            existing = None
        created = existing.create_index if existing is not None else index
        if existing is None or existing != replace(
            service, create_index=existing.create_index, modify_index=existing.modify_index
        ):
            self.services[service.id] = replace(service, create_index=created, modify_index=index)
            self._touch_instance(service.name, index)
        if replaces_checks:
            kept = {definition.id for definition in definitions}
            for check in self.checks_of(service.id):
                if check.definition.id not in kept:
                    self.deregister_check(check.definition.id, index=index)
        for definition in definitions:
            self.register_check(definition, service.id, now=now, index=index)

    def register_check(
        self, definition: CheckDefinition, service_id: str, *, now: float, index: int
    ) -> None:
        """Raises UnknownService. The TTL starts anew; a held back output is published."""
        service = self.services.get(service_id)
        if service_id and service is None:
            raise UnknownService(service_id)
        existing = self.checks.get(definition.id)
        status = existing.status if existing is not None else definition.status
        output = existing.output if existing is not None else ""
        self._store(
            Check(
                definition=definition,
                service_id=service_id,
                service_name=service.name if service is not None else "",
                service_tags=service.tags if service is not None else (),
                status=status,
                output=output,
                published_output=output,
                expires_at=now + definition.ttl_s,
                critical_since=_critical_since(existing, status, now),
                create_index=existing.create_index if existing is not None else index,
            ),
            index,
        )

    def update(self, check_id: str, status: Status, output: str, *, now: float, index: int) -> None:
        """A heartbeat: restarts the TTL. Raises UnknownCheck."""
        check = self.checks.get(check_id)
        if check is None or not check.definition.ttl_s:
            raise UnknownCheck(check_id)
        beaten = replace(check, expires_at=now + check.definition.ttl_s, last_note=output)
        self._change(beaten, status, output, now=now, index=index)

    def deregister(self, service_id: str, *, index: int) -> bool:
        """False for an unknown id, and for what is not the agent's own."""
        service = self.services.get(service_id)
        if service is None or not service.is_local:
            return False
        for check in self.checks_of(service_id):
            self.deregister_check(check.definition.id, index=index)
        del self.services[service_id]
        self._touch_instance(service.name, index)
        return True

    def deregister_check(self, check_id: str, *, index: int) -> bool:
        check = self.checks.get(check_id)
        if check is None or not check.definition.ttl_s:
            return False
        del self.checks[check_id]
        self._touch_check(check, index)
        return True

    def next_deadline(self) -> float | None:
        """When ``expire`` has something to do next; None while nothing is due ever."""
        times = [time for check in self.checks.values() for time in _deadlines(check)]
        return min(times, default=None)

    def expire(self, *, now: float, index: int) -> None:
        """Does what time alone brings about: expired TTLs, held back outputs, removal."""
        for check in tuple(self.checks.values()):
            current = check
            if current.publish_at is not None and current.publish_at <= now:
                current = replace(current, publish_at=None, published_output=current.output)
                self._store(current, index)
            if current.expires_at is not None and current.expires_at <= now:
                output = "TTL expired"
                if current.last_note:
                    output += f" (last output before timeout follows): {current.last_note}"
                self._change(
                    replace(current, expires_at=None), Status.CRITICAL, output, now=now, index=index
                )
        for check in tuple(self.checks.values()):
            removal = _removal(check)
            if removal is not None and removal <= now:
                self.deregister(check.service_id, index=index)

    def restore(
        self, service: Service, checks: tuple[Check, ...], *, now: float, index: int
    ) -> None:
        """Puts back what a previous run had; every TTL starts anew, so that a restart of the
        registry alone takes nobody out of the catalogue. Queries see ``index``, which is above
        whatever they may have been told before.
        """
        self.services[service.id] = service
        self._touch_instance(service.name, index)
        for check in checks:
            self.checks[check.definition.id] = replace(
                check,
                expires_at=now + check.definition.ttl_s,
                critical_since=now if check.status is Status.CRITICAL else None,
            )
            self._touch_check(check, index)

    def add_node_check(self, check: Check) -> None:
        """The agent's own liveness; it never expires."""
        self.checks[check.definition.id] = check
        self._touch_check(check, check.modify_index)

    def _change(self, check: Check, status: Status, output: str, *, now: float, index: int) -> None:
        held_back = status is check.status and output != check.published_output
        publish_at = None
        if held_back and self._check_update_interval_s > 0:
            publish_at = check.publish_at or now + self._check_update_interval_s
        self._store(
            replace(
                check,
                status=status,
                output=output,
                published_output=check.published_output if publish_at is not None else output,
                publish_at=publish_at,
                critical_since=_critical_since(check, status, now),
            ),
            index,
        )

    def _store(self, check: Check, index: int) -> None:
        """Keeps the index when the catalogue would not show a difference."""
        existing = self.checks.get(check.definition.id)
        if existing is not None and _shown(existing) == _shown(check):
            self.checks[check.definition.id] = replace(check, modify_index=existing.modify_index)
            return
        self.checks[check.definition.id] = replace(check, modify_index=index)
        self._touch_check(check, index)

    def _touch_instance(self, name: str, index: int) -> None:
        self.services_index = max(self.services_index, index)
        self._instances_touched[name] = max(self._instances_touched.get(name, 0), index)
        self._touched[name] = max(self._touched.get(name, 0), index)

    def _touch_check(self, check: Check, index: int) -> None:
        self.checks_index = max(self.checks_index, index)
        names = [check.service_name] if check.service_id else list(self._touched)
        for name in names:
            self._touched[name] = max(self._touched.get(name, 0), index)


def _shown(check: Check) -> tuple[object, ...]:
    return (
        check.definition.name,
        check.definition.notes,
        check.service_id,
        check.service_tags,
        check.status,
        check.published_output,
    )


def _critical_since(existing: Check | None, status: Status, now: float) -> float | None:
    if status is not Status.CRITICAL:
        return None
    if existing is not None and existing.critical_since is not None:
        return existing.critical_since
    return now


def _removal(check: Check) -> float | None:
    after = check.definition.deregister_after_s
    if not after or not check.service_id or check.critical_since is None:
        return None
    return check.critical_since + max(after, MIN_DEREGISTER_AFTER_S)


def _deadlines(check: Check) -> list[float]:
    times = (check.expires_at, check.publish_at, _removal(check))
    return [time for time in times if time is not None]
