"""How long to wait after a failure, and how often to ask when the answers come at once."""

import random


class Backoff:
    """Exponential with full jitter, so that a thousand hosts do not return in step.

    Full jitter as in the AWS Architecture Blog's "Exponential Backoff And Jitter"; the floor of a
    tenth of the base is ours, so that the luckiest draw is not a busy loop.
    """

    __slots__ = ("_attempts", "_base_s", "_cap_s")

    def __init__(self, *, base_s: float, cap_s: float) -> None:
        if not 0 < base_s <= cap_s:
            raise ValueError("a back-off needs 0 < base_s <= cap_s")
        self._base_s, self._cap_s, self._attempts = base_s, cap_s, 0

    @property
    def attempts(self) -> int:
        """Failures since the last success."""
        return self._attempts

    def next_s(self, rng: random.Random) -> float:
        """Call once per failure."""
        # 2**32 times any base is above any cap: the exponent must not grow without limit.
        ceiling_s = min(self._cap_s, self._base_s * 2 ** min(self._attempts, 32))
        self._attempts += 1
        return rng.uniform(self._base_s / 10, ceiling_s)

    def reset(self) -> None:
        """Call after a success."""
        self._attempts = 0


class TokenBucket:
    """At most ``burst`` at once and ``rate`` a second in the long run."""

    __slots__ = ("_at_s", "_burst", "_rate", "_tokens")

    def __init__(self, *, rate: float, burst: float) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("a token bucket needs rate > 0 and burst >= 1")
        self._rate, self._burst = rate, burst
        self._tokens, self._at_s = burst, float("-inf")

    def take_s(self, now_s: float) -> float:
        """Takes one, on credit if it must; returns how long to wait before using it."""
        self._refill(now_s)
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def try_take(self, now_s: float) -> bool:
        """Takes one if there is one."""
        self._refill(now_s)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _refill(self, now_s: float) -> None:
        if now_s > self._at_s:
            self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate)
            self._at_s = now_s
