"""Signers in a plan: what is found on the control hosts, and which steps follow from it."""

from dataclasses import replace
from typing import Any

import msgspec.structs
import pytest

from meshctl import artifacts
from meshctl.errors import Unreachable
from meshctl.facts.model import HostFacts, SignerFact, SignerKeys
from meshctl.layout import SIGNER_UNIT
from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.plan import model
from meshctl.plan.build import build
from meshctl.plan.model import Action, Phase, Plan, Step, Verdict
from proxy.model.names import HostName, ServiceName

FIRST = [
    Action.PREPARE,
    Action.PUSH_WHEELS,
    Action.INSTALL_RELEASE,
    Action.CERTIFY_SIGNER,
    Action.START_SIGNER,
]
TWO = """\
version: 1
consul: {mode: existing}
hosts:
  - {name: ctl, address: 10.0.0.1, roles: [control]}
  - name: front
    address: 10.0.0.2
    roles: [control, workload]
    services: [{name: web, port: 8080}]
"""


def plan_of(
    world: Any,
    facts: dict[str, HostFacts],
    *,
    limit: tuple[str, ...] = (),
    failures: dict[str, Unreachable] | None = None,
) -> Plan:
    return build(
        world.desired,
        {HostName(name): fact for name, fact in facts.items()},
        failures=failures or {},  # type: ignore[arg-type]
        findings={},
        limit=[HostName(name) for name in limit],
    )


def steps_of(plan: Plan, host: str) -> tuple[Step, ...]:
    return next(entry.steps for entry in plan.hosts if entry.host == host)


def actions(plan: Plan, host: str) -> list[Action]:
    return [step.action for step in steps_of(plan, host)]


def deployed(world: Any, **changed: HostFacts) -> dict[str, HostFacts]:
    return {host.name: world.deployed(host.name) for host in world.inventory.hosts} | changed


def with_certificate(world: Any, facts: HostFacts, **changes: Any) -> HostFacts:
    """The signer in force, and on the disk, with another certificate."""
    running = world.signing("front", **changes).running
    return replace(facts, signer=running, signer_keys=SignerKeys(signer=running.signer))


def test_a_first_deploy_brings_the_signer_up_before_consul_and_the_proxy(signed_world: Any) -> None:
    plan = plan_of(signed_world, {name: signed_world.fresh(name) for name in ("front", "back")})
    steps = steps_of(plan, "front")
    assert [step.action for step in steps if step.phase is Phase.SIGNER] == FIRST
    assert [step.phase for step in steps] == sorted(step.phase for step in steps)
    assert not [step for step in steps_of(plan, "back") if step.phase is Phase.SIGNER]


def test_a_wheel_that_proxy_and_signer_share_is_pushed_once(signed_world: Any) -> None:
    plan = plan_of(signed_world, {name: signed_world.fresh(name) for name in ("front", "back")})
    pushed = [
        wheel.name
        for step in steps_of(plan, "front")
        if isinstance(step.payload, model.PushWheels)
        for wheel in step.payload.wheels
    ]
    assert len(pushed) == len(set(pushed))
    assert "pip-26.0-py3-none-any.whl" in pushed


def test_a_signer_as_it_should_be_needs_no_step(signed_world: Any) -> None:
    plan = plan_of(signed_world, deployed(signed_world))
    assert [step for entry in plan.hosts for step in entry.steps] == []
    assert plan.warnings == ()


