"""When a deploy changes access to Consul, and when it leaves it as it was."""

import sys
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from meshctl.apply.consul_tokens import ConsulTokens
from meshctl.apply.report import Outcome
from meshctl.apply.run import run
from meshctl.errors import MeshError, RemoteFailure
from meshctl.pki.consul import ConsulCa
from meshctl.plan import model
from meshctl.plan.model import Action, HostPlan, Phase, Plan, Step, Verdict
from proxy.model.names import HostName


@dataclass
class Access:
    """Stands in for ``ConsulAcl``, whose own tests run against a real Consul."""

    tokens: ConsulTokens
    fails: MeshError | None = None
    done: list[str] = field(default_factory=list)

    async def establish(self, *_: Any, **__: Any) -> None:
        self.done.append("set up")
        if self.fails is not None:
            raise self.fails

    async def trim(self, *_: Any, **__: Any) -> None:
        self.done.append("trim")


def on_host(phase: Phase, *, is_broken: bool = False) -> Step:
    made = model.Directory(path="/dev/null/x", mode=0o755, owner="")
    return Step(
        host=HostName("front"),
        action=Action.ENFORCE_ACCESS if phase is Phase.ENFORCE else Action.PREPARE,
        title="nothing",
        why="",
        phase=phase,
        payload=model.Prepare(users=(), directories=(made,) if is_broken else ()),
    )


def of_mesh(action: Action, payload: Any) -> Step:
    return Step(host=None, action=action, title=str(action), why="", payload=payload)


def plan_of(steps: Collection[Step], *others: HostPlan) -> Plan:
    front = HostPlan(
        host=HostName("front"),
        address="127.0.0.1",
        verdict=Verdict.CHANGE,
        python=sys.executable,
        steps=tuple(steps),
    )
    set_up = model.SetUpAccess(grants=(), tokens={}, is_fresh=False)
    return Plan(
        hosts=(front, *others),
        between=(of_mesh(Action.SET_UP_ACCESS, set_up),),
        after=(of_mesh(Action.TRIM_ACCESS, model.TrimAccess(grants=(), hosts=frozenset())),),
    )


def with_tls(lab: Any, steps: Collection[Step]) -> tuple[Plan, Any, ConsulCa]:
    ca = ConsulCa.of(lab.state)
    plan = plan_of(steps)
    means = lab.means(plan, consul_acl=Access(ConsulTokens.of(lab.state)), consul_ca=ca)
    return plan, means, ca


def insists(ca: ConsulCa) -> bool:
    return ca.read((), "dc1").is_enforced


TLS_LAST = replace(on_host(Phase.ENFORCE), action=Action.ENFORCE_TLS)


async def test_agents_insist_on_tls_once_every_host_came_through(lab: Any) -> None:
    plan, means, ca = with_tls(lab, [on_host(Phase.AGENT), TLS_LAST])
    assert (await run(plan, means)).is_good
    assert insists(ca)
    assert not ConsulTokens.of(lab.state).read([]).is_enforced, "that is another matter"


async def test_agents_do_not_insist_on_tls_when_a_host_failed(lab: Any) -> None:
    plan, means, ca = with_tls(lab, [on_host(Phase.PROXY, is_broken=True), TLS_LAST])
    report = await run(plan, means)
    assert not insists(ca)
    assert any("without TLS" in warning for warning in report.warnings)
    assert not any("has no token" in warning for warning in report.warnings)


async def test_a_cluster_that_begins_with_tls_is_remembered_to_insist_on_it(lab: Any) -> None:
    for is_tls_enforced in (False, True):
        plan, means, ca = with_tls(lab, [on_host(Phase.AGENT)])
        set_up = model.SetUpAccess(
            grants=(), tokens={}, is_fresh=True, is_tls_enforced=is_tls_enforced
        )
        plan = replace(plan, between=(of_mesh(Action.SET_UP_ACCESS, set_up),))
        await run(plan, means)
        assert insists(ca) == is_tls_enforced


def is_enforced(access: Access) -> bool:
    return access.tokens.read([]).is_enforced


async def test_who_has_no_token_is_refused_once_every_host_came_through(lab: Any) -> None:
    access = Access(ConsulTokens.of(lab.state))
    plan = plan_of([on_host(Phase.AGENT), on_host(Phase.ENFORCE)])
    report = await run(plan, lab.means(plan, consul_acl=access))
    assert report.is_good
    assert [host.done for host in report.hosts] == [2]
    assert access.done == ["set up", "trim"]
    assert is_enforced(access)


async def test_nobody_is_refused_when_a_host_failed(lab: Any) -> None:
    access = Access(ConsulTokens.of(lab.state))
    plan = plan_of([on_host(Phase.PROXY, is_broken=True), on_host(Phase.ENFORCE)])
    report = await run(plan, lab.means(plan, consul_acl=access))
    assert report.hosts[0].outcome is Outcome.FAILED
    assert access.done == ["set up"], "what hosts had before is not taken away either"
    assert not is_enforced(access)
    assert any("has no token" in warning for warning in report.warnings)


async def test_nobody_is_refused_while_a_host_is_away(lab: Any) -> None:
    access = Access(ConsulTokens.of(lab.state))
    away = HostPlan(
        host=HostName("away"), address="", verdict=Verdict.UNREACHABLE, error="it is away"
    )
    plan = plan_of([on_host(Phase.ENFORCE)], away)
    report = await run(plan, lab.means(plan, consul_acl=access))
    assert access.done == ["set up"]
    assert not is_enforced(access)
    assert report.warnings


async def test_agents_are_not_started_with_tokens_that_could_not_be_made(lab: Any) -> None:
    access = Access(ConsulTokens.of(lab.state), fails=RemoteFailure("no", hint="look there"))
    plan = plan_of([on_host(Phase.CONSUL), on_host(Phase.AGENT), on_host(Phase.PROXY)])
    report = await run(plan, lab.means(plan, consul_acl=access))
    assert not report.is_good
    (host,) = report.hosts
    assert (host.outcome, host.done, host.hint) == (Outcome.FAILED, 1, "look there")
    assert [step.error for step in report.mesh] == ["no"]
    assert access.done == ["set up"]


async def test_a_host_that_has_its_token_is_repaired_with_consul_gone(lab: Any) -> None:
    access = Access(ConsulTokens.of(lab.state), fails=RemoteFailure("no", hint="look there"))
    plan = plan_of([on_host(Phase.PROXY)])
    report = await run(plan, lab.means(plan, consul_acl=access))
    assert (report.hosts[0].outcome, report.hosts[0].done) == (Outcome.DONE, 1)
    assert [step.error for step in report.mesh] == ["no"]
    assert access.done == ["set up"]
    assert not report.is_good
