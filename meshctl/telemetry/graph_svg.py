"""A graph of calls as one SVG: no script, no font and no picture from elsewhere, dark and light.

Meaning is never by colour alone: what is not mTLS is dashed and says so, what fails is thick and
has a ``!``. Each line has a title, which browsers show and screen readers read.
"""

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from meshctl.telemetry import words
from meshctl.telemetry.graph import Graph, Link, Node
from meshctl.telemetry.layout import Placed, placed
from meshctl.telemetry.plain import plain

_CHARACTER = 7.3
"""Width of one at 12 px in the monospaced fonts named below."""
_SMALL = 6.1
_BOX_HEIGHT = 34.0
_ROW = 78.0
_MARGIN = 24.0
_GAP_MIN = 90.0
_LABELS_MAX = 150
"""With more lines than this only titles tell their figures."""
_NAME_MAX = 28

_STYLE = """
svg { background: #ffffff; font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
.box { fill: #f3f5f8; stroke: #64748b } .troubled .box { stroke: #b42318; stroke-width: 2.5 }
.name { fill: #0f172a } .note { fill: #475569; font-size: 10px }
.line { fill: none; stroke: #64748b } .tip { fill: #64748b }
.open .line { stroke-dasharray: 6 4 } .bad .line { stroke: #b42318 } .bad .tip { fill: #b42318 }
.said { fill: #334155; font-size: 10px } .back { fill: #ffffff; opacity: 0.85 }
.said.bad { fill: #b42318; font-weight: bold }
@media (prefers-color-scheme: dark) {
  svg { background: #0f172a } .box { fill: #1e293b; stroke: #94a3b8 } .name { fill: #f1f5f9 }
  .note { fill: #cbd5e1 } .line { stroke: #94a3b8 } .tip { fill: #94a3b8 }
  .said { fill: #cbd5e1 } .back { fill: #0f172a } .troubled .box { stroke: #ff9b8a }
  .bad .line { stroke: #ff9b8a } .bad .tip, .said.bad { fill: #ff9b8a }
}
"""

_Spot = tuple[float, float]