def test_two_signers_are_certified_each_for_itself_also_without_a_proxy(world_of: Any) -> None:
    world = world_of(TWO)
    plan = plan_of(world, {name: world.fresh(name) for name in ("ctl", "front")})
    assert actions(plan, "ctl") == FIRST
    assert actions(plan, "front")[: len(FIRST)] == FIRST
    assert [entry.verdict for entry in plan.hosts] == [Verdict.INSTALL, Verdict.INSTALL]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"issuer_key_id": "00" * 20}, "another root certified it"),
        ({"trust_domain": "other.test"}, "its certificate is of the mesh other.test"),
        ({"not_after": "2026-07-01T00:00:00Z"}, "its certificate ends on 2026-07-01T00:00:00Z"),
        ({"not_after": "2026-06-01T00:00:00Z"}, "its certificate ended on 2026-06-01T00:00:00Z"),
    ],
)
def test_a_certificate_that_is_not_good_is_replaced(
    signed_world: Any, change: dict[str, str], why: str
) -> None:
    facts = with_certificate(signed_world, signed_world.deployed("front"), **change)
    (step,) = steps_of(plan_of(signed_world, deployed(signed_world, front=facts)), "front")
    assert (step.action, step.why) == (Action.CERTIFY_SIGNER, why)


def test_a_certificate_with_a_third_of_its_life_left_stays(signed_world: Any) -> None:
    facts = with_certificate(
        signed_world, signed_world.deployed("front"), not_after="2026-09-15T00:00:00Z"
    )
    assert steps_of(plan_of(signed_world, deployed(signed_world, front=facts)), "front") == ()


def test_a_signer_without_a_key_is_certified_and_its_reason_told(signed_world: Any) -> None:
    facts = replace(
        signed_world.deployed("front"), signer_keys=SignerKeys(error="key.pem is cut off")
    )
    (step,) = steps_of(plan_of(signed_world, deployed(signed_world, front=facts)), "front")
    assert step.why == "its certificate cannot be used: key.pem is cut off"


def test_who_is_new_and_who_is_gone_is_told_before_any_leaf_is_issued(signed_world: Any) -> None:
    before = DeployRecord(
        hosts={
            HostName("front"): HostRecord(services=(ServiceName("web"),)),
            HostName("back"): HostRecord(services=(ServiceName("api"), ServiceName("old"))),
        }
    )
    world = signed_world.with_(before=before)
    old = {name: world.deployed(name) for name in ("front", "back")}
    plan = plan_of(world, old)
    (step,) = steps_of(plan, "front")
    assert (step.action, step.phase) == (Action.RELOAD_SIGNER, Phase.SIGNER)
    assert step.why == "users on back is new, old on back is renewed no more"
    payload = step.payload
    assert isinstance(payload, model.RunSigner)
    assert [file.path for file in payload.files] == ["/etc/meshctl/signer/record.json"]
    assert payload.record_digest == artifacts.signer_digest(payload.files[0].content)
    assert plan.record.hosts[HostName("back")].services == ("api", "users")


def test_a_signer_outside_the_limit_is_told_and_nothing_else(signed_world: Any) -> None:
    world = signed_world.with_(before=DeployRecord())
    facts = {
        "front": replace(world.deployed("front"), signer_keys=SignerKeys()),
        "back": world.fresh("back"),
    }
    plan = plan_of(world, facts, limit=("back",))
    (step,) = steps_of(plan, "front")
    assert step.action is Action.RELOAD_SIGNER
    assert step.why == "api on back is new, users on back is new"
    assert plan.hosts[0].verdict is Verdict.SKIPPED
    assert plan.record.hosts.keys() == {"back"}  # nothing was deployed to front by this


def test_a_signer_outside_the_limit_that_knows_all_is_left_alone(signed_world: Any) -> None:
    plan = plan_of(signed_world, deployed(signed_world), limit=("back",))
    assert steps_of(plan, "front") == ()


@pytest.mark.parametrize("limit", [(), ("back",)])
def test_a_signer_that_cannot_be_told_is_a_warning_with_its_consequence(
    signed_world: Any, limit: tuple[str, ...]
) -> None:
    world = signed_world.with_(before=DeployRecord())
    plan = plan_of(
        world,
        {"back": world.fresh("back")},
        limit=limit,
        failures={"front": Unreachable("front does not answer")},
    )
    (warning,) = plan.warnings
    assert "front does not answer" in warning
    assert "goes on renewing those that were removed" in warning
    assert "meshctl deploy --limit front" in warning


