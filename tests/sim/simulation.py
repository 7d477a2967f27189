"""A service under load, without a clock: callers arrive at random, endpoints take their time.

Discrete events with a seeded source of chance, so that each run is the same. One caller with the
balancer (and outlier detector) under test sends requests, as a Poisson process, to endpoints that
each serve ``parallel`` requests at a time and let the others queue.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from proxy.core.balance import EndpointState, Tiers
from proxy.core.outlier import OutlierDetector
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Balancing
from proxy.model.resilience import OutlierDetection

NEVER_EJECT = OutlierDetection(consecutive_failures=0)


class Server(EndpointState):
    """An endpoint and what stands behind it."""

    __slots__ = ("busy", "error_rate", "mean_s", "parallel", "queue")

    def __init__(self, endpoint: Endpoint, mean_s: float, parallel: int) -> None:
        super().__init__(endpoint)
        self.mean_s = mean_s
        self.error_rate = 0.0
        self.parallel = parallel
        self.busy = 0
        self.queue: deque[float] = deque()


def server(
    number: int,
    *,
    weight: int = 1,
    zone: str = "",
    mean_s: float = 0.01,
    parallel: int = 64,
) -> Server:
    return Server(
        Endpoint(
            service=ServiceName("api"),
            host=HostName(f"h{number}"),
            address=f"10.0.{number // 250}.{number % 250 + 1}",
            port=8080,
            weight=weight,
            zone=zone,
        ),
        mean_s,
        parallel,
    )


@dataclass(kw_only=True)
class Outcome:
    sent: Counter[str] = field(default_factory=Counter)
    """Requests by host."""
    failed: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    unserved: int = 0

    def share(self, *servers: Server) -> float:
        return sum(self.sent[each.endpoint.host] for each in servers) / self.sent.total()

    def percentile_s(self, percent: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Simulation:
    """Runs piece by piece: ``run`` for a while, change something, ``run`` on."""

    def __init__(
        self,
        *tiers: Sequence[Server],
        balancing: Balancing,
        outlier: OutlierDetection = NEVER_EJECT,
        zone: str = "",
        seed: int = 1,
    ) -> None:
        self.rng = Random(seed)
        self.now = 1000.0
        self.balancer: Tiers[Server] = Tiers(balancing, outlier, zone, Random(seed + 1), len(tiers))
        self.detector = OutlierDetector(outlier)
        self.tiers = [tuple(tier) for tier in tiers]
        self.balancer.update(self.tiers, self.now)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._outcome = Outcome()
        self._sweep()

    def set_servers(self, *tiers: Sequence[Server]) -> None:
        self.tiers = [tuple(tier) for tier in tiers]
        self.balancer.update(self.tiers, self.now)

    def run(self, duration_s: float, per_s: float) -> Outcome:
        """What was sent within ``duration_s``; what is still in flight then is not in it."""
        self._outcome = outcome = Outcome()
        end = self.now + duration_s
        arrival = self.now + self.rng.expovariate(per_s)
        while arrival < end:
            self._until(arrival)
            self._send()
            arrival += self.rng.expovariate(per_s)
        self._until(end)
        return outcome

    def _until(self, moment: float) -> None:
        while self._events and self._events[0][0] <= moment:
            self.now, _, event = heappop(self._events)
            event()
        self.now = moment

    def _at(self, moment: float, event: Callable[[], None]) -> None:
        self._number += 1
        heappush(self._events, (moment, self._number, event))

    def _sweep(self) -> None:
        self.detector.sweep([each for tier in self.tiers for each in tier], self.now, self.rng)
        self.balancer.refresh(self.now)
        self._at(self.now + 1.0, self._sweep)

    def _send(self) -> None:
        chosen = self.balancer.pick((), self.now, self.rng.getrandbits(64))
        if chosen is None:
            self._outcome.unserved += 1
            return
        self._outcome.sent[chosen.endpoint.host] += 1
        chosen.inflight += 1
        if chosen.busy < chosen.parallel:
            self._serve(chosen, self.now, self._outcome)
        else:
            chosen.queue.append(self.now)

    def _serve(self, chosen: Server, since: float, outcome: Outcome) -> None:
        chosen.busy += 1
        is_failure = self.rng.random() < chosen.error_rate
        # Errors are quick: that is what makes them attractive.
        takes_s = 0.0002 if is_failure else chosen.mean_s * (0.5 + self.rng.expovariate(2.0))
        self._at(self.now + takes_s, lambda: self._finished(chosen, since, is_failure, outcome))

    def _finished(self, chosen: Server, since: float, is_failure: bool, outcome: Outcome) -> None:
        elapsed_s = self.now - since
        chosen.busy -= 1
        chosen.inflight -= 1
        outcome.latencies_s.append(elapsed_s)
        if is_failure:
            outcome.failed[chosen.endpoint.host] += 1
        self.balancer.observe(chosen, elapsed_s, is_failure, self.now)
        everyone = [each for tier in self.tiers for each in tier]
        if self.detector.observe(chosen, is_failure, self.now, everyone, self.rng):
            self.balancer.refresh(self.now)
        if chosen.queue:
            self._serve(chosen, chosen.queue.popleft(), outcome)
