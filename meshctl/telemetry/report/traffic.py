"""The sections about calls: how many, how well, how fast, refused by what."""

from meshctl.telemetry import words
from meshctl.telemetry.report.cells import (
    columns_of,
    counts,
    listed,
    signal_cells,
    success_tone,
    tables_of,
)
from meshctl.telemetry.report.model import Cell, Section, Tone
from meshctl.telemetry.view import Edge, ServiceRow, Signals, View


def services(view: View) -> Section:
    columns = columns_of(
        "Service", "#Requests/s", "#Success", "#p50", "#p95", "#p99", "#Attempts/s", "#Denied",
        "#Endpoints",
    )  # fmt: skip
    rows = [row for row in view.services if row.signals is not None and row.signals.requests]
    rows.sort(key=lambda row: -calls_per_s(row))
    top = max(map(calls_per_s, rows), default=0.0)
    idle = sorted(row.service for row in view.services if row not in rows and not row.sessions)
    said = "Requests by the service that was called, over all its callers."
    if idle:
        said += f" Without a call in this time: {listed(idle)}."
    if not rows:
        said = "No request was finished in this time."
    made = [
        (
            Cell(text=row.service),
            Cell(
                text=words.number(calls_per_s(row)), share=calls_per_s(row) / top if top else None
            ),
            *signal_cells(row.signals),
            Cell(text=words.number(row.actual_per_s)),
            Cell(text=f"{row.denied:,}", tone="warn" if row.denied else ""),
            Cell(
                text=f"{row.available} of {row.endpoints}" if row.endpoints else "-",
                tone=endpoints_tone(row),
            ),
        )
        for row in rows
    ]
    return Section(
        id="services",
        title="Services",
        said=said,
        tables=tables_of("Services by requests", columns, made, 200),
    )


def failing(view: View) -> Section:
    edges = [edge for edge in view.edges if edge.signals is not None and edge.signals.failures]
    edges.sort(key=lambda edge: -signals_of(edge).failures)
    columns = columns_of(
        "Caller", "Service", "#Failed", "#Success", "#Requests/s", "Statuses", "Flags"
    )
    top = max((signals_of(edge).failures for edge in edges), default=0)
    rows = [
        (
            Cell(text=edge.caller),
            Cell(text=edge.service),
            Cell(
                text=f"{signals_of(edge).failures:,}",
                tone="bad",
                share=signals_of(edge).failures / top,
            ),
            Cell(
                text=words.share(signals_of(edge).success),
                tone=success_tone(signals_of(edge).success),
            ),
            Cell(text=words.number(signals_of(edge).per_s)),
            Cell(text=counts(edge.codes)),
            Cell(text=counts({flag: n for flag, n in edge.flags.items() if flag != "-"})),
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
        tables=tables_of("Edges by failures", columns, rows),
    )


def slow(view: View) -> Section:
    edges = [edge for edge in view.edges if edge.signals is not None and edge.signals.requests]
    edges = [edge for edge in edges if signals_of(edge).p95_ms is not None]
    edges.sort(key=lambda edge: -(signals_of(edge).p95_ms or 0.0))
    columns = columns_of("Caller", "Service", "#p95", "#p50", "#p99", "#Mean", "#Requests/s")
    top = max((signals_of(edge).p95_ms or 0.0 for edge in edges), default=0.0)
    rows = [
        (
            Cell(text=edge.caller),
            Cell(text=edge.service),
            Cell(
                text=words.milliseconds(signals_of(edge).p95_ms),
                share=(signals_of(edge).p95_ms or 0.0) / top if top else None,
            ),
            Cell(text=words.milliseconds(signals_of(edge).p50_ms)),
            Cell(text=words.milliseconds(signals_of(edge).p99_ms)),
            Cell(text=words.milliseconds(signals_of(edge).mean_ms)),
            Cell(text=words.number(signals_of(edge).per_s)),
        )
        for edge in edges
    ]
    said = "By the 95th percentile of their duration." if rows else "No request was measured."
    return Section(
        id="slow", title="Slowest calls", said=said, tables=tables_of("Edges by p95", columns, rows)
    )


def retries(view: View) -> Section:
    edges = sorted(
        (edge for edge in view.edges if edge.retries_per_s > 0),
        key=lambda edge: -edge.retries_per_s,
    )
    top = max((edge.retries_per_s for edge in edges), default=0.0)
    columns = columns_of("Caller", "Service", "#Retries/s", "#Attempts/s", "#Requests/s")
    rows = [
        (
            Cell(text=edge.caller),
            Cell(text=edge.service),
            Cell(
                text=words.number(edge.retries_per_s), tone="warn", share=edge.retries_per_s / top
            ),
            Cell(text=words.number(edge.actual_per_s)),
            Cell(text=words.number(edge.signals.per_s) if edge.signals else "-"),
        )
        for edge in edges
    ]
    said = "Attempts that callers did not ask for." if rows else "Nothing was tried again."
    return Section(
        id="retries",
        title="Retry load",
        said=said,
        tables=tables_of("Edges by retries", columns, rows),
    )


def denials(view: View) -> Section:
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
    columns = columns_of("Caller", "Service", "Policy", "#Denied")
    return Section(
        id="denials",
        title="Denials",
        said=said,
        tables=tables_of("Denials by policy", columns, rows),
    )


def sessions(view: View) -> Section:
    edges = [(edge, edge.sessions) for edge in view.edges if edge.sessions is not None]
    columns = columns_of(
        "Caller", "Service", "#Opened/s", "#Open", "#To the caller", "#From it", "#Failed"
    )
    rows = [
        (
            Cell(text=edge.caller),
            Cell(text=edge.service),
            Cell(text=words.number(found.opened_per_s)),
            Cell(text=f"{found.open:,}"),
            Cell(text=f"{words.bytes_per_s(found.sent_bytes_per_s)}/s"),
            Cell(text=f"{words.bytes_per_s(found.received_bytes_per_s)}/s"),
            Cell(text=f"{found.failures:,}", tone="bad" if found.failures else ""),
        )
        for edge, found in edges
    ]
    said = "Sessions of services that speak tcp." if rows else "No TCP session was seen."
    return Section(
        id="tcp", title="TCP sessions", said=said, tables=tables_of("TCP by edge", columns, rows)
    )


def signals_of(edge: Edge) -> Signals:
    assert edge.signals is not None
    return edge.signals


def calls_per_s(row: ServiceRow) -> float:
    return row.signals.per_s if row.signals is not None else 0.0


def endpoints_tone(row: ServiceRow) -> Tone:
    if row.available >= row.endpoints:
        return ""
    return "warn" if row.available else "bad"
