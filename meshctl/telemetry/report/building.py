"""A report of one span of time. Pure."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from meshctl.status import MeshStatus, Severity
from meshctl.telemetry import words
from meshctl.telemetry.report.cells import rfc3339, success_tone
from meshctl.telemetry.report.condition import (
    certificates,
    ending_tone,
    endpoints,
    findings,
    hosts,
    unmeasured,
)
from meshctl.telemetry.report.model import Ending, Figure, Report
from meshctl.telemetry.report.traffic import denials, failing, retries, services, sessions, slow
from meshctl.telemetry.view import View


def build(view: View, status: MeshStatus, endings: Sequence[Ending], *, now: datetime) -> Report:
    ends = datetime.fromtimestamp(view.at, UTC)
    begins = ends - timedelta(seconds=view.window_s)
    return Report(
        mesh=status.trust_domain,
        begins=rfc3339(begins),
        ends=rfc3339(ends),
        span=f"{view.window_s:.0f} s" if view.window_s < 120 else f"{view.window_s / 60:.1f} min",
        figures=tuple(_figures(view, status, endings, now)),
        sections=(
            findings(status),
            services(view),
            failing(view),
            slow(view),
            retries(view),
            denials(view),
            sessions(view),
            endpoints(view),
            hosts(view, status),
            certificates(endings, now),
            unmeasured(view),
        ),
    )


def _figures(
    view: View, status: MeshStatus, endings: Sequence[Ending], now: datetime
) -> Iterator[Figure]:
    signals = [row.signals for row in view.services if row.signals is not None]
    requests = sum(each.requests for each in signals)
    failures = sum(each.failures for each in signals)
    per_s = sum(each.per_s for each in signals)
    success = (requests - failures) / requests if requests else None
    yield Figure(name="Requests", value=f"{words.number(per_s)}/s", note=f"{requests:,} in all")
    yield Figure(
        name="Success",
        value=words.share(success),
        note=f"{failures:,} failed",
        tone=success_tone(success),
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
    due = sum(ending_tone(each, now) in ("bad", "warn") for each in endings)
    yield Figure(
        name="Certificates due",
        value=str(due),
        note=f"of {len(endings)}",
        tone="warn" if due else "good",
    )
