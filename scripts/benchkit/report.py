"""A finished run as Markdown, as a table for a terminal, and as JSON. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchkit import figures
from benchkit.chart import Panel, number, render
from benchkit.figures import Metric, Sample, Spread

REFERENCE = "envoy"
OURS = "meshctl"
BUSY_CORE = 0.9
"""Below this share of its core a contestant was not the bottleneck: the load tool was."""
NOISY_SHARE = 0.1
"""Above this share of the proxy core used by others, absolute figures are not to be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    name: str
    version: str
    features: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that a report says."""

    date: str
    command: str
    rounds: int
    duration_s: float
    connections: int
    tcp_connections: int
    entrants: Sequence[Entrant]
    """In the order to show: ours first."""
    tools: Mapping[str, str]
    """Name and version of what surrounds the contestants."""
    facts: Mapping[str, str]
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    metric: Metric
    title: str
    unit: str
    is_better_low: bool
    has_ratio: bool = True
    scale: float = 1.0


ROWS = (
    Row(metric=Metric.CPU_US_PER_REQUEST, title="CPU per request", unit="µs", is_better_low=True),
    Row(metric=Metric.REQUESTS_PER_S, title="requests on one core", unit="/s", is_better_low=False),
    Row(metric=Metric.P50_MS, title="p50 at a fixed rate", unit="ms", is_better_low=True),
    Row(metric=Metric.P99_MS, title="p99 at a fixed rate", unit="ms", is_better_low=True),
    Row(
        metric=Metric.PACED_PER_S,
        title="the fixed rate, as reached",
        unit="/s",
        is_better_low=False,
        has_ratio=False,
    ),
    Row(metric=Metric.RSS_IDLE_MIB, title="RSS a proxy, idle", unit="MiB", is_better_low=True),
    Row(
        metric=Metric.RSS_LOADED_MIB,
        title="RSS a proxy, after load",
        unit="MiB",
        is_better_low=True,
    ),
    Row(
        metric=Metric.PSS_LOADED_MIB,
        title="PSS a proxy, after load",
        unit="MiB",
        is_better_low=True,
    ),
    Row(
        metric=Metric.TCP_CPU_S_PER_GIB,
        title="CPU of the TCP relay",
        unit="s/GiB",
        is_better_low=True,
    ),
    Row(
        metric=Metric.TCP_MIB_PER_S,
        title="TCP relay on one core",
        unit="MiB/s",
        is_better_low=False,
    ),
    Row(
        metric=Metric.PROXY_CORE_SHARE,
        title="proxy core used",
        unit="%",
        is_better_low=False,
        has_ratio=False,
        scale=100,
    ),
    Row(
        metric=Metric.FOREIGN_SHARE,
        title="proxy core used by others",
        unit="%",
        is_better_low=True,
        has_ratio=False,
        scale=100,
    ),
)

_CHARTED = (
    (Metric.CPU_US_PER_REQUEST, "CPU per request, µs (less is better)"),
    (Metric.RSS_LOADED_MIB, "Resident memory per proxy after load, MiB (less is better)"),
    (Metric.TCP_CPU_S_PER_GIB, "TCP relay, CPU seconds per GiB (less is better)"),
)

_CONDITIONS = (
    "Path: wrk, client sidecar, mTLS, server sidecar, nginx; every hop on loopback.",
    "TLS 1.3 only, certificates on both sides (EC P-256, root, issuing CA, leaf), no session "
    "tickets. Each side checks that its peer is the service it expects; after each go a caller "
    "with a valid certificate of another service, and one with none, must be turned away, or the "
    "go does not count. Cipher suites are each TLS library's own choice.",
    "Keep-alive everywhere; upstream connections are reused. HTTP/1.1, body of 1 KiB, "
    "no access logs.",
    "Both proxies of a pair are pinned to one core, together; wrk and nginx to another.",
    "Each go starts two fresh processes, warms them up, measures, stops them. Rounds interleave "
    "the contestants and rotate who goes first.",
    "CPU per request: user and system time of the two processes from /proc, divided by the "
    "responses that wrk read to their end with a status below 400.",
    "A phase in which a single request fails is listed below and left out of every figure.",
    "Fixed rate: the same number of connections, each pausing a random time between an answer and "
    "its next request.",
    "Memory is per proxy, half of the pair's. RSS is what a host pays that runs one; PSS shares "
    "the pages that the two processes have in common.",
    "TCP relay: a body of 8 MiB, again and again, through the TCP path of the same two processes.",
    "Ratios are formed within each round, then their median is taken. In brackets: smallest and "
    "largest.",
)


def markdown(run: Run, chart_name: str) -> str:
    """The whole of the page; ``chart_name`` is the SVG's file name beside it."""
    names = [entrant.name for entrant in run.entrants]
    lines = [
        "# Benchmarks",
        "",
        "<!-- Written by scripts/bench; do not edit. -->",
        "",
        _headline(run),
        "",
        f"![CPU per request, memory and TCP relay cost]({chart_name})",
        "",
        "Median of the rounds; in brackets the smallest and the largest.",
        "",
        *_table(["", *names], _absolute_rows(run, names)),
        "",
        *_ratio_section(run, names),
        *_remarks(run, names),
        *_faults_section(run),
        "## Conditions",
        "",
        *(f"* {condition}" for condition in _CONDITIONS),
        "",
        *(
            f"* **{entrant.name}**: {feature}."
            for entrant in run.entrants
            for feature in entrant.features
        ),
        "",
        "## The run",
        "",
        *_table(["", ""], [["date", run.date], ["command", f"`{run.command}`"], *_about(run)]),
        "",
    ]
    return "\n".join(lines)


