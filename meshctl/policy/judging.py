"""The called side of an explanation: its authorizer asked, and each rule that it looked at.

The decision is the authorizer's. Which condition of a rule failed is found by asking the same code
about each condition alone.
"""

from collections.abc import Callable
from typing import Any

from meshctl import durations
from meshctl.policy.asking import Asked, Test
from meshctl.policy.explained import Judgement, LimitSeen, Outcome, RuleSeen, Unmet
from meshctl.policy.origins import Places
from meshctl.policy.requests import RequestHead, copy_of
from proxy.core.authorization import Authorizer, CallerRules, Decision, Reason
from proxy.core.authorization.tokens import Claims, TokenCondition, Untrusted
from proxy.core.routing import Head
from proxy.core.table import InboundRoute
from proxy.model.authorization import EVERYBODY, Intention
from proxy.model.names import ServiceName
from proxy.model.resilience import RateLimit
from proxy.model.routing import Match

_TOKEN = f"/{Reason.TOKEN}"
_UNHEARD = frozenset(Reason) - {Reason.DECLARED, Reason.DEFAULT_DENY, Reason.TOKEN}
"""What decides before any intention is asked."""


class Judge:
    """Of one service; its workloads judge alike on each host."""

    def __init__(self, route: InboundRoute, places: Places, claims: Claims | None = None) -> None:
        """``claims``: stand for a token that was verified, whatever its provider; None: what a
        token says is not known."""
        self._route, self._places = route, places
        self._intentions = route.intentions or ()
        self.service = route.service
        self._is_tcp = route.protocol == "tcp"
        self._claims = claims
        self._is_unknown = False
        """A token was asked for that nobody knows."""
        self._authorizer = Authorizer(
            route.service,
            route.allow,
            route.intentions,
            providers=route.tokens,
            verify=self._verify,
        )
        self._tokens = [
            TokenCondition(each.token, route.tokens, self._verify) if each.token else None
            for each in self._intentions
        ]
        self._asked = [Asked(each.match, self._tester(each)) for each in self._intentions]
        self._limits = [(each, Asked(each.match)) for each in route.rate_limits]

    def judge(self, caller: ServiceName, head: RequestHead | None) -> Judgement:
        """``head``: as it arrives, and not changed here; None: any request, or a TCP session."""
        rules = self._authorizer.of(caller)
        if head is None:
            return self._any_request(caller, rules)
        seen = copy_of(head)
        if self._claims is not None:
            self._give_token(seen)
        self._is_unknown = False
        decision = rules.decide(seen)
        if self._is_unknown and not decision.is_allowed and decision.policy.endswith(_TOKEN):
            return self._depends(caller, decision.why, seen)
        limits: tuple[LimitSeen, ...] = ()
        if decision.is_allowed:
            limits = tuple(
                self._limit(number, limit, "")
                for number, (limit, asked) in enumerate(self._limits)
                if not asked.unmet(seen, caller)
            )
        return self._judgement(
            decision,
            target=seen.target.decode("utf-8", "backslashreplace"),
            authority=(seen.authority or b"").decode("latin-1"),
            rules=self._rules(caller, decision, seen),
            limits=limits,
        )

    def _any_request(self, caller: ServiceName, rules: CallerRules) -> Judgement:
        decision = rules.session if self._is_tcp else rules.constant
        if decision is not None:
            seen = self._rules(caller, decision, None)
            limits = self._any_limits(caller) if decision.is_allowed else ()
            return self._judgement(decision, target="", authority="", rules=seen, limits=limits)
        return self._depends(caller, "its intentions look at requests", None)

    def _depends(self, caller: ServiceName, why: str, head: RequestHead | None) -> Judgement:
        return Judgement(
            service=self.service,
            outcome=Outcome.DEPENDS,
            policy="",
            why=why,
            at="",
            target="" if head is None else head.target.decode("utf-8", "backslashreplace"),
            authority="" if head is None else (head.authority or b"").decode("latin-1"),
            is_permissive=self._route.mode == "permissive",
            audited=(),
            rules=self._rules(caller, None, head),
            limits=self._any_limits(caller),
        )

    def _verify(self, provider: str, token: bytes) -> Claims | Untrusted:
        if self._claims is not None:
            return self._claims
        self._is_unknown = True
        return Untrusted("unavailable", "what its token says is not known here: see --claims")

    def _give_token(self, head: RequestHead) -> None:
        """Where the request has none of its own."""
        for provider in self._route.tokens.values():
            start = f"{provider.header.lower()}: ".encode()
            if not any(line.startswith(start) for line in head.lines):
                head.lines.append(start + b"Bearer claims-of-the-command-line")

    def _judgement(self, decision: Decision, **more: Any) -> Judgement:
        return Judgement(
            service=self.service,
            outcome=Outcome.ALLOWED if decision.is_allowed else Outcome.DENIED,
            policy=decision.policy,
            why=decision.why,
            at=self._at(decision.policy),
            is_permissive=self._route.mode == "permissive",
            audited=decision.audited,
            **more,
        )

    def _at(self, policy: str) -> str:
        for number, each in enumerate(self._intentions):
            if policy == f"{self.service}/{each.name}":
                return self._places.at(f"services.{self.service}.intentions[{number}]")
        return ""

    def _rules(
        self, caller: ServiceName, decision: Decision | None, head: RequestHead | None
    ) -> tuple[RuleSeen, ...]:
        """In the order in which they are looked at: who denies, who allows, who only audits."""
        made: list[RuleSeen] = []
        numbered = sorted(
            enumerate(self._intentions),
            key=lambda each: (each[1].is_audit, not each[1].deny),
        )
        reason = "" if decision is None else decision.policy.partition("/")[2]
        is_unheard = reason in _UNHEARD
        # What is the same for each request was decided by the one rule that is without conditions.
        is_constant = self._authorizer.of(caller).constant is not None
        is_decided = False
        for number, each in numbered:
            asked = self._asked[number]
            id_ = f"{self.service}/{each.name}"
            unmet: tuple[Unmet, ...] = ()
            if not is_for(each, caller):
                result = "not for this caller"
            elif is_unheard or (
                not each.is_audit
                and (is_decided or (is_constant and decision and id_ != decision.policy))
            ):
                result = "not asked"
            elif head is None:
                result = "depends" if asked.parts or each.token is not None else "holds"
            else:
                unmet = asked.unmet(head, caller)
                token = self._tokens[number]
                distrust = token.refusal(head) if token is not None and not unmet else None
                if distrust is not None:
                    unmet = (Unmet(wants=_token(each), has=distrust.why),)
                result = "does not hold" if unmet else "holds"
            if decision is not None and id_ == decision.policy:
                is_decided = True
            made.append(
                RuleSeen(
                    id=id_,
                    at=self._places.at(f"services.{self.service}.intentions[{number}]"),
                    verb="deny" if each.deny else "allow",
                    is_audit=each.is_audit,
                    result=result,
                    conditions=", ".join(filter(None, (asked.text, _token(each)))),
                    unmet=unmet,
                )
            )
        return tuple(made)

    def _tester(self, intention: Intention) -> Callable[[Match], Test]:
        """Makes the test of one of its conditions: an authorizer that has nothing but that, as an
        audit, which is asked whatever else there is."""
        everybody = (EVERYBODY,)
        denied = Intention(name="nobody", allow=("-",))

        def make(part: Match) -> Test:
            alone = Intention(
                name="part",
                allow=() if intention.deny else everybody,
                deny=everybody if intention.deny else (),
                is_audit=True,
                match=part,
            )
            rules = (alone,) if intention.deny else (alone, denied)
            authorizer = Authorizer(self.service, self._route.allow, rules)

            def test(head: Head, caller: ServiceName) -> bool:
                return bool(authorizer.of(caller).decide(head).audited)

            return test

        return make

    def _any_limits(self, caller: ServiceName) -> tuple[LimitSeen, ...]:
        return tuple(
            self._limit(number, limit, asked.text)
            for number, (limit, asked) in enumerate(self._limits)
            if not asked.excludes(caller)
        )

    def _limit(self, number: int, limit: RateLimit, depends_on: str) -> LimitSeen:
        figures = f"{limit.requests} per {durations.show(limit.per_s)}"
        figures += f", {limit.burst or limit.requests} at once"
        return LimitSeen(
            name=limit.name,
            at=self._places.at(f"services.{self.service}.rate_limits[{number}]"),
            figures=figures + (", each caller for itself" if limit.by == "caller" else ""),
            depends_on=depends_on,
        )


def _token(intention: Intention) -> str:
    """What it asks of a token, for people; empty: nothing."""
    if intention.token is None:
        return ""
    claims = ", ".join(intention.token.claims)
    return f"a token of {intention.token.provider}" + (f" with {claims}" if claims else "")


def is_for(intention: Intention, caller: ServiceName) -> bool:
    callers = intention.deny or intention.allow
    return caller in callers or EVERYBODY in callers
