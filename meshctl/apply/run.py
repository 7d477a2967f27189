"""Carries out a plan: the very object that was shown.

Hosts at the same time, the steps of one host one after the other. A step that fails stops its
host only. Signers first on all hosts, then Consul, then the proxies, then what is published to
them.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from meshctl.apply import mesh_steps
from meshctl.apply.means import Means
from meshctl.apply.operate import Remote, StepFailed
from meshctl.apply.report import HostReport, MeshStepReport, Outcome, Report
from meshctl.apply.steps import perform, proxy_log, wait_leader
from meshctl.artifacts import consul_servers
from meshctl.errors import MeshError, RemoteFailure
from meshctl.layout import SIGNER_UNIT
from meshctl.plan import model
from meshctl.plan.model import Action, HostPlan, Phase, Plan, Verdict
from meshctl.plan.signer import untold
from proxy.model.names import HostName

_UNLOCK_TIMEOUT_S = 10.0
_AGAIN = "run the same command again: it goes on where this host stopped"


@dataclass(slots=True, kw_only=True)
class _Progress:
    """How far one host got."""

    plan: HostPlan
    done: int = 0
    report: HostReport | None = None
    """Set once nothing more happens on this host."""
    remote: Remote | None = None


@dataclass(slots=True, kw_only=True)
class _Run:
    plan: Plan
    means: Means
    hosts: list[_Progress]
    mesh: list[MeshStepReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


async def run(plan: Plan, means: Means) -> Report:
    """Never raises for what happens on a host; raises MeshError when it cannot even begin."""
    state = _Run(plan=plan, means=means, hosts=[_progress(host) for host in plan.hosts])
    for step in plan.before:
        means.observer.step_began(step)
        await means.start_registry()
        means.observer.step_ended(step, 0.0)
        state.mesh.append(MeshStepReport(action=step.action, title=step.title))
    try:
        await _phase(state, Phase.SIGNER)
        _warn_of_untold(state)
        await _phase(state, Phase.CONSUL)
        await _await_leader(state, Phase.CONSUL)
        await _set_up_access(state)
        await _phase(state, Phase.AGENT)
        await _await_leader(state, Phase.AGENT)
        await _phase(state, Phase.PROXY)
        await _enforce(state)
    finally:
        await _unlock(state)
    for progress in state.hosts:
        if progress.report is None:
            _end(state, progress, _good_report(progress))
    if plan.after and not means.stop.is_set():
        await _after(state)
    return Report(
        hosts=tuple(progress.report for progress in state.hosts if progress.report is not None),
        mesh=tuple(state.mesh),
        warnings=tuple(state.warnings),
        is_interrupted=means.stop.is_set(),
    )


def _progress(host: HostPlan) -> _Progress:
    outcome = {
        Verdict.BLOCKED: Outcome.BLOCKED,
        Verdict.UNREACHABLE: Outcome.UNREACHABLE,
        Verdict.SKIPPED: Outcome.SKIPPED,
        Verdict.UNCHANGED: Outcome.UNCHANGED,
    }.get(host.verdict)
    if outcome is None or (outcome is Outcome.SKIPPED and host.steps):
        return _Progress(plan=host)
    return _Progress(
        plan=host,
        report=HostReport(
            host=host.host,
            outcome=outcome,
            error=host.error or "; ".join(finding.message for finding in host.findings),
            hint=host.hint or "; ".join(finding.fix for finding in host.findings),
        ),
    )


async def _phase(state: _Run, phase: Phase) -> None:
    gate = asyncio.Semaphore(state.means.parallel)

    async def one(progress: _Progress) -> None:
        async with gate:
            await _host(state, progress, phase)

    async with asyncio.TaskGroup() as group:
        for progress in state.hosts:
            has_steps = any(step.phase is phase for step in progress.plan.steps)
            if progress.report is None and has_steps:
                group.create_task(one(progress), name=f"{progress.plan.host}: {phase.name}")


async def _host(state: _Run, progress: _Progress, phase: Phase) -> None:
    means, plan = state.means, progress.plan
    current = None
    try:
        remote = await _remote(state, progress)
        for step in plan.steps:
            if step.phase is not phase:
                continue
            if means.stop.is_set():
                _end(state, progress, _stopped_report(progress))
                return
            current = step
            means.observer.step_began(step)
            began = time.monotonic()
            await perform(step, remote, means)
            progress.done += 1
            means.observer.step_ended(step, time.monotonic() - began)
    except MeshError as error:
        _end(state, progress, _failure_report(progress, current, error))


def _warn_of_untold(state: _Run) -> None:
    """A signer that did not get its files goes on by the old ones, which may be too generous."""
    for progress in state.hosts:
        report = progress.report
        if report is None or report.outcome not in (Outcome.FAILED, Outcome.ROLLED_BACK):
            continue
        had_steps = any(step.phase is Phase.SIGNER for step in progress.plan.steps)
        if had_steps and report.host in state.means.certified:
            state.warnings.append(untold(report.host, report.error))


async def _remote(state: _Run, progress: _Progress) -> Remote:
    """Connected, and with the host's deploy lock taken, at the first step."""
    means, plan = state.means, progress.plan
    if progress.remote is None:
        means.observer.host_began(plan)
        host = next(host for host in means.inventory.hosts if host.name == plan.host)
        remote = Remote(
            host=host,
            transport=await means.connector.connect(host.name),
            python=plan.python,
            owner=means.owner,
        )
        await remote.operate("lock")
        progress.remote = remote
    return progress.remote


