"""A plan carried out for real, interrupted everywhere, and carried out again."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshctl.apply import steps
from meshctl.apply.observer import Silent
from meshctl.apply.report import HostReport, Outcome
from meshctl.apply.run import run
from meshctl.errors import Unreachable
from meshctl.facts.request import layout_of
from meshctl.plan import model
from meshctl.plan.model import Action, Phase, Step, Verdict
from proxy.model.names import HostName


def current(lab: Any) -> str:
    return os.path.basename(os.readlink(layout_of(lab.inventory.hosts[0]).current))


async def assert_converged(lab: Any) -> None:
    plan = await lab.plan()
    assert plan.is_empty, [step.title for host in plan.hosts for step in host.steps]
    assert len(lab.pids()) == 1


async def test_a_deploy_ends_in_a_running_proxy_and_a_second_does_nothing(lab: Any) -> None:
    report = await lab.deploy()
    assert report.is_good, report
    assert report.hosts[0].outcome is Outcome.DONE
    assert lab.registry_starts == 1
    assert len(lab.published) == 1
    await assert_converged(lab)
    before = lab.counter.count
    again = await lab.deploy()
    assert again.is_good
    assert again.hosts[0].outcome is Outcome.UNCHANGED
    assert lab.counter.count - before == 1  # the facts, and nothing after them
    assert len(lab.published) == 1


async def test_a_new_release_takes_over_and_the_old_one_is_kept(lab: Any) -> None:
    await lab.deploy()
    first, (pid,) = current(lab), lab.pids()
    lab.version = "2"
    report = await lab.deploy()
    assert report.is_good, report
    assert current(lab) != first
    assert lab.pids() != [pid]
    layout = layout_of(lab.inventory.hosts[0])
    assert os.path.basename(os.readlink(layout.previous)) == first
    assert len(os.listdir(f"{layout.prefix}/releases")) == 2
    await assert_converged(lab)


@pytest.mark.parametrize("fault", ["crash", "unready"])
async def test_a_release_that_does_not_get_ready_is_taken_back(
    lab: Any, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.deploy()
    good = current(lab)
    if fault == "unready":
        monkeypatch.setattr(steps, "START_TIMEOUT_S", 2)
    lab.version, lab.fault = "2", fault
    report = await lab.deploy()
    (host,) = report.hosts
    assert host.outcome is Outcome.ROLLED_BACK
    assert host.failed is not None
    assert host.failed.action is Action.ACTIVATE
    assert "previous configuration again" in host.error
    if fault == "crash":
        assert "stand-in: cannot start" in host.output
    assert not report.is_good
    assert current(lab) == good
    assert len(lab.pids()) == 1
    assert not Path(layout_of(lab.inventory.hosts[0]).previous).is_symlink()
    lab.version, lab.fault = "1", ""
    await lab.deploy()  # removes what the failed one left
    await assert_converged(lab)


async def test_a_first_installation_that_fails_leaves_nothing_started(lab: Any) -> None:
    lab.fault = "crash"
    report = await lab.deploy()
    (host,) = report.hosts
    assert host.outcome is Outcome.FAILED
    assert "nothing is left half started" in host.error
    assert lab.pids() == []
    assert not Path(layout_of(lab.inventory.hosts[0]).current).is_symlink()
    assert lab.published == []
    assert report.mesh[-1].error
    lab.fault = ""
    assert (await lab.deploy()).is_good
    await assert_converged(lab)


async def test_an_interruption_at_any_command_converges_on_the_next_run(lab: Any) -> None:
    await lab.deploy()
    total = lab.counter.count
    assert total > 10
    # Cut off before the k-th command is the same as after the one before it.
    for at in range(1, total + 1):
        await wipe(lab)
        lab.counter.count, lab.counter.at = 0, at
        plan = await interrupted_plan(lab)
        if plan is not None:
            report = await run(plan, lab.means(plan))
            for host in report.hosts:
                assert host.outcome in (Outcome.FAILED, Outcome.DONE)
                assert host.hint or host.outcome is Outcome.DONE
        lab.counter.at = 0
        report = await lab.deploy()
        assert report.is_good, (at, report)
        await assert_converged(lab)


async def test_an_interrupted_upgrade_never_leaves_the_proxy_down(lab: Any) -> None:
    await lab.deploy()
    lab.version = "2"
    lab.counter.count = 0
    await lab.deploy()
    total = lab.counter.count
    # Before these, what runs is not touched; and how that converges is the first installation's
    # case, above.
    for at in range(total - 4, total + 1):
        lab.version = str(100 + at)
        lab.counter.count, lab.counter.at = 0, at
        plan = await interrupted_plan(lab)
        assert plan is not None
        await run(plan, lab.means(plan))
        assert len(lab.pids()) == 1, at
        lab.counter.at = 0
        assert (await lab.deploy()).is_good, at
        await assert_converged(lab)


async def interrupted_plan(lab: Any) -> Any:
    plan = await lab.plan()
    unreachable = any(host.verdict is Verdict.UNREACHABLE for host in plan.hosts)
    return None if unreachable else plan


async def wipe(lab: Any) -> None:
    lab.kill_all()
    lab.published.clear()
    root = Path(lab.inventory.hosts[0].root)
    done = await asyncio.create_subprocess_exec("rm", "-rf", str(root))
    await done.wait()


async def test_a_switch_that_moved_meanwhile_is_refused(lab: Any) -> None:
    await lab.deploy()
    lab.version = "2"
    stale = await lab.plan()
    lab.version = "3"
    await lab.deploy()
    there = current(lab)
    report = await run(stale, lab.means(stale))
    (host,) = report.hosts
    assert host.outcome is Outcome.FAILED
    assert "current moved" in host.error
    assert "plans anew" in host.hint
    assert current(lab) == there


async def test_another_operators_lock_is_respected(lab: Any) -> None:
    await lab.deploy()
    lab.version = "2"
    plan = await lab.plan()
    lock = Path(f"{lab.inventory.hosts[0].root}/run/meshctl-deploy.lock")
    assert not lock.exists()  # given back after the first deploy
    lock.write_text('{"owner": "somebody@else", "until": 1e12}')
    report = await run(plan, lab.means(plan))
    assert report.hosts[0].outcome is Outcome.FAILED
    assert "somebody@else is deploying" in report.hosts[0].error
    assert (await lab.plan()).hosts[0].verdict is Verdict.BLOCKED
    lock.write_text('{"owner": "somebody@else", "until": 1}')
    assert (await lab.deploy()).is_good


async def test_a_new_leaf_is_loaded_without_a_restart(lab: Any) -> None:
    await lab.deploy()
    (pid,) = lab.pids()
    leaf = Path(layout_of(lab.inventory.hosts[0]).identity(lab.inventory.hosts[0].services[0].name))
    (leaf / "current").unlink()
    plan = await lab.plan()
    assert [step.action for step in plan.hosts[0].steps] == [Action.ISSUE_LEAF, Action.RELOAD]
    assert (await run(plan, lab.means(plan))).is_good
    assert lab.pids() == [pid]
    await assert_converged(lab)


async def test_a_dead_proxy_is_started_again(lab: Any) -> None:
    await lab.deploy()
    lab.kill_all()
    report = await lab.deploy()
    assert report.is_good
    assert len(lab.pids()) == 1
    await assert_converged(lab)


async def test_a_stop_finishes_the_step_that_has_begun_and_no_other(lab: Any) -> None:
    stop = asyncio.Event()

    class StopAtInstall(Silent):
        def __init__(self) -> None:
            self.ended: list[Action] = []
            self.reports: list[HostReport] = []

        def step_began(self, step: Step) -> None:
            if step.action is Action.INSTALL_RELEASE:
                stop.set()

        def step_ended(self, step: Step, seconds: float) -> None:
            self.ended.append(step.action)

        def host_ended(self, report: HostReport) -> None:
            self.reports.append(report)

    watching = StopAtInstall()
    report = await lab.deploy(stop=stop, observer=watching)
    assert watching.ended[-1] is Action.INSTALL_RELEASE
    assert report.is_interrupted
    assert [host.outcome for host in report.hosts] == [Outcome.INTERRUPTED]
    assert watching.reports == list(report.hosts)
    assert lab.published == []
    assert (await lab.deploy()).is_good
    await assert_converged(lab)


async def test_no_private_key_and_no_secret_leaves_the_host(lab: Any) -> None:
    await lab.deploy()
    root = Path(lab.inventory.hosts[0].root)
    (key,) = root.glob("var/lib/meshctl/identities/web/current/key.pem")
    secret = key.read_bytes().splitlines()[1]
    assert all(secret not in sent for sent in lab.counter.inputs)
    assert all("PRIVATE KEY" not in part for argv in lab.counter.commands for part in argv)
    assert key.stat().st_mode & 0o777 == 0o600


async def test_a_policy_that_cannot_be_published_fails_the_deploy_not_the_hosts(lab: Any) -> None:
    async def publish(policy: object, through: HostName) -> int:
        raise Unreachable("Consul is away", hint="start it")

    report = await lab.deploy(publish=publish)
    assert not report.is_good
    assert report.hosts[0].outcome is Outcome.DONE
    assert (report.mesh[-1].error, report.mesh[-1].hint) == ("Consul is away", "start it")


@pytest.mark.parametrize("was_certified", [True, False])
async def test_a_signer_that_did_not_get_its_files_is_a_warning_with_its_consequence(
    lab: Any, was_certified: bool
) -> None:
    await lab.deploy()
    plan = await lab.plan()
    (front,) = plan.hosts
    told = Step(
        host=front.host,
        action=Action.RELOAD_SIGNER,
        title="tell the signer",
        why="",
        phase=Phase.SIGNER,
        payload=model.RunSigner(
            verb="reload",
            release="1" * 16,
            expected="0" * 16,
            files=(),
            unit=None,
            record_digest="",
            bundle_digest="",
        ),
    )
    plan = replace(plan, hosts=(replace(front, verdict=Verdict.CHANGE, steps=(told,)),))
    certified = frozenset({front.host} if was_certified else ())
    report = await run(plan, lab.means(plan, certified=certified))
    assert report.hosts[0].outcome is Outcome.FAILED
    assert "the signer moved" in report.hosts[0].error
    assert bool(report.warnings) is was_certified
    assert all("goes on renewing those that were removed" in said for said in report.warnings)
