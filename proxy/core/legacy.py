"""What processes have counted that no longer count it, as long as it is a part of somebody's sum.

A counter must not go down while anybody counts in it: whoever reads it would take that for a
restart, and the rest for new. So what a dead worker has counted, and what a live one has dropped
because it was idle there, stays in the sum. Once no process has such a series any more it is idle
everywhere, and is forgotten after a while, like any other.
"""

from collections.abc import Iterable

from proxy.core.exposition import FamilyTally, Tally, merge
from proxy.core.metrics import SERIES_IDLE_S

_LOOK_EVERY_S = 60.0


class Legacy:
    """Times are monotonic seconds."""

    __slots__ = ("_looked_at", "_since", "tally")

    def __init__(self) -> None:
        self.tally: Tally = ()
        self._since: dict[tuple[str, tuple[str, ...]], float] = {}
        """By metric and label values: since when no process has the series."""
        self._looked_at = float("-inf")

    def add(self, tally: Tally) -> None:
        if tally:
            self.tally = merge([self.tally, tally])

    def sweep(self, living: Iterable[Tally], now: float) -> None:
        """Call about once a second. ``living``: what the processes have told last."""
        if not self.tally or now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        alive = {
            (family.name, labels)
            for tally in living
            for family in tally
            for labels, _ in family.series
        }
        before, self._since = self._since, {}
        self.tally = tuple(
            kept for family in self.tally if (kept := self._kept(family, alive, before, now)).series
        )

    def _kept(
        self,
        family: FamilyTally,
        alive: set[tuple[str, tuple[str, ...]]],
        before: dict[tuple[str, tuple[str, ...]], float],
        now: float,
    ) -> FamilyTally:
        series = []
        for labels, figures in family.series:
            place = (family.name, labels)
            if labels and place not in alive:
                since = self._since[place] = before.get(place, now)
                if now - since >= SERIES_IDLE_S:
                    del self._since[place]
                    continue
            series.append((labels, figures))
        if len(series) == len(family.series):
            return family
        return FamilyTally(
            name=family.name,
            kind=family.kind,
            text=family.text,
            label_names=family.label_names,
            combine=family.combine,
            bounds=family.bounds,
            series=series,
        )
