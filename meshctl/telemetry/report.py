"""A span of time of the whole mesh as a document: measured, wrong, about to end. Pure.

Enter: a ``View`` of the span, the mesh's status, when certificates end. Leaves: a ``Report`` of
sections and tables, which ``report_page`` writes as HTML or Markdown. A figure that nothing was
seen for is ``-``; what could not be measured is said in words.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from meshctl.renewing import EXPIRY_PROBLEM, EXPIRY_WARNING
from meshctl.status import MeshStatus, Severity
from meshctl.telemetry.view import Edge, ServiceRow, Signals, View

MOST_ROWS: Final = 25
"""Of a table that names the worst."""
MOST_LEAVES: Final = 100

Tone = Literal["", "bad", "warn", "good"]
_WORDS: Mapping[Tone, str] = {"bad": "problem", "warn": "warning", "good": "well", "": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    text: str
    tone: Tone = ""
    """Colour only repeats what the text says."""
    share: float | None = None
    """0 to 1: of the largest in its column, drawn as a bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    is_number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left_out: int = 0
    """Rows beyond the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    id: str
    title: str
    said: str
    """A paragraph before its tables; of a section without one, what there is to say."""
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    name: str
    value: str
    note: str
    tone: Tone = ""

    @property
    def word(self) -> str:
        return _WORDS[self.tone]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    mesh: str
    """Its trust domain."""
    begins: str
    ends: str
    """RFC 3339, UTC."""
    span: str
    figures: tuple[Figure, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A certificate that ends."""

    subject: str
    """``root``, ``issuing CA``, ``signer on c1``, ``api on b1``."""
    not_after: str
    """RFC 3339; empty: it is not known, or there is none."""
    renewed: str
    """By whom, in words."""
    is_renewed: bool
    """Nobody has to do anything."""


def build(view: View, status: MeshStatus, endings: Sequence[Ending], *, now: datetime) -> Report:
    ends = datetime.fromtimestamp(view.at, UTC)
    begins = ends - timedelta(seconds=view.window_s)
    return Report(
        mesh=status.trust_domain,
        begins=_rfc3339(begins),
        ends=_rfc3339(ends),
        span=f"{view.window_s:.0f} s" if view.window_s < 120 else f"{view.window_s / 60:.1f} min",
        figures=tuple(_figures(view, status, endings, now)),
        sections=(
            _findings(status),
            _services(view),
            _failing(view),
            _slow(view),
            _retries(view),
            _denials(view),
            _sessions(view),
            _endpoints(view),
            _hosts(view, status),
            _certificates(endings, now),
            _unmeasured(view),
        ),
    )


def endings(status: MeshStatus, authorities: Iterable[Ending]) -> tuple[Ending, ...]:
    """With the leaves and signers of ``status``; what is nearest first, what is unknown last."""
    found = [*authorities]
    found += (
        Ending(
            subject=f"signer on {signer.host}",
            not_after=signer.not_after,
            renewed="by the operator: meshctl deploy",
            is_renewed=False,
        )
        for signer in status.signers
    )
    found += (
        Ending(
            subject=f"{work.service} on {work.host}",
            not_after=work.not_after,
            renewed=(
                f"by its proxy, next at {work.renews_at or '-'}"
                if work.is_renewed
                else f"not: {work.renewal_error}"
                if work.renewal_error
                else "by the operator: meshctl certs rotate"
            ),
            is_renewed=work.is_renewed,
        )
        for work in status.workloads
    )
    return tuple(sorted(found, key=lambda each: (not each.not_after, each.not_after)))


# Sections


def _figures(
    view: View, status: MeshStatus, endings: Sequence[Ending], now: datetime
) -> Iterator[Figure]:
    signals = [row.signals for row in view.services if row.signals is not None]
    requests = sum(each.requests for each in signals)
    failures = sum(each.failures for each in signals)
    per_s = sum(each.per_s for each in signals)
    success = (requests - failures) / requests if requests else None
    yield Figure(name="Requests", value=f"{_rate(per_s)}/s", note=f"{requests:,} in all")
    yield Figure(
        name="Success",
        value=_percent(success),
        note=f"{failures:,} failed",
        tone=_success_tone(success),
    )
    actual = sum(row.actual_per_s for row in view.services)
    extra = max(0.0, actual / per_s - 1) if per_s else 0.0
    yield Figure(
        name="Retry load",
        value=f"+{extra:.1%}".replace("%", " %"),
        note="attempts beyond the requests",
        tone="warn" if extra > 0.1 else "",
    )
    denied = sum(view.denials.values())
    yield Figure(
        name="Denied", value=f"{denied:,}", note="by policy", tone="warn" if denied else ""
    )
    silent = sum(bool(host.fault) for host in view.hosts)
    yield Figure(
        name="Proxies",
        value=f"{len(view.hosts) - silent} of {len(view.hosts)}",
        note="answer",
        tone="bad" if silent else "good",
    )
    problems = sum(each.severity is Severity.PROBLEM for each in status.findings)
    yield Figure(
        name="Findings",
        value=str(len(status.findings)),
        note=f"{problems} that break requests",
        tone="bad" if problems else "warn" if status.findings else "good",
    )
    due = sum(_ending_tone(each, now) in ("bad", "warn") for each in endings)
    yield Figure(
        name="Certificates due",
        value=str(due),
        note=f"of {len(endings)}",
        tone="warn" if due else "good",
    )


