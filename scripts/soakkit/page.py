"""What a soak found, as the section of ``docs/benchmarks.md`` that ``scripts/bench`` takes over."""

from collections.abc import Sequence

from benchkit.tables import table

from soakkit.verdict import Growth, Look

_UNITS = {"memory": "MiB", "page": "KiB"}
_TITLES = {
    "memory": "memory",
    "series": "series",
    "page": "`/metrics`",
    "files": "open files",
    "waiting": "requests that wait",
    "in flight": "requests in flight",
}


def section(looks: Sequence[Look], grown: Sequence[Growth], *, rate: float) -> str:
    """Markdown; ``rate``: requests a second."""
    minutes = (looks[-1].at_s - looks[0].at_s) / 60
    lost = sum(value for name, value in looks[-1].figures.items() if name.endswith(" lost"))
    rows = [
        [_title(each.name), _figure(each.name, each.level), f"{each.by:+.1f}", _word(each)]
        for each in grown
    ]
    return "\n".join(
        [
            "## Requests that never repeat",
            "",
            f"`scripts/soak --minutes {minutes:.0f} --rate {rate:g}`: random hosts, paths, callers,"
            " statuses, request ids and trace contexts through two proxies, with endpoints that"
            " come and go. Levels and growth are of the second half of the time;"
            f" {lost:.0f} lines and spans were lost.",
            "",
            *table(["", "about", "growth", "within the limit?"], rows),
            "",
        ]
    )


def _title(name: str) -> str:
    side, _, figure = name.partition(" ")
    return f"{side}'s proxy: {_TITLES.get(figure, figure)}"


def _figure(name: str, level: float) -> str:
    unit = _UNITS.get(name.partition(" ")[2], "")
    return f"{level:,.0f} {unit}".rstrip()


def _word(each: Growth) -> str:
    return "yes" if each.is_within else "**no**"
