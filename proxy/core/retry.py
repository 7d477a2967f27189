"""Whether a failed try may be repeated, where, when, and how many of them at all. Pure.

By default a request is sent twice only where it provably never reached the application, or where
the method is idempotent and the connection was an old one that the other side closed in the same
moment (RFC 9110, section 9.2.2; RFC 9112, section 9.3.1). An answer of the application is an
answer, unless the policy says otherwise for the methods that it names.

Order of use: ``decide`` or, for an answer, ``decide_status`` if ``may_retry_status``; then
``RetryBudget.try_take`` and the breaker's retries; then ``backoff_s``. What is over with an
answer that the policy would have repeated (``is_exhausted``) goes to the client as it is, with the
flag URX; every other failure keeps the flag of its cause.
"""

from enum import Enum, auto
from random import Random

from proxy.core.grpc import Status
from proxy.model.resilience import Retries

NEVER_REACHED = frozenset((b"UF", b"UH", b"UO", b"OM"))
"""Flags of a 503 made by the peer's proxy before the application saw anything."""

_GATEWAY_ERRORS = frozenset((502, 503, 504))
_SERVER_ERRORS = frozenset(range(500, 600))
_RETRIABLE_4XX = frozenset((409,))
"""Envoy's ``retriable-4xx``."""

_GRPC_STATUSES = {
    "cancelled": Status.CANCELLED,
    "deadline-exceeded": Status.DEADLINE_EXCEEDED,
    "internal": Status.INTERNAL,
    "resource-exhausted": Status.RESOURCE_EXHAUSTED,
    "unavailable": Status.UNAVAILABLE,
}
"""Envoy's words."""

MAX_TRIES = 10
"""Endpoints that one TCP session dials; its connect timeouts usually come first."""

_BUCKET_S = 1.0
_PAST = 9
"""Full buckets before the current one."""
_WINDOW_S = 10 * _BUCKET_S


class Failure(Enum):
    CONNECT = auto()
    """TCP or TLS could not be established, or the peer refused our certificate."""
    REFUSED_BY_PEER = auto()
    """The peer's proxy answered 503 with a flag of ``NEVER_REACHED``."""
    UNPROCESSED = auto()
    """The server says that it has not begun with the request: RST_STREAM with REFUSED_STREAM, or
    GOAWAY with a lower last stream (RFC 9113, section 8.7)."""
    RESET = auto()
    """The connection ended before the response was complete."""
    PROTOCOL = auto()
    """The response was not valid."""
    TIMEOUT = auto()
    """Of the whole request: nothing is left for another try."""
    PER_TRY_TIMEOUT = auto()
    """No response head in time, and the request as a whole has time left."""


_AT_ONCE = frozenset((Failure.CONNECT, Failure.REFUSED_BY_PEER, Failure.UNPROCESSED, Failure.RESET))


class Verdict(Enum):
    GIVE_UP = auto()
    OTHER_ENDPOINT = auto()
    """One not tried yet; none left: give up."""
    FRESH_CONNECTION = auto()
    """Another endpoint if there is one, else the same; never a pooled connection."""
    ANY_ENDPOINT = auto()
    """Another endpoint if there is one, else the same; a pooled connection will do."""


class CompiledRetries:
    """``Retries`` as the path of a request wants it."""

    __slots__ = (
        "attempts",
        "backoff_base_s",
        "backoff_max_s",
        "body_limit_bytes",
        "grpc_statuses",
        "may_retry_connect",
        "may_retry_per_try_timeout",
        "may_retry_refused",
        "may_retry_reset",
        "may_retry_reset_reused",
        "may_retry_status",
        "methods",
        "statuses",
    )

    def __init__(self, retries: Retries) -> None:
        on = retries.on if retries.attempts > 0 else ()
        statuses: frozenset[int] = frozenset()
        if "gateway-error" in on:
            statuses |= _GATEWAY_ERRORS
        if "5xx" in on:
            statuses |= _SERVER_ERRORS
        if "retriable-4xx" in on:
            statuses |= _RETRIABLE_4XX
        if "statuses" in on:
            statuses |= frozenset(retries.statuses)
        self.attempts = retries.attempts
        self.methods = frozenset(method.encode("ascii") for method in retries.methods)
        self.statuses = statuses
        self.grpc_statuses = frozenset(
            status for word, status in _GRPC_STATUSES.items() if word in on
        )
        """Whatever the method: all calls of gRPC are POST, and who names a status names it for
        calls that may be repeated."""
        self.may_retry_status = bool(statuses)
        """False: no answer is ever repeated, and ``decide_status`` need not be asked."""
        self.may_retry_connect = "connect-failure" in on
        self.may_retry_refused = "refused" in on
        self.may_retry_reset_reused = "reset-reused" in on
        # Without another try the client would get our own 502 or 504: the same status from the
        # peer's proxy is repeated, so whether the hop before or behind it broke must not matter.
        self.may_retry_reset = "reset" in on or 502 in statuses
        self.may_retry_per_try_timeout = "per-try-timeout" in on or 504 in statuses
        self.body_limit_bytes = retries.body_limit_bytes if on else 0
        """Of the request's body worth keeping; 0 if nothing is ever repeated."""
        self.backoff_base_s = retries.backoff_base_s
        self.backoff_max_s = retries.backoff_max_s


def compile_retries(retries: Retries) -> CompiledRetries:
    return CompiledRetries(retries)


