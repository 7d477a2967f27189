"""Calls looked at for a while, so that intentions can be written from what really happens.

Nothing is looked at until somebody asks, and then for a bounded time and into a table of bounded
size. While off, a request does not even find out that it is.
"""

from time import monotonic
from typing import Final

from proxy.core.authorization import Decision
from proxy.core.authorization.patterns import pattern_of
from proxy.http.head import RequestHead
from proxy.model.names import ServiceName
from proxy.model.observed import Observed, SeenCall

MAX_KINDS: Final = 5000
"""Of calls in one process; some 300 bytes each."""
MAX_SECONDS: Final = 3600.0

_Kind = tuple[ServiceName, ServiceName, bytes, str]


class Observation:
    """Of one process; begins as it is made."""

    def __init__(self, seconds: float) -> None:
        self._ends = monotonic() + min(seconds, MAX_SECONDS)
        self._kinds: dict[_Kind, _Count] = {}
        self._left_out = 0

    @property
    def is_over(self) -> bool:
        return monotonic() >= self._ends

    def saw(
        self,
        service: ServiceName,
        caller: ServiceName,
        decision: Decision,
        head: RequestHead | None = None,
    ) -> None:
        """``head`` None: a TCP session."""
        method, path = (head.method, pattern_of(head.target)) if head is not None else (b"", "")
        kind = service, caller, method, path
        found = self._kinds.get(kind)
        if found is None:
            if len(self._kinds) >= MAX_KINDS:
                self._left_out += 1
                return
            found = self._kinds[kind] = _Count()
        if decision.is_allowed:
            found.allowed += 1
        else:
            found.denied += 1
            found.policy = decision.policy

    def told(self) -> Observed:
        return Observed(
            calls=tuple(
                SeenCall(
                    service=service,
                    caller=caller,
                    method=method.decode("ascii", "replace"),
                    path=path,
                    allowed=count.allowed,
                    denied=count.denied,
                    policy=count.policy,
                )
                for (service, caller, method, path), count in self._kinds.items()
            ),
            left_out=self._left_out,
            left_s=max(0.0, self._ends - monotonic()),
        )


class _Count:
    __slots__ = ("allowed", "denied", "policy")

    def __init__(self) -> None:
        self.allowed = self.denied = 0
        self.policy = ""
