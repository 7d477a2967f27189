"""What a process has counted, as a value: to be sent, added to another's, and shown.

Several worker processes are one proxy to whoever reads its metrics. Each hands over a ``Tally``;
merged they are what one process would have counted. Counters and histograms add up; a gauge says
for itself whether the processes' figures add up or the highest one counts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from operator import add
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Combine = Literal["sum", "max"]
Figures = list[int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyTally:
    """One metric of one process, or of several."""

    name: str
    kind: Kind
    text: str
    label_names: tuple[str, ...]
    combine: Combine
    bounds: tuple[float, ...]
    """Of a histogram's buckets, without +Inf; else empty."""
    series: list[tuple[tuple[str, ...], Figures]]
    """Label values, then one figure; of a histogram the buckets, not cumulative, and the sum."""


Tally = tuple[FamilyTally, ...]


def merge(tallies: Iterable[Tally]) -> Tally:
    """One of all, families by name and series by label values.

    A family is what the first tally says it is: processes of one release agree on it.
    """
    families: dict[str, FamilyTally] = {}
    series: dict[str, dict[tuple[str, ...], Figures]] = {}
    for tally in tallies:
        for family in tally:
            families.setdefault(family.name, family)
            found = series.setdefault(family.name, {})
            is_sum = family.combine == "sum"
            for labels, figures in family.series:
                known = found.get(labels)
                if known is None:
                    found[labels] = list(figures)
                elif is_sum:
                    known[:] = map(add, known, figures)
                else:
                    known[:] = map(max, known, figures)
    return tuple(
        replace(families[name], series=sorted(series[name].items())) for name in sorted(families)
    )


def lasting(tally: Tally) -> Tally:
    """What still counts when the process is gone: all but the gauges."""
    return tuple(family for family in tally if family.kind != "gauge")


def render(tally: Tally) -> bytes:
    """Prometheus text format 0.0.4, in the order given."""
    return "".join(f"{line}\n" for family in tally for line in _lines(family)).encode()


def _lines(family: FamilyTally) -> Iterator[str]:
    name = family.name
    yield f"# HELP {name} {_escape_help(family.text)}"
    yield f"# TYPE {name} {family.kind}"
    edges = (*map(_number, family.bounds), "+Inf") if family.kind == "histogram" else ()
    for values, figures in family.series:
        pairs = zip(family.label_names, values, strict=True)
        labels = ",".join(f'{label}="{_escape(value)}"' for label, value in pairs)
        tail = f"{{{labels}}}" if labels else ""
        if not edges:
            yield f"{name}{tail} {_number(figures[0])}"
            continue
        head = f"{labels}," if labels else ""
        running: float = 0
        for edge, count in zip(edges, figures, strict=False):
            running += count
            yield f'{name}_bucket{{{head}le="{edge}"}} {_number(running)}'
        yield f"{name}_sum{tail} {_number(figures[-1])}"
        yield f"{name}_count{tail} {_number(running)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
