"""Plans as tables: what the facts are, and which steps follow from them."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshctl.artifacts import POLICY_KEYS_FILE, TRUST_BUNDLE_FILE
from meshctl.errors import Unreachable
from meshctl.facts.model import ConfigDirectory, ConsulFact, HostFacts, RunningProxy, WheelFile
from meshctl.facts.preflight import Code, Finding
from meshctl.layout import PROXY_UNIT
from meshctl.pki.policykey import PolicyKey
from meshctl.plan.build import build
from meshctl.plan.document import to_document
from meshctl.plan.model import Action, Phase, Plan, Verdict
from proxy.model.codec import decode
from proxy.model.names import HostName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Snapshot, Timeouts
from proxy.model.policy_keys import PolicyKeys
from proxy.model.signed import Kind
from proxy.model.snapshot import pack

GOLDEN = Path(__file__).parents[2] / "golden"
FIRST = [
    Action.PREPARE,
    Action.PUSH_WHEELS,
    Action.INSTALL_RELEASE,
    Action.WRITE_CONFIG,
    Action.ISSUE_LEAF,
    Action.ACTIVATE,
]


def plan_of(world: Any, **facts: HostFacts) -> Plan:
    return build(
        world.desired,
        {HostName(name): fact for name, fact in facts.items()},
        failures={},
        findings={},
    )


def actions(plan: Plan, host: str) -> list[Action]:
    return [step.action for entry in plan.hosts if entry.host == host for step in entry.steps]


def reasons(plan: Plan, host: str) -> list[str]:
    return [step.why for entry in plan.hosts if entry.host == host for step in entry.steps]


def everything(world: Any, **changed: HostFacts) -> dict[str, HostFacts]:
    return {"front": world.deployed("front"), "back": world.deployed("back"), **changed}


def test_a_mesh_as_it_should_be_needs_no_step(world: Any) -> None:
    plan = plan_of(world, **everything(world))
    assert plan.is_empty
    assert not plan.has_obstacles
    assert plan.push_bytes == 0
    assert plan.summary == "0 to install, 0 to change, 2 unchanged"


def test_a_managed_mesh_as_it_should_be_needs_no_step(managed_world: Any) -> None:
    assert plan_of(managed_world, **everything(managed_world)).is_empty


def test_a_first_deploy_installs_everything_in_order(world: Any) -> None:
    plan = plan_of(world, front=world.fresh("front"), back=world.fresh("back"))
    assert actions(plan, "front") == FIRST
    assert actions(plan, "back") == [*FIRST[:4], Action.ISSUE_LEAF, Action.ISSUE_LEAF, FIRST[5]]
    assert [step.action for step in plan.after] == [Action.PUBLISH]
    assert plan.summary == "2 to install, 0 to change, 0 unchanged"
    assert plan.push_bytes > 4000
    assert plan.hosts[0].steps[-1].precondition == "current does not exist"


def test_a_managed_consul_comes_in_a_phase_before_the_proxies(managed_world: Any) -> None:
    world = managed_world
    plan = plan_of(world, front=world.fresh("front"), back=world.fresh("back"))
    start = [Action.PREPARE, Action.PUSH_CONSUL, Action.WRITE_CONSUL, Action.START_CONSUL]
    by_phase = [
        {
            phase: [step.action for step in host.steps if step.phase is phase]
            for phase in (Phase.CONSUL, Phase.AGENT)
        }
        for host in plan.hosts
    ]
    assert by_phase == [
        {Phase.CONSUL: start, Phase.AGENT: [Action.WRITE_CONSUL]},
        {Phase.CONSUL: [], Phase.AGENT: [*start, Action.WRITE_CONSUL]},
    ]
    for host in plan.hosts:
        phases = [step.phase for step in host.steps]
        assert phases == sorted(phases)
    titles = [step.title for host in plan.hosts for step in host.steps]
    assert "start Consul as a server" in titles
    assert "start Consul as a client" in titles


def test_the_plan_shows_no_secret(managed_world: Any) -> None:
    world = managed_world
    plan = plan_of(world, front=world.fresh("front"), back=world.fresh("back"))
    shown = msgspec.json.encode(to_document(plan)).decode()
    acl = world.desired.consul.acl
    secrets = [token.secret for host in acl.hosts.values() for token in (host.agent, host.proxy)]
    for text in (shown, repr(plan)):
        assert "c2VjcmV0" not in text
        assert not any(secret in text for secret in (*secrets, acl.operator.secret))
    assert "content not shown" in shown


def test_only_wheels_that_are_missing_or_damaged_are_pushed(world: Any) -> None:
    bundle = world.desired.bundles["front"]
    good, damaged = bundle.wheels
    facts = world.fresh(
        "front",
        wheels={
            good.name: WheelFile(size=good.size, sha256=good.sha256),
            damaged.name: WheelFile(size=damaged.size, sha256="00" * 32),
        },
    )
    plan = plan_of(world, **everything(world, front=facts))
    (push,) = [step for step in plan.hosts[0].steps if step.action is Action.PUSH_WHEELS]
    assert push.details == (damaged.name,)
    assert push.push_bytes == damaged.size


def test_an_incomplete_release_is_installed_again(world: Any) -> None:
    digest = world.desired.bundles["front"].digest
    facts = world.deployed("front", releases={digest: False})
    plan = plan_of(world, **everything(world, front=facts))
    assert actions(plan, "front") == [Action.INSTALL_RELEASE]


def test_a_new_release_switches_and_keeps_the_one_before(world: Any, make_bundle: Any) -> None:
    newer = world.with_(bundles=dict.fromkeys(("front", "back"), make_bundle("new-1.whl")))
    old = world.deployed("front")
    plan = plan_of(newer, **everything(newer, front=old))
    assert actions(plan, "front") == [
        Action.PUSH_WHEELS,
        Action.INSTALL_RELEASE,
        Action.WRITE_CONFIG,
        Action.ACTIVATE,
        Action.PRUNE,
    ]
    activate, prune = plan.hosts[0].steps[-2:]
    assert activate.precondition == f"current -> {old.seen.current}"
    assert activate.why == "the release changed"
    assert set(prune.details) == set(old.seen.wheels)  # the release that ran stays


def test_what_neither_runs_nor_ran_before_is_removed(world: Any) -> None:
    facts = world.deployed("front")
    stale = ConfigDirectory(files={}, release="dead")
    facts = world.deployed(
        "front",
        configs={**facts.seen.configs, "c0ffee": stale, "beef": stale},
        releases={**facts.seen.releases, "dead": True, "gone": False, ".install.lock": False},
        previous="beef",
    )
    plan = plan_of(world, **everything(world, front=facts))
    (step,) = plan.hosts[0].steps
    assert step.action is Action.PRUNE
    assert step.details == ("c0ffee", "gone")


@pytest.mark.parametrize(
    ("changes", "action", "why"),
    [
        ({"active": "failed", "sub": "failed"}, Action.START, "it is failed (failed)"),
        ({"load": "not-found", "active": "inactive"}, Action.START, "it is not running"),
        ({"enabled": "disabled"}, Action.RESTART, "its unit is not enabled at boot"),
        ({"needs_reload": True}, Action.RESTART, "its unit changed"),
    ],
)
def test_a_unit_in_another_state_is_brought_up(
    world: Any, make_unit: Any, changes: dict[str, Any], action: Action, why: str
) -> None:
    facts = world.deployed("front", units={PROXY_UNIT: make_unit(**changes)})
    plan = plan_of(world, **everything(world, front=facts))
    assert actions(plan, "front") == [action]
    assert reasons(plan, "front") == [why]


def test_a_unit_file_changed_by_hand_is_written_again(world: Any) -> None:
    facts = world.deployed("front")
    path = f"/etc/systemd/system/{PROXY_UNIT}"
    edited = msgspec.structs.replace(facts.seen.paths[path], sha256="00" * 32)
    facts = world.deployed("front", paths={**facts.seen.paths, path: edited})
    plan = plan_of(world, **everything(world, front=facts))
    (step,) = plan.hosts[0].steps
    assert step.action is Action.RESTART
    assert f"unit {path}" in step.details


@pytest.mark.parametrize(
    ("running", "why"),
    [
        (None, "it does not answer on its admin port"),
        ({"config": "old"}, "it still runs configuration old"),
        ({"release": "old"}, "it still runs configuration"),
        ({"state": "draining"}, "it is draining"),
    ],
)
def test_a_proxy_that_runs_something_else_is_restarted(
    world: Any, running: dict[str, Any] | None, why: str
) -> None:
    facts = world.deployed("front")
    proxy: RunningProxy | None = None
    if running is not None:
        proxy = msgspec.structs.replace(facts.proxy, **running)
    facts = HostFacts(seen=facts.seen, clock_offset_s=0, proxy=proxy)
    plan = plan_of(world, **everything(world, front=facts))
    assert actions(plan, "front") == [Action.RESTART]
    assert reasons(plan, "front")[0].startswith(why)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"not_after": "2026-06-15T11:59:59Z"}, "the one on the host expired"),
        ({"not_before": "2026-06-15T13:00:00Z"}, "the one on the host is not valid before"),
        ({"not_before": "2026-06-01T00:00:00Z", "not_after": "2026-06-20T00:00:00Z"},
         "the one on the host expires at"),
        ({"spiffe_id": "spiffe://mesh.test/svc/other"}, "the one on the host is for"),
    ],
)  # fmt: skip
def test_a_leaf_that_is_not_good_is_issued_again_and_reloaded(
    world: Any, make_identity: Any, changes: dict[str, str], why: str
) -> None:
    facts = world.deployed("front", identities=(make_identity("web", **changes),))
    plan = plan_of(world, **everything(world, front=facts))
    assert actions(plan, "front") == [Action.ISSUE_LEAF, Action.RELOAD]
    assert reasons(plan, "front")[0].startswith(why)


def test_a_leaf_of_another_ca_is_issued_again(world: Any) -> None:
    other = world.with_(issuer="ff" * 32)
    plan = plan_of(other, **everything(world))
    assert actions(plan, "front") == [Action.ISSUE_LEAF, Action.RELOAD]
    assert reasons(plan, "front")[0] == "another CA issued the one on the host"


def test_a_leaf_of_a_service_that_moved_away_is_removed(world: Any, make_identity: Any) -> None:
    facts = world.deployed("front", identities=(make_identity("web"), make_identity("users")))
    plan = plan_of(world, **everything(world, front=facts))
    assert actions(plan, "front") == [Action.REMOVE_LEAF, Action.RELOAD]


def test_a_leaf_on_disk_that_is_not_in_force_is_reloaded(world: Any, make_identity: Any) -> None:
    facts = world.deployed("front", identities=(make_identity("web", serial="beef"),))
    plan = plan_of(world, **everything(world, front=facts))
    assert actions(plan, "front") == [Action.RELOAD]
    assert reasons(plan, "front") == ["it still uses an older identity of web"]


def test_a_new_trust_bundle_alone_is_written_by_a_reload(world: Any) -> None:
    rotated = world.with_(trust_bundle=b"two roots")
    plan = plan_of(rotated, **everything(world))
    (step,) = plan.hosts[0].steps
    assert step.action is Action.RELOAD
    assert step.why == "the trust bundle changed"
    assert [file.path.rpartition("/")[2] for file in step.payload.files] == [TRUST_BUNDLE_FILE]  # type: ignore[union-attr]


def test_directories_of_another_mode_are_corrected(world: Any) -> None:
    facts = world.deployed("front")
    state = "/var/lib/meshctl"
    open_ = msgspec.structs.replace(facts.seen.paths[state], mode=0o755)
    facts = world.deployed("front", paths={**facts.seen.paths, state: open_})
    plan = plan_of(world, **everything(world, front=facts))
    assert actions(plan, "front") == [Action.PREPARE]
    assert plan.hosts[0].steps[0].details == (f"{state} 0700 meshctl",)


def test_a_changed_policy_is_published_and_touches_no_host(world: Any) -> None:
    policy = Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=3)))
    plan = plan_of(world.with_(policy=policy), **everything(world))
    assert [step.action for step in plan.after] == [Action.PUBLISH]
    assert plan.after[0].why == "generation 3 says something else"
    assert plan.count(Verdict.UNCHANGED) == 2


def test_the_newest_snapshot_that_a_host_knows_decides(world: Any) -> None:
    old = Snapshot(
        generation=2,
        trust_domain=world.desired.trust_domain,
        policy=Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=3))),
    )
    behind = world.deployed(
        "back", consul=ConsulFact(is_answering=True, leader="x", snapshot=world.signed(old))
    )
    assert plan_of(world, **everything(world, back=behind)).is_empty


@pytest.mark.parametrize(
    ("is_known", "why"),
    [(True, "none is published yet"), (False, "what is published could not be read")],
)
def test_a_policy_that_cannot_be_read_is_not_called_absent(
    world: Any, is_known: bool, why: str
) -> None:
    fact = ConsulFact(is_answering=True, is_snapshot_known=is_known)
    plan = plan_of(
        world, front=world.deployed("front", consul=fact), back=world.deployed("back", consul=fact)
    )
    assert plan.after[0].why == why


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (b"", "none is published yet"),
        (b"{", "what is published is not signed by this mesh"),
        (
            pack(Snapshot(generation=3, trust_domain=TrustDomain("mesh.test"), policy=Policy())),
            "what is published is not signed by this mesh",
        ),
        (
            PolicyKey.generate().seal(
                Kind.POLICY,
                pack(
                    Snapshot(generation=3, trust_domain=TrustDomain("mesh.test"), policy=Policy())
                ),
            ),
            "what is published is not signed by this mesh",
        ),
    ],
)
def test_what_is_no_snapshot_of_this_mesh_is_published_over(
    world: Any, snapshot: bytes, why: str
) -> None:
    fact = ConsulFact(is_answering=True, leader="x", is_snapshot_known=True, snapshot=snapshot)
    plan = plan_of(
        world, front=world.deployed("front", consul=fact), back=world.deployed("back", consul=fact)
    )
    assert [step.action for step in plan.after] == [Action.PUBLISH]
    assert plan.after[0].why == why


def test_an_old_policy_that_consul_was_given_back_is_published_over(world: Any) -> None:
    """It may be the strict one that is wanted again, while proxies run what came after it."""
    plan = plan_of(world.with_(generation=5), **everything(world))
    (step,) = plan.after
    assert step.why == "Consul has generation 3, older than 5, which was published from here"


def test_policy_keys_are_written_once_and_stay_through_later_publications(world: Any) -> None:
    late = world.with_(generation=3)
    facts = everything(late)
    assert plan_of(late, **facts).is_empty
    first = decode(late.deployed("front").seen.policy_keys, PolicyKeys)
    assert first.minimum_generation == 3
    assert plan_of(late.with_(generation=3), **everything(world)).is_empty, "written at 0"


def test_other_policy_keys_are_written_by_a_reload(world: Any) -> None:
    rotated = world.with_(policy_key=PolicyKey.generate().public)
    plan = plan_of(rotated, **everything(world))
    (step,) = plan.hosts[0].steps
    assert step.action is Action.RELOAD
    assert step.why == "the policy keys changed"
    assert [file.path.rpartition("/")[2] for file in step.payload.files] == [POLICY_KEYS_FILE]  # type: ignore[union-attr]


def test_a_new_root_and_new_policy_keys_take_one_reload(world: Any) -> None:
    rotated = world.with_(policy_key=PolicyKey.generate().public, trust_bundle=b"two roots")
    plan = plan_of(rotated, **everything(world))
    (step,) = plan.hosts[0].steps
    assert step.why == "the trust bundle and the policy keys changed"


def test_a_proxy_that_does_not_believe_the_key_on_its_disk_is_reloaded(world: Any) -> None:
    facts = world.deployed("front")
    assert facts.proxy is not None
    deaf = replace(facts, proxy=msgspec.structs.replace(facts.proxy, policy_keys=()))
    plan = plan_of(world, **everything(world, front=deaf))
    assert reasons(plan, "front") == ["it does not believe the mesh's policy key yet"]


def test_a_host_whose_policy_keys_are_damaged_gets_them_anew(world: Any) -> None:
    facts = world.deployed("front", policy_keys=b"{")
    configs = {
        name: msgspec.structs.replace(found, files={**found.files, POLICY_KEYS_FILE: "00"})
        for name, found in facts.seen.configs.items()
    }
    broken = world.deployed("front", policy_keys=b"{", configs=configs)
    assert actions(plan_of(world, **everything(world, front=broken)), "front") == [Action.RELOAD]


def test_an_embedded_registry_that_does_not_answer_is_started_first(world_of: Any) -> None:
    world = world_of(
        """\
