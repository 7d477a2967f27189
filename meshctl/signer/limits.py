"""How often a certificate is signed: of all callers together, and of each by itself."""

import math

from meshctl.signer.decision import Caller, Code, Refusal
from proxy.core.backoff import TokenBucket

BURST_S = 1.0
"""All callers: so many seconds' worth at once."""
CALLER_PER_S = 0.2
CALLER_BURST = 5.0
"""One identity on one host: five at once (a proxy that is restarted again and again), then one in
five seconds. The shortest leaves are renewed every 36 s."""
MAX_CALLERS = 10_000
"""Whose rate is remembered; of more, the ones that asked longest ago are forgotten."""


class Limits:
    """``now_s``: monotonic seconds."""

    def __init__(self, csr_per_s: float) -> None:
        self._all = TokenBucket(rate=csr_per_s, burst=max(1.0, csr_per_s * BURST_S))
        self._retry_all_s = max(1, math.ceil(1 / csr_per_s))
        self._callers: dict[tuple[str, str], TokenBucket] = {}

    def take(self, caller: Caller, now_s: float) -> None:
        """One of the caller's own first: who asks too often must not use up what others share.

        Raises Refusal.
        """
        key = (caller.host, caller.service)
        bucket = self._callers.pop(key, None)
        if bucket is None:
            bucket = TokenBucket(rate=CALLER_PER_S, burst=CALLER_BURST)
        self._callers[key] = bucket
        if len(self._callers) > MAX_CALLERS:
            del self._callers[next(iter(self._callers))]
        if not bucket.try_take(now_s):
            raise Refusal(
                Code.RATE_LIMITED,
                f"{caller} asks more often than once in {1 / CALLER_PER_S:g} s",
                retry_after_s=math.ceil(1 / CALLER_PER_S),
            )
        if not self._all.try_take(now_s):
            raise Refusal(
                Code.RATE_LIMITED,
                "this signer is asked for more certificates than it may sign in a second",
                retry_after_s=self._retry_all_s,
            )
