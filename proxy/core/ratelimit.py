"""How many requests a service takes in a time, in all or from each caller. Pure.

The generic cell rate algorithm (ITU-T I.371, annex A): a rule knows one number, the time at which
all that was taken is paid back; a request moves it by ``per_s / requests`` and is refused if it
would come to lie more than ``burst`` such steps ahead. It is a token bucket without a refill.

A request that several rules match needs all of them, and one that is refused is charged to none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Generic, TypeVar

from proxy.core.matching import Matcher, compile_unless_any
from proxy.model.names import ServiceName
from proxy.model.resilience import RateLimit
from proxy.model.routing import Match

MAX_CALLERS = 4096
"""Remembered per rule; certificates of the mesh name far fewer. Those with nothing to pay back
are forgotten first, which changes nothing for them."""

_ROUNDING_S = 1e-9
"""Sums of steps are not exact; less than any step."""

H = TypeVar("H")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    name: str
    """Of the rule."""
    retry_after_s: float
    lines: tuple[bytes, ...]
    """Of the answer's head: ``retry-after`` and ``ratelimit-*``."""


class RateLimiter(Generic[H]):
    """The rules of one called service, in one proxy. ``now`` is monotonic, in seconds."""

    __slots__ = ("_rules",)

    def __init__(
        self,
        limits: tuple[RateLimit, ...],
        compile_match: Callable[[Match], Matcher[H]],
        share: float = 1.0,
    ) -> None:
        """``share``: of each limit, where several workers have it in common; right on average,
        and exact only as far as they get equal shares of the requests."""
        self._rules = tuple(
            _Rule(limit, compile_unless_any(limit.match, compile_match), share) for limit in limits
        )

    def keep_from(self, former: "RateLimiter[H]") -> None:
        """What was taken under the rules that stay as they were: a new policy is no amnesty."""
        taken = {rule.limit.name: rule for rule in former._rules}
        for rule in self._rules:
            old = taken.get(rule.limit.name)
            if old is not None and old.limit == rule.limit:
                rule.paid_at = old.paid_at

    def check(self, head: H, caller: ServiceName, now: float) -> Refusal | None:
        """Charges the request to each rule that it matches, or says which one refuses it.

        Of several that refuse it the one that does so for longest.
        """
        charges = []
        refusal: Refusal | None = None
        for rule in self._rules:
            if rule.matcher is not None and not rule.matcher.matches(head, caller):
                continue
            key = caller if rule.is_by_caller else None
            at = rule.paid_at.get(key, now)
            at = (at if at > now else now) + rule.step_s
            wait_s = at - now - rule.most_ahead_s
            if wait_s <= 0:
                charges.append((rule, key, at))
            elif refusal is None or wait_s > refusal.retry_after_s:
                refusal = rule.refuse(wait_s)
        if refusal is not None:
            return refusal
        for rule, key, at in charges:
            rule.charge(key, at, now)
        return None

    def lines(self, head: H, caller: ServiceName, now: float) -> list[bytes]:
        """For the head of an answer to a request that was let through: how its rules stand.

        Of several rules the one with the fewest requests left; empty if none matches.
        """
        tightest: tuple[int, float, _Rule[H]] | None = None
        for rule in self._rules:
            if rule.matcher is not None and not rule.matcher.matches(head, caller):
                continue
            at = rule.paid_at.get(caller if rule.is_by_caller else None, now)
            ahead_s = max(0.0, at - now)
            remaining = int((rule.most_ahead_s - ahead_s) / rule.step_s)
            if tightest is None or (remaining, -ahead_s) < (tightest[0], -tightest[1]):
                tightest = remaining, ahead_s, rule
        if tightest is None:
            return []
        remaining, ahead_s, rule = tightest
        return rule.lines(remaining, ahead_s)


def compile_limits(
    limits: tuple[RateLimit, ...],
    compile_match: Callable[[Match], Matcher[H]],
    former: RateLimiter[H] | None = None,
    share: float = 1.0,
) -> RateLimiter[H] | None:
    """None without rules, so that such a service pays one test; ``former``: the one in use."""
    if not limits:
        return None
    limiter = RateLimiter(limits, compile_match, share)
    if former is not None:
        limiter.keep_from(former)
    return limiter


class _Rule(Generic[H]):
    __slots__ = (
        "_limit_line",
        "is_by_caller",
        "limit",
        "matcher",
        "most_ahead_s",
        "paid_at",
        "step_s",
    )

    def __init__(self, limit: RateLimit, matcher: Matcher[H] | None, share: float) -> None:
        burst = max(1, round((limit.burst or limit.requests) * share))
        is_whole = float(limit.per_s).is_integer()
        window = f", {limit.requests};w={limit.per_s:.0f}" if is_whole else ""
        self._limit_line = f"ratelimit-limit: {burst}{window}".encode()
        self.limit = limit
        self.matcher = matcher
        self.is_by_caller = limit.by == "caller"
        self.step_s = limit.per_s / (limit.requests * share)
        self.most_ahead_s = burst * self.step_s + min(_ROUNDING_S, self.step_s / 2)
        self.paid_at: dict[ServiceName | None, float] = {}
        """By caller, or one under None."""

    def charge(self, key: ServiceName | None, at: float, now: float) -> None:
        known = self.paid_at
        if key not in known and len(known) >= MAX_CALLERS:
            for caller in [caller for caller, paid_at in known.items() if paid_at <= now]:
                del known[caller]
            if len(known) >= MAX_CALLERS:
                del known[min(known, key=known.__getitem__)]
        known[key] = at

    def refuse(self, wait_s: float) -> Refusal:
        """The draft wants no ``retry-after`` before the reset, so both are the same time."""
        seconds = max(1, ceil(wait_s))
        return Refusal(
            name=self.limit.name,
            retry_after_s=wait_s,
            lines=(b"retry-after: %d" % seconds, *self.lines(0, seconds)),
        )

    def lines(self, remaining: int, ahead_s: float) -> list[bytes]:
        """draft-ietf-httpapi-ratelimit-headers-03: the fields that clients know today."""
        return [
            self._limit_line,
            b"ratelimit-remaining: %d" % remaining,
            b"ratelimit-reset: %d" % ceil(ahead_s),
        ]