version: 1
consul: {mode: embedded, address: "http://127.0.0.1:18500"}
hosts:
  - name: front
    address: 127.0.0.1
    transport: local
    root: /demo/front
    services: [{name: web, port: 8080}]
"""
    )
    down = ConsulFact()
    plan = plan_of(world, front=world.deployed("front", consul=down))
    assert [step.action for step in plan.before] == [Action.START_REGISTRY]
    assert plan_of(world, front=world.deployed("front")).is_empty


def test_a_local_host_has_neither_users_nor_units(world_of: Any) -> None:
    world = world_of(
        """\
version: 1
consul: {mode: embedded, address: "http://127.0.0.1:18500"}
hosts:
  - name: front
    address: 127.0.0.1
    transport: local
    root: /demo/front
    services: [{name: web, port: 8080}]
"""
    )
    plan = plan_of(world, front=world.fresh("front"))
    document = str(to_document(plan))
    assert "user meshctl" not in document
    assert "systemd" not in document


def test_a_host_with_a_finding_is_blocked_alone(world: Any) -> None:
    plan = plan_of(world, front=world.fresh("front", machine="riscv64"), back=world.fresh("back"))
    assert [host.verdict for host in plan.hosts] == [Verdict.BLOCKED, Verdict.INSTALL]
    assert plan.hosts[0].steps == ()
    assert plan.has_obstacles
    assert "1 blocked" in plan.summary


def test_a_host_without_wheels_is_blocked_alone(world: Any) -> None:
    finding = Finding(code=Code.BUNDLE, message="no wheel", fix="a network")
    plan = build(
        world.desired,
        {"front": world.fresh("front"), "back": world.fresh("back")},  # type: ignore[dict-item]
        failures={},
        findings={HostName("front"): (finding,)},
    )
    assert [host.verdict for host in plan.hosts] == [Verdict.BLOCKED, Verdict.INSTALL]


def test_an_unreachable_host_is_left_out_with_its_reason(world: Any) -> None:
    plan = build(
        world.desired,
        {HostName("back"): world.deployed("back")},
        failures={HostName("front"): Unreachable("front is away", hint="look")},
        findings={},
    )
    front = plan.hosts[0]
    assert (front.verdict, front.error, front.hint) == (
        Verdict.UNREACHABLE, "front is away", "look"
    )  # fmt: skip
    assert front.exit_code == 4


def test_a_limit_skips_the_others(world: Any) -> None:
    plan = build(
        world.desired,
        {HostName("back"): world.fresh("back")},
        failures={},
        findings={},
        limit={HostName("back")},
    )
    assert [host.verdict for host in plan.hosts] == [Verdict.SKIPPED, Verdict.INSTALL]
    assert not plan.has_obstacles


def test_a_running_consul_server_is_restarted_when_its_configuration_changes(
    managed_world: Any,
) -> None:
    world = managed_world
    facts = world.deployed("front")
    path = "/etc/meshctl/consul.json"
    edited = msgspec.structs.replace(facts.seen.paths[path], sha256="00" * 32)
    facts = world.deployed("front", paths={**facts.seen.paths, path: edited})
    plan = plan_of(world, **everything(world, front=facts))
    assert actions(plan, "front") == [Action.WRITE_CONSUL, Action.START_CONSUL]
    payload = plan.hosts[0].steps[-1].payload
    assert payload.is_restart  # type: ignore[union-attr]
    assert payload.is_server  # type: ignore[union-attr]


def test_a_consul_binary_that_nothing_runs_is_removed(managed_world: Any) -> None:
    world = managed_world
    now = world.desired.consul.sha256
    facts = world.deployed("front", consul_binaries=(now, "0" * 64))
    plan = plan_of(world, **everything(world, front=facts))
    (step,) = plan.hosts[0].steps
    assert (step.action, step.details) == (Action.PRUNE, ("0" * 64,))


def test_the_document_of_a_first_deploy_is_the_golden_one(managed_world: Any) -> None:
    world = managed_world
    plan = plan_of(world, front=world.fresh("front"), back=world.fresh("back"))
    text = msgspec.json.format(msgspec.json.encode(to_document(plan), order="sorted"), indent=2)
    path = GOLDEN / "plan-first-deploy.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_bytes(text + b"\n")
    assert text + b"\n" == path.read_bytes()


def test_equal_input_gives_an_equal_plan(world: Any) -> None:
    facts = {"front": world.fresh("front"), "back": world.fresh("back")}
    assert plan_of(world, **facts) == plan_of(world, **facts)
