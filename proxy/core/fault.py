"""Faults that the operator asked for: a delay, an answer in the service's stead, or both. Pure.

Each has an end of its own, by the wall clock, so that a forgotten one is over all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Generic, TypeVar

from proxy.core.grpc import Status
from proxy.core.matching import Matcher, compile_unless_any
from proxy.model.names import ServiceName
from proxy.model.resilience import Fault
from proxy.model.routing import Match

MAX_DELAY_S = 60.0
"""A request that is held back costs memory; nobody needs to wait longer to see a time-out."""

H = TypeVar("H")


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """Wait ``delay_s``; then answer ``abort_status``, or go on if it is 0."""

    name: str
    delay_s: float
    abort_status: int
    grpc_status: Status | None = None
    """In place of ``abort_status``, for a gRPC call."""


class FaultInjector(Generic[H]):
    """The faults of one called service. ``wall_now`` is in seconds since the epoch."""

    __slots__ = ("_faults", "_over_at")

    def __init__(
        self, faults: tuple[Fault, ...], compile_match: Callable[[Match], Matcher[H]]
    ) -> None:
        self._faults: tuple[tuple[float, float, Matcher[H] | None, Injection], ...] = tuple(
            (
                _epoch_s(fault.until),
                fault.percent / 100,
                compile_unless_any(fault.match, compile_match),
                Injection(
                    name=fault.name,
                    delay_s=min(max(fault.delay_s, 0.0), MAX_DELAY_S),
                    abort_status=fault.abort_status,
                    grpc_status=Status[fault.grpc_status] if fault.grpc_status else None,
                ),
            )
            for fault in faults
        )
        self._over_at = max((until for until, *_ in self._faults), default=float("-inf"))

    def has_any(self, wall_now: float) -> bool:
        """False once all are over: the injector may be forgotten."""
        return wall_now < self._over_at

    def decide(
        self, head: H, source: ServiceName, rng: Random, wall_now: float
    ) -> Injection | None:
        """The first fault that is not over, matches and draws the lot."""
        if wall_now >= self._over_at:
            return None
        for until, share, matcher, injection in self._faults:
            if (
                wall_now < until
                and (matcher is None or matcher.matches(head, source))
                and rng.random() < share
            ):
                return injection
        return None


def compile_faults(
    faults: tuple[Fault, ...], compile_match: Callable[[Match], Matcher[H]], wall_now: float
) -> FaultInjector[H] | None:
    """None if nothing is to be injected any more, so that such a service pays one test."""
    live = tuple(fault for fault in faults if wall_now < _epoch_s(fault.until))
    return FaultInjector(live, compile_match) if live else None


def _epoch_s(until: datetime) -> float:
    """A time without zone is UTC on every host, whatever the host's own."""
    return (until if until.tzinfo is not None else until.replace(tzinfo=UTC)).timestamp()