def terminal(run: Run) -> str:
    """The same two tables in plain text, columns aligned."""
    names = [entrant.name for entrant in run.entrants]
    rows = [["", *names], *_absolute_rows(run, names)]
    ratios = _ratio_rows(run, names)
    if ratios:
        rows += [[f"ratio to {REFERENCE}", *("" for _ in names)], *ratios]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names) + 1)]
    text = "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    left_out = [
        f"left out: round {number}, {name}, {_first_line(reason)}"
        for number, name, reason in figures.faults(run.samples)
    ]
    return "\n".join([text, *left_out])


def chart(run: Run) -> str:
    panels = [
        Panel(title=title, bars=bars)
        for metric, title in _CHARTED
        if (
            bars := [
                (entrant.name, spread)
                for entrant in run.entrants
                if (spread := figures.of(run.samples, entrant.name, metric)) is not None
            ]
        )
    ]
    caption = f"Two mTLS hops on one core; median, line from smallest to largest. {run.date}"
    return render(panels, caption)


def raw(run: Run) -> str:
    """Every sample, so that others can do their own statistics."""
    return json.dumps(asdict(run), indent=2, ensure_ascii=False) + "\n"


def cell(spread: Spread | None, scale: float = 1.0) -> str:
    if spread is None:
        return "-"
    median, low, high = (
        number(value * scale) for value in (spread.median, spread.low, spread.high)
    )
    return median if spread.count == 1 else f"{median} ({low}..{high})"


def _headline(run: Run) -> str:
    against = figures.ratio(run.samples, OURS, REFERENCE, Metric.CPU_US_PER_REQUEST)
    if against is None:
        return "No ratio of CPU per request between meshctl and Envoy: one of them has no figure."
    return (
        f"A request through two meshctl proxies with mTLS costs **{against.median:.2f} times** "
        f"the CPU that it costs through two Envoys "
        f"({against.low:.2f}..{against.high:.2f} in {against.count} rounds)."
    )


def _absolute_rows(run: Run, names: Sequence[str]) -> list[list[str]]:
    rows = []
    for row in ROWS:
        spreads = [figures.of(run.samples, name, row.metric) for name in names]
        if any(spreads):
            rows.append(
                [f"{row.title}, {row.unit}", *(cell(spread, row.scale) for spread in spreads)]
            )
    return rows


def _ratio_rows(run: Run, names: Sequence[str]) -> list[list[str]]:
    rows = []
    for row in ROWS:
        if not row.has_ratio:
            continue
        spreads = [figures.ratio(run.samples, name, REFERENCE, row.metric) for name in names]
        if any(spreads):
            better = "less" if row.is_better_low else "more"
            rows.append(
                [f"{row.title} ({better} is better)", *(cell(spread) for spread in spreads)]
            )
    return rows


def _ratio_section(run: Run, names: Sequence[str]) -> list[str]:
    rows = _ratio_rows(run, names)
    if not rows:
        return []
    return [f"Relative to {REFERENCE}:", "", *_table(["", *names], rows), ""]


def _remarks(run: Run, names: Sequence[str]) -> list[str]:
    """What a reader must know before quoting a figure of this very run."""
    remarks = []
    for name in names:
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
    return [*remarks, ""] if remarks else []


def _faults_section(run: Run) -> list[str]:
    found = figures.faults(run.samples)
    if not found:
        return ["Every request of every round succeeded.", ""]
    rows = [[str(number), name, _first_line(reason)] for number, name, reason in found]
    return ["## Left out", "", *_table(["round", "contestant", "why"], rows), ""]


def _about(run: Run) -> list[list[str]]:
    effort = (
        f"{run.rounds} rounds, {run.duration_s:g} s at full speed each, "
        f"{run.connections} connections ({run.tcp_connections} for the relay)"
    )
    return [
        ["effort", effort],
        *([entrant.name, entrant.version] for entrant in run.entrants),
        *([name, version] for name, version in run.tools.items()),
        *([name, value] for name, value in run.facts.items()),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])] if len(head) > 2 else ["---" for _ in head]
    return [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for row in (head, rule, *rows)
    ]


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