def svg(graph: Graph, *, title: str = "Calls between services") -> str:
    where = placed(graph)
    drawing = _Drawing(graph, where)
    width, height = drawing.size
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' width="{width:.0f}" height="{height:.0f}" role="img" aria-label={_attribute(title)}>',
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        *drawing.lines(),
        *drawing.boxes(),
        *drawing.labels(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Drawing:
    def __init__(self, graph: Graph, where: Placed) -> None:
        self._graph, self._where = graph, where
        self._has_labels = len(graph.links) <= _LABELS_MAX
        widths = [0.0] * max(1, where.columns)
        for node in graph.nodes:
            column = where.services[node.service][0]
            widths[column] = max(widths[column], _box_width(node))
        gaps = [_GAP_MIN] * len(widths)
        if self._has_labels:
            for link, points in where.lines:
                first = min(points[0][0], points[-1][0])
                longest = max((len(line) for line in _label(link)), default=0)
                gaps[first] = max(gaps[first], longest * _SMALL + 50.0)
        self._widths = widths
        self._left = [_MARGIN]
        for width, gap in zip(widths[:-1], gaps, strict=False):
            self._left.append(self._left[-1] + width + gap)
        self._gaps = gaps
        self._taken: list[tuple[float, float, float, float]] = []
        for node in graph.nodes:
            x, y = self._corner(node.service)
            self._taken.append((x, y, x + _box_width(node), y + _BOX_HEIGHT))

    @property
    def size(self) -> _Spot:
        width = self._left[-1] + self._widths[-1] + _MARGIN
        return width, max(1.0, self._where.rows) * _ROW - (_ROW - _BOX_HEIGHT) + 2 * _MARGIN

    def boxes(self) -> Iterator[str]:
        for node in self._graph.nodes:
            x, y = self._corner(node.service)
            troubled = ' class="troubled"' if node.note else ""
            second = _second(node)
            middle = y + (_BOX_HEIGHT / 2 + 4 if not second else 15)
            title = " ".join(filter(None, (node.service, second)))
            yield (
                f"<g{troubled}><title>{_text(title)}</title>"
                f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{_box_width(node):.1f}"'
                f' height="{_BOX_HEIGHT:.0f}" rx="6"/>'
                f'<text class="name" x="{x + 10:.1f}" y="{middle:.1f}">{_text(_short(node))}</text>'
                + (
                    f'<text class="note" x="{x + 10:.1f}" y="{y + 28:.1f}">{_text(second)}</text>'
                    if second
                    else ""
                )
                + "</g>"
            )

    def lines(self) -> Iterator[str]:
        busiest = max((_load(link) for link in self._graph.links), default=0.0)
        for link, points in self._where.lines:
            spots = self._spots(link, points)
            classes = [name for name, holds in _classes(link) if holds]
            thick = 1.2 + (3.0 * math.sqrt(_load(link) / busiest) if busiest else 0.0)
            yield f'<g class="{" ".join(classes)}"><title>{_text(_title(link))}</title>'
            yield f'<path class="line" stroke-width="{thick:.1f}" d="{_curve(spots)}"/>'
            yield f"{_tip(spots)}</g>"

    def labels(self) -> Iterator[str]:
        """Last, so that no line crosses one."""
        for link, points in self._where.lines if self._has_labels else ():
            yield from self._label(link, self._spots(link, points))

    def _corner(self, service: str) -> _Spot:
        column, row = self._where.services[service]
        return self._left[column], _MARGIN + row * _ROW

    def _spots(self, link: Link, points: Sequence[tuple[int, float]]) -> list[_Spot]:
        """From the right edge of the caller's box to the left edge of the called one's."""
        middle = _BOX_HEIGHT / 2
        forth = points[-1][0] >= points[0][0]
        nodes = {node.service: node for node in self._graph.nodes}
        x, y = self._corner(link.caller)
        spots = [(x + _box_width(nodes[link.caller]), y + middle)]
        for column, row in points[1:-1]:
            y = _MARGIN + row * _ROW + middle
            ends = (self._left[column], y), (self._left[column] + self._widths[column], y)
            spots += ends if forth else ends[::-1]
        x, y = self._corner(link.service)
        spots.append((x, y + middle))
        return spots

    def _label(self, link: Link, spots: Sequence[_Spot]) -> Iterator[str]:
        """Where along the first stretch there is room for it; the middle if nowhere."""
        told = _label(link)
        if not told:
            return
        (x0, y0), (x1, y1) = spots[0], spots[1]
        width = max(map(len, told)) * _SMALL
        height = 12.0 * len(told)
        for share in (0.5, 0.4, 0.6, 0.32, 0.68, 0.26, 0.74):
            # The curve of `_curve` at this share of its way.
            ease = share * share * (3 - 2 * share)
            x, y = x0 + (x1 - x0) * share, y0 + (y1 - y0) * ease
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            if not any(_overlap(box, other) for other in self._taken):
                break
        else:
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        self._taken.append(box)
        yield (
            f'<rect class="back" x="{box[0]:.1f}" y="{box[1]:.1f}"'
            f' width="{width:.1f}" height="{height:.0f}"/>'
        )
        for number, line in enumerate(told):
            at = y - height / 2 + 10 + 12 * number
            bad = " bad" if words.is_failing(link.edge) else ""
            yield (
                f'<text class="said{bad}" text-anchor="middle" x="{x:.1f}" y="{at:.1f}">'
                f"{_text(line)}</text>"
            )


def _box_width(node: Node) -> float:
    return max(len(_short(node)) * _CHARACTER + 20, len(_second(node)) * _SMALL + 20, 60.0)


def _short(node: Node) -> str:
    name = plain(node.service, 100)
    return name if len(name) <= _NAME_MAX else f"{name[: _NAME_MAX - 3]}..."


def _second(node: Node) -> str:
    return ", ".join(filter(None, (words.protocol(node.protocol), node.note)))


def _classes(link: Link) -> tuple[tuple[str, bool], ...]:
    is_open = link.edge is not None and link.edge.security != "mutual_tls"
    return ("call", True), ("open", is_open), ("bad", words.is_failing(link.edge))


def _load(link: Link) -> float:
    if link.edge is None:
        return 0.0
    if link.edge.signals is not None:
        return link.edge.signals.per_s
    return link.edge.sessions.opened_per_s if link.edge.sessions is not None else 0.0


def _label(link: Link) -> list[str]:
    if link.edge is None:
        return []
    told = words.traffic(link.edge)
    first = " ".join(told[:2])
    if words.is_failing(link.edge):
        first = f"! {first}"
    second = list(told[2:])
    if link.edge.security != "mutual_tls":
        second.append(words.SECURITY[link.edge.security])
    return [first, " ".join(second)] if second else [first]


def _title(link: Link) -> str:
    who = f"{link.caller} calls {link.service} ({link.protocol})"
    if link.edge is None:
        return who
    said = [*words.traffic(link.edge), words.SECURITY[link.edge.security]]
    if link.edge.denied:
        said.append(f"{link.edge.denied} denied")
    return f"{who}: {', '.join(said)}"


def _curve(spots: Sequence[_Spot]) -> str:
    (x, y), *rest = spots
    path = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in rest:
        if abs(to_y - y) < 0.05:
            path.append(f"H{to_x:.1f}")
        else:
            # Backwards the curve has to leave to the right all the same.
            bend = (to_x - x) / 2 if to_x > x else 60.0
            path.append(
                f"C{x + bend:.1f} {y:.1f} {to_x - bend:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
            )
        x, y = to_x, to_y
    return " ".join(path)


def _tip(spots: Sequence[_Spot]) -> str:
    x, y = spots[-1]
    return f'<path class="tip" d="M{x:.1f} {y:.1f}l-9 -4.5v9z"/>'


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _text(text: str) -> str:
    return escape(plain(text, 300))


def _attribute(text: str) -> str:
    return quoteattr(plain(text, 300))
