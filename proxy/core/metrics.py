"""Counters, gauges and histograms of this process; ``exposition`` has their text form.

A series is found once, with ``labels``, and then incremented as a plain attribute: nothing on
the path of a request looks up a label or formats a number. ``series`` has what becomes of them.
"""

from collections.abc import Callable, Iterator

from proxy.core.exposition import Combine, FamilyTally, Kind, Tally, merge, render
from proxy.core.series import (
    OVERFLOW,
    SERIES_IDLE_S,
    Family,
    Histogram,
    HistogramFamily,
    Labels,
    Value,
)

__all__ = [
    "BYTES_BUCKETS",
    "DURATION_MS_BUCKETS",
    "MAX_SERIES",
    "OVERFLOW",
    "SERIES_IDLE_S",
    "Family",
    "Histogram",
    "HistogramFamily",
    "Metrics",
    "Value",
]

MAX_SERIES = 1000
"""Of a family."""
DURATION_MS_BUCKETS = (
    *(0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
    *(1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0, 600000.0),
)
"""Istio's own, so that its dashboards' quantiles mean the same here."""
BYTES_BUCKETS = (
    *(0.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0),
    *(262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0),
)
"""Without a body; then by fours, from less than a packet to what ought to be a download."""


class Metrics:
    """Every family of a process, by name. Asking twice for the same one gives the same object."""

    def __init__(self, *, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._families: dict[str, Family | HistogramFamily] = {}
        self.observers: list[Callable[[], None]] = []
        """Called before each tally: they set the gauges of what can be looked up at any time."""
        self.is_one_of_many = False
        """Whether what is dropped here is kept, for the sum of several processes."""
        self._dropped: list[Tally] = []
        self._to_sweep: list[Family | HistogramFamily] = []
        self._itself: tuple[Value, Value, Family] | None = None

    def counter(self, name: str, help: str, labels: Labels = (), *, fades: bool = False) -> Family:
        """``fades``: a series in which nothing is counted any more is dropped."""
        return self._value("counter", name, help, labels, "sum", fades=fades)

    def gauge(
        self, name: str, help: str, labels: Labels = (), *, combine: Combine = "sum"
    ) -> Family:
        """``combine``: over worker processes. What is counted adds up; of a state, a time or a
        lag the highest is shown."""
        return self._value("gauge", name, help, labels, combine)

    def _value(
        self,
        kind: Kind,
        name: str,
        text: str,
        labels: Labels,
        combine: Combine,
        *,
        fades: bool = False,
    ) -> Family:
        family = self._families.get(name)
        if family is None:
            family = Family(name, kind, text, labels, self._max_series, combine, fades=fades)
            self._families[name] = family
        if not isinstance(family, Family) or (
            (family.kind, family.label_names, family.combine) != (kind, labels, combine)
        ):
            raise ValueError(f"{name} exists with another type or other labels")
        return family

    def histogram(
        self,
        name: str,
        help: str,
        labels: Labels = (),
        buckets: tuple[float, ...] = DURATION_MS_BUCKETS,
        *,
        fades: bool = False,
    ) -> HistogramFamily:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = HistogramFamily(
                name, help, labels, buckets, self._max_series, fades=fades
            )
        if not isinstance(family, HistogramFamily) or family.label_names != labels:
            raise ValueError(f"{name} exists with another type or other labels")
        return family

    def count_series(self) -> None:
        """From now on there are metrics of the metrics."""
        series = self.gauge("mesh_metric_series", "Series of all metrics that are kept.")
        dropped = self.counter(
            "mesh_metric_series_dropped_total",
            "Series dropped because nothing was counted in them for ten minutes.",
        )
        overflowed = self.counter(
            "mesh_metric_series_overflowed_total",
            "How often a new series of a metric was wanted and there was no room for it.",
            ("family",),
        )
        self._itself = series.labels(), dropped.labels(), overflowed

    def sweep(self, now: float) -> bool:
        """About once a second: looks at the next family, so that it never takes long. Whether
        anything was dropped: whoever has found series before should let go of them."""
        if not self._to_sweep:
            self._to_sweep = [family for family in self._families.values() if family.fades]
        if not self._to_sweep:
            return False
        dropped = self._to_sweep.pop().sweep(now)
        if dropped is None:
            return False
        if self._itself is not None:
            self._itself[1].value += len(dropped.series)
        if self.is_one_of_many:
            self._dropped.append((dropped,))
        return True

    def take_dropped(self) -> Tally:
        """What was dropped since this was last asked, if this is one process of many."""
        dropped, self._dropped = self._dropped, []
        return merge(dropped)

    def tallies(self) -> Iterator[FamilyTally]:
        """Everything counted so far, one family after the other, by name."""
        for observe in self.observers:
            observe()
        if self._itself is not None:
            series, _, overflowed = self._itself
            series.value = sum(map(len, self._families.values()))
            for family in self._families.values():
                if family.overflowed:
                    overflowed.labels(family.name).value = family.overflowed
        for family in sorted(self._families.values(), key=lambda family: family.name):
            yield family.tally()

    def tally(self) -> Tally:
        """Everything counted so far: families by name, series by label values."""
        return tuple(self.tallies())

    def render(self) -> bytes:
        """Of this process alone."""
        return render(self.tally())