def _findings(status: MeshStatus) -> Section:
    columns = _columns("Severity", "Subject", "What", "What to do")
    rows = [
        (
            Cell(
                text=each.severity.value,
                tone="bad" if each.severity is Severity.PROBLEM else "warn",
            ),
            Cell(text=each.subject),
            Cell(text=each.message),
            Cell(text=each.fix),
        )
        for each in sorted(status.findings, key=lambda each: each.severity.value)
    ]
    said = "What is wrong with the mesh right now." if rows else "Nothing is found to be wrong."
    return Section(
        id="findings", title="Findings", said=said, tables=_tables("Findings", columns, rows)
    )


def _services(view: View) -> Section:
    columns = _columns(
        "Service", "#Requests/s", "#Success", "#p50", "#p95", "#p99", "#Attempts/s", "#Denied",
        "#Endpoints",
    )  # fmt: skip
    rows = [row for row in view.services if row.signals is not None and row.signals.requests]
    rows.sort(key=lambda row: -_per_s(row))
    top = max(map(_per_s, rows), default=0.0)
    idle = sorted(row.service for row in view.services if row not in rows and not row.sessions)
    said = "Requests by the service that was called, over all its callers."
    if idle:
        said += f" Without a call in this time: {_listed(idle)}."
    if not rows:
        said = "No request was finished in this time."
    made = [
        (
            Cell(text=row.service),
            Cell(text=_rate(_per_s(row)), share=_per_s(row) / top if top else None),
            *_signals(row.signals),
            Cell(text=_rate(row.actual_per_s)),
            Cell(text=f"{row.denied:,}", tone="warn" if row.denied else ""),
            Cell(
                text=f"{row.available} of {row.endpoints}" if row.endpoints else "-",
                tone=_endpoints_tone(row),
            ),
        )
        for row in rows
    ]
    return Section(
        id="services",
        title="Services",
        said=said,
        tables=_tables("Services by requests", columns, made, 200),
    )


def _failing(view: View) -> Section:
    edges = [edge for edge in view.edges if edge.signals is not None and edge.signals.failures]
    edges.sort(key=lambda edge: -_of(edge).failures)
    columns = _columns(
        "Caller", "Service", "#Failed", "#Success", "#Requests/s", "Statuses", "Flags"
    )
    top = max((_of(edge).failures for edge in edges), default=0)
    rows = [
        (
            Cell(text=edge.caller),
            Cell(text=edge.service),
            Cell(text=f"{_of(edge).failures:,}", tone="bad", share=_of(edge).failures / top),
            Cell(text=_percent(_of(edge).success), tone=_success_tone(_of(edge).success)),
            Cell(text=_rate(_of(edge).per_s)),
            Cell(text=_counts(edge.codes)),
            Cell(text=_counts({flag: n for flag, n in edge.flags.items() if flag != "-"})),
        )
        for edge in edges
    ]
    said = (
        "Calls that failed: a status of 500 and more, no answer at all, or an answer that a proxy"
        " had to make. Flags are Envoy's."
        if rows
        else "No call failed in this time."
    )
    return Section(
        id="failing",
        title="Failing calls",
        said=said,
        tables=_tables("Edges by failures", columns, rows),
    )


def _slow(view: View) -> Section:
    edges = [edge for edge in view.edges if edge.signals is not None and edge.signals.requests]
    edges = [edge for edge in edges if _of(edge).p95_ms is not None]
    edges.sort(key=lambda edge: -(_of(edge).p95_ms or 0.0))
    columns = _columns("Caller", "Service", "#p95", "#p50", "#p99", "#Mean", "#Requests/s")
    top = max((_of(edge).p95_ms or 0.0 for edge in edges), default=0.0)
    rows = [
        (
            Cell(text=edge.caller),
            Cell(text=edge.service),
            Cell(
                text=_ms(_of(edge).p95_ms),
                share=(_of(edge).p95_ms or 0.0) / top if top else None,
            ),
            Cell(text=_ms(_of(edge).p50_ms)),
            Cell(text=_ms(_of(edge).p99_ms)),
            Cell(text=_ms(_of(edge).mean_ms)),
            Cell(text=_rate(_of(edge).per_s)),
        )
        for edge in edges
    ]
    said = "By the 95th percentile of their duration." if rows else "No request was measured."
    return Section(
        id="slow", title="Slowest calls", said=said, tables=_tables("Edges by p95", columns, rows)
    )


