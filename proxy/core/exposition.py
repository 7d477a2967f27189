"""What a process has counted, as a value: to be sent, added to another's, and shown.

Several worker processes are one proxy to whoever reads its metrics. Each hands over a ``Tally``;
merged they are what one process would have counted. Counters and histograms add up; a gauge says
for itself whether the processes' figures add up or the highest one counts.

``render`` has the two text forms, line by line for those who must not be held up by it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from operator import add
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Combine = Literal["sum", "max"]
Figures = list[int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplar:
    """One observation of a histogram that can be looked up as a trace."""

    labels: tuple[str, ...]
    """Of the series."""
    bucket: int
    trace_id: str
    """Hex."""
    value: float
    at: float
    """Unix seconds."""


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
    exemplars: list[Exemplar] = field(default_factory=list)
    """One of a bucket at most."""


Tally = tuple[FamilyTally, ...]


def merge(tallies: Iterable[Tally]) -> Tally:
    """One of all, families by name and series by label values.

    A family is what the first tally says it is: processes of one release agree on it.
    """
    return tuple(merging(tallies))


def merging(tallies: Iterable[Tally]) -> Iterator[FamilyTally]:
    """The same, one family after the other."""
    by_name: dict[str, list[FamilyTally]] = {}
    for tally in tallies:
        for family in tally:
            by_name.setdefault(family.name, []).append(family)
    for name in sorted(by_name):
        yield _merge(by_name[name])


def _merge(parts: list[FamilyTally]) -> FamilyTally:
    first = parts[0]
    if len(parts) == 1:
        return first
    is_sum = first.combine == "sum"
    found: dict[tuple[str, ...], Figures] = {}
    exemplars: dict[tuple[tuple[str, ...], int], Exemplar] = {}
    for part in parts:
        for labels, figures in part.series:
            known = found.get(labels)
            if known is None:
                found[labels] = list(figures)
            elif is_sum:
                known[:] = map(add, known, figures)
            else:
                known[:] = map(max, known, figures)
        for each in part.exemplars:
            place = (each.labels, each.bucket)
            if place not in exemplars or exemplars[place].at < each.at:
                exemplars[place] = each
    return replace(
        first,
        series=sorted(found.items(), key=lambda item: item[0]),
        exemplars=list(exemplars.values()),
    )


def lasting(tally: Tally) -> Tally:
    """What still counts when the process is gone: all but the gauges."""
    return tuple(family for family in tally if family.kind != "gauge")


def render(tally: Tally) -> bytes:
    """Prometheus text format 0.0.4, in the order given."""
    return "".join(piece for family in tally for piece in pieces(family)).encode()


END_OF_OPEN_METRICS = b"# EOF\n"
"""Behind the last family; what has no such end was cut off."""


class LabelTexts:
    """``a="x",b="y"`` of each series, made once: what of a series is the same in every answer."""

    __slots__ = ("_texts",)

    def __init__(self) -> None:
        self._texts: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
        """By label names, then by label values: many metrics have both in common."""

    def of(self, family: FamilyTally) -> Callable[[tuple[str, ...]], str]:
        known = self._texts.setdefault(family.label_names, {})
        heads = [f'{label}="' for label in family.label_names]

        def text(values: tuple[str, ...]) -> str:
            found = known.get(values)
            if found is None:
                parts = [
                    f'{head}{_escape(value)}"' for head, value in zip(heads, values, strict=True)
                ]
                found = known[values] = ",".join(parts)
            return found

        return text

    def prune(self, series: int) -> None:
        """Begins anew if most of what is kept is of series that are gone."""
        if sum(map(len, self._texts.values())) > 2 * series:
            self._texts.clear()


def pieces(
    family: FamilyTally, texts: LabelTexts | None = None, *, is_open: bool = False
) -> Iterator[str]:
    """Text of one metric: what it is, then one piece for each series; all end with a newline.

    ``is_open``: OpenMetrics 1.0, which has exemplars, instead of Prometheus' text format 0.0.4.
    """
    name = sample = family.name
    help_text = _escape_help(family.text)
    if is_open:
        help_text = help_text.replace('"', r"\"")
        if family.kind == "counter":
            name = name.removesuffix("_total")
            sample = f"{name}_total"
    yield f"# HELP {name} {help_text}\n# TYPE {name} {family.kind}\n"
    labels_of = (texts or LabelTexts()).of(family)
    if family.kind != "histogram":
        for values, figures in family.series:
            labels = labels_of(values)
            tail = f"{{{labels}}}" if labels else ""
            yield f"{sample}{tail} {_number(figures[0])}\n"
        return
    edge = repr if is_open else _number
    tails = [f'le="{edge(bound)}"}} ' for bound in family.bounds] + ['le="+Inf"} ']
    exemplars = _by_series(family.exemplars) if is_open else {}
    for values, figures in family.series:
        labels = labels_of(values)
        head = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
        whole = f"{{{labels}}}" if labels else ""
        found = exemplars.get(values)
        running: float = 0
        lines: list[str] = []
        for bucket, tail in enumerate(tails):
            running += figures[bucket]
            example = found.get(bucket, "") if found else ""
            lines.append(f"{head}{tail}{running}{example}\n")
        lines.append(f"{name}_sum{whole} {_number(figures[-1])}\n")
        lines.append(f"{name}_count{whole} {running}\n")
        yield "".join(lines)


def _by_series(exemplars: list[Exemplar]) -> dict[tuple[str, ...], dict[int, str]]:
    found: dict[tuple[str, ...], dict[int, str]] = {}
    for each in exemplars:
        text = f' # {{trace_id="{_escape(each.trace_id)}"}} {_number(each.value)} {each.at:.3f}'
        found.setdefault(each.labels, {})[each.bucket] = text
    return found


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escape(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
