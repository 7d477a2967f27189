"""Picks the endpoint of each request among equals, and learns from what came of it.

What is slow to decide (who is available, weights, zones, slow start) is decided in ``refresh``,
on a change and once a second, and left behind as one function that picks. A request pays for
calling it. With something unusual around (a retry that avoids what was tried, an endpoint to be
probed) it takes a slower path, which is still far below the cost of a connection.
"""

from collections.abc import Collection, Sequence
from math import exp, inf
from random import Random
from typing import Generic, TypeVar

from proxy.core.balance import choice, latency
from proxy.core.balance.choice import Choose
from proxy.core.balance.hashing import HashCircle
from proxy.core.balance.latency import SMALL
from proxy.core.balance.slots import lay_out
from proxy.core.balance.standing import Standing, divide
from proxy.core.balance.state import EndpointState
from proxy.model.policy import Balancing
from proxy.model.resilience import OutlierDetection

AVOID_S = 5.0
"""For how long an endpoint that refused a connection is tried last: longer than one round of
connect timeouts, shorter than the registry takes to notice."""
_AVOID_JITTER = 0.5  # +-50 %, so that many proxies do not come back to it in the same instant

_ATTEMPTS = 4  # draws that may hit what was tried, before all are looked through
_REFRESH_EACH_S = 20e-6
"""For each endpoint, between two refreshes because of failed connects, so that the end of a
thousand of them at once does not sort ten thousand a thousand times."""
_FEW = 256  # so many are refreshed at once

_MAKERS = {
    "peak_ewma": choice.peak_ewma,
    "least_request": choice.least_request,
    "round_robin": choice.round_robin,
    "random": choice.at_random,
}

S = TypeVar("S", bound=EndpointState)


