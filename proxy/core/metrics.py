"""Counters, gauges and histograms, and their Prometheus text form (exposition format 0.0.4).

A series is found once, with ``labels``, and then incremented as a plain attribute: nothing on
the path of a request looks up a label or formats a number. The number of series of a family is
capped; what comes after goes to one series whose label values all read ``overflow``, so that a
hostile or careless label value costs accuracy and not memory.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

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

    def lines(self, name: str, labels: str) -> Iterator[str]:
        yield (
            f"{name}{{{labels}}} {_number(self.value)}"
            if labels
            else (f"{name} {_number(self.value)}")
        )


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

    def lines(self, name: str, labels: str) -> Iterator[str]:
        head = f"{labels}," if labels else ""
        running = 0
        for bound, count in zip((*map(_number, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            yield f'{name}_bucket{{{head}le="{bound}"}} {running}'
        tail = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{tail} {_number(self.total)}"
        yield f"{name}_count{tail} {running}"


class _Child(Protocol):
    def lines(self, name: str, labels: str) -> Iterator[str]: ...


C = TypeVar("C", bound=_Child)


class _Series(Generic[C]):
    """All series of one name."""

    def __init__(
        self, name: str, kind: str, text: str, labels: tuple[str, ...], max_series: int
    ) -> None:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not a metric name")
        for label in labels:
            if _LABEL.fullmatch(label) is None or label.startswith("__") or label == "le":
                raise ValueError(f"{label!r} is not a label name")
        self.name, self.kind, self.text, self.label_names = name, kind, text, labels
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

    def render(self) -> Iterator[str]:
        yield f"# HELP {self.name} {_escape_help(self.text)}"
        yield f"# TYPE {self.name} {self.kind}"
        for values, child in sorted(self._children.items(), key=lambda item: item[0]):
            pairs = zip(self.label_names, values, strict=True)
            yield from child.lines(
                self.name, ",".join(f'{name}="{_escape(value)}"' for name, value in pairs)
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
        self._bounds = bounds

    def _make(self) -> Histogram:
        return Histogram(self._bounds)


class Metrics:
    """Every family of a process, by name. Asking twice for the same one gives the same object."""

    def __init__(self, *, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._families: dict[str, Family | HistogramFamily] = {}

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Family:
        return self._value("counter", name, help, labels)

    def gauge(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Family:
        return self._value("gauge", name, help, labels)

    def _value(self, kind: str, name: str, text: str, labels: tuple[str, ...]) -> Family:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Family(name, kind, text, labels, self._max_series)
        if not isinstance(family, Family) or (family.kind, family.label_names) != (kind, labels):
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

    def render(self) -> bytes:
        """Text format 0.0.4: families by name, series by label values."""
        families = sorted(self._families.values(), key=lambda family: family.name)
        return "".join(f"{line}\n" for family in families for line in family.render()).encode()


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
