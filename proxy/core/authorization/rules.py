"""Intentions compiled: for each caller what is left to decide, mostly nothing.

An ``Authorizer`` belongs to one service, its ``CallerRules`` to one caller of it; where no rule
looks at requests the decision is a constant, taken once for each connection.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from proxy.core.authorization.decision import Decision, Reason
from proxy.core.authorization.fields import Looked
from proxy.core.authorization.paths import forwarded_target
from proxy.core.authorization.tokens import (
    TokenCondition,
    Untrusted,
    Verify,
    no_tokens,
)
from proxy.core.routing.conditions import Condition, Head, Seen, compile_conditions
from proxy.core.routing.matching import path_condition
from proxy.core.routing.regex import any_case
from proxy.model.authorization import EVERYBODY, UNKNOWN, Intention, Mode, TokenProvider
from proxy.model.names import ServiceName
from proxy.model.routing import Match, PathMatch, TextMatch


@dataclass(frozen=True, slots=True)
class _Path:
    """Stands in for a head where a path is compared without regard to case."""

    target: bytes


class _Rule:
    """One intention."""

    __slots__ = (
        *("_conditions", "_path", "_token", "callers", "id", "is_audit", "is_deny", "match"),
        "name",
    )

    def __init__(
        self,
        service: ServiceName,
        intention: Intention,
        providers: Mapping[str, TokenProvider],
        verify: Verify,
    ) -> None:
        self.name = intention.name
        self.id = f"{service}/{intention.name}"
        self.is_deny = bool(intention.deny)
        self.is_audit = intention.is_audit
        self.match = intention.match
        self.callers = frozenset(intention.deny or intention.allow)
        self._conditions = compile_conditions(intention.match)
        token = intention.token
        self._token = TokenCondition(token, providers, verify) if token is not None else None
        self._path: Condition | None = None
        path = intention.match.asked_path
        if path is not None:
            # What is denied is denied in any case of its letters: some applications do not
            # tell them apart.
            self._path = path_condition(_lower(path) if self.is_deny else path)

    @property
    def has_path(self) -> bool:
        return self._path is not None

    @property
    def is_unconditional(self) -> bool:
        return not self._conditions and self._path is None and self._token is None

    @property
    def looked_at(self) -> Match:
        """With the header of its token: applications must read the one that was verified."""
        if self._token is None:
            return self.match
        whole = {self._token.match_header: TextMatch(prefix="")}
        return Match(headers={**self.match.headers, **whole}, query=self.match.query)

    def is_for(self, caller: ServiceName) -> bool:
        return caller in self.callers or EVERYBODY in self.callers

    def holds(self, head: Head, caller: ServiceName) -> bool:
        return self.fits(head, caller) and self.distrust(head) is None

    def distrust(self, head: Head) -> Untrusted | None:
        """What is wrong with the token; None: nothing, or none is asked for."""
        return self._token.refusal(head) if self._token is not None else None

    def fits(self, head: Head, caller: ServiceName) -> bool:
        """Whether it holds, but for its token."""
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


_NO_PROVIDERS: Mapping[str, TokenProvider] = MappingProxyType({})


class CallerRules:
    """What decides about one caller."""

    __slots__ = (
        "_allow",
        "_audit",
        "_caller",
        "_default",
        "_deny",
        "_has_paths",
        "_looked",
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
        # An audit decides nothing, so it neither refuses nor rewrites what it cannot read.
        enforced = (*self._deny, *self._allow)
        self._has_paths = any(rule.has_path for rule in enforced)
        self._looked = Looked(rule.looked_at for rule in enforced)

    @property
    def shut_out(self) -> Decision | None:
        """What denies it whatever it asks for; None: there can be a request that is allowed."""
        denied = next((rule for rule in self._deny if rule.is_unconditional), None)
        if denied is not None:
            return denied.decision()
        return None if self._default.is_allowed or self._allow else self._default

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
                return self._ambiguous(Reason.AMBIGUOUS_PATH, "its path")
            head.target = target
        ambiguity = self._looked.ambiguity(head)
        if ambiguity is not None:
            is_header = ambiguity is Reason.AMBIGUOUS_HEADER
            what = "one of its headers" if is_header else "its query"
            return self._ambiguous(ambiguity, what)
        return self._audited(self._enforced(head), head)

    def _ambiguous(self, reason: Reason, what: str) -> Decision:
        return Decision(
            is_allowed=False,
            policy=f"{self._service}/{reason}",
            why=f"applications may read {what} in different ways",
        )

    def _enforced(self, head: Head) -> Decision:
        for rule in self._deny:
            if rule.holds(head, self._caller):
                return rule.decision()
        distrust: tuple[str, Untrusted] | None = None
        for rule in self._allow:
            if rule.fits(head, self._caller):
                untrusted = rule.distrust(head)
                if untrusted is None:
                    return rule.decision()
                distrust = distrust or (rule.name, untrusted)
        return self._default if distrust is None else self._distrusted(*distrust)

    def _distrusted(self, name: str, untrusted: Untrusted) -> Decision:
        """Only for its token it is not allowed."""
        return Decision(
            is_allowed=False,
            policy=f"{self._service}/{Reason.TOKEN}",
            why=f"the intention {name!r} would allow it, but {untrusted.why}",
        )

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

    __slots__ = ("_callers", "_declared", "_is_known", "_rules", "anonymous", "service")

    def __init__(
        self,
        service: ServiceName,
        declared: Collection[ServiceName],
        intentions: Sequence[Intention] | None,
        *,
        providers: Mapping[str, TokenProvider] = _NO_PROVIDERS,
        verify: Verify = no_tokens,
        mode: Mode = "strict",
    ) -> None:
        """``declared``: callers of the inventory. ``intentions`` None: they are not known, and
        nobody may call. ``providers`` and ``verify`` are for those that ask for a token.
        Raises InvalidRegex; total on a sound policy."""
        self.service = service
        self._declared = frozenset(declared)
        self._is_known = intentions is not None
        self._rules = tuple(_Rule(service, each, providers, verify) for each in intentions or ())
        self._callers: dict[ServiceName, CallerRules] = {}
        self.anonymous = self._anonymous(mode)
        """For callers without an identity."""

    def of(self, caller: ServiceName) -> CallerRules:
        """Remembered for declared callers, of which there is a bounded number."""
        found = self._callers.get(caller)
        if found is None:
            found = self._compile(caller)
            if caller in self._declared:
                self._callers[caller] = found
        return found

    def _anonymous(self, mode: Mode) -> CallerRules:
        """Only what denies everybody is for them: the others are for who has a name."""
        if mode == "strict" or not self._is_known:
            why = (
                "the service is strict; call it through the mesh, or set mode: permissive in"
                " mesh.yaml for a while"
            )
            refused = self._decision(False, Reason.STRICT, why)
            return CallerRules(self.service, UNKNOWN, refused, ())
        rules = [rule for rule in self._rules if rule.is_deny and EVERYBODY in rule.callers]
        default = self._decision(True, Reason.PERMISSIVE, "the service is permissive")
        return CallerRules(self.service, UNKNOWN, default, rules)

    def _compile(self, caller: ServiceName) -> CallerRules:
        service = self.service
        if caller not in self._declared:
            why = f"the inventory declares no call of {service} by {caller}"
            return CallerRules(service, caller, self._decision(False, Reason.UNDECLARED, why), ())
        if not self._is_known:
            why = "no policy that could be verified has arrived yet"
            return CallerRules(service, caller, self._decision(False, Reason.NO_POLICY, why), ())
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
        regex=any_case(match.regex) if match.regex is not None else None,
    )
