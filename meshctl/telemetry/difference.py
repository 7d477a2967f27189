"""What a proxy counted between two looks at it: per series, whatever happened in between.

Counters begin anew with the proxy (a smaller uptime) and with a series that was dropped while idle
(a smaller figure): then all that is there counts. A series that is new counts from zero.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter, sub

from proxy.core.exposition import FamilyTally, Figures
from proxy.core.stats import Stats

Labels = tuple[str, ...]

_NOTHING: dict[str, FamilyTally] = {}


class Difference:
    """Of one host. ``before`` None: since the proxy's start."""

    def __init__(self, before: Stats | None, after: Stats) -> None:
        if before is not None and after.uptime_s < before.uptime_s:
            before = None
        self.after = after
        self.window_s = after.uptime_s - (before.uptime_s if before is not None else 0.0)
        """0: it is the same look twice."""
        self._families = _by_name(after)
        self._before = _by_name(before) if before is not None else _NOTHING

    def moved(
        self, name: str, labels: Sequence[str]
    ) -> Iterator[tuple[Labels, Figures | None, Figures]]:
        """Of each series: these labels' values, what was added (None: nothing), what is there now.

        Nothing at all where the family, or one of the labels, is not known to the proxy: it may be
        of another release than meshctl.
        """
        family = self._families.get(name)
        if family is None or not set(labels) <= set(family.label_names):
            return
        pick = _picker([family.label_names.index(label) for label in labels])
        known = self._before.get(name)
        old = dict(known.series) if known is not None and _is_alike(known, family) else {}
        length = len(family.bounds) + 2 if family.kind == "histogram" else 1
        for values, figures in family.series:
            if len(values) != len(family.label_names) or len(figures) != length:
                continue  # no proxy of ours says so
            # In no time nothing happens: whoever says otherwise gives no rate to be told.
            added = _added(old.get(values), figures) if self.window_s > 0 else None
            yield pick(values), added, figures

    def has(self, name: str, label: str) -> bool:
        """Whether the proxy knows the family, and that it has the label."""
        family = self._families.get(name)
        return family is not None and label in family.label_names

    def bounds(self, name: str) -> tuple[float, ...]:
        """Of a histogram's buckets."""
        family = self._families.get(name)
        return family.bounds if family is not None else ()


def _by_name(stats: Stats) -> dict[str, FamilyTally]:
    return {family.name: family for family in stats.families}


def _is_alike(one: FamilyTally, other: FamilyTally) -> bool:
    return (one.kind, one.label_names, one.bounds) == (other.kind, other.label_names, other.bounds)


def _added(old: Figures | None, new: Figures) -> Figures | None:
    if old is None:
        return new if any(new) else None
    if old == new:
        return None
    added = list(map(sub, new, old))
    return new if min(added) < 0 else added


def _picker(places: Sequence[int]) -> Callable[[Labels], Labels]:
    if len(places) > 1:
        return itemgetter(*places)
    # One place alone would give the value itself.
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))
