"""What was denied since the dashboard was started, and why: sums by policy, and the last requests.

The sums come from the proxies' counters, the single requests from what they remember; both get the
sentence and the line of the file that ``meshctl explain`` would tell.
"""

from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from meshctl.errors import MeshError
from meshctl.inventory.model import Host
from meshctl.policy.hops import denial
from meshctl.policy.origins import Places
from meshctl.telemetry.difference import Difference
from meshctl.telemetry.edges import Edges
from meshctl.telemetry.tapping import Filter, Silent, tap
from meshctl.transport import Connector
from proxy.core.stats import Stats
from proxy.model.flags import Flag
from proxy.model.names import HostName
from proxy.model.policy import Policy
from proxy.model.recent import SeenRequest

MAX_SUMS = 2_000
MAX_REQUESTS = 200
_PER_S = 50.0
"""Single requests: more a second cannot be read, and the sums have them all."""
_FOR_S = 10.0 * 365 * 86400
_MOST = 2**62


@dataclass(slots=True)
class _Sum:
    count: int
    last_at: float


class Denials:
    def __init__(self) -> None:
        self._sums: OrderedDict[tuple[str, str, str], _Sum] = OrderedDict()
        self._requests: deque[SeenRequest] = deque(maxlen=MAX_REQUESTS)
        self._before: dict[HostName, Stats] = {}
        self.policy, self.places = Policy(), Places(None, "")
        """By which they are explained; replaced when a newer one is known."""

    def count(self, stats: Mapping[HostName, Stats], at: float) -> None:
        """``stats``: each proxy's newest look. Between looks, not windows: those overlap."""
        seen = Edges()
        for host, newest in stats.items():
            before = self._before.get(host)
            if before is not None and before is not newest:
                seen.add_refusals(Difference(before, newest))
        self._before.update(stats)
        for key, count in seen.denials.items():
            if count:
                known = self._sums.setdefault(key, _Sum(0, 0.0))
                known.count += int(count)
                known.last_at = at
                self._sums.move_to_end(key)
        while len(self._sums) > MAX_SUMS:
            self._sums.popitem(last=False)

    def document(self) -> dict[str, Any]:
        return {
            "rows": [
                {
                    "caller": caller,
                    "service": service,
                    "policy": policy,
                    "count": known.count,
                    "last_at": known.last_at,
                    **self._told(policy),
                }
                for (caller, service, policy), known in self._sums.items()
            ],
            "recent": [
                {
                    "id": seen.id,
                    "ended_at": seen.ended_at,
                    "host": seen.host,
                    "caller": seen.caller,
                    "service": seen.service,
                    "method": seen.method,
                    "path": seen.path,
                    "status": seen.status,
                    "policy": seen.policy,
                    **self._told(seen.policy),
                }
                for seen in reversed(self._requests)
            ],
        }

    def _told(self, policy: str) -> dict[str, str]:
        why, at = denial(policy, self.policy, self.places)
        return {"why": why, "at": at}

    def remember(self, seen: SeenRequest) -> None:
        self._requests.append(seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialsSource:
    """Yields after each single denial; ``Denials.count`` is for whoever has the views."""

    denials: Denials
    hosts: Sequence[Host]
    connector: Connector
    topic: str = "denials"

    async def documents(self) -> AsyncGenerator[object, None]:
        yield self.denials.document()
        # Of two proxies that tell of the same call, the caller's is heard.
        events = tap(
            self.hosts,
            self.connector,
            Filter(service="-", flag=Flag.DENIED, workloads=frozenset(self._workloads())),
            for_s=_FOR_S,
            most=_MOST,
            per_s=_PER_S,
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Silent):
                    yield MeshError(
                        f"the last denied requests of {event.host} are missing: {event.error}",
                        hint=event.error.hint,
                    )
                elif isinstance(event, SeenRequest) and event.policy:
                    self.denials.remember(event)
                    yield self.denials.document()

    def _workloads(self) -> Iterator[str]:
        return (service.name for host in self.hosts for service in host.services)
