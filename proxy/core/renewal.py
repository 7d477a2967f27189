"""When an identity is renewed, and when it is tried again. Pure: ``now`` and ``rng`` come in,
moments go out; all in Unix seconds.

A random point in 60-90 % of the life spreads the hosts of a mesh that were deployed together,
and leaves a tenth of the life, at the least, for a signer that is away.
"""

import random
from dataclasses import dataclass, replace

FROM, UNTIL = 0.6, 0.9
"""Of the life, counted from the issuance."""
BACKDATE_S = 60.0
"""NotBefore lies so far before the issuance (``meshctl.pki.authority`` does that)."""
MISSED_S = 5.0
"""A renewal that is due already (the proxy was off) happens within so many seconds: hosts that
start together must not all ask at once."""
RETRY_MIN_S, RETRY_MAX_S = 1.0, 300.0
TRIES_LEFT = 10
"""The time that remains is good for at least so many tries: they become denser near the end."""
REVOKED_MIN_S = 10.0
"""Who was refused for good asks rarely, but asks: a host can be taken back into the mesh."""
REVOKED_TRIES_LEFT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Of a leaf."""

    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Of one identity: when it is renewed next, and what came of the tries so far."""

    life: Life
    at: float
    failures: int = 0
    """In a row."""
    is_revoked: bool = False


def begin(life: Life, now: float, rng: random.Random) -> Schedule:
    """For a leaf that has just come into force, or is found at a start."""
    issued = min(life.not_before + BACKDATE_S, life.not_after)
    at = issued + (life.not_after - issued) * rng.uniform(FROM, UNTIL)
    if at <= now:
        at = now + rng.uniform(0.0, min(MISSED_S, max(0.0, life.not_after - now) / 2))
    return Schedule(life=life, at=at)


def failed(
    schedule: Schedule, now: float, rng: random.Random, *, retry_after_s: float = 0.0
) -> Schedule:
    """The next try after one that every signer failed, or a signer put off."""
    ceiling_s = min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(schedule.failures + 1, 16))
    remaining_s = schedule.life.not_after - now
    if remaining_s > 0:  # after its end nothing is gained by haste
        ceiling_s = min(ceiling_s, max(2 * RETRY_MIN_S, remaining_s / TRIES_LEFT))
    wait_s = rng.uniform(RETRY_MIN_S, ceiling_s)
    wait_s = max(wait_s, min(retry_after_s, RETRY_MAX_S))
    return replace(schedule, at=now + wait_s, failures=schedule.failures + 1, is_revoked=False)


def revoked(schedule: Schedule, now: float, rng: random.Random) -> Schedule:
    """The next try after a signer has said that this host no longer has that service."""
    remaining_s = max(0.0, schedule.life.not_after - now)
    ceiling_s = min(RETRY_MAX_S, max(REVOKED_MIN_S, remaining_s / REVOKED_TRIES_LEFT))
    return replace(
        schedule,
        at=now + rng.uniform(ceiling_s / 2, ceiling_s),
        failures=schedule.failures + 1,
        is_revoked=True,
    )
