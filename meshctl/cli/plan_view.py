"""A plan and a report for people: what, where and why, readable without colour."""

from rich.markup import escape

from meshctl.apply.report import Outcome, Report
from meshctl.cli import console
from meshctl.plan.model import HostPlan, Plan, Step, Verdict

_VERDICT_STYLE = {
    Verdict.INSTALL: "green",
    Verdict.CHANGE: "yellow",
    Verdict.UNCHANGED: "dim",
    Verdict.BLOCKED: "red",
    Verdict.UNREACHABLE: "red",
    Verdict.SKIPPED: "dim",
}
_DETAILS_MAX = 3


def show_plan(plan: Plan) -> None:
    """On standard output: it is what was asked for."""
    if plan.before:
        _show_mesh("first", plan.before)
    if plan.between:
        _show_mesh("once Consul's servers run", plan.between)
    for host in plan.hosts:
        if host.verdict is not Verdict.SKIPPED or host.steps:
            _show_host(host)
    if plan.after:
        _show_mesh("then", plan.after)
    for warning in plan.warnings:
        console.err.print(f"[bold yellow]warning:[/] {escape(warning)}")
    size = f", {megabytes(plan.push_bytes)} to push" if plan.push_bytes else ""
    if plan.is_empty and not plan.has_obstacles:
        console.out.print(f"[bold]no change[/]: {escape(plan.summary)}")
    else:
        console.out.print(f"[bold]plan:[/] {escape(plan.summary)}{size}")


def _show_mesh(when: str, steps: tuple[Step, ...]) -> None:
    console.out.print(f"[bold]mesh[/], {when}")
    for step in steps:
        _show_step(step)


def _show_host(host: HostPlan) -> None:
    style = _VERDICT_STYLE[host.verdict]
    name, address = escape(host.host), escape(host.address)
    console.out.print(f"[bold]{name}[/] ({address}): [{style}]{host.verdict}[/]")
    if host.error:
        console.out.print(f"  [red]{escape(host.error)}[/]")
        if host.hint:
            console.out.print(f"    [bold]hint:[/] {escape(host.hint)}")
    for finding in host.findings:
        console.out.print(f"  [red]{finding.code}[/]: {escape(finding.message)}")
        console.out.print(f"    [bold]fix:[/] {escape(finding.fix)}")
    for step in host.steps:
        _show_step(step)


def _show_step(step: Step) -> None:
    size = f" ({megabytes(step.push_bytes)})" if step.push_bytes else ""
    console.out.print(f"  - {escape(step.title)}{size}: [dim]{escape(step.why)}[/]")
    shown = [*step.details[:_DETAILS_MAX]]
    if len(step.details) > _DETAILS_MAX:
        shown.append(f"and {len(step.details) - _DETAILS_MAX} more")
    if step.precondition:
        shown.append(f"only if {step.precondition}")
    for detail in shown:
        console.out.print(f"      [dim]{escape(detail)}[/]")


def show_report(report: Report) -> None:
    """The summary on standard output, what went wrong on standard error."""
    for host in report.hosts:
        if not host.outcome.is_good:
            at = f", at: {host.failed.title}" if host.failed else ""
            steps = f" after {host.done} of {host.total} step(s)" if host.total else ""
            console.err.print(
                f"[bold red]{escape(host.host)}[/]: {host.outcome}{steps}{escape(at)}"
            )
            if host.error:
                console.err.print(f"  {escape(host.error)}")
            for line in host.output.strip().splitlines():
                console.err.print(f"  [dim]|[/] {escape(line)}")
            if host.hint:
                console.err.print(f"  [bold]next:[/] {escape(host.hint)}")
    for step in report.mesh:
        if step.error:
            console.err.print(f"[bold red]mesh[/]: {escape(step.title)}: {escape(step.error)}")
            console.err.print(f"  [bold]next:[/] {escape(step.hint)}")
    for warning in report.warnings:
        console.err.print(f"[bold yellow]warning:[/] {escape(warning)}")
    for step in report.mesh:
        if step.note:
            console.out.print(f"{escape(step.title)}: {escape(step.note)}")
    word = (
        "interrupted" if report.is_interrupted else "deployed" if report.is_good else "incomplete"
    )
    console.out.print(f"[bold]{word}:[/] {report.summary}")


def outcome_style(outcome: Outcome) -> str:
    return "green" if outcome.is_good else "red"


def megabytes(size_bytes: int) -> str:
    """``12.3 MB``; small sizes in kB."""
    if size_bytes < 1_000_000:
        return f"{max(size_bytes / 1000, 0.1):.1f} kB"
    return f"{size_bytes / 1_000_000:.1f} MB"