def decide(
    policy: CompiledRetries,
    failure: Failure,
    *,
    method: bytes,
    tries: int,
    is_reused: bool,
    is_replayable: bool,
    has_begun: bool,
) -> Verdict:
    """``tries`` counts the failed one; ``has_begun``: a byte of the response has arrived.

    ``is_replayable``: all of the body so far is kept.
    """
    if has_begun or not is_replayable or tries > policy.attempts:
        return Verdict.GIVE_UP
    match failure:
        case Failure.CONNECT if policy.may_retry_connect:
            return Verdict.OTHER_ENDPOINT
        case Failure.REFUSED_BY_PEER if policy.may_retry_refused:
            return Verdict.OTHER_ENDPOINT
        case Failure.UNPROCESSED if policy.may_retry_refused:
            return Verdict.FRESH_CONNECTION
        case Failure.RESET if (
            policy.may_retry_reset or (is_reused and policy.may_retry_reset_reused)
        ) and method in policy.methods:
            return Verdict.FRESH_CONNECTION
        case Failure.PER_TRY_TIMEOUT if (
            policy.may_retry_per_try_timeout and method in policy.methods
        ):
            return Verdict.FRESH_CONNECTION
        case _:
            return Verdict.GIVE_UP


def decide_status(
    policy: CompiledRetries, status: int, *, method: bytes, tries: int, is_replayable: bool
) -> Verdict:
    """For an answer whose head has arrived and of which nothing went downstream yet."""
    if (
        status in policy.statuses
        and method in policy.methods
        and tries <= policy.attempts
        and is_replayable
    ):
        return Verdict.ANY_ENDPOINT
    return Verdict.GIVE_UP


def decide_grpc(
    policy: CompiledRetries, status: Status, *, tries: int, is_replayable: bool
) -> Verdict:
    """For a call that ended so before the first message came back, or whose try failed in a way
    that its client would see as this status."""
    if status not in policy.grpc_statuses or tries > policy.attempts or not is_replayable:
        return Verdict.GIVE_UP
    return Verdict.ANY_ENDPOINT


def is_exhausted(policy: CompiledRetries, status: int, *, method: bytes, tries: int) -> bool:
    """Whether this answer was repeated until no try was left: it is passed on, flagged URX."""
    return status in policy.statuses and method in policy.methods and tries > policy.attempts


def backoff_s(
    policy: CompiledRetries, tries: int, rng: Random, failure: Failure | None = None
) -> float:
    """How long to wait before the next try; ``failure``: None after an answer's status.

    ``tries`` as in ``decide``. Exponential from base to max with full jitter (AWS Architecture
    Blog, "Exponential Backoff And Jitter"). The first retry goes at once where the other side had
    no work from us that a pause could relieve.
    """
    if tries <= 1 and failure in _AT_ONCE:
        return 0.0
    # 2**32 times any base is above any cap: the exponent must not grow without limit.
    ceiling_s = policy.backoff_base_s * 2.0 ** min(tries - 1, 32)
    return rng.random() * min(policy.backoff_max_s, ceiling_s)


class RetryBudget:
    """Retries in proportion to requests over the last ten seconds, in buckets of one.

    Without it, retries multiply the load of what already fails. As in Linkerd (and Finagle).
    One for each calling workload and called service; ``now`` is monotonic, in seconds.
    """

    __slots__ = (
        "_at",
        "_bucket_ends",
        "_past_requests",
        "_past_retries",
        "_ratio",
        "_requests",
        "_reserve",
        "_retries",
        "_sum_requests",
        "_sum_retries",
    )

    def __init__(self, percent: float, min_per_s: float) -> None:
        self._past_requests = [0] * _PAST
        self._past_retries = [0] * _PAST
        self._sum_requests = 0
        """Of the past buckets; the current one is in ``_requests``."""
        self._sum_retries = 0
        self._requests = 0
        self._retries = 0
        self._at = 0
        self._bucket_ends = float("-inf")
        self.configure(percent, min_per_s)

    def configure(self, percent: float, min_per_s: float) -> None:
        """New figures for a live budget; what was counted stays."""
        self._ratio = percent / 100
        self._reserve = min_per_s * _WINDOW_S

    def request(self, now: float) -> None:
        """Call once per request, not for its retries."""
        if now >= self._bucket_ends:
            self._turn(now)
        self._requests += 1

    def try_take(self, now: float) -> bool:
        """Whether one more retry is within the budget; it is counted if so."""
        if now >= self._bucket_ends:
            self._turn(now)
        allowed = (self._sum_requests + self._requests) * self._ratio + self._reserve
        if self._sum_retries + self._retries + 1 > allowed:
            return False
        self._retries += 1
        return True

    def left(self, now: float) -> int:
        """How many more retries are within the budget."""
        if now >= self._bucket_ends:
            self._turn(now)
        allowed = (self._sum_requests + self._requests) * self._ratio + self._reserve
        return max(0, int(allowed - self._sum_retries - self._retries))

    def _turn(self, now: float) -> None:
        """Makes the bucket of ``now`` the current one; those skipped are empty."""
        late_s = now - self._bucket_ends
        if late_s >= _WINDOW_S:
            self._past_requests = [0] * _PAST
            self._past_retries = [0] * _PAST
            self._sum_requests = self._sum_retries = 0
            self._requests = self._retries = 0
            self._bucket_ends = now + _BUCKET_S
            return
        for _ in range(1 + int(late_s / _BUCKET_S)):
            self._bucket_ends += _BUCKET_S
            at = self._at = (self._at + 1) % _PAST
            self._sum_requests += self._requests - self._past_requests[at]
            self._sum_retries += self._retries - self._past_retries[at]
            self._past_requests[at], self._past_retries[at] = self._requests, self._retries
            self._requests = self._retries = 0
