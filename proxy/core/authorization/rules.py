"""Intentions compiled: for each caller what is left to decide, mostly nothing.

An ``Authorizer`` belongs to one service, its ``CallerRules`` to one caller of it; where no rule
looks at requests the decision is a constant, taken once for each connection.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxy.core.authorization.decision import Decision, Reason
from proxy.core.authorization.paths import forwarded_target
from proxy.core.routing.conditions import Condition, Head, Seen, compile_conditions
from proxy.core.routing.matching import path_condition
from proxy.model.authorization import EVERYBODY, Intention
from proxy.model.names import ServiceName
from proxy.model.routing import PathMatch


@dataclass(frozen=True, slots=True)
class _Path:
    """Stands in for a head where a path is compared without regard to case."""

    target: bytes


class _Rule:
    """One intention."""

    __slots__ = ("_conditions", "_path", "callers", "id", "is_audit", "is_deny", "name")

    def __init__(self, service: ServiceName, intention: Intention) -> None:
        self.name = intention.name
        self.id = f"{service}/{intention.name}"
        self.is_deny = bool(intention.deny)
        self.is_audit = intention.is_audit
        self.callers = frozenset(intention.deny or intention.allow)
        self._conditions = compile_conditions(intention.match)
        self._path: Condition | None = None
        if intention.match.path is not None:
            # What is denied is denied in any case of its letters: some applications do not
            # tell them apart.
            wanted = _lower(intention.match.path) if self.is_deny else intention.match.path
            self._path = path_condition(wanted)

    @property
    def has_path(self) -> bool:
        return self._path is not None

    @property
    def is_unconditional(self) -> bool:
        return not self._conditions and self._path is None

    def is_for(self, caller: ServiceName) -> bool:
        return caller in self.callers or EVERYBODY in self.callers

    def holds(self, head: Head, caller: ServiceName) -> bool:
        if self._path is not None:
            seen_as: Any = _Path(head.target.lower()) if self.is_deny else head
            if not self._path(seen_as, caller, {}):
                return False
        seen: Seen = {}
        return all(condition(head, caller, seen) for condition in self._conditions)

    def decision(self) -> Decision:
        verb = "denies" if self.is_deny else "allows"
        return Decision(
            is_allowed=not self.is_deny,
            policy=self.id,
            why=f"the intention {self.name!r} {verb} it",
        )


class CallerRules:
    """What decides about one caller."""

    __slots__ = (
        "_allow",
        "_audit",
        "_caller",
        "_default",
        "_deny",
        "_has_paths",
        "_service",
        "constant",
    )

    constant: Decision | None
    """The same for every request; None: it depends on the request."""

    def __init__(
        self,
        service: ServiceName,
        caller: ServiceName,
        default: Decision,
        rules: Sequence[_Rule],
    ) -> None:
        self._service = service
        self._caller = caller
        self._default = default
        self._audit = tuple(rule for rule in rules if rule.is_audit)
        self._deny = tuple(rule for rule in rules if rule.is_deny and not rule.is_audit)
        self._allow = tuple(rule for rule in rules if not rule.is_deny and not rule.is_audit)
        self.constant = self._constant()
        self._has_paths = any(rule.has_path for rule in rules)

    @property
    def session(self) -> Decision:
        """For a TCP session, in which there are no requests to look at."""
        if self.constant is not None:
            return self.constant
        return Decision(
            is_allowed=False,
            policy=f"{self._service}/{Reason.DEFAULT_DENY}",
            why="its intentions look at requests, and it speaks tcp",
        )

    def decide(self, head: Head) -> Decision:
        """Where rules look at paths, ``head.target`` is put in the form that was judged."""
        if self.constant is not None:
            return self.constant
        if self._has_paths:
            target = forwarded_target(head.target)
            if target is None:
                return Decision(
                    is_allowed=False,
                    policy=f"{self._service}/{Reason.AMBIGUOUS_PATH}",
                    why="applications may read its path in different ways",
                )
            head.target = target
        return self._audited(self._enforced(head), head)

    def _enforced(self, head: Head) -> Decision:
        for rules in (self._deny, self._allow):
            for rule in rules:
                if rule.holds(head, self._caller):
                    return rule.decision()
        return self._default

    def _audited(self, decision: Decision, head: Head | None) -> Decision:
        audited = tuple(
            rule.id
            for rule in self._audit
            if rule.is_deny is decision.is_allowed
            and (head is None or rule.holds(head, self._caller))
        )
        return replace(decision, audited=audited) if audited else decision

    def _constant(self) -> Decision | None:
        if any(not rule.is_unconditional for rule in self._audit):
            return None
        denied = next((rule for rule in self._deny if rule.is_unconditional), None)
        if denied is not None:
            found = denied.decision()
        elif self._deny:
            return None
        elif (allowed := next((r for r in self._allow if r.is_unconditional), None)) is not None:
            found = allowed.decision()
        elif self._allow:
            return None
        else:
            found = self._default
        return self._audited(found, None)


class Authorizer:
    """All callers of one service."""

    __slots__ = ("_callers", "_declared", "_rules", "service")

    def __init__(
        self,
        service: ServiceName,
        declared: Collection[ServiceName],
        intentions: Sequence[Intention],
    ) -> None:
        """``declared``: callers of the inventory. Raises InvalidRegex; total on a sound policy."""
        self.service = service
        self._declared = frozenset(declared)
        self._rules = tuple(_Rule(service, each) for each in intentions)
        self._callers: dict[ServiceName, CallerRules] = {}

    def of(self, caller: ServiceName) -> CallerRules:
        """Remembered for declared callers, of which there is a bounded number."""
        found = self._callers.get(caller)
        if found is None:
            found = self._compile(caller)
            if caller in self._declared:
                self._callers[caller] = found
        return found

    def _compile(self, caller: ServiceName) -> CallerRules:
        service = self.service
        if caller not in self._declared:
            why = f"the inventory declares no call of {service} by {caller}"
            return CallerRules(service, caller, self._decision(False, Reason.UNDECLARED, why), ())
        if any(not rule.is_audit for rule in self._rules):
            why = f"no intention of {service} allows it"
            default = self._decision(False, Reason.DEFAULT_DENY, why)
        else:
            default = self._decision(True, Reason.DECLARED, "the inventory declares the call")
        mine = [rule for rule in self._rules if rule.is_for(caller)]
        return CallerRules(service, caller, default, mine)

    def _decision(self, is_allowed: bool, by: Reason, why: str) -> Decision:
        return Decision(is_allowed=is_allowed, policy=f"{self.service}/{by}", why=why)


def _lower(match: PathMatch) -> PathMatch:
    return PathMatch(
        exact=match.exact.lower() if match.exact is not None else None,
        prefix=match.prefix.lower() if match.prefix is not None else None,
        template=match.template.lower() if match.template is not None else None,
        regex=f"(?i){match.regex}" if match.regex is not None else None,
    )