def _retries(view: View) -> Section:
    edges = sorted(
        (edge for edge in view.edges if edge.retries_per_s > 0),
        key=lambda edge: -edge.retries_per_s,
    )
    top = max((edge.retries_per_s for edge in edges), default=0.0)
    columns = _columns("Caller", "Service", "#Retries/s", "#Attempts/s", "#Requests/s")
    rows = [
        (
            Cell(text=edge.caller),
            Cell(text=edge.service),
            Cell(text=_rate(edge.retries_per_s), tone="warn", share=edge.retries_per_s / top),
            Cell(text=_rate(edge.actual_per_s)),
            Cell(text=_rate(edge.signals.per_s) if edge.signals else "-"),
        )
        for edge in edges
    ]
    said = "Attempts that callers did not ask for." if rows else "Nothing was tried again."
    return Section(
        id="retries",
        title="Retry load",
        said=said,
        tables=_tables("Edges by retries", columns, rows),
    )


def _denials(view: View) -> Section:
    found = sorted(view.denials.items(), key=lambda item: -item[1])
    rows = [
        (
            Cell(text=caller),
            Cell(text=service),
            Cell(text=policy),
            Cell(text=f"{count:,}", tone="warn", share=count / found[0][1]),
        )
        for (caller, service, policy), count in found
        if count
    ]
    said = (
        "Calls that policy refused, and what refused them; `meshctl explain` says why."
        if rows
        else "Nothing was denied."
    )
    columns = _columns("Caller", "Service", "Policy", "#Denied")
    return Section(
        id="denials",
        title="Denials",
        said=said,
        tables=_tables("Denials by policy", columns, rows),
    )


def _sessions(view: View) -> Section:
    edges = [(edge, edge.sessions) for edge in view.edges if edge.sessions is not None]
    columns = _columns(
        "Caller", "Service", "#Opened/s", "#Open", "#To the caller", "#From it", "#Failed"
    )
    rows = [
        (
            Cell(text=edge.caller),
            Cell(text=edge.service),
            Cell(text=_rate(found.opened_per_s)),
            Cell(text=f"{found.open:,}"),
            Cell(text=f"{_bytes(found.sent_bytes_per_s)}/s"),
            Cell(text=f"{_bytes(found.received_bytes_per_s)}/s"),
            Cell(text=f"{found.failures:,}", tone="bad" if found.failures else ""),
        )
        for edge, found in edges
    ]
    said = "Sessions of services that speak tcp." if rows else "No TCP session was seen."
    return Section(
        id="tcp", title="TCP sessions", said=said, tables=_tables("TCP by edge", columns, rows)
    )


def _endpoints(view: View) -> Section:
    bad = [row for row in view.endpoints if row.state != "available"]
    columns = _columns("Service", "Endpoint", "As seen by", "State", "Why")
    rows = [
        (
            Cell(text=row.service),
            Cell(text=f"{row.host} ({row.address})"),
            Cell(text=f"{row.caller} on {row.caller_host}"),
            Cell(text=row.state, tone="warn"),
            Cell(text=row.why or "-"),
        )
        for row in bad
    ]
    known = len({(row.service, row.host, row.address) for row in view.endpoints})
    said = (
        "Endpoints that a caller does not use at the moment."
        if rows
        else f"All {known} endpoint(s) are in use."
        if known
        else "No caller knows an endpoint."
    )
    return Section(
        id="endpoints",
        title="Endpoints out of use",
        said=said,
        tables=_tables("Endpoints", columns, rows),
    )


def _hosts(view: View, status: MeshStatus) -> Section:
    wanted = status.generation
    states = {host.host: host.state for host in status.hosts}
    columns = _columns("Host", "State", "Version", "#Policy generation", "#Up", "#Loop lag")
    rows = []
    for row in sorted(view.hosts, key=lambda row: (not row.fault, row.host)):
        is_behind = wanted is not None and not row.fault and row.generation != wanted
        state = row.fault or states.get(row.host, "answers")
        rows.append(
            (
                Cell(text=row.host),
                Cell(text=state, tone="bad" if row.fault or state not in _GOOD else ""),
                Cell(text=row.version or "-"),
                Cell(
                    text="-"
                    if row.fault
                    else f"{row.generation} (published: {wanted})"
                    if is_behind
                    else str(row.generation),
                    tone="warn" if is_behind else "",
                ),
                Cell(text="-" if row.fault else _age(row.uptime_s)),
                Cell(text="-" if row.fault else _ms(row.loop_lag_ms)),
            )
        )
    published = (
        f"Published is generation {wanted}."
        if wanted is not None
        else ("Which policy is published is not known.")
    )
    return Section(
        id="hosts",
        title="Hosts and configuration",
        said=published,
        tables=_tables("Hosts", columns, rows, 500),
    )


