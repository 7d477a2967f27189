"""The text of ``mesh.yaml`` to a ``Policy``, or InvalidInput with every violation.

Pure: text in, value out. Unknown keys and services are violations, never ignored: a setting that
silently does nothing is worse than an error. What one value may be is said by the tables of
``service``; what holds between values by ``proxy.core.soundness``, which the proxies apply as
well; what holds between the policy and the inventory by ``surroundings``.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import structs

from meshctl.errors import InvalidInput
from meshctl.inventory.model import Inventory
from meshctl.inventory.shape import Findings
from meshctl.policy.calling import CALLING
from meshctl.policy.section import Field, Given, Section, children, shown
from meshctl.policy.service import DEFAULTS, LISTS, SERVICE_POLICY, VERSION
from meshctl.policy.surroundings import Surroundings, check_surroundings
from meshctl.policy.telemetry import TELEMETRY
from meshctl.policy.text import Text
from meshctl.policy.tokens import TOKENS
from meshctl.yamltree import MappingNode, Node, ScalarNode, SequenceNode, join, load, plain
from proxy.core.soundness import findings as unsound
from proxy.model.names import InvalidName, ServiceName, parse_service
from proxy.model.policy import Policy, Route, ServicePolicy
from proxy.model.resilience import ActiveHealth
from proxy.model.telemetry import Telemetry
from proxy.model.violation import Violation

MAX_BYTES = 8 * 1024 * 1024
"""Some 30,000 routes."""
_MAX_SHOWN = 500
"""Violations; a file with more has one cause, which is among them."""


def parse(text: str, source: str, inventory: Inventory, now: datetime) -> Policy:
    """Raises InvalidInput. Policy for services that the inventory does not have is refused, as
    are faults that are over ``now``.

    A service's settings override the defaults field by field.
    """
    root = load(text, source, MAX_BYTES)
    place = Text(root)
    reader = _Reader(place)
    policy = reader.policy(root)
    violations = reader.findings.violations
    violations += map(place.violation, unsound(policy))
    around = Surroundings.of(inventory)
    violations += map(place.violation, check_surroundings(policy, around, place, now))
    if violations:
        raise _invalid(source, violations)
    return policy


def _invalid(source: str, violations: list[Violation]) -> InvalidInput:
    ordered = sorted(violations, key=lambda violation: (violation.line or 0, violation.path))
    kept = ordered[:_MAX_SHOWN]
    if len(ordered) > len(kept):
        more = len(ordered) - len(kept)
        kept.append(Violation(path="(file)", message=f"and {more} more violations"))
    return InvalidInput(source, kept, hint=f"edit {source}; nothing was done")


class _Reader:
    """One walk over the tree. What cannot be read is left out of the policy, so that the rest is
    still looked at."""

    def __init__(self, place: Text) -> None:
        self._place = place
        self.findings = Findings()

    def policy(self, root: Node) -> Policy:
        keys = ["version", "defaults", "telemetry", "tokens", "services"]
        is_empty = _is_empty(root)
        top = {} if is_empty else children(root, "", keys, self.findings)
        self._version(top.get("version"), root)
        defaults = self._service(DEFAULTS, top.get("defaults"), "defaults", ServicePolicy())
        services: dict[ServiceName, ServicePolicy] = {}
        entries = top.get("services")
        if entries is not None and not _is_empty(entries):
            for name, node in children(
                entries, "services", None, self.findings, "names of services"
            ).items():
                path = join("services", name)
                own = self._service(SERVICE_POLICY, node, path, defaults)
                try:
                    services[parse_service(name)] = own
                except InvalidName as error:
                    self.findings.add(path, node.line, str(error))
        tokens = top.get("tokens")
        read = None
        if tokens is not None and not _is_empty(tokens):
            read = TOKENS.read(tokens, "tokens", self.findings)
        told = top.get("telemetry")
        telemetry = TELEMETRY.read(told, "telemetry", self.findings) if told is not None else None
        return Policy(
            defaults=defaults,
            services=services,
            tokens=read.value if read else {},
            telemetry=Telemetry(**telemetry.value) if telemetry else Telemetry(),
        )

    def _version(self, node: Node | None, root: Node) -> None:
        if node is None:
            if isinstance(root, MappingNode) or _is_empty(root):
                self.findings.add(
                    "version", root.line, "it is missing", f"add 'version: {VERSION}'"
                )
        elif plain(node) != VERSION or isinstance(plain(node), bool):
            message = f"{shown(node)} is not a version"
            self.findings.add("version", node.line, message, f"use {VERSION}")

    def _service(
        self, section: Section, node: Node | None, path: str, base: ServicePolicy
    ) -> ServicePolicy:
        if node is None or _is_empty(node):
            return base
        nodes = children(node, path, [field.key for field in section.fields], self.findings)
        given: Given = {}
        for field in CALLING:
            if field.key in nodes:
                given |= self._calling(field, nodes[field.key], join(path, field.key), base)
        made = structs.replace(base, **given)
        return structs.replace(made, **self._own(section, nodes, path, made))

    def _calling(self, field: Field, node: Node, path: str, base: ServicePolicy) -> Given:
        read = field.shape.read(node, path, self.findings)
        if read is None:
            return {}
        if read.value is None:
            return {field.name: None}
        under = getattr(base, field.name)
        return {
            field.name: structs.replace(ActiveHealth() if under is None else under, **read.value)
        }

    def _own(
        self, section: Section, nodes: Mapping[str, Node], path: str, made: ServicePolicy
    ) -> Given:
        given: Given = {}
        for field in section.fields:
            here, node = join(path, field.key), nodes.get(field.key)
            if node is None or field in CALLING:
                continue
            if field.key in LISTS:
                given[field.name] = tuple(self._items(LISTS[field.key], node, here, made))
            elif (read := field.shape.read(node, here, self.findings)) is not None:
                given[field.name] = read.value
        return given

    def _items(self, section: Section, node: Node, path: str, service: ServicePolicy) -> list[Any]:
        if not isinstance(node, SequenceNode):
            hint = "begin each item with -"
            self.findings.add(path, node.line, f"{shown(node)} is not a list", hint)
            return []
        made: list[Any] = []
        for number, item in enumerate(node.items):
            here = join(path, number)
            read = section.read(item, here, self.findings)
            if read is None:
                continue
            given = read.value
            if section.struct is Route and "retries" in given:
                given |= {"retries": structs.replace(service.retries, **given["retries"])}
            self._place.renumbered[join(path, len(made))] = here
            made.append(section.struct(**given))
        return made


def _is_empty(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.value is None
