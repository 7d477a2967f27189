"""Adds up what several proxies counted, and says it as signals: rates, shares and quantiles."""

from collections.abc import Sequence

from meshctl.telemetry.view import Signals
from proxy.core.exposition import Figures


class Requests:
    """Requests of anything: a side of an edge, a route, an endpoint, a service."""

    __slots__ = ("bounds", "counts", "failures", "per_s", "requests", "total_ms")

    def __init__(self) -> None:
        self.requests = 0
        self.per_s = 0.0
        """A sum over hosts, each of its own window."""
        self.failures = 0
        self.bounds: tuple[float, ...] = ()
        self.counts: list[int | float] = []
        self.total_ms = 0.0

    def count(self, number: float, window_s: float, *, is_failure: bool) -> None:
        self.requests += int(number)
        self.per_s += number / window_s
        if is_failure:
            self.failures += int(number)

    def observe(self, bounds: tuple[float, ...], figures: Figures) -> None:
        """A histogram's figures: its buckets, not cumulative, and the sum. Those with other buckets
        than the first (another release) are left out.
        """
        if not self.counts:
            self.bounds, self.counts = bounds, list(figures[:-1])
        elif bounds == self.bounds:
            for place, count in enumerate(figures[:-1]):
                if count:
                    self.counts[place] += count
        else:
            return
        self.total_ms += figures[-1]

    def add(self, other: "Requests") -> None:
        self.requests += other.requests
        self.per_s += other.per_s
        self.failures += other.failures
        if other.counts:
            self.observe(other.bounds, [*other.counts, other.total_ms])

    def signals(self) -> Signals:
        seen = sum(self.counts)
        return Signals(
            requests=self.requests,
            per_s=self.per_s,
            failures=self.failures,
            success=1.0 - self.failures / self.requests if self.requests else None,
            p50_ms=quantile(0.50, self.bounds, self.counts),
            p95_ms=quantile(0.95, self.bounds, self.counts),
            p99_ms=quantile(0.99, self.bounds, self.counts),
            mean_ms=self.total_ms / seen if seen else None,
        )


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """``counts`` per bucket, the last one above all bounds. Linear within a bucket; the last bound
    where it lies above; None of nothing.
    """
    rank = share * sum(counts)
    if rank <= 0:
        return None
    below, lower = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below += count
        lower = bound
    return lower