_GOOD = frozenset(("ready", "answers", "-"))


def _certificates(endings: Sequence[Ending], now: datetime) -> Section:
    columns = _columns("Certificate", "Ends", "Left", "Renewed")
    rows = [
        (
            Cell(text=each.subject),
            Cell(text=each.not_after or "not known"),
            Cell(text=_left(each, now), tone=_ending_tone(each, now)),
            Cell(text=each.renewed),
        )
        for each in endings
    ]
    return Section(
        id="certificates",
        title="Certificates",
        said="Those that end first, first.",
        tables=_tables("Certificates by end", columns, rows, MOST_LEAVES),
    )


def _unmeasured(view: View) -> Section:
    silent = [f"{host.host} ({host.fault})" for host in view.hosts if host.fault]
    said = [
        "Counted are calls that ended in this time: what still runs is not among them. Percentiles"
        " are interpolated within the buckets of histograms, so they are estimates.",
    ]
    if silent:
        said.append(
            "Not measured, because their proxies do not answer: "
            f"{_listed(silent)}. What their workloads called is missing; what was called on them is"
            " known from its callers only."
        )
    else:
        said.append("Every host that carries a proxy was measured.")
    if not view.window_s:
        said.append("There was one look only: all figures are since the proxies' start.")
    return Section(id="unmeasured", title="What was not measured", said=" ".join(said))


# Words


def _columns(*names: str) -> tuple[Column, ...]:
    """``#`` in front: of numbers."""
    return tuple(Column(name=name.lstrip("#"), is_number=name.startswith("#")) for name in names)


def _tables(
    caption: str,
    columns: tuple[Column, ...],
    rows: Sequence[tuple[Cell, ...]],
    most: int = MOST_ROWS,
) -> tuple[Table, ...]:
    if not rows:
        return ()
    left_out = max(0, len(rows) - most)
    kept = tuple(rows[:most])
    return (Table(caption=caption, columns=columns, rows=kept, left_out=left_out),)


def _signals(signals: Signals | None) -> tuple[Cell, ...]:
    if signals is None:
        return (Cell(text="-"),) * 4
    return (
        Cell(text=_percent(signals.success), tone=_success_tone(signals.success)),
        Cell(text=_ms(signals.p50_ms)),
        Cell(text=_ms(signals.p95_ms)),
        Cell(text=_ms(signals.p99_ms)),
    )


def _of(edge: Edge) -> Signals:
    assert edge.signals is not None
    return edge.signals


def _per_s(row: ServiceRow) -> float:
    return row.signals.per_s if row.signals is not None else 0.0


def _endpoints_tone(row: ServiceRow) -> Tone:
    if row.available >= row.endpoints:
        return ""
    return "warn" if row.available else "bad"


def _success_tone(success: float | None) -> Tone:
    if success is None:
        return ""
    return "bad" if success < 0.99 else "warn" if success < 0.999 else "good"


def _counts(counts: Mapping[str, int]) -> str:
    found = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} x {count:,}" for name, count in found if count) or "-"


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}" if per_s >= 1 else f"{per_s:.2f}"


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    # Nothing below 1 is shown as all.
    return "100 %" if share == 1 else f"{min(share, 0.9999):.2%}".replace("%", " %")


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return (
        f"{value / 1000:.1f} s"
        if value >= 1000
        else f"{value:.0f} ms"
        if value >= 10
        else (f"{value:.1f} ms")
    )


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _moment(ending: Ending) -> datetime | None:
    try:
        return datetime.fromisoformat(ending.not_after) if ending.not_after else None
    except ValueError:
        return None


def _left(ending: Ending, now: datetime) -> str:
    end = _moment(ending)
    if end is None:
        return "not known"
    left = (end - now).total_seconds()
    return f"in {_age(left)}" if left > 0 else f"ended {_age(-left)} ago"


def _ending_tone(ending: Ending, now: datetime) -> Tone:
    end = _moment(ending)
    if end is None or end <= now:
        return "bad"
    if ending.is_renewed:
        return ""
    if end - now < EXPIRY_PROBLEM:
        return "bad"
    is_authority = " on " not in ending.subject or ending.subject.startswith("signer ")
    return "warn" if is_authority and end - now < EXPIRY_WARNING else ""


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
