"""Counters, gauges and histograms of this process; ``exposition`` has their text form.

A series is found once, with ``labels``, and then incremented as a plain attribute: nothing on
the path of a request looks up a label or formats a number. The number of series of a family is
capped; what comes after goes to one series whose label values all read ``overflow``, so that a
hostile or careless label value costs accuracy and not memory.
"""

import re
from bisect import bisect_left
from typing import Generic, Protocol, TypeVar

from proxy.core.exposition import Combine, FamilyTally, Figures, Kind, Tally, render

MAX_SERIES = 1000
OVERFLOW = "overflow"
DURATION_MS_BUCKETS = (
    *(0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
    *(1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0, 600000.0),
)
"""Istio's own, so that its dashboards' quantiles mean the same here."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Value:
    """One counter or gauge series; the hot path does ``child.value += 1``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def figures(self) -> Figures:
        return [self.value]


class Histogram:
    """One histogram series."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Per bucket, not cumulative; the last one is +Inf."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def figures(self) -> Figures:
        return [*self.counts, self.total]


class _Child(Protocol):
    def figures(self) -> Figures: ...


C = TypeVar("C", bound=_Child)


class _Series(Generic[C]):
    """All series of one name."""

    bounds: tuple[float, ...] = ()

    def __init__(
        self,
        name: str,
        kind: Kind,
        text: str,
        labels: tuple[str, ...],
        max_series: int,
        combine: Combine = "sum",
    ) -> None:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not a metric name")
        for label in labels:
            if _LABEL.fullmatch(label) is None or label.startswith("__") or label == "le":
                raise ValueError(f"{label!r} is not a label name")
        self.name, self.kind, self.text, self.label_names = name, kind, text, labels
        self.combine = combine
        self._max_series = max_series
        self._children: dict[tuple[str, ...], C] = {}

    def _make(self) -> C:
        raise NotImplementedError

    def labels(self, *values: str) -> C:
        """The series with these label values, in the order of the names; made when new."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, got {values}")
            if len(self._children) >= self._max_series:
                values = (OVERFLOW,) * len(values)
            child = self._children.get(values)
            if child is None:
                child = self._children[values] = self._make()
        return child

    def remove(self, *values: str) -> None:
        """Forgets a series, if it exists; a child still held goes on counting for nobody."""
        self._children.pop(values, None)

    def tally(self) -> FamilyTally:
        return FamilyTally(
            name=self.name,
            kind=self.kind,
            text=self.text,
            label_names=self.label_names,
            combine=self.combine,
            bounds=self.bounds,
            series=[(values, child.figures()) for values, child in sorted(self._children.items())],
        )


class Family(_Series[Value]):
    """A counter or a gauge with its series."""

    def _make(self) -> Value:
        return Value()


class HistogramFamily(_Series[Histogram]):
    """A histogram with its series."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        bounds: tuple[float, ...],
        max_series: int,
    ) -> None:
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise ValueError(f"{name}: bucket bounds must rise")
        super().__init__(name, "histogram", text, labels, max_series)
        self.bounds = bounds

    def _make(self) -> Histogram:
        return Histogram(self.bounds)


class Metrics:
    """Every family of a process, by name. Asking twice for the same one gives the same object."""

    def __init__(self, *, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._families: dict[str, Family | HistogramFamily] = {}

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Family:
        return self._value("counter", name, help, labels, "sum")

    def gauge(
        self, name: str, help: str, labels: tuple[str, ...] = (), *, combine: Combine = "sum"
    ) -> Family:
        """``combine``: over worker processes. What is counted adds up; of a state, a time or a
        lag the highest is shown."""
        return self._value("gauge", name, help, labels, combine)

    def _value(
        self, kind: Kind, name: str, text: str, labels: tuple[str, ...], combine: Combine
    ) -> Family:
        family = self._families.get(name)
        if family is None:
            family = Family(name, kind, text, labels, self._max_series, combine)
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
        labels: tuple[str, ...] = (),
        buckets: tuple[float, ...] = DURATION_MS_BUCKETS,
    ) -> HistogramFamily:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = HistogramFamily(
                name, help, labels, buckets, self._max_series
            )
        if not isinstance(family, HistogramFamily) or family.label_names != labels:
            raise ValueError(f"{name} exists with another type or other labels")
        return family

    def tally(self) -> Tally:
        """Everything counted so far: families by name, series by label values."""
        families = sorted(self._families.values(), key=lambda family: family.name)
        return tuple(family.tally() for family in families)

    def render(self) -> bytes:
        """Of this process alone."""
        return render(self.tally())