async def _await_leader(state: _Run, phase: Phase) -> None:
    """After Consul was started somewhere: the proxies are not started into a void."""
    started = [
        progress
        for progress in state.hosts
        if progress.remote is not None
        and any(
            step.action is Action.START_CONSUL and step.phase is phase
            for step in progress.plan.steps
        )
    ]
    good = next((progress for progress in started if progress.report is None), None)
    if good is None or state.means.stop.is_set():
        return
    assert good.remote is not None, "only hosts with a connection were chosen"
    inventory = state.means.inventory
    title = "wait for Consul's leader"
    state.means.observer.note(title)
    servers = len(consul_servers(inventory))
    try:
        await wait_leader(good.remote, inventory.consul.address, servers=servers // 2 + 1)
        state.mesh.append(MeshStepReport(action=Action.START_CONSUL, title=title))
    except MeshError as error:
        hint = "see `journalctl -u meshctl-consul` on the control hosts; then deploy again"
        state.mesh.append(
            MeshStepReport(action=Action.START_CONSUL, title=title, error=str(error), hint=hint)
        )
        _give_up(state, error, hint)


async def _set_up_access(state: _Run) -> None:
    """An agent that starts with a token, and a proxy that shows one, find it known."""
    for step in state.plan.between:
        if state.means.stop.is_set():
            return
        done, error = await mesh_steps.change_access(step, state.means)
        state.mesh.append(done)
        if error is not None:
            # The others' agents and proxies have tokens, and can be repaired with Consul gone.
            _give_up(state, error, done.hint, to_come=(Phase.AGENT, Phase.ENFORCE))


async def _enforce(state: _Run) -> None:
    """Only if nobody would be locked out: every host came through, its proxy with its token."""
    actions = {
        step.action for host in state.plan.hosts for step in host.steps
        if step.phase is Phase.ENFORCE
    }  # fmt: skip
    if not actions:
        return
    is_complete = all(
        progress.report is None or progress.report.outcome is Outcome.UNCHANGED
        for progress in state.hosts
    )
    if state.means.stop.is_set() or not is_complete:
        why = "because not every host came through; deploy again once they do"
        if Action.ENFORCE_ACCESS in actions:
            state.warnings.append(f"Consul still lets in who has no token, {why}")
        if Action.ENFORCE_TLS in actions:
            state.warnings.append(f"Consul's agents still call its servers without TLS, {why}")
        return
    acl, ca = state.means.consul_acl, state.means.consul_ca
    assert acl is not None, "planned for a managed Consul only"
    if Action.ENFORCE_ACCESS in actions:
        acl.tokens.note_enforced()
    if Action.ENFORCE_TLS in actions:
        assert ca is not None, "the same"
        ca.note_enforced()
    await _phase(state, Phase.ENFORCE)


def _give_up(
    state: _Run, error: MeshError, hint: str, to_come: Collection[Phase] = tuple(Phase)
) -> None:
    """No host is worked on any more that has steps in these phases."""
    for progress in state.hosts:
        if progress.report is None and any(step.phase in to_come for step in progress.plan.steps):
            _end(
                state,
                progress,
                replace(
                    _stopped_report(progress),
                    outcome=Outcome.FAILED,
                    error=f"not continued, because {error}",
                    hint=hint,
                ),
            )


async def _unlock(state: _Run) -> None:
    async def one(remote: Remote) -> None:
        # The lease ends by itself; a host that went away in the middle is not waited for.
        with contextlib.suppress(MeshError, TimeoutError):
            async with asyncio.timeout(_UNLOCK_TIMEOUT_S):
                await remote.operate("unlock")

    remotes = [progress.remote for progress in state.hosts if progress.remote is not None]
    await asyncio.gather(*(one(remote) for remote in remotes))


async def _after(state: _Run) -> None:
    reports = {progress.plan.host: progress.report for progress in state.hosts}
    alive: list[HostName] = [
        host
        for host, report in reports.items()
        if report is not None and report.outcome in (Outcome.DONE, Outcome.UNCHANGED)
    ]
    for step in state.plan.after:
        if isinstance(step.payload, model.TrimAccess):
            if _may_trim(state):
                done, _ = await mesh_steps.change_access(step, state.means)
                state.mesh.append(done)
            continue
        assert isinstance(step.payload, model.Publish), "the only other that follows the hosts"
        if not alive:
            state.mesh.append(
                MeshStepReport(
                    action=step.action,
                    title=step.title,
                    error="not done, because no host came through",
                    hint="correct what stopped the hosts, then deploy again",
                )
            )
            continue
        state.means.observer.step_began(step)
        done, warnings = await mesh_steps.publish(step, state.means, alive)
        state.mesh.append(done)
        state.warnings.extend(warnings)
        state.means.observer.step_ended(step, 0.0)


def _may_trim(state: _Run) -> bool:
    """Not while a host may still work with what it had before, nor where that is all there is."""
    good = (Outcome.DONE, Outcome.UNCHANGED, Outcome.SKIPPED)
    is_set_up = not any(done.action is Action.SET_UP_ACCESS and done.error for done in state.mesh)
    return is_set_up and all(
        progress.report is not None and progress.report.outcome in good for progress in state.hosts
    )


def _end(state: _Run, progress: _Progress, report: HostReport) -> None:
    progress.report = report
    if progress.plan.steps:
        state.means.observer.host_ended(report)


def _good_report(progress: _Progress) -> HostReport:
    return HostReport(
        host=progress.plan.host,
        outcome=Outcome.DONE if progress.plan.steps else Outcome.UNCHANGED,
        done=progress.done,
        total=len(progress.plan.steps),
    )


def _stopped_report(progress: _Progress) -> HostReport:
    return HostReport(
        host=progress.plan.host,
        outcome=Outcome.INTERRUPTED,
        done=progress.done,
        total=len(progress.plan.steps),
        hint=_AGAIN,
    )


_AFTERMATH = {
    "rolled-back": "the host runs its previous configuration again",
    "stopped": "the proxy is stopped; nothing is left half started",
    "unchanged": "the configuration is the one that ran before; it is being restarted",
    "broken": "going back failed too: the proxy does not run",
}


_SIGNER_AFTERMATH = {
    "rolled-back": "the signer runs as it did before",
    "stopped": "the signer is stopped; identities last until their ends",
    "broken": "going back failed too: the signer does not run, identities last until their ends",
}


def _failure_report(progress: _Progress, step: model.Step | None, error: MeshError) -> HostReport:
    outcome = error.outcome if isinstance(error, StepFailed) else ""
    name = progress.plan.host
    hint = error.hint or _AGAIN
    aftermath = _AFTERMATH.get(outcome, "")
    if outcome and step is not None and step.phase is Phase.SIGNER:
        hint = f"see `journalctl -u {SIGNER_UNIT}` on {name}; then run the same command again"
        aftermath = _SIGNER_AFTERMATH.get(outcome, "")
    elif outcome:
        # What it printed is in the output already; this is where the rest of it is.
        log = proxy_log(progress.remote.host) if progress.remote else "its log"
        hint = f"see {log}; correct what it says, then run the same command again"
    return HostReport(
        host=name,
        outcome=Outcome.ROLLED_BACK if outcome == "rolled-back" else Outcome.FAILED,
        done=progress.done,
        total=len(progress.plan.steps),
        failed=step,
        error=str(error) + (f"; {aftermath}" if aftermath else ""),
        output=error.output if isinstance(error, RemoteFailure) else "",
        hint=hint,
    )
