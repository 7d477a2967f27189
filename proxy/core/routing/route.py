"""One route, compiled: its conditions, its destinations and what it changes."""

from bisect import bisect_right
from itertools import accumulate
from random import Random
from typing import Final

from proxy.core.routing import changes
from proxy.core.routing.conditions import Condition, Head
from proxy.core.routing.stickiness import HASH_BITS, compile_hash
from proxy.model.policy import Route

_SPREAD: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << HASH_BITS) - 1


class CompiledRoute:
    __slots__ = (
        "_authority",
        "_hash",
        "_path",
        "_request_lines",
        "_response_lines",
        "_thresholds",
        "_total",
        "conditions",
        "has_request_changes",
        "has_response_changes",
        "index",
        "name",
        "route",
    )

    def __init__(self, route: Route, index: int, conditions: tuple[Condition, ...]) -> None:
        self.route = route
        self.index = index
        self.name = route.name.encode()
        self.conditions = conditions
        """Besides what the router looks up."""
        self._thresholds = tuple(accumulate(one.weight for one in route.to))
        self._total = self._thresholds[-1] if len(route.to) > 1 else 0
        self._hash = None if route.sticky is None else compile_hash(route.sticky)
        given = route.rewrite
        self._authority = None if given is None else given.authority.encode() or None
        self._path = None if given is None else changes.compile_path(given.path, route.match.path)
        self._request_lines = changes.compile_lines(route.request_headers)
        self._response_lines = changes.compile_lines(route.response_headers)
        self.has_request_changes = (
            self._authority is not None or self._path is not None or self._request_lines is not None
        )
        self.has_response_changes = self._response_lines is not None

    def choose(self, head: Head, client: bytes, rng: Random) -> tuple[int, bytes | None]:
        """The index into ``route.to`` (0 if it has at most one), and a ``set-cookie`` line for the
        answer if the client needs one. ``client``: what tells it from others, without a port.
        """
        total = self._total
        if total <= 0:
            return 0, None
        if self._hash is None:
            return bisect_right(self._thresholds, rng.random() * total), None
        value, cookie = self._hash(head, client, rng)
        # Spread once more: a ring that hashes the same value must not see only the part of the
        # circle that this destination got. Thresholds on a line: what changes place when weights
        # shift is no more than what they shift.
        value = (value * _SPREAD) & _MASK
        return bisect_right(self._thresholds, (value * total) >> HASH_BITS), cookie

    def change_request(self, head: Head) -> None:
        """Rewrites, then changes header lines. Once per request: it is not idempotent."""
        if self._path is not None:
            changes.rewrite(head, self._path)
        if self._authority is not None:
            head.authority = self._authority
        if self._request_lines is not None:
            head.lines = self._request_lines(head.lines)

    def change_response(self, lines: list[bytes]) -> list[bytes]:
        """``lines`` itself if nothing changes, else a new list."""
        return lines if self._response_lines is None else self._response_lines(lines)

    def location(self, head: Head, scheme: bytes) -> bytes:
        """Where a redirect leads; only for a route that has one."""
        assert self.route.redirect is not None
        return changes.location(self.route.redirect, head, scheme)
