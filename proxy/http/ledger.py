"""What is open on one side of the proxy, and the coarse clock its deadlines are checked by.

Timers per request cost more than the requests' own parsing. So nothing arms a timer: whoever
can time out is in one of these sets and is asked, a few times a second, by one sweeper.
"""

from collections.abc import Callable
from time import monotonic
from typing import Protocol


class Swept(Protocol):
    def sweep(self, now: float) -> None:
        """Ends itself if its time is over; ``now`` is monotonic seconds."""

    def abort(self) -> None:
        """Ends now, whatever is in flight."""


class Idler(Swept, Protocol):
    def close_if_idle(self) -> None:
        """Closes gracefully unless a request is in flight; then after its response."""


class Ledger:
    """One side: inbound or outbound."""

    __slots__ = (
        "connections",
        "exchanges",
        "is_draining",
        "max_connections",
        "now",
        "protocol_error",
    )

    def __init__(self, max_connections: int, protocol_error: Callable[[str], None]) -> None:
        self.now = monotonic()
        """As of the last sweep or request: at most a tenth of a second old."""
        self.is_draining = False
        """Responses ask for the connection to be closed."""
        self.max_connections = max_connections
        self.connections: set[Idler] = set()
        self.exchanges: set[Swept] = set()
        """Requests and TCP sessions in flight."""
        self.protocol_error = protocol_error
        """Counts an invalid request by its reason."""

    @property
    def is_full(self) -> bool:
        """No room for one more connection."""
        return len(self.connections) >= self.max_connections
