"""Where the services of a graph of calls are drawn: in columns from callers to called.

The usual layered drawing (Sugiyama, Tagawa, Toda 1981): columns by rank, places for lines that
pass a column, orders by the mean of neighbours so that lines cross little, then heights. Pure, and
equal graphs are drawn alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from meshctl.telemetry.graph import Graph, Link, ranks

_SWEEPS = 12
_PATIENCE = 4
"""Sweeps that make nothing better, before it is left as it is."""
_SETTLING = 20
PASSING = 0.45
"""What a line that passes needs, of the height of a service's row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """In rows and columns, from the upper left; fractions of a row are places too."""

    services: Mapping[str, tuple[int, float]]
    """Column and row."""
    lines: tuple[tuple[Link, tuple[tuple[int, float], ...]], ...]
    """Each call with the points it goes through, its ends included."""
    columns: int
    rows: float


def placed(graph: Graph) -> Placed:
    rank = ranks(graph)
    points = _Points(max(rank.values(), default=0) + 1)
    own = {node.service: points.add(rank[node.service], needs=1.0) for node in graph.nodes}
    ways: list[tuple[Link, list[int]]] = []
    for link in graph.links:
        first, last = rank[link.caller], rank[link.service]
        step = 1 if last >= first else -1
        passing = [points.add(column, needs=PASSING) for column in range(first + step, last, step)]
        way = [own[link.caller], *passing, own[link.service]]
        for one, other in pairwise(way):
            points.join(one, other)
        ways.append((link, way))
    _order(points)
    height = _heights(points)
    return Placed(
        services={service: (rank[service], height[point]) for service, point in own.items()},
        lines=tuple(
            (link, tuple((points.column[point], height[point]) for point in way))
            for link, way in ways
        ),
        columns=len(points.columns),
        rows=max(height, default=0.0) + 1.0,
    )


class _Points:
    """Services and places where lines pass, by number."""

    def __init__(self, columns: int) -> None:
        self.columns: list[list[int]] = [[] for _ in range(columns)]
        self.column: list[int] = []
        self.needs: list[float] = []
        self.before: list[list[int]] = []
        """Those in the column to the left that a line leads to."""
        self.after: list[list[int]] = []

    def add(self, column: int, *, needs: float) -> int:
        point = len(self.column)
        self.columns[column].append(point)
        self.column.append(column)
        self.needs.append(needs)
        self.before.append([])
        self.after.append([])
        return point

    def join(self, one: int, other: int) -> None:
        """Of neighbouring columns; a service that calls itself moves nothing."""
        if self.column[one] > self.column[other]:
            one, other = other, one
        if self.column[one] != self.column[other]:
            self.after[one].append(other)
            self.before[other].append(one)


def _order(points: _Points) -> None:
    """Forth and back; the order with the fewest crossings is kept."""
    columns = points.columns
    place = [0] * len(points.column)

    def number(column: Sequence[int]) -> None:
        for index, point in enumerate(column):
            place[point] = index

    for column in columns:
        number(column)
    best, fewest = [list(column) for column in columns], _crossings(points, place)
    since_better = 0
    for sweep in range(_SWEEPS):
        is_forth = sweep % 2 == 0
        near = points.before if is_forth else points.after
        for column in columns[1:] if is_forth else columns[-2::-1]:
            wanted = {
                point: sum(place[other] for other in near[point]) / len(near[point])
                if near[point]
                else float(place[point])
                for point in column
            }
            column.sort(key=wanted.__getitem__)
            number(column)
        crossings = _crossings(points, place)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
            since_better = 0
        else:
            since_better += 1
        if not fewest or since_better == _PATIENCE:
            break
    columns[:] = best


def _crossings(points: _Points, place: Sequence[int]) -> int:
    """Between neighbouring columns: inversions, counted with a Fenwick tree."""
    total = 0
    for left, right in pairwise(points.columns):
        tree = [0] * (len(right) + 1)
        seen = 0
        for point in left:
            ends = sorted(place[other] + 1 for other in points.after[point])
            for end in ends:
                at = end
                before = 0
                while at:
                    before += tree[at]
                    at &= at - 1
                total += seen - before
                at = end
                while at <= len(right):
                    tree[at] += 1
                    at += at & -at
                seen += 1
    return total


def _heights(points: _Points) -> list[float]:
    """Each near its neighbours, in the order given, none closer than its needs allow."""
    height = [0.0] * len(points.column)
    tallest = max((sum(points.needs[p] for p in column) for column in points.columns), default=0.0)
    for column in points.columns:
        at = (tallest - sum(points.needs[point] for point in column)) / 2
        for point in column:
            height[point] = at
            at += points.needs[point]
    near = [[*before, *after] for before, after in zip(points.before, points.after, strict=True)]
    for turn in range(_SETTLING):
        for column in points.columns if turn % 2 == 0 else reversed(points.columns):
            wanted = [
                sum(height[other] for other in near[point]) / len(near[point])
                if near[point]
                else height[point]
                for point in column
            ]
            for point, at in zip(column, _apart(points, column, wanted), strict=True):
                height[point] = at
    top = min(height, default=0.0)
    return [at - top for at in height]


def _apart(points: _Points, column: Sequence[int], wanted: Sequence[float]) -> list[float]:
    """The places nearest to ``wanted``, by least squares, that keep order and distance: pool
    adjacent violators."""
    offsets: list[float] = []
    at = 0.0
    for number, point in enumerate(column):
        if number:
            at += (points.needs[column[number - 1]] + points.needs[point]) / 2
        offsets.append(at)
    blocks: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        total, size = want - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / size:
            other, length = blocks.pop()
            total, size = total + other, size + length
        blocks.append((total, size))
    places = [total / size for total, size in blocks for _ in range(size)]
    return [place + offset for place, offset in zip(places, offsets, strict=True)]