class LoadBalancer(Generic[S]):
    """For one set of endpoints as seen from one caller. None is picked twice for one request."""

    __slots__ = (
        "_balancing",
        "_circle",
        "_circle_of",
        "_decay_rate",
        "_groups",
        "_has_begun",
        "_is_ewma",
        "_is_stale",
        "_orders",
        "_panic_percent",
        "_probes",
        "_refresh_at",
        "_rng",
        "_states",
        "_usable",
        "_usual_s",
        "_zone",
        "available",
        "choose",
        "is_panicking",
        "is_unusual",
        "ready",
        "total",
    )

    def __init__(
        self, balancing: Balancing, outlier: OutlierDetection, zone: str, rng: Random
    ) -> None:
        self._balancing = balancing
        self._panic_percent = outlier.panic_percent
        self._is_ewma = balancing.algorithm == "peak_ewma"
        self._decay_rate = 1 / max(balancing.decay_s, 1e-3)
        self._zone = zone if balancing.zone == "prefer" else ""
        self._rng = rng
        self._states: tuple[S, ...] = ()
        self._has_begun = False
        self.choose: Choose[S] = choice.nothing
        self._groups: tuple[list[S], list[S], float] = ([], [], 1.0)
        self._orders: tuple[list[S], ...] = ()
        """Where to look for whoever is left, best first."""
        self._probes: list[S] = []
        """Each is due one request."""
        self._usable: frozenset[S] = frozenset()
        self._circle: HashCircle[S] | None = None
        self._circle_of: list[S] = []
        self._usual_s = balancing.default_rtt_s
        self.is_unusual = False
        self._is_stale = False
        self._refresh_at = 0.0
        self.total = 0
        self.available = 0
        """Neither failing, nor ejected, nor being probed."""
        self.ready = 0
        """Available, and nothing against connecting to it."""
        self.is_panicking = False

    @property
    def is_probe_due(self) -> bool:
        return bool(self._probes)

    def update(self, states: Sequence[S], now: float) -> None:
        """A new set. Whoever was not there at the first one starts slowly."""
        self._states = states = tuple(states)
        for state in states:
            if not state.joined_s:
                state.joined_s = now if self._has_begun else -inf
                # No worse than its equals, or where these take 1 ms the assumed 30 ms would
                # keep it without a request for half a minute.
                state.cost_s = min(self._balancing.default_rtt_s, self._usual_s)
                state.stamp_s = now
        self._has_begun = True
        self.refresh(now)

    def pick(self, tried: Collection[S], now: float, key: int = 0) -> S | None:
        """HOT. None: nothing untried is left, or nothing is available and there is no panic."""
        if tried or self.is_unusual:
            return self._pick_with_care(tried, now, key) or self._left(tried)
        return self.choose(key)

    def pick_ready(self, tried: Collection[S], now: float, key: int = 0) -> S | None:
        """As ``pick``, but never what is used only because nothing else is left."""
        if tried or self.is_unusual:
            return self._pick_with_care(tried, now, key)
        return self.choose(key)

    def observe(self, state: S, elapsed_s: float, is_failure: bool, now: float) -> None:
        """HOT. Call once for each try. A failure: 5xx, 429, reset, timeout, failed connect."""
        if is_failure or state.probe_out:
            self._observe_with_care(state, elapsed_s, is_failure, now)
        elif self._is_ewma:
            cost = state.cost_s
            if elapsed_s < cost and state.is_measured:
                # The share of the past that is forgotten: 1 - exp(-x), which for a small x is x.
                forgotten = (now - state.stamp_s) * self._decay_rate
                if forgotten > SMALL:
                    forgotten = 1.0 - exp(-forgotten)
                state.cost_s = cost + (elapsed_s - cost) * forgotten
            else:
                state.cost_s = elapsed_s
                state.is_measured = True
            state.stamp_s = now

    def avoid(self, state: S, now: float) -> None:
        """A connection to it could not be made."""
        spread = _AVOID_JITTER * (2 * self._rng.random() - 1)
        was_avoided = state.avoid_until > now
        state.avoid_until = now + AVOID_S * (1 + spread)
        state.probe_out = False
        if not was_avoided:
            self._is_stale = self.is_unusual = True

    def forgive(self, state: S) -> None:
        """A connection to it was made."""
        if state.avoid_until:
            state.avoid_until = 0.0
            self._is_stale = self.is_unusual = True

    def refresh(self, now: float) -> None:
        """Call after any change to a record, and about once a second: time passes."""
        states = self._states
        total = self.total = len(states)
        self._refresh_at = now + total * _REFRESH_EACH_S if total > _FEW else now
        if self._is_ewma:
            latency.decay(states, self._decay_rate, now)
            self._usual_s = latency.usual(states, self._balancing.default_rtt_s)
            latency.assume(states, self._usual_s)
        standing = Standing(states, now, self._panic_percent)
        self.available = standing.available
        self.ready = len(standing.ready) + len(standing.spare)
        self.is_panicking = standing.is_panicking
        candidates = standing.candidates(states, now)
        self._probes = []
        for state in standing.probing:
            # A request that ended without an outcome (the client left) decides nothing.
            if state.probe_out and not state.inflight:
                state.probe_out = False
            if not state.probe_out:
                self._probes.append(state)
        self._orders = (candidates, standing.spare, standing.avoided)
        if self._panic_percent:
            self._orders += (standing.probing, standing.down)
        self._is_stale = False
        self.is_unusual = bool(self._probes)
        if self._balancing.algorithm in ("ring_hash", "maglev"):
            self._lay_circle(candidates)
        else:
            self._lay_slots(candidates, now)

    # Rare

    def _pick_with_care(self, tried: Collection[S], now: float, key: int) -> S | None:
        if self._is_stale and now >= self._refresh_at:
            self.refresh(now)
        if not tried:
            if self._probes:
                probe = self._probes.pop()
                self.is_unusual = bool(self._probes) or self._is_stale
                probe.probe_out = True
                return probe
            return self.choose(key)
        if self._balancing.algorithm in ("ring_hash", "maglev"):
            self.choose(key)  # so that there is a circle
            return self._circle.seek(key, self._usable, tried) if self._circle else None
        for _ in range(_ATTEMPTS):
            state = self.choose(key)
            if state is None or state not in tried:
                return state
        return self._any_of(self._orders[0], tried)

    def _left(self, tried: Collection[S]) -> S | None:
        for order in self._orders[1:]:
            state = self._any_of(order, tried)
            if state is not None:
                return state
        return None

    def _any_of(self, states: list[S], tried: Collection[S]) -> S | None:
        left = [state for state in states if state not in tried]
        return left[int(self._rng.random() * len(left))] if left else None

    def _observe_with_care(self, state: S, elapsed_s: float, is_failure: bool, now: float) -> None:
        was_probe, state.probe_out = state.probe_out, False
        if not self._is_ewma:
            return
        if is_failure:
            latency.penalise(state, elapsed_s, self._usual_s, now)
        else:
            # It is back: what it cost before it was ejected says nothing any more.
            state.is_measured = not was_probe
            self.observe(state, elapsed_s, False, now)

    def _lay_slots(self, candidates: list[S], now: float) -> None:
        slow_start_s = self._balancing.slow_start_s
        groups: tuple[list[S], list[S], float] = (candidates, [], 1.0)
        if self._zone and not self.is_panicking:
            groups = divide(candidates, self._states, self._zone)
        is_growing = bool(slow_start_s) and any(
            now - state.joined_s < slow_start_s for state in candidates
        )
        if groups == self._groups and not is_growing:
            return
        # Laid out once more when all have grown: then the shares are the last ones.
        self._groups = ([], [], -1.0) if is_growing else groups
        near, far, share = groups
        self.choose = self._chooser(near, now)
        if far:
            self.choose = choice.divided(self.choose, self._chooser(far, now), share, self._rng)

    def _chooser(self, states: list[S], now: float) -> Choose[S]:
        if not states:
            return choice.nothing
        if len(states) == 1:
            return choice.only(states[0])
        slots = lay_out(states, now, self._balancing.slow_start_s)
        return _MAKERS[self._balancing.algorithm](slots, self._rng)

    def _lay_circle(self, candidates: list[S]) -> None:
        self._usable = frozenset(candidates)
        members = [state for state in self._states if state.endpoint.weight]
        if candidates and not candidates[0].endpoint.weight:
            members = candidates
        if members != self._circle_of:
            self._circle_of = members
            self._circle = None
        self.choose = self._choose_on_circle

    def _choose_on_circle(self, key: int) -> S | None:
        """The first request after a change: builds what there is to build."""
        circle = self._circle
        if circle is None:
            circle = self._circle = HashCircle(
                self._circle_of,
                "maglev" if self._balancing.algorithm == "maglev" else "ring_hash",
            )
        usable = self._usable
        if len(usable) == len(self._circle_of):
            self.choose = circle.choose
        else:
            self.choose = lambda key: circle.seek(key, usable, ())
        return self.choose(key)