def test_nothing_is_said_of_a_signer_out_of_reach_that_has_nothing_to_be_told(
    signed_world: Any,
) -> None:
    plan = plan_of(
        signed_world,
        {"back": signed_world.deployed("back")},
        limit=("back",),
        failures={"front": Unreachable("front does not answer")},
    )
    assert plan.warnings == ()


@pytest.mark.parametrize("text", ["{signer: none}", "role"])
def test_a_host_that_is_no_signer_any_more_loses_it_and_its_key(
    signed_world: Any, world_of: Any, text: str
) -> None:
    front = signed_world.deployed("front")
    source = "version: 1\nconsul: {mode: existing}\n"
    roles = ""
    if text != "role":
        source += f"certificates: {text}\n"
        roles = "    roles: [control, workload]\n"
    world = world_of(
        source + "hosts:\n  - name: front\n    address: 10.0.0.1\n" + roles
        + "    services: [{name: web, port: 8080}]\n"
    )  # fmt: skip
    steps = steps_of(plan_of(world, {"front": front}), "front")
    assert steps[0].action is Action.REMOVE_SIGNER
    assert steps[-1].action is Action.PRUNE
    signer = signed_world.desired.signer_bundles["front"]
    assert signer.digest in steps[-1].details
    assert "meshctl_signer-0.1.0-py3-none-any.whl" in steps[-1].details
    assert "pip-26.0-py3-none-any.whl" not in steps[-1].details  # the proxy's as well


def test_a_leaf_of_a_removed_signer_is_issued_anew(signed_world: Any, make_identity: Any) -> None:
    leaf = msgspec.structs.replace(make_identity("web"), chain=("cd" * 32, "5a" * 32))
    facts = signed_world.deployed("front", identities=(leaf,))
    assert steps_of(plan_of(signed_world, deployed(signed_world, front=facts)), "front") == ()
    removed = signed_world.with_(signers=frozenset())
    (issue, _) = steps_of(plan_of(removed, deployed(removed, front=facts)), "front")
    assert issue.why == "another CA issued the one on the host"


@pytest.mark.parametrize(
    ("end", "is_issued"),
    [("2026-06-15T13:00:00Z", True), ("2026-06-15T16:00:00Z", False)],
)
def test_a_deploy_leaves_to_the_proxy_what_it_is_about_to_renew(
    signed_world: Any, make_identity: Any, end: str, is_issued: bool
) -> None:
    """A life of 24 h: one hour left is below a tenth of it, four hours are not."""
    begin = "2026-06-14T13:00:00Z" if is_issued else "2026-06-14T16:00:00Z"
    leaf = make_identity("web", not_before=begin, not_after=end)
    facts = signed_world.deployed("front", identities=(leaf,))
    found = actions(plan_of(signed_world, deployed(signed_world, front=facts)), "front")
    assert (Action.ISSUE_LEAF in found) is is_issued


@pytest.mark.parametrize(
    ("field", "value", "action", "why"),
    [
        ("release", "0" * 16, Action.RESTART_SIGNER, "it still runs release 0000000000000000"),
        ("bundle_digest", "00", Action.RELOAD_SIGNER, "the trust bundle changed"),
        (
            "record_digest",
            "00",
            Action.RELOAD_SIGNER,
            "what it knows of who may have identities is not what was deployed",
        ),
    ],
)
def test_what_a_signer_has_in_force_counts_not_what_is_on_its_disk(
    signed_world: Any, field: str, value: str, action: Action, why: str
) -> None:
    facts = signed_world.deployed("front")
    running = msgspec.structs.replace(facts.signer, **{field: value})
    plan = plan_of(signed_world, deployed(signed_world, front=replace(facts, signer=running)))
    (step,) = steps_of(plan, "front")
    assert (step.action, step.why) == (action, why)


