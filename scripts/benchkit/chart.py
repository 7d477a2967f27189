"""A bar chart as SVG text: one panel per metric, a bar per contestant, a line for its spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchkit.figures import Spread

_WIDTH, _LABEL, _BARS = 760, 116, 500
_ROW, _HEAD, _GAP, _MARGIN = 26, 30, 16, 16
_STYLE = """\
<style>
  .page { fill: #ffffff } .text { fill: #111827 } .faint { fill: #6b7280 }
  .ours { fill: #2563eb } .other { fill: #b6bdc9 } .spread { stroke: #111827; fill: none }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #e6edf3 } .faint { fill: #9da7b3 }
    .ours { fill: #4c8dff } .other { fill: #58616d } .spread { stroke: #e6edf3 }
  }
</style>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    """With the unit and which way is better."""
    bars: Sequence[tuple[str, Spread]]
    """Contestant and figure; the first is ours and stands out."""


def number(value: float) -> str:
    """Three significant figures, without an exponent."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def render(panels: Sequence[Panel], caption: str) -> str:
    """A self-contained document with its own background, light or dark as the reader has it."""
    height = _MARGIN * 2 + _ROW
    height += sum(_HEAD + _ROW * len(panel.bars) + _GAP for panel in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(caption)}</title>",
        _STYLE,
        f'<rect width="{_WIDTH}" height="{height}" rx="8" class="page"/>',
    ]
    top = _MARGIN
    for panel in panels:
        parts.extend(_panel(panel, top))
        top += _HEAD + _ROW * len(panel.bars) + _GAP
    parts.append(
        f'<text x="{_MARGIN}" y="{top + _ROW / 2}" class="faint" font-size="11">'
        f"{escape(caption)}</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: int) -> list[str]:
    longest = max((spread.high for _, spread in panel.bars), default=0.0) or 1.0
    left = _MARGIN + _LABEL
    parts = [
        f'<text x="{_MARGIN}" y="{top + 16}" font-weight="600" class="text">'
        f"{escape(panel.title)}</text>"
    ]
    for index, (name, spread) in enumerate(panel.bars):
        y = top + _HEAD + index * _ROW
        middle = y + _ROW / 2 - 3
        width, low, high = (
            max(value, 0.0) / longest * _BARS for value in (spread.median, spread.low, spread.high)
        )
        parts += [
            f'<text x="{_MARGIN}" y="{middle + 4:.0f}" class="text">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{_ROW - 8}" rx="2" '
            f'class="{"other" if index else "ours"}"/>',
            f'<path d="M{left + low:.1f} {middle - 4:.1f}v8M{left + low:.1f} {middle:.1f}'
            f'H{left + high:.1f}m0 -4v8" class="spread"/>',
            f'<text x="{left + max(width, high) + 8:.1f}" y="{middle + 4:.0f}" class="text">'
            f"{number(spread.median)}</text>",
        ]
    return parts
