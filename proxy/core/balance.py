"""Which endpoint a request goes to. Pure: time and chance are arguments.

Each endpoint has a mutable record that survives a new route table, so that what has been
learned about an endpoint is not forgotten when another one joins. Round robin for now; the
interface (pick, failed, succeeded) is the one that an algorithm with memory needs.
"""

from collections.abc import Collection, Sequence
from random import Random
from typing import Generic, TypeVar

from proxy.model.endpoint import Endpoint

AVOID_S = 5.0
"""For how long an endpoint that refused a connection is tried last: longer than one round of
connect timeouts, shorter than the registry takes to notice."""
_JITTER = 0.5  # +-50 %, so that many proxies do not come back to an endpoint in the same instant


class EndpointState:
    """What is known about one endpoint from here."""

    __slots__ = ("avoid_until", "endpoint")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.avoid_until = 0.0
        """Monotonic seconds; 0: nothing against it."""


S = TypeVar("S", bound=EndpointState)


class RoundRobin(Generic[S]):
    """In turn; endpoints that failed lately come last, endpoints already tried never."""

    __slots__ = ("_is_marked", "_turn")

    def __init__(self) -> None:
        self._turn = 0
        self._is_marked = False

    def pick(self, states: Sequence[S], tried: Collection[S], now: float) -> S | None:
        """None if there is nothing left to try."""
        count = len(states)
        if count == 0:
            return None
        self._turn = turn = (self._turn + 1) % 0x10000000
        if not self._is_marked and not tried:
            return states[turn % count]
        fallback: S | None = None
        is_marked = False
        chosen: S | None = None
        for step in range(count):
            state = states[(turn + step) % count]
            if state.avoid_until:
                if state.avoid_until > now:
                    is_marked = True
                    if state not in tried and (
                        fallback is None or state.avoid_until < fallback.avoid_until
                    ):
                        fallback = state
                    continue
                state.avoid_until = 0.0
            if chosen is None and state not in tried:
                chosen = state
        self._is_marked = is_marked
        return chosen if chosen is not None else fallback

    def failed(self, state: S, now: float, rng: Random) -> None:
        """A connection could not be made."""
        state.avoid_until = now + AVOID_S * (1 + _JITTER * (2 * rng.random() - 1))
        self._is_marked = True

    def succeeded(self, state: S) -> None:
        """A connection was made."""
        state.avoid_until = 0.0
