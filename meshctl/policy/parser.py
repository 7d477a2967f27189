"""The text of ``mesh.yaml`` to a ``Policy``, or InvalidInput with every violation.

Pure: text in, value out. Unknown keys and services are violations, never ignored: a setting that
silently does nothing is worse than an error.
"""

import difflib
from collections.abc import Collection, Iterable

from meshctl import durations
from meshctl.errors import InvalidInput
from meshctl.yamltree import MappingNode, Node, ScalarNode, join, load, plain
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, ServicePolicy, Timeouts
from proxy.model.violation import Violation

VERSION = 1

TIMEOUTS = {
    "connect": "connect_s",
    "request": "request_s",
    "stream_idle": "stream_idle_s",
    "connection_idle": "connection_idle_s",
    "pool_idle": "pool_idle_s",
}
"""Key in ``mesh.yaml`` to field of ``Timeouts``."""

MAY_BE_ZERO = frozenset({"request"})
"""Where 0 means none; elsewhere it would fail every request or keep things for ever."""


def parse(text: str, source: str, known_services: Collection[ServiceName]) -> Policy:
    """Raises InvalidInput. ``known_services`` are the inventory's; policy for others is refused.

    A service's settings override the defaults field by field.
    """
    reader = _Reader(known_services)
    policy = reader.policy(load(text, source))
    if reader.violations:
        ordered = sorted(reader.violations, key=lambda violation: violation.line or 0)
        raise InvalidInput(source, ordered, hint=f"edit {source}; nothing was done")
    return policy


class _Reader:
    """One walk over the tree; each step returns something usable, so that the walk goes on."""

    def __init__(self, known_services: Collection[ServiceName]) -> None:
        self._known = known_services
        self.violations: list[Violation] = []

    def policy(self, root: Node) -> Policy:
        top = self._mapping(root, "", ("version", "defaults", "services"))
        self._version(top, root)
        defaults = self._service(top.get("defaults"), "defaults", ServicePolicy())
        services: dict[ServiceName, ServicePolicy] = {}
        entries = top.get("services")
        if entries is not None and not _is_empty(entries):
            for name, node in self._mapping(entries, "services", None).items():
                service = self._known_service(name, node)
                policy = self._service(node, join("services", name), defaults)
                if service is not None:
                    services[service] = policy
        return Policy(defaults=defaults, services=services)

    def _version(self, top: dict[str, Node], root: Node) -> None:
        node = top.get("version")
        if node is None:
            if isinstance(root, MappingNode) or _is_empty(root):
                self._refuse("version", "it is missing", f"add 'version: {VERSION}'", root.line)
        elif plain(node) != VERSION or isinstance(plain(node), bool):
            shown = _shown(node)
            self._refuse("version", f"{shown} is not a version", f"use {VERSION}", node.line)

    def _known_service(self, name: str, node: Node) -> ServiceName | None:
        match = next((known for known in self._known if known == name), None)
        if match is None:
            hint = _did_you_mean(name, self._known)
            if not hint:
                hint = "policy is for services of the inventory"
                if self._known:
                    hint += f": {_listed(self._known)}"
            path = join("services", name)
            self._refuse(path, f"no service {name!r} is in the inventory", hint, node.line)
        return match

    def _service(self, node: Node | None, path: str, base: ServicePolicy) -> ServicePolicy:
        if node is None or _is_empty(node):
            return base
        fields = self._mapping(node, path, ("timeouts",))
        timeouts = fields.get("timeouts")
        if timeouts is None or _is_empty(timeouts):
            return base
        return ServicePolicy(
            timeouts=self._timeouts(timeouts, join(path, "timeouts"), base.timeouts)
        )

    def _timeouts(self, node: Node, path: str, base: Timeouts) -> Timeouts:
        values = {field: getattr(base, field) for field in TIMEOUTS.values()}
        fields = self._mapping(node, path, tuple(TIMEOUTS))
        for key, value in fields.items():
            seconds = self._duration(value, join(path, key), may_be_zero=key in MAY_BE_ZERO)
            if seconds is not None:
                values[TIMEOUTS[key]] = seconds
        timeouts = Timeouts(**values)
        if 0 < timeouts.request_s <= timeouts.connect_s:
            blamed = next((key for key in ("connect", "request") if key in fields), None)
            if blamed is not None:
                self._refuse(
                    join(path, blamed),
                    f"connect ({durations.show(timeouts.connect_s)}) is not shorter than request "
                    f"({durations.show(timeouts.request_s)}), so no slow connect could succeed",
                    "lower connect, raise request, or set request: 0",
                    fields[blamed].line,
                )
            return base
        return timeouts

    def _duration(self, node: Node, path: str, *, may_be_zero: bool) -> float | None:
        if not isinstance(node, ScalarNode):
            self._refuse(path, "it is not a duration", f"use {durations.RULE}", node.line)
            return None
        try:
            seconds = durations.parse(node.value)
        except durations.InvalidDuration as error:
            rule = durations.RULE if may_be_zero else durations.RULE.removesuffix("; or 0")
            self._refuse(path, str(error), f"use {rule}", node.line)
            return None
        if seconds == 0 and not may_be_zero:
            self._refuse(path, "0 is not possible here", "use a time above 0", node.line)
            return None
        return seconds

    def _mapping(self, node: Node, path: str, known: Collection[str] | None) -> dict[str, Node]:
        """The entries under known keys; with ``known`` None, all entries."""
        if not isinstance(node, MappingNode):
            if not (path == "" and _is_empty(node)):
                what = _listed(known) if known else "names of services"
                self._refuse(
                    path or "(file)",
                    f"{_shown(node)} is not a mapping",
                    f"use keys: {what}",
                    node.line,
                )
            return {}
        found: dict[str, Node] = {}
        for key, value in node.items:
            if known is None or key.text in known:
                found[key.text] = value
                continue
            hint = _did_you_mean(key.text, known) or f"known here: {_listed(known)}"
            self._refuse(join(path, key.text), f"unknown key {key.text!r}", hint, key.line)
        return found

    def _refuse(self, path: str, message: str, hint: str, line: int) -> None:
        self.violations.append(Violation(path=path, message=message, hint=hint, line=line))


def _is_empty(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.value is None


def _shown(node: Node) -> str:
    if not isinstance(node, ScalarNode):
        return "a list" if not isinstance(node, MappingNode) else "a mapping"
    return repr(node.text if len(node.text) <= 60 else f"{node.text[:57]}...")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names) if isinstance(names, set | frozenset) else list(names)
    more = f" and {len(ordered) - 10} more" if len(ordered) > 10 else ""
    return ", ".join(ordered[:10]) + more


def _did_you_mean(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name[:100], list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
