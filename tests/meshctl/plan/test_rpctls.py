"""When a plan has Consul's agents talk TLS to its servers, and in which order."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from meshctl import artifacts
from meshctl.errors import Unreachable
from meshctl.facts.model import HostFacts, PathFact
from meshctl.facts.request import layout_of
from meshctl.plan import model
from meshctl.plan.build import build
from meshctl.plan.model import Action, Phase, Plan
from meshctl.rpctls import Mode, RpcTls, ServerCertificate
from proxy.model.names import HostName

FRONT, BACK = HOSTS = (HostName("front"), HostName("back"))
"""A server and a client."""
CA = b"the CA"


def certificate(world: Any, **changes: Any) -> ServerCertificate:
    now = world.desired.now
    made = ServerCertificate(
        pem=b"of front", not_before=now - timedelta(days=10), not_after=now + timedelta(days=355)
    )
    return replace(made, **changes)


def tls(world: Any, **changes: Any) -> RpcTls:
    made = RpcTls(ca=CA, servers={FRONT: certificate(world)}, is_enforced=True)
    return replace(made, **changes)


def with_tls(world: Any, made: RpcTls | None) -> Any:
    return world.with_(consul=replace(world.desired.consul, tls=made))


def deployed(
    world: Any, mode: Mode, *, ca: bytes = CA, chain: bytes = b"of front"
) -> dict[HostName, HostFacts]:
    """As after a deploy that left agents in that mode, everything else as it is wanted."""
    facts = {}
    for name in HOSTS:
        host = world.host(name)
        layout = layout_of(host)
        paths = dict(world.deployed(name).seen.paths)
        config, _ = artifacts.consul_files(world.inventory, host, world.desired.consul, tls=mode)
        path = f"{layout.etc}/consul.json"
        paths[path] = fact(config.content, config.mode, config.group)
        if mode is not Mode.OFF:
            paths[layout.consul_ca] = fact(ca, 0o644)
            if name == FRONT:
                user = "meshctl-consul"
                paths[layout.consul_tls] = PathFact(mode=0o700, owner=user, sha256="", group=user)
                paths[layout.consul_certificate] = fact(chain, 0o600)
                paths[layout.consul_key] = fact(b"key", 0o600)
        facts[name] = world.deployed(name, paths=paths)
    return facts


def fact(content: bytes, mode: int, group: str = "root") -> PathFact:
    sha256 = hashlib.sha256(content).hexdigest()
    return PathFact(mode=mode, owner="root", sha256=sha256, group=group)


def plan_of(world: Any, facts: dict[HostName, HostFacts], **options: Any) -> Plan:
    return build(world.desired, facts, **{"failures": {}, "findings": {}, **options})


def steps(plan: Plan, host: str) -> list[tuple[Phase, Action]]:
    found = next(entry for entry in plan.hosts if entry.host == host)
    return [(step.phase, step.action) for step in found.steps]


def written(plan: Plan, host: str, phase: Phase) -> dict[str, bytes]:
    found = next(entry for entry in plan.hosts if entry.host == host)
    return {
        file.path: file.content
        for step in found.steps
        if step.phase is phase and isinstance(step.payload, model.WriteFiles)
        for file in step.payload.files
    }


def insists(plan: Plan, host: str, phase: Phase) -> Any:
    """None: the configuration says nothing of TLS."""
    config = json.loads(written(plan, host, phase)["/etc/meshctl/consul.json"])
    assert config.get("verify_outgoing") == config.get("verify_server_hostname")
    assert not config.get("verify_incoming")
    assert ("ca_file" in config) == ("verify_outgoing" in config)
    assert (
        ("cert_file" in config)
        == ("key_file" in config)
        == ("ca_file" in config and config["server"])
    )
    return config.get("verify_outgoing")


def test_a_first_deploy_begins_with_it(managed_world: Any) -> None:
    world = with_tls(managed_world, tls(managed_world, servers={}, is_enforced=False))
    plan = plan_of(world, {name: world.fresh(name) for name in HOSTS})
    assert insists(plan, FRONT, Phase.CONSUL) is True
    assert insists(plan, BACK, Phase.AGENT) is True
    server = [action for phase, action in steps(plan, FRONT) if phase is Phase.CONSUL]
    order = [Action.PREPARE, Action.CERTIFY_CONSUL, Action.WRITE_CONSUL, Action.START_CONSUL]
    assert [action for action in server if action in order] == order
    assert (Phase.AGENT, Action.CERTIFY_CONSUL) not in steps(plan, BACK)
    for host in HOSTS:
        assert Phase.ENFORCE not in [phase for phase, _ in steps(plan, host)]
    assert written(plan, BACK, Phase.AGENT)["/etc/meshctl/consul-ca.pem"] == CA
    (set_up,) = plan.between
    assert isinstance(set_up.payload, model.SetUpAccess)
    assert set_up.payload.is_tls_enforced
    assert plan.warnings == ()


def test_a_mesh_that_has_it_is_not_changed(managed_world: Any) -> None:
    world = with_tls(managed_world, tls(managed_world))
    plan = plan_of(world, deployed(world, Mode.ENFORCED))
    assert [steps(plan, host) for host in HOSTS] == [[], []]
    assert plan.warnings == ()


def test_a_mesh_that_ran_without_gets_it_in_two_strides(managed_world: Any) -> None:
    world = with_tls(managed_world, tls(managed_world, servers={}, is_enforced=False))
    plan = plan_of(world, deployed(world, Mode.OFF))
    last = [(Phase.ENFORCE, Action.ENFORCE_TLS), (Phase.ENFORCE, Action.START_CONSUL)]
    for host, phase in ((FRONT, Phase.CONSUL), (BACK, Phase.AGENT)):
        assert insists(plan, host, phase) is False
        assert insists(plan, host, Phase.ENFORCE) is True
        assert steps(plan, host)[-2:] == last
    assert (Phase.CONSUL, Action.CERTIFY_CONSUL) in steps(plan, FRONT)
    assert plan.warnings == ()


def test_one_that_was_interrupted_in_between_goes_on(managed_world: Any) -> None:
    world = with_tls(managed_world, tls(managed_world, is_enforced=False))
    facts = deployed(world, Mode.OFFERED)
    last = [(Phase.ENFORCE, Action.ENFORCE_TLS), (Phase.ENFORCE, Action.START_CONSUL)]
    assert [steps(plan_of(world, facts), host) for host in HOSTS] == [last, last]
    facts[FRONT] = deployed(world, Mode.ENFORCED)[FRONT]
    assert [steps(plan_of(world, facts), host) for host in HOSTS] == [[], last]


@pytest.mark.parametrize("why", ["limit", "unreachable"])
def test_nobody_insists_while_a_host_takes_no_part(managed_world: Any, why: str) -> None:
    world = with_tls(managed_world, tls(managed_world, servers={}, is_enforced=False))
    facts = deployed(world, Mode.OFF)
    options: dict[str, Any] = {"limit": ["front"]}
    if why == "unreachable":
        del facts[BACK]
        options = {"failures": {BACK: Unreachable("it is away")}}
    plan = plan_of(world, facts, **options)
    assert insists(plan, FRONT, Phase.CONSUL) is False
    assert all(phase is not Phase.ENFORCE for phase, _ in steps(plan, FRONT))
    (warning,) = plan.warnings
    assert "without TLS" in warning


def test_a_new_server_joins_a_mesh_that_insists(managed_world: Any) -> None:
    world = with_tls(managed_world, tls(managed_world, servers={}))
    facts = deployed(world, Mode.ENFORCED)
    facts[FRONT] = world.fresh("front")
    plan = plan_of(world, facts)
    assert (Phase.CONSUL, Action.CERTIFY_CONSUL) in steps(plan, FRONT)
    assert insists(plan, FRONT, Phase.CONSUL) is True
    assert steps(plan, BACK) == []


@pytest.mark.parametrize(
    ("left", "is_renewed"), [(timedelta(days=123), False), (timedelta(days=121), True),
                             (timedelta(days=-1), True)],
)  # fmt: skip
def test_a_servers_certificate_is_renewed_in_the_last_third_of_its_life(
    managed_world: Any, left: timedelta, is_renewed: bool
) -> None:
    end = managed_world.desired.now + left
    made = certificate(managed_world, not_before=end - timedelta(days=366), not_after=end)
    world = with_tls(managed_world, tls(managed_world, servers={FRONT: made}))
    plan = plan_of(world, deployed(world, Mode.ENFORCED))
    renewal = [(Phase.CONSUL, Action.CERTIFY_CONSUL), (Phase.CONSUL, Action.START_CONSUL)]
    assert steps(plan, FRONT) == (renewal if is_renewed else [])
    assert steps(plan, BACK) == []
    waits = [
        step.payload.is_restart
        for step in plan.hosts[0].steps
        if isinstance(step.payload, model.StartConsul)
    ]
    # Servers that refuse each other have no leader to wait for, one after the other.
    assert waits == ([left > timedelta(0)] if is_renewed else [])


def test_a_certificate_that_is_not_the_one_that_was_made_is_replaced(managed_world: Any) -> None:
    world = with_tls(managed_world, tls(managed_world))
    plan = plan_of(world, deployed(world, Mode.ENFORCED, chain=b"another"))
    assert (Phase.CONSUL, Action.CERTIFY_CONSUL) in steps(plan, FRONT)


def test_another_ca_is_brought_in_once_nobody_insists_on_the_old_one(managed_world: Any) -> None:
    """A lost key of the CA: nobody would believe servers with certificates of the new one."""
    world = with_tls(managed_world, tls(managed_world, servers={}, is_enforced=False))
    plan = plan_of(world, deployed(world, Mode.ENFORCED, ca=b"the old CA"))
    for host, phase in ((FRONT, Phase.CONSUL), (BACK, Phase.AGENT)):
        expected = [(phase, Action.WRITE_CONSUL), (phase, Action.START_CONSUL)]
        assert steps(plan, host) == expected
        assert set(written(plan, host, phase)) == {"/etc/meshctl/consul.json"}
        assert insists(plan, host, phase) is False
    (warning,) = plan.warnings
    assert "once more" in warning

    plan = plan_of(world, deployed(world, Mode.OFFERED, ca=b"the old CA"))
    assert (Phase.CONSUL, Action.CERTIFY_CONSUL) in steps(plan, FRONT)
    for host, phase in ((FRONT, Phase.CONSUL), (BACK, Phase.AGENT)):
        assert written(plan, host, phase) == {"/etc/meshctl/consul-ca.pem": CA}
        assert insists(plan, host, Phase.ENFORCE) is True
    assert plan.warnings == ()


def test_another_ca_is_not_brought_in_while_a_host_that_may_insist_takes_no_part(
    managed_world: Any,
) -> None:
    world = with_tls(managed_world, tls(managed_world, servers={}, is_enforced=False))
    facts = deployed(world, Mode.OFFERED, ca=b"the old CA")
    plan = plan_of(world, facts, limit=["front"])
    assert steps(plan, FRONT) == []
    assert plan.warnings != ()


def test_a_ca_written_anew_for_the_same_key_is_only_told(managed_world: Any) -> None:
    world = with_tls(managed_world, tls(managed_world))
    plan = plan_of(world, deployed(world, Mode.ENFORCED, ca=b"the same, signed again"))
    for host, phase in ((FRONT, Phase.CONSUL), (BACK, Phase.AGENT)):
        assert written(plan, host, phase) == {"/etc/meshctl/consul-ca.pem": CA}
        assert steps(plan, host)[-1] == (phase, Action.START_CONSUL)


def test_where_no_key_can_be_made_there_is_none_and_one_sentence_says_so(
    managed_world: Any,
) -> None:
    world = with_tls(managed_world, None)
    plan = plan_of(world, {name: world.fresh(name) for name in HOSTS})
    assert insists(plan, FRONT, Phase.CONSUL) is None
    assert not any(action is Action.CERTIFY_CONSUL for _, action in steps(plan, FRONT))
    (warning,) = plan.warnings
    assert "needs a signer" in warning


def test_without_signers_any_more_agents_first_insist_no_more(managed_world: Any) -> None:
    world = with_tls(managed_world, None)
    plan = plan_of(world, deployed(world, Mode.ENFORCED))
    for host, phase in ((FRONT, Phase.CONSUL), (BACK, Phase.AGENT)):
        assert insists(plan, host, phase) is False
    plan = plan_of(world, deployed(world, Mode.OFFERED))
    for host, phase in ((FRONT, Phase.CONSUL), (BACK, Phase.AGENT)):
        assert insists(plan, host, phase) is None
        assert Phase.ENFORCE not in [phase for phase, _ in steps(plan, host)]
