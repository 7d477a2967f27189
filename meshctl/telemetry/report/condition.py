"""The sections about what carries the calls: findings, endpoints, hosts, certificates."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from meshctl.renewing import EXPIRY_PROBLEM, EXPIRY_WARNING
from meshctl.status import MeshStatus, Severity
from meshctl.telemetry import words
from meshctl.telemetry.report.cells import age, columns_of, listed, tables_of
from meshctl.telemetry.report.model import Cell, Ending, Section, Tone
from meshctl.telemetry.view import View

MOST_LEAVES: Final = 100
_GOOD = frozenset(("ready", "answers", "-"))


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


def findings(status: MeshStatus) -> Section:
    columns = columns_of("Severity", "Subject", "What", "What to do")
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
        id="findings", title="Findings", said=said, tables=tables_of("Findings", columns, rows)
    )


def endpoints(view: View) -> Section:
    bad = [row for row in view.endpoints if row.state != "available"]
    columns = columns_of("Service", "Endpoint", "As seen by", "State", "Why")
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
        tables=tables_of("Endpoints", columns, rows),
    )


def hosts(view: View, status: MeshStatus) -> Section:
    wanted = status.generation
    states = {host.host: host.state for host in status.hosts}
    columns = columns_of("Host", "State", "Version", "#Policy generation", "#Up", "#Loop lag")
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
                Cell(text="-" if row.fault else age(row.uptime_s)),
                Cell(text="-" if row.fault else words.milliseconds(row.loop_lag_ms)),
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
        tables=tables_of("Hosts", columns, rows, 500),
    )


def certificates(endings: Sequence[Ending], now: datetime) -> Section:
    columns = columns_of("Certificate", "Ends", "Left", "Renewed")
    rows = [
        (
            Cell(text=each.subject),
            Cell(text=each.not_after or "not known"),
            Cell(text=left(each, now), tone=ending_tone(each, now)),
            Cell(text=each.renewed),
        )
        for each in endings
    ]
    return Section(
        id="certificates",
        title="Certificates",
        said="Those that end first, first.",
        tables=tables_of("Certificates by end", columns, rows, MOST_LEAVES),
    )


def unmeasured(view: View) -> Section:
    silent = [f"{host.host} ({host.fault})" for host in view.hosts if host.fault]
    said = [
        "Counted are calls that ended in this time: what still runs is not among them. Percentiles"
        " are interpolated within the buckets of histograms, so they are estimates.",
    ]
    if silent:
        said.append(
            "Not measured, because their proxies do not answer: "
            f"{listed(silent)}. What their workloads called is missing; what was called on them is"
            " known from its callers only."
        )
    else:
        said.append("Every host that carries a proxy was measured.")
    if not view.window_s:
        said.append("There was one look only: all figures are since the proxies' start.")
    return Section(id="unmeasured", title="What was not measured", said=" ".join(said))


# Words


def _moment(ending: Ending) -> datetime | None:
    try:
        return datetime.fromisoformat(ending.not_after) if ending.not_after else None
    except ValueError:
        return None


def left(ending: Ending, now: datetime) -> str:
    end = _moment(ending)
    if end is None:
        return "not known"
    left = (end - now).total_seconds()
    return f"in {age(left)}" if left > 0 else f"ended {age(-left)} ago"


def ending_tone(ending: Ending, now: datetime) -> Tone:
    end = _moment(ending)
    if end is None or end <= now:
        return "bad"
    if ending.is_renewed:
        return ""
    if end - now < EXPIRY_PROBLEM:
        return "bad"
    is_authority = " on " not in ending.subject or ending.subject.startswith("signer ")
    return "warn" if is_authority and end - now < EXPIRY_WARNING else ""
