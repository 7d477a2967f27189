"""Limits on what one workload has under way with one called service, as plain counters.

Whoever counts something in counts it out again; there is no waiting here and no time but for the
rate of new TCP sessions. What is refused is answered at once with the flag UO, because a queue
before a service that is behind makes it no faster.
"""

from enum import StrEnum

from proxy.core.backoff import TokenBucket
from proxy.model.resilience import Limits


class Reason(StrEnum):
    """Which limit; the value is the metric's label."""

    CONNECTIONS = "connections"
    PENDING = "pending"
    REQUESTS = "requests"
    RETRIES = "retries"
    NEW_CONNECTIONS = "new_connections"


class Breaker:
    """The counters may be changed directly where a call would cost; the limits only read."""

    __slots__ = (
        "_new",
        "connections",
        "limits",
        "max_connections",
        "max_pending",
        "max_requests",
        "max_retries",
        "pending",
        "refused",
        "requests",
        "retries",
    )

    def __init__(self, limits: Limits) -> None:
        self.connections = self.pending = self.requests = self.retries = 0
        self.refused = dict.fromkeys(Reason, 0)
        """How often, ever, for the metric."""
        self.limits = limits
        self._new = _bucket(limits)
        self._read(limits)

    def apply(self, limits: Limits) -> None:
        """From now on; what is under way stays, even above a lower limit."""
        if limits.new_connections_per_s != self.limits.new_connections_per_s:
            self._new = _bucket(limits)
        self.limits = limits
        self._read(limits)

    def try_request(self) -> bool:
        """Counts a request (TCP: a session) in, if there is room."""
        if self.requests >= self.max_requests:
            self.refused[Reason.REQUESTS] += 1
            return False
        self.requests += 1
        return True

    def try_connection(self) -> bool:
        """Counts a connection in, from the dial on, if there is room."""
        if self.connections >= self.max_connections:
            self.refused[Reason.CONNECTIONS] += 1
            return False
        self.connections += 1
        return True

    def try_pending(self) -> bool:
        """Counts a request that waits for a connection in, if there is room."""
        if self.pending >= self.max_pending:
            self.refused[Reason.PENDING] += 1
            return False
        self.pending += 1
        return True

    def try_retry(self) -> bool:
        """Counts a retry in, until its outcome, if there is room."""
        if self.retries >= self.max_retries:
            self.refused[Reason.RETRIES] += 1
            return False
        self.retries += 1
        return True

    def try_new_connection(self, now: float) -> bool:
        """Whether a TCP session may begin now; nothing is to be counted out. Monotonic seconds."""
        if self._new is None or self._new.try_take(now):
            return True
        self.refused[Reason.NEW_CONNECTIONS] += 1
        return False

    def explain(self, reason: Reason) -> str:
        """The detail behind the flag's sentence."""
        match reason:
            case Reason.CONNECTIONS:
                return f"({self.max_connections} connections are open)"
            case Reason.PENDING:
                return f"({self.max_pending} requests wait for a connection)"
            case Reason.REQUESTS:
                return f"({self.max_requests} requests are in flight)"
            case Reason.RETRIES:
                return f"({self.max_retries} retries are in flight)"
            case Reason.NEW_CONNECTIONS:
                return f"({self.limits.new_connections_per_s:g} new connections a second)"

    def _read(self, limits: Limits) -> None:
        self.max_connections = limits.connections
        self.max_pending = limits.pending
        self.max_requests = limits.requests
        self.max_retries = limits.retries


def _bucket(limits: Limits) -> TokenBucket | None:
    rate = limits.new_connections_per_s
    return TokenBucket(rate=rate, burst=max(1.0, rate)) if rate > 0 else None
