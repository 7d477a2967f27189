"""The counters of all proxies, again and again, over one command a host that goes on.

Slow hosts hold up nobody, and one that is lost is tried again for as long as anybody looks. Of a
host a few looks are kept: enough for rates over a window, at most ``MAX_LOOKS``.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from meshctl.apply.asked import ask
from meshctl.errors import MeshError, RemoteFailure, Unreachable
from meshctl.facts.request import admin_query
from meshctl.inventory.model import Host
from meshctl.telemetry.tasks import end
from meshctl.transport import Connector
from proxy.core.backoff import Backoff
from proxy.core.stats import Stats
from proxy.model.codec import Malformed, Value, decode
from proxy.model.names import HostName

MAX_LOOKS = 32
STALE_LOOKS = 3
"""A host that misses so many is said not to answer."""
_STALE_AT_LEAST_S = 10.0
FIRST_S = 3.0
"""The first round waits so long for hosts that do not answer; what is there is shown then."""
_LATE = 0.5
"""Of an interval: how long a round waits for those that are not there yet."""
_RETRY_FIRST_S = 1.0
_RETRY_MAX_S = 30.0
_PATH = "/stats"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One look at all hosts. ``rates.view(round.before, round.stats, ...)`` is what it shows."""

    at: float
    """Unix seconds, by this machine's clock."""
    stats: Mapping[HostName, Stats]
    """The newest of each host that answers."""
    before: Mapping[HostName, Stats]
    """An earlier one, about a window older. Empty in the first round; a host that has answered
    once only is missing."""
    faults: Mapping[HostName, MeshError]
    """Why the others do not answer. Together with ``stats``: every host."""


async def collect_once(hosts: Sequence[Host], connector: Connector, *, parallel: int) -> Round:
    """One look; counted since the proxies' start."""
    asked = await ask(hosts, connector, "GET", _PATH, parallel=parallel)
    stats: dict[HostName, Stats] = {}
    faults = dict(asked.failures)
    for name, body in asked.bodies.items():
        try:
            stats[name] = _read(name, body)
        except MeshError as error:
            faults[name] = error
    return Round(at=time.time(), stats=stats, before={}, faults=faults)