def test_a_certificate_that_was_not_taken_is_taken_by_a_reload(signed_world: Any) -> None:
    facts = signed_world.deployed("front")
    newer = msgspec.structs.replace(facts.signer.signer, serial="99")
    facts = replace(facts, signer_keys=SignerKeys(signer=newer))
    (step,) = steps_of(plan_of(signed_world, deployed(signed_world, front=facts)), "front")
    assert (step.action, step.why) == (Action.RELOAD_SIGNER, "it still uses an older certificate")


def test_a_signer_that_ended_is_started(signed_world: Any, make_unit: Any) -> None:
    facts = signed_world.deployed("front")
    units = {**facts.seen.units, SIGNER_UNIT: make_unit(active="failed", sub="failed", pid=0)}
    facts = replace(signed_world.deployed("front", units=units), signer=None)
    (step,) = steps_of(plan_of(signed_world, deployed(signed_world, front=facts)), "front")
    assert (step.action, step.why) == (Action.START_SIGNER, "it is failed (failed)")


def test_settings_take_a_restart_and_files_in_other_hands_are_written_again(
    signed_world: Any,
) -> None:
    facts = signed_world.deployed("front")
    path = "/etc/meshctl/signer/signer.json"
    open_to_all = msgspec.structs.replace(facts.seen.paths[path], mode=0o644)
    facts = signed_world.deployed("front", paths={**facts.seen.paths, path: open_to_all})
    (step,) = steps_of(plan_of(signed_world, deployed(signed_world, front=facts)), "front")
    assert (step.action, step.why) == (Action.RESTART_SIGNER, "its settings changed")
    assert path in step.details


def test_a_new_release_keeps_no_old_one_of_the_signer(signed_world: Any, make_bundle: Any) -> None:
    old = signed_world.desired.signer_bundles["front"]
    world = signed_world.with_(signer_bundles={HostName("front"): make_bundle("newer-2.whl")})
    steps = steps_of(plan_of(world, deployed(signed_world)), "front")
    assert [step.action for step in steps] == [
        Action.PUSH_WHEELS,
        Action.INSTALL_RELEASE,
        Action.RESTART_SIGNER,
        Action.PRUNE,
    ]
    assert steps[2].precondition == f"signer -> {old.digest}"
    assert old.digest in steps[-1].details


def test_a_signer_that_is_only_a_trace_is_removed_too(world: Any) -> None:
    facts = world.deployed("front", signer=SignerFact(is_there=True))
    (step,) = steps_of(plan_of(world, deployed(world, front=facts)), "front")
    assert step.action is Action.REMOVE_SIGNER


def test_a_leaf_for_a_day_is_issued_anew_once_nobody_renews_it(
    world: Any, make_identity: Any
) -> None:
    leaf = make_identity("web", not_before="2026-06-15T11:00:00Z", not_after="2026-06-16T11:00:00Z")
    facts = world.deployed("front", identities=(leaf,))
    issue = steps_of(plan_of(world, deployed(world, front=facts)), "front")[0]
    assert issue.action is Action.ISSUE_LEAF
    assert "is of a time when signers renewed it" in issue.why


@pytest.mark.parametrize(("names", "says"), [("", "it names no host"), ("back", "it names back")])
def test_a_leaf_that_no_signer_would_renew_is_issued_anew(
    signed_world: Any, make_identity: Any, names: str, says: str
) -> None:
    facts = signed_world.deployed("front", identities=(make_identity("web", names),))
    issue = steps_of(plan_of(signed_world, deployed(signed_world, front=facts)), "front")[0]
    assert issue.action is Action.ISSUE_LEAF
    assert says in issue.why


def test_without_signers_a_leaf_may_be_of_a_time_when_none_named_its_host(
    world: Any, make_identity: Any
) -> None:
    facts = world.deployed("front", identities=(make_identity("web", ""),))
    assert steps_of(plan_of(world, deployed(world, front=facts)), "front") == ()
