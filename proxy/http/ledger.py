"""What is open on one side of the proxy, and the coarse clock its deadlines are checked by.

Timers per request cost more than the requests' own parsing. So nothing arms a timer: whoever
can time out is in one of these sets and is asked, a few times a second, by one sweeper.

What is not valid HTTP is counted and logged here, one line each up to a rate: the peer chooses
how often it happens, so it may not choose how much is written.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from proxy.core.backoff import TokenBucket

LOGGED_PER_S: Final = 10
LOGGED_AT_ONCE: Final = 100

_log = logging.getLogger(__name__)


class Swept(Protocol):
    def sweep(self, now: float) -> None:
        """Ends itself if its time is over; ``now`` is monotonic seconds."""

    def abort(self) -> None:
        """Ends now, whatever is in flight."""


class Idler(Swept, Protocol):
    def close_if_idle(self) -> None:
        """Closes gracefully unless a request is in flight; then after its response."""


def _uncounted(_reason: str) -> None:
    pass


class BoundedLog:
    """For lines whose number is somebody else's to choose: ``may``, then ``left_out``."""

    __slots__ = ("_bucket", "_unlogged")

    def __init__(self) -> None:
        self._bucket = TokenBucket(rate=LOGGED_PER_S, burst=LOGGED_AT_ONCE)
        self._unlogged = 0

    def may(self, now: float) -> bool:
        """Whether a line may be written; ``now`` is monotonic seconds."""
        if self._bucket.try_take(now):
            return True
        self._unlogged += 1
        return False

    def left_out(self) -> dict[str, object]:
        """To be added to the line: how many were not written since the last; empty if none."""
        left_out, self._unlogged = self._unlogged, 0
        return {"suppressed": left_out} if left_out else {}


class Ledger:
    """One side: inbound or outbound."""

    __slots__ = (
        "_bounded",
        "_count_refusal",
        "_count_upstream_error",
        "connections",
        "exchanges",
        "is_draining",
        "is_out_of_memory",
        "max_connections",
        "now",
    )

    def __init__(
        self,
        max_connections: int,
        count_refusal: Callable[[str], None],
        count_upstream_error: Callable[[str], None] = _uncounted,
    ) -> None:
        """The callables count by reason, which is from a small set."""
        self.now = monotonic()
        """As of the last sweep or request: at most a tenth of a second old."""
        self.is_draining = False
        """Responses ask for the connection to be closed."""
        self.is_out_of_memory = False
        """New requests are refused."""
        self.max_connections = max_connections
        self.connections: set[Idler] = set()
        self.exchanges: set[Swept] = set()
        """Requests and TCP sessions in flight."""
        self._count_refusal = count_refusal
        self._count_upstream_error = count_upstream_error
        self._bounded = BoundedLog()

    @property
    def is_full(self) -> bool:
        """No room for one more connection."""
        return len(self.connections) >= self.max_connections

    @property
    def is_flooded(self) -> bool:
        """So far above the limit that there is not even an answer that says so."""
        return len(self.connections) > self.max_connections * 11 // 10

    def refused(
        self, reason: str, detail: str, subject: str, peer: object, listener: object
    ) -> None:
        """A client's request was not valid HTTP, or too slow; ``peer`` and ``listener`` are
        socket addresses."""
        self._count_refusal(reason)
        if self._bounded.may(self.now):
            _log.warning(
                "request refused: %s",
                reason,
                extra=self._fields(reason, detail, subject, peer) | {"listener": _text(listener)},
            )

    def upstream_error(
        self, reason: str, detail: str, subject: str = "", peer: object = None
    ) -> None:
        """A server's response was not valid HTTP; ``peer`` is its socket address."""
        self._count_upstream_error(reason)
        if self._bounded.may(self.now):
            _log.warning(
                "response refused: %s", reason, extra=self._fields(reason, detail, subject, peer)
            )

    def _fields(self, reason: str, detail: str, subject: str, peer: object) -> dict[str, object]:
        return {
            "reason": reason,
            "detail": detail,
            "subject": subject,
            "peer": _text(peer),
        } | self._bounded.left_out()


def _text(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    return str(address) if address else ""
