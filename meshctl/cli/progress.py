"""Progress of an apply on standard error: a bar per host on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from meshctl.apply.observer import Observer
from meshctl.apply.report import HostReport
from meshctl.cli import console
from meshctl.cli.plan_view import outcome_style
from meshctl.plan.model import HostPlan, Plan, Step
from proxy.model.names import HostName


@contextmanager
def observer(plan: Plan) -> Iterator[Observer]:
    if not console.err.is_terminal:
        yield Lines()
        return
    bars = Progress(
        TextColumn("{task.fields[host]}", style="bold"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console.err,
    )
    with bars:
        yield Bars(bars, plan)


class Lines:
    """One line a step, for logs and pipes."""

    def host_began(self, host: HostPlan) -> None: ...

    def step_began(self, step: Step) -> None:
        if step.host is None:
            console.err.print(f"mesh: {escape(step.title)}")

    def pushed(self, host: HostName, size_bytes: int) -> None: ...

    def step_ended(self, step: Step, seconds: float) -> None:
        if step.host is not None:
            console.err.print(f"{escape(step.host)}: {escape(step.title)} ({seconds:.1f} s)")

    def host_ended(self, report: HostReport) -> None:
        console.err.print(f"{escape(report.host)}: {report.outcome}")

    def note(self, text: str) -> None:
        console.err.print(escape(text))


class Bars:
    """A bar a host."""

    def __init__(self, progress: Progress, plan: Plan) -> None:
        self._progress = progress
        self._tasks: dict[HostName, TaskID] = {
            host.host: progress.add_task(
                "waiting", host=escape(host.host), total=len(host.steps), start=False
            )
            for host in plan.hosts
            if host.steps
        }

    def host_began(self, host: HostPlan) -> None:
        self._progress.start_task(self._tasks[host.host])

    def step_began(self, step: Step) -> None:
        if step.host is None:
            self.note(f"mesh: {step.title}")
        else:
            self._progress.update(self._tasks[step.host], description=escape(step.title))

    def pushed(self, host: HostName, size_bytes: int) -> None: ...

    def step_ended(self, step: Step, seconds: float) -> None:
        if step.host is not None:
            self._progress.advance(self._tasks[step.host])

    def host_ended(self, report: HostReport) -> None:
        task = self._tasks[report.host]
        style = outcome_style(report.outcome)
        self._progress.update(task, description=f"[{style}]{report.outcome}[/]")
        self._progress.stop_task(task)

    def note(self, text: str) -> None:
        self._progress.console.print(escape(text))
