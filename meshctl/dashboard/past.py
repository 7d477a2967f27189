"""Signals of the last minutes, of every service and every edge: what the small charts draw.

Kept here and not in the tab: a new tab has its charts at once. Bounded in time and in number.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from meshctl.telemetry.view import Sessions, Signals, View

Key = tuple[str, str]
"""Caller and service; the caller of a service's own sum is empty."""

KEPT = 180
"""Points of each: three minutes at one a second."""
MAX_KEYS = 5_000
"""Services and edges: 5 times the largest mesh this is made for, some 15 MB."""
_NOTHING = float("nan")
_PER_POINT = 4


class Past:
    def __init__(self, *, kept: int = KEPT, max_keys: int = MAX_KEYS) -> None:
        self._kept = kept
        self._max_keys = max_keys
        self._points: OrderedDict[Key, array[float]] = OrderedDict()

    def add(self, view: View) -> None:
        for key, signals, sessions in _subjects(view):
            points = self._points.get(key)
            if points is None:
                points = self._points[key] = array("d")
            self._points.move_to_end(key)
            points.extend((view.at, *_figures(signals, sessions)))
            del points[: -self._kept * _PER_POINT]
        while len(self._points) > self._max_keys:
            self._points.popitem(last=False)

    def of(self, key: Key) -> dict[str, list[float | None]]:
        """The oldest first; a figure that nothing was seen for is None."""
        points = self._points.get(key, array("d"))
        columns: dict[str, list[Any]] = {}
        for place, name in enumerate(("at", "per_s", "success", "p95_ms")):
            column = points[place::_PER_POINT]
            columns[name] = [None if each != each else each for each in column]  # noqa: PLR0124
        return columns


def _subjects(view: View) -> Iterator[tuple[Key, Signals | None, Sessions | None]]:
    for row in view.services:
        yield ("", row.service), row.signals, row.sessions
    for edge in view.edges:
        yield (edge.caller, edge.service), edge.signals, edge.sessions


def _figures(signals: Signals | None, sessions: Sessions | None) -> tuple[float, float, float]:
    if signals is None:
        return (sessions.opened_per_s if sessions else 0.0), _NOTHING, _NOTHING
    success = _NOTHING if signals.success is None else signals.success
    p95_ms = _NOTHING if signals.p95_ms is None else signals.p95_ms
    return signals.per_s, success, p95_ms
