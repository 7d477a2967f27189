"""When a plan changes the access control of a managed Consul, and in which order."""

import json
from dataclasses import replace
from typing import Any

import msgspec.structs
import pytest

from meshctl.errors import Unreachable
from meshctl.facts.model import ConsulFact, HostFacts
from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.plan import model
from meshctl.plan.build import build
from meshctl.plan.model import Action, Phase, Plan
from proxy.model.names import HostName, ServiceName

HOSTS = (HostName("front"), HostName("back"))


def plan_of(world: Any, facts: dict[HostName, HostFacts], **options: Any) -> Plan:
    return build(world.desired, facts, **{"failures": {}, "findings": {}, **options})


def deployed(world: Any) -> dict[HostName, HostFacts]:
    return {name: world.deployed(name) for name in HOSTS}


def without_access(world: Any) -> tuple[Any, dict[HostName, HostFacts]]:
    """A mesh that an earlier release deployed: no tokens, another configuration of Consul."""
    consul = world.desired.consul
    acl = replace(consul.acl, applied="", is_enforced=False)
    before = replace(world, desired=replace(world.desired, consul=replace(consul, acl=acl)))
    facts = {}
    for name, fact in deployed(world).items():
        paths = dict(fact.seen.paths)
        del paths["/etc/meshctl/consul.token"]
        old = msgspec.structs.replace(paths["/etc/meshctl/consul.json"], sha256="00" * 32)
        paths["/etc/meshctl/consul.json"] = old
        facts[name] = world.deployed(name, paths=paths)
    return before, facts


def phases(plan: Plan, host: str, *actions: Action) -> list[Phase]:
    return [
        step.phase
        for entry in plan.hosts
        if entry.host == host
        for step in entry.steps
        if step.action in actions
    ]


def default_policy(step: model.Step) -> str:
    assert isinstance(step.payload, model.WriteFiles)
    config = next(file for file in step.payload.files if file.path.endswith("consul.json"))
    return str(json.loads(config.content)["acl"]["default_policy"])


def test_a_first_deploy_refuses_who_has_no_token_from_the_start(managed_world: Any) -> None:
    world = managed_world
    plan = plan_of(world, {name: world.fresh(name) for name in HOSTS})
    (step,) = plan.between
    assert isinstance(step.payload, model.SetUpAccess)
    assert step.payload.is_fresh
    assert not any(s.phase is Phase.ENFORCE for host in plan.hosts for s in host.steps)
    for host in plan.hosts:
        config = next(
            s for s in host.steps
            if s.action is Action.WRITE_CONSUL and s.phase in (Phase.CONSUL, Phase.AGENT)
        )  # fmt: skip
        assert default_policy(config) == "deny"


def test_a_mesh_that_ran_without_is_changed_without_locking_anybody_out(
    managed_world: Any,
) -> None:
    world, facts = without_access(managed_world)
    plan = plan_of(world, facts)
    assert [step.action for step in plan.between] == [Action.SET_UP_ACCESS]
    assert [step.action for step in plan.after] == [Action.TRIM_ACCESS]
    for host, first in zip(plan.hosts, (Phase.CONSUL, Phase.AGENT), strict=True):
        written = [step for step in host.steps if step.action is Action.WRITE_CONSUL]
        assert [step.phase for step in written] == [first, Phase.AGENT]
        assert default_policy(written[0]) == "allow"
        assert phases(plan, host.host, Action.START_CONSUL) == [first, Phase.ENFORCE]
        assert not any("has no token" in warning for warning in plan.warnings)
        last = [step for step in host.steps if step.action is Action.ENFORCE_ACCESS]
        assert [default_policy(step) for step in last] == ["deny"]


@pytest.mark.parametrize("why", ["limit", "unreachable"])
def test_nobody_is_refused_while_a_host_takes_no_part(managed_world: Any, why: str) -> None:
    world, facts = without_access(managed_world)
    options: dict[str, Any] = {"limit": ["front"]}
    if why == "unreachable":
        del facts[HOSTS[1]]
        options = {"failures": {HOSTS[1]: Unreachable("it is away")}}
    plan = plan_of(world, facts, **options)
    assert not any(step.phase is Phase.ENFORCE for host in plan.hosts for step in host.steps)
    assert plan.after == ()
    assert any("has no token" in warning for warning in plan.warnings)
    written = [s for s in plan.hosts[0].steps if s.action is Action.WRITE_CONSUL]
    assert default_policy(written[0]) == "allow"


def test_a_first_deploy_with_a_host_away_does_not_know_that_it_is_the_first(
    managed_world: Any,
) -> None:
    world, _ = without_access(managed_world)
    plan = plan_of(
        world,
        {HOSTS[0]: world.fresh("front")},
        failures={HOSTS[1]: Unreachable("it is away")},
    )
    (step,) = plan.between
    assert isinstance(step.payload, model.SetUpAccess)
    assert not step.payload.is_fresh


def test_what_a_host_loses_it_loses_once_its_proxy_is_restarted(managed_world: Any) -> None:
    world = managed_world
    gone = ServiceName("gone")
    before = dict(world.desired.before.hosts)
    before[HOSTS[0]] = HostRecord(services=(*before[HOSTS[0]].services, gone))
    consul = world.desired.consul
    changed = replace(
        world.desired,
        before=DeployRecord(hosts=before),
        consul=replace(consul, acl=replace(consul.acl, applied="of before")),
    )
    plan = plan_of(replace(world, desired=changed), deployed(world))
    (first,), (last,) = plan.between, plan.after
    assert isinstance(first.payload, model.SetUpAccess)
    assert isinstance(last.payload, model.TrimAccess)

    def rules(payload: model.SetUpAccess | model.TrimAccess) -> str:
        return next(g.rules for g in payload.grants if g.name == "meshctl-proxy-front")

    assert 'service "mesh-gone"' in rules(first.payload)
    assert 'service "mesh-gone"' not in rules(last.payload)


def test_a_consul_that_lost_its_tokens_gets_them_again(managed_world: Any) -> None:
    world = managed_world
    facts = deployed(world)
    for name in HOSTS:
        consul = ConsulFact(is_answering=True, leader="10.0.0.1:8300", is_denied=True)
        facts[name] = world.deployed(name, consul=consul)
    plan = plan_of(world, facts)
    assert [step.why for step in plan.between] == ["Consul does not know the token of a host"]