class Collector(AsyncIterator[Round]):
    """Rounds, one each ``every_s``; the first as soon as every host has answered or failed.

    One reader; a round that is not asked for is not made. Made by ``collecting``.
    """

    def __init__(
        self, hosts: Sequence[Host], *, every_s: float, window_s: float, first_s: float
    ) -> None:
        self._every_s, self._window_s, self._first_s = every_s, window_s, first_s
        self._looks = {host.name: _Looks() for host in hosts}
        self._changed = asyncio.Event()
        self._due = 0.0
        """Monotonic; 0 before the first round."""

    async def __anext__(self) -> Round:
        loop = asyncio.get_running_loop()
        if not self._due:
            await self._until_fresh(loop.time() + self._first_s)
        else:
            await asyncio.sleep(max(0.0, self._due - loop.time()))
            await self._until_fresh(loop.time() + self._every_s * _LATE)
        now = loop.time()
        is_first = not self._due
        self._due = max(self._due + self._every_s, now) if self._due else now + self._every_s
        for looks in self._looks.values():
            looks.is_fresh = False
        return self._round(now, is_first=is_first)

    async def _until_fresh(self, deadline: float) -> None:
        """Until every host that answers has answered anew."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not all(looks.is_fresh or looks.fault for looks in self._looks.values()):
                    self._changed.clear()
                    await self._changed.wait()

    def _round(self, now: float, *, is_first: bool) -> Round:
        stats: dict[HostName, Stats] = {}
        before: dict[HostName, Stats] = {}
        faults: dict[HostName, MeshError] = {}
        stale_s = max(_STALE_AT_LEAST_S, STALE_LOOKS * self._every_s)
        for name, looks in self._looks.items():
            if looks.fault is not None:
                faults[name] = looks.fault
            elif not looks.kept or now - looks.at > stale_s:
                faults[name] = Unreachable(
                    f"{name} has not answered for {now - looks.at:.0f} s", hint="meshctl status"
                )
            else:
                stats[name] = looks.kept[-1]
                earlier = looks.earlier(self._window_s)
                if earlier is not None and not is_first:
                    before[name] = earlier
        return Round(at=time.time(), stats=stats, before=before, faults=faults)

    async def follow(self, host: Host, connector: Connector, gate: asyncio.Semaphore) -> None:
        """Never ends, and raises nothing: one task a host."""
        argv = admin_query(host, "--every", f"{self._every_s:g}", "GET", _PATH)
        looks = self._looks[host.name]
        looks.at = asyncio.get_running_loop().time()
        backoff = Backoff(base_s=_RETRY_FIRST_S, cap_s=_RETRY_MAX_S)
        rng = random.Random()  # noqa: S311 - spreads retries, guards nothing
        while True:
            try:
                async with gate:
                    transport = await connector.connect(host.name)
                async with transport.lines(argv) as lines:
                    async for line in lines:
                        self._take(looks, host.name, line)
                        backoff.reset()
                fault: MeshError = RemoteFailure(
                    f"the proxy on {host.name} is no longer asked", hint="meshctl status"
                )
            except MeshError as error:
                fault = error
            looks.fault = fault
            looks.kept.clear()
            self._changed.set()
            await asyncio.sleep(backoff.next_s(rng))

    def _take(self, looks: "_Looks", host: HostName, line: bytes) -> None:
        try:
            stats = _read(host, line)
        except MeshError as error:
            looks.fault = error
        else:
            looks.fault = None
            looks.at = asyncio.get_running_loop().time()
            looks.keep(stats, self._window_s)
        looks.is_fresh = True
        self._changed.set()


@asynccontextmanager
async def collecting(
    hosts: Sequence[Host],
    connector: Connector,
    *,
    every_s: float,
    window_s: float = 0.0,
    first_s: float = FIRST_S,
    parallel: int = 50,
) -> AsyncIterator[Collector]:
    """``async for round in collector``. ``window_s``: what rates are taken over; at least one
    interval. ``parallel``: connections opened at the same time.
    """
    collector = Collector(hosts, every_s=every_s, window_s=window_s, first_s=first_s)
    gate = asyncio.Semaphore(parallel)
    tasks = [
        asyncio.create_task(collector.follow(host, connector, gate), name=f"stats of {host.name}")
        for host in hosts
    ]
    try:
        yield collector
    finally:
        await end(tasks)


@dataclass(slots=True)
class _Looks:
    """At one host."""

    kept: deque[Stats] = field(default_factory=lambda: deque(maxlen=MAX_LOOKS))
    """Oldest first."""
    fault: MeshError | None = None
    at: float = 0.0
    """Monotonic, of the last answer; before the first, when it was first asked."""
    is_fresh: bool = False
    """It has answered, well or not, since the last round."""

    def earlier(self, window_s: float) -> Stats | None:
        """The newest that is a window older than the last one, else the oldest; None: there is only
        one."""
        if len(self.kept) < 2:
            return None
        *older, last = self.kept
        found = [look for look in older if look.uptime_s <= last.uptime_s - window_s]
        return found[-1] if found else older[0]

    def keep(self, look: Stats, window_s: float) -> None:
        """And forget those that no window reaches any more. By the proxy's uptime: a host's clock
        may be set."""
        if self.kept and look.uptime_s < self.kept[-1].uptime_s:
            while len(self.kept) > 1:
                self.kept.popleft()
        self.kept.append(look)
        since = look.uptime_s - window_s
        while len(self.kept) > 2 and self.kept[1].uptime_s <= since:
            self.kept.popleft()


class _Complaint(Value, frozen=True, kw_only=True):
    error: str


def _read(host: HostName, body: bytes) -> Stats:
    """Raises RemoteFailure."""
    hint = f"meshctl status, then meshctl deploy --limit {host}"
    if body.startswith(b'{"error"'):
        with suppress(Malformed):
            said = decode(body, _Complaint).error
            raise RemoteFailure(
                f"the proxy on {host} does not answer GET {_PATH}", output=said, hint=hint
            )
    try:
        stats = decode(body, Stats)
    except Malformed as error:
        raise RemoteFailure(
            f"{host}: its proxy does not answer as this meshctl expects ({error})", hint=hint
        ) from error
    if stats.host != host:
        raise RemoteFailure(f"{host}: its proxy says that it is {stats.host!r}", hint=hint)
    return stats
