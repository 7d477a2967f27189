"""The series of one metric: found once, counted in as plain attributes, capped in number.

What comes after the cap goes to one series whose label values all read ``overflow``, so that a
hostile or careless label value costs accuracy and not memory.

Series of a family that fades are dropped when nothing has changed in them for ten minutes. Whoever
still holds one may count in it: it begins again from nothing, and is there again.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from proxy.core.exposition import Combine, Exemplar, FamilyTally, Figures, Kind

OVERFLOW = "overflow"
SERIES_IDLE_S = 600.0
"""As Linkerd does (linkerd2#12916): who was called once is not told of for ever."""
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Labels = tuple[str, ...]


class Value:
    """One counter or gauge series; the hot path does ``child.value += 1``."""

    __slots__ = ("__weakref__", "value")

    def __init__(self) -> None:
        self.value: float = 0

    def figures(self) -> Figures:
        return [self.value]

    def mark(self) -> float:
        """Another one after each change; 0: nothing was counted."""
        return self.value

    def clear(self) -> None:
        self.value = 0

    def absorb(self, other: "Value") -> None:
        self.value += other.value
        other.clear()


class Histogram:
    """One histogram series."""

    __slots__ = ("__weakref__", "bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Per bucket, not cumulative; the last one is +Inf."""
        self.total = 0.0
        self.exemplars: dict[int, tuple[bytes, float, float]] | None = None
        """By bucket, the last observation with a trace: its id in hex, the value, Unix seconds."""

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def exemplify(self, bucket: int, trace_id: bytes, value: float, at: float) -> None:
        """``value`` was counted in ``bucket``, at ``at`` (Unix seconds), within that trace."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bucket] = (trace_id, value, at)

    def figures(self) -> Figures:
        return [*self.counts, self.total]

    def mark(self) -> float:
        return sum(self.counts)

    def clear(self) -> None:
        self.counts[:] = [0] * len(self.counts)
        self.total = 0.0
        self.exemplars = None

    def absorb(self, other: "Histogram") -> None:
        for at, count in enumerate(other.counts):
            self.counts[at] += count
        self.total += other.total
        other.clear()


class _Child(Protocol):
    def figures(self) -> Figures: ...
    def mark(self) -> float: ...
    def clear(self) -> None: ...
    def absorb(self, other: Any, /) -> None: ...


C = TypeVar("C", bound=_Child)


class Series(Generic[C]):
    """All series of one name."""

    bounds: tuple[float, ...] = ()

    def __init__(
        self,
        name: str,
        kind: Kind,
        text: str,
        labels: Labels,
        max_series: int,
        combine: Combine = "sum",
        *,
        fades: bool = False,
    ) -> None:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not a metric name")
        for label in labels:
            if _LABEL.fullmatch(label) is None or label.startswith("__") or label == "le":
                raise ValueError(f"{label!r} is not a label name")
        self.name, self.kind, self.text, self.label_names = name, kind, text, labels
        self.combine = combine
        self.fades = fades
        self.keep: Callable[[Labels], bool] | None = None
        """Of a family that fades: what its owner still speaks of, and so is told though idle."""
        self.overflowed = 0
        """How often a further series was asked for when there was no room."""
        self._max_series = max_series
        self._children: dict[Labels, C] = {}
        self._marks: dict[Labels, tuple[float, float]] = {}
        """What a series' mark was when it was looked at, and since when, monotonic seconds."""
        self._faded: WeakValueDictionary[Labels, C] = WeakValueDictionary()
        """Dropped, but somebody may count on in them."""
        self._order: list[tuple[Labels, C]] | None = []

    def _make(self) -> C:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._children)

    def labels(self, *values: str) -> C:
        """The series with these label values, in the order of the names; made when new."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, got {values}")
            child = self._add(values, self._faded.pop(values, None))
        return child

    def _add(self, values: Labels, child: C | None) -> C:
        if len(self._children) >= self._max_series:
            self.overflowed += 1
            if child is not None:
                self._faded[values] = child  # whoever holds it keeps it; it is absorbed in turn
            values, child = (OVERFLOW,) * len(values), None
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = child if child is not None else self._make()
            self._order = None
        return found

    def remove(self, *values: str) -> None:
        """Forgets a series, if it exists; a child still held goes on counting for nobody."""
        if self._children.pop(values, None) is not None:
            self._order = None

    def _restore(self) -> None:
        """Takes those back in that were counted in after they had been dropped."""
        if not self._faded:
            return
        for values, child in list(self._faded.items()):
            if child.mark():
                del self._faded[values]
                found = self._add(values, child)
                if found is not child:
                    found.absorb(child)

    def sweep(self, now: float) -> FamilyTally | None:
        """Drops what has not changed for long, and returns it. ``now``: monotonic seconds."""
        if not self.fades or not self.label_names:
            return None
        self._restore()
        before, after = self._marks, dict[Labels, tuple[float, float]]()
        dropped: list[tuple[Labels, Figures]] = []
        for values, child in list(self._children.items()):
            mark = child.mark()
            known = before.get(values)
            if known is None or known[0] != mark:
                known = (mark, now)
            elif now - known[1] >= SERIES_IDLE_S and not (self.keep and self.keep(values)):
                dropped.append((values, child.figures()))
                child.clear()
                del self._children[values]
                self._faded[values] = child
                self._order = None
                continue
            after[values] = known
        self._marks = after
        return self._as_tally(dropped) if dropped else None

    def tally(self) -> FamilyTally:
        self._restore()
        if self._order is None:
            self._order = sorted(self._children.items(), key=lambda item: item[0])
        return self._as_tally([(values, child.figures()) for values, child in self._order])

    def _as_tally(self, series: list[tuple[Labels, Figures]]) -> FamilyTally:
        return FamilyTally(
            name=self.name,
            kind=self.kind,
            text=self.text,
            label_names=self.label_names,
            combine=self.combine,
            bounds=self.bounds,
            series=series,
        )


class Family(Series[Value]):
    """A counter or a gauge with its series."""

    def _make(self) -> Value:
        return Value()

    def show(self, figures: Mapping[Labels, float]) -> None:
        """Of a gauge: these are all its series now; what is not among them is gone."""
        for values in self._children.keys() - figures.keys():
            self.remove(*values)
        for values, figure in figures.items():
            self.labels(*values).value = float(figure)  # a bool is no figure to the codec


class HistogramFamily(Series[Histogram]):
    """A histogram with its series."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Labels,
        bounds: tuple[float, ...],
        max_series: int,
        *,
        fades: bool = False,
    ) -> None:
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise ValueError(f"{name}: bucket bounds must rise")
        super().__init__(name, "histogram", text, labels, max_series, fades=fades)
        self.bounds = bounds

    def _make(self) -> Histogram:
        return Histogram(self.bounds)

    def _as_tally(self, series: list[tuple[Labels, Figures]]) -> FamilyTally:
        tally = super()._as_tally(series)
        for values, child in self._children.items():
            for bucket, (trace_id, value, at) in (child.exemplars or {}).items():
                tally.exemplars.append(
                    Exemplar(
                        labels=values,
                        bucket=bucket,
                        trace_id=trace_id.decode("ascii", "replace"),
                        value=value,
                        at=at,
                    )
                )
        return tally
