"""What proxies have seen of calls, for whoever writes intentions. Counts, and no content."""

from collections.abc import Iterable

from proxy.model.codec import Value
from proxy.model.names import ServiceName

AMBIGUOUS = "?"
"""In place of a path that applications may read in different ways."""


class SeenCall(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Calls that are alike."""

    service: ServiceName
    caller: ServiceName
    method: str = ""
    """Empty: a TCP session."""
    path: str = ""
    """In normal form, without the query; segments that look like ids are ``*``."""
    allowed: int = 0
    denied: int = 0
    policy: str = ""
    """Which denied the last of those."""


class PlaintextCaller(Value, frozen=True, kw_only=True):
    """Who still comes without an identity."""

    service: ServiceName
    source: str
    """An IP address."""
    count: int
    """Requests, or TCP sessions."""
    first_at: float
    """Unix time."""
    last_at: float


class Observed(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Of one process, or of several."""

    calls: tuple[SeenCall, ...] = ()
    left_out: int = 0
    """Calls of kinds for which there was no room."""
    left_s: float = 0.0
    """How long calls are still looked at; 0: they are not."""
    plaintext: tuple[PlaintextCaller, ...] = ()


def together(parts: Iterable[Observed]) -> Observed:
    """What several processes have seen, as one would have."""
    calls: dict[tuple[str, str, str, str], SeenCall] = {}
    callers: dict[tuple[str, str], PlaintextCaller] = {}
    left_out, left_s = 0, 0.0
    for part in parts:
        left_out += part.left_out
        left_s = max(left_s, part.left_s)
        for call in part.calls:
            kind = call.service, call.caller, call.method, call.path
            calls[kind] = _added(calls[kind], call) if kind in calls else call
        for each in part.plaintext:
            who = each.service, each.source
            callers[who] = _both(callers[who], each) if who in callers else each
    return Observed(
        calls=tuple(calls[kind] for kind in sorted(calls)),
        left_out=left_out,
        left_s=left_s,
        plaintext=tuple(callers[who] for who in sorted(callers)),
    )


def _added(one: SeenCall, other: SeenCall) -> SeenCall:
    return SeenCall(
        service=one.service,
        caller=one.caller,
        method=one.method,
        path=one.path,
        allowed=one.allowed + other.allowed,
        denied=one.denied + other.denied,
        policy=other.policy or one.policy,
    )


def _both(one: PlaintextCaller, other: PlaintextCaller) -> PlaintextCaller:
    return PlaintextCaller(
        service=one.service,
        source=one.source,
        count=one.count + other.count,
        first_at=min(one.first_at, other.first_at),
        last_at=max(one.last_at, other.last_at),
    )
