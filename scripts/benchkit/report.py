"""A finished run as Markdown, as a table for a terminal, and as JSON. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchkit import figures, observability, scale, targets
from benchkit.backend import ECHOED
from benchkit.chart import Panel, number, render
from benchkit.contestants import Group
from benchkit.figures import Metric, Sample
from benchkit.rounds import DIRECT
from benchkit.rows import (
    CHARTED,
    CONDITIONS,
    MULTIPLEXED_CONDITIONS,
    MULTIPLEXED_ROWS,
    OBSERVABILITY_CONDITIONS,
    OBSERVABILITY_ROWS,
    ROWS,
    SCALE_CONDITIONS,
    SCALE_ROWS,
    Row,
)
from benchkit.tables import aligned, cell, first_line, table
from benchkit.targets import OURS, REFERENCE

BUSY_CORE = 0.9
"""Below this share of its core a contestant was not the bottleneck: the load tool was."""
NOISY_SHARE = 0.1
"""Above this share of the proxy core used by others, absolute figures are not to be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    name: str
    version: str
    group: Group = Group.FULL
    features: Sequence[str] = ()
    omissions: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that a report says."""

    date: str
    command: str
    rounds: int
    duration_s: float
    connections: int
    tcp_connections: int
    rate_per_s: float
    """Of the latency phase; 0: there was none."""
    entrants: Sequence[Entrant]
    """In the order to show: ours first in each group."""
    tools: Mapping[str, str]
    """Name and version of what surrounds the contestants."""
    facts: Mapping[str, str]
    samples: Sequence[Sample]
    profile: str = ""
    """Text, of ours under load."""


def markdown(run: Run, chart_name: str, *, soaked: str = "") -> str:
    """The whole of the page; ``chart_name`` is the SVG's file name beside it, ``soaked`` the
    section that ``scripts/soak`` has written."""
    full, bare = _columns(run, bare=False), _columns(run, bare=True)
    lines = [
        "# Benchmarks",
        "",
        "<!-- Written by scripts/bench; do not edit. -->",
        "",
        _headline(run),
        "",
        *_warnings(run),
        *_targets_section(run),
        f"![CPU per request, added latency, memory and TCP relay cost]({chart_name})",
        "",
        *_group_section(run, full, "Two hops with every feature on", f"Relative to {REFERENCE}:"),
        *_group_section(run, bare, "Bare", f"Relative to {_bare(REFERENCE)}:"),
        *_multiplexed_section(run, full),
        *_own_section(run, "A large policy", scale.NAME, SCALE_ROWS, SCALE_CONDITIONS),
        *_own_section(
            run,
            "What observing costs",
            observability.NAME,
            OBSERVABILITY_ROWS,
            OBSERVABILITY_CONDITIONS,
        ),
        *_remarks(run),
        *_faults_section(run),
        *_profile_section(run),
        *soaked.splitlines(),
        *([""] if soaked else []),
        "## Conditions",
        "",
        *(f"* {condition}" for condition in CONDITIONS),
        "",
        *(
            f"* **{entrant.name}**: {feature}."
            for entrant in run.entrants
            for feature in entrant.features
        ),
        "",
        "Left out, because it cannot be done or others do not do it either:",
        "",
        *(
            f"* **{entrant.name}**: {omission}."
            for entrant in run.entrants
            for omission in (*entrant.omissions, *_unseen(run, entrant))
        ),
        "",
        "## The run",
        "",
        *table(["", ""], [["date", run.date], ["command", f"`{run.command}`"], *_about(run)]),
        "",
    ]
    return "\n".join(lines)


def terminal(run: Run) -> str:
    """The same tables in plain text, columns aligned, warnings first."""
    parts = [warning.replace("**", "") for warning in _warnings(run) if warning]
    full = _columns(run, bare=False)
    groups = (full, ROWS), (_able(run, full), MULTIPLEXED_ROWS), (_columns(run, bare=True), ROWS)
    for names, known in groups:
        rows = [["", *names], *_absolute_rows(run, names, known)]
        if ratios := _ratio_rows(run, names, known):
            rows += [[f"ratio to {_reference(names)}", *("" for _ in names)], *ratios]
        if len(rows) > 1:
            parts.append(aligned(rows))
    if scaled := _own_rows(run, scale.NAME, SCALE_ROWS):
        parts.append(aligned([["a large policy", ""], *scaled]))
    if observed := _own_rows(run, observability.NAME, OBSERVABILITY_ROWS):
        parts.append(aligned([["what observing costs", ""], *observed]))
    if judged := _target_rows(run):
        parts.append(aligned([["figure", "target", "found", "met?"], *judged]))
    left_out = [
        f"left out: round {number}, {name}, {first_line(reason)}"
        for number, name, reason in figures.faults(run.samples)
    ]
    return "\n".join(["\n\n".join(parts), *left_out])


def chart(run: Run) -> str:
    names = _columns(run, bare=False)
    panels = [
        Panel(title=title, bars=bars)
        for metric, title in CHARTED
        if (
            bars := [
                (name, spread)
                for name in names
                if (spread := figures.of(run.samples, name, metric)) is not None
            ]
        )
    ]
    caption = f"Two mTLS hops on one core; median, line from smallest to largest. {run.date}"
    return render(panels, caption)


def raw(run: Run) -> str:
    """Every sample, so that others can do their own statistics."""
    return json.dumps(asdict(run), indent=2, ensure_ascii=False) + "\n"


def _bare(name: str) -> str:
    return f"{name} {Group.BARE}"


def _columns(run: Run, *, bare: bool) -> list[str]:
    """Who is compared: the TCP-only ones are in the rows that they have."""
    return [one.name for one in run.entrants if (one.group is Group.BARE) is bare]


def _reference(names: Sequence[str]) -> str:
    return REFERENCE if REFERENCE in names or _bare(REFERENCE) not in names else _bare(REFERENCE)


def _headline(run: Run) -> str:
    against = figures.ratio(run.samples, OURS, REFERENCE, Metric.CPU_US_PER_REQUEST)
    if against is None:
        return "No ratio of CPU per request between meshctl and Envoy: one of them has no figure."
    return (
        f"A request through two meshctl proxies with mTLS and every feature on costs "
        f"**{against.median:.2f} times** the CPU that it costs through two Envoys "
        f"({against.low:.2f}..{against.high:.2f} in {against.count} rounds)."
    )


def _warnings(run: Run) -> list[str]:
    """Empty unless somebody else used the machine."""
    shares = [
        share.median
        for entrant in run.entrants
        for metric in (
            Metric.FOREIGN_SHARE,
            Metric.MACHINE_FOREIGN_SHARE,
            Metric.MULTIPLEXED_FOREIGN_SHARE,
        )
        if (share := figures.of(run.samples, entrant.name, metric)) is not None
    ]
    worst = max(shares, default=0.0)
    if worst <= NOISY_SHARE:
        return []
    return [
        f"**Warning: the machine was busy.** Other programs or the hypervisor took up to "
        f"{worst:.0%} of a core while a contestant was measured: absolute figures are "
        "provisional, ratios and latencies uncertain.",
        "",
    ]


def _targets_section(run: Run) -> list[str]:
    rows = _target_rows(run)
    if not rows:
        return []
    return [*table(["figure", "target", "found", "met?"], rows), ""]


def _target_rows(run: Run) -> list[list[str]]:
    """Empty if none was measured."""
    judged = targets.judge(run.samples)
    if all(target.found is None for target in judged):
        return []
    words = {True: "yes", False: "**no**", None: "not measured"}
    return [
        [target.figure, target.limit, cell(target.found), words[target.is_met]] for target in judged
    ]


def _group_section(run: Run, names: Sequence[str], title: str, relative: str) -> list[str]:
    rows = _absolute_rows(run, names)
    if not rows:
        return []
    ratios = _ratio_rows(run, names)
    return [
        f"## {title}",
        "",
        "Median of the rounds; in brackets the smallest and the largest.",
        "",
        *table(["", *names], rows),
        "",
        *([relative, "", *table(["", *names], ratios), ""] if ratios else []),
    ]


def _multiplexed_section(run: Run, names: Sequence[str]) -> list[str]:
    able = _able(run, names)
    rows = _absolute_rows(run, able, MULTIPLEXED_ROWS)
    if not rows:
        return []
    ratios = _ratio_rows(run, able, MULTIPLEXED_ROWS)
    return [
        "## HTTP/2, gRPC and WebSocket",
        "",
        *table(["", *able], rows),
        "",
        *([f"Relative to {REFERENCE}:", "", *table(["", *able], ratios), ""] if ratios else []),
        *(f"* {condition}" for condition in MULTIPLEXED_CONDITIONS),
        "",
    ]


def _able(run: Run, names: Sequence[str]) -> list[str]:
    """Those who took part in one of the groups."""
    metrics = {row.metric for row in MULTIPLEXED_ROWS}
    took_part = {one.contestant for one in run.samples if metrics & set(one.figures)}
    return [name for name in names if name in took_part]


def _absolute_rows(run: Run, names: Sequence[str], known: Sequence[Row] = ROWS) -> list[list[str]]:
    rows = []
    for row in known:
        spreads = [figures.of(run.samples, name, row.metric) for name in names]
        if any(spreads):
            rows.append([_title(row), *(cell(spread, row.scale) for spread in spreads)])
    return rows


def _ratio_rows(run: Run, names: Sequence[str], known: Sequence[Row] = ROWS) -> list[list[str]]:
    rows = []
    for row in known:
        if not row.has_ratio:
            continue
        reference = _reference(names)
        spreads = [figures.ratio(run.samples, name, reference, row.metric) for name in names]
        if any(spreads):
            better = "less" if row.is_better_low else "more"
            rows.append(
                [f"{row.title} ({better} is better)", *(cell(spread) for spread in spreads)]
            )
    return rows


def _own_section(
    run: Run, title: str, name: str, own: Sequence[Row], conditions: Sequence[str]
) -> list[str]:
    """What only ours is asked, under the name of its samples."""
    rows = _own_rows(run, name, own)
    if not rows:
        return []
    return [
        f"## {title}",
        "",
        *table(["", OURS], rows),
        "",
        *(f"* {condition}" for condition in conditions),
        "",
    ]


def _own_rows(run: Run, name: str, own: Sequence[Row]) -> list[list[str]]:
    found = [(row, figures.of(run.samples, name, row.metric)) for row in own]
    return [[_title(row), cell(spread, row.scale)] for row, spread in found if spread is not None]


def _remarks(run: Run) -> list[str]:
    """What a reader must know before quoting a figure of this very run."""
    remarks = []
    for name in (entrant.name for entrant in run.entrants):
        share = figures.of(run.samples, name, Metric.PROXY_CORE_SHARE)
        others = figures.of(run.samples, name, Metric.FOREIGN_SHARE)
        if share and share.median + (others.median if others else 0.0) < BUSY_CORE:
            remarks.append(
                f"* {name} used {share.median:.0%} of its core: its requests/s are what the load "
                "tool and the backend reached on theirs, not its own limit."
            )
        if others and others.median > NOISY_SHARE:
            remarks.append(
                f"* While {name} was measured, other programs or the hypervisor took "
                f"{others.median:.0%} of the proxy core: **its absolute figures are provisional**."
            )
    p50, p99 = (
        figures.of(run.samples, DIRECT, metric)
        for metric in (Metric.P50_DIRECT_MS, Metric.P99_DIRECT_MS)
    )
    if p50 and p99:
        remarks.append(
            f"* Without any proxy, at {number(run.rate_per_s)} requests/s: "
            f"p50 {cell(p50)} ms, p99 {cell(p99)} ms."
        )
    return [*remarks, ""] if remarks else []


def _unseen(run: Run, entrant: Entrant) -> list[str]:
    """Header fields that never reached the application, though the go was one with features."""
    goes = [one for one in run.samples if one.contestant == entrant.name and one.figures]
    if entrant.group is not Group.FULL or not goes:
        return []
    seen = {name for one in goes for name in one.seen}
    return [f"no `{name}` reached the application" for name in ECHOED if name not in seen]


def _faults_section(run: Run) -> list[str]:
    found = figures.faults(run.samples)
    if not found:
        return ["Every request of every round succeeded.", ""]
    rows = [[str(number), name, first_line(reason)] for number, name, reason in found]
    return ["## Left out", "", *table(["round", "contestant", "why"], rows), ""]


def _profile_section(run: Run) -> list[str]:
    if not run.profile:
        return []
    return ["## Where the time goes", "", "```text", run.profile.rstrip(), "```", ""]


def _about(run: Run) -> list[list[str]]:
    effort = (
        f"{run.rounds} rounds, {run.duration_s:g} s at full speed each, "
        f"{run.connections} connections ({run.tcp_connections} for the relay)"
    )
    rate = [["fixed rate", f"{number(run.rate_per_s)} requests/s"]] if run.rate_per_s else []
    versions = {entrant.name: entrant.version for entrant in run.entrants}
    return [
        ["effort", effort],
        *rate,
        *([one.name, versions[one.name]] for one in run.entrants if one.group is not Group.BARE),
        *([name, version] for name, version in run.tools.items()),
        *([name, value] for name, value in run.facts.items()),
    ]


def _title(row: Row) -> str:
    return f"{row.title}, {row.unit}"
