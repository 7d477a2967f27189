"""A deploy in the middle of a root's rotation goes along with it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meshctl.facts.request import layout_of
from meshctl.pki import successor
from meshctl.pki.authority import pem
from meshctl.pki.store import CaStore
from meshctl.plan.model import Action


def never() -> Any:
    raise AssertionError("the keys of this CA are not encrypted")


def actions(plan: Any) -> list[Action]:
    return [step.action for step in plan.hosts[0].steps]


def trusted(lab: Any) -> bytes:
    bundle: bytes = (
        Path(layout_of(lab.inventory.hosts[0]).current) / "trust-bundle.pem"
    ).read_bytes()
    return bundle


async def test_before_the_switch_it_gives_both_roots_and_issues_nothing(lab: Any) -> None:
    await lab.deploy()
    (pid,) = lab.pids()
    new = successor.prepare(lab.ca, never, datetime.now(UTC))
    lab.ca = lab.ca.with_trust_bundle(lab.ca.root, new)
    plan = await lab.plan()
    assert actions(plan) == [Action.RELOAD]
    assert (await lab.deploy()).is_good
    assert trusted(lab) == pem(lab.ca.root, new)
    assert (await lab.plan()).is_empty
    assert lab.pids() == [pid]


async def test_a_host_that_missed_the_distribution_gets_roots_before_leaves(lab: Any) -> None:
    """It was out of the inventory meanwhile, or down during a rescue."""
    await lab.deploy()
    old = lab.ca.root
    new = successor.prepare(lab.ca, never, datetime.now(UTC))
    lab.ca.with_trust_bundle(old, new)
    lab.ca = successor.switch(lab.state)
    assert lab.ca == CaStore.open(lab.state)
    plan = await lab.plan()
    assert actions(plan) == [Action.WRITE_CONFIG, Action.ISSUE_LEAF, Action.RELOAD]
    assert (await lab.deploy()).is_good
    assert trusted(lab) == pem(old, new)
    assert (await lab.plan()).is_empty


async def test_after_the_retirement_it_gives_the_new_root_alone(lab: Any) -> None:
    await lab.deploy()
    new = successor.prepare(lab.ca, never, datetime.now(UTC))
    lab.ca.with_trust_bundle(lab.ca.root, new)
    lab.ca = successor.switch(lab.state)
    assert (await lab.deploy()).is_good
    lab.ca = successor.retire(lab.ca)
    assert actions(await lab.plan()) == [Action.RELOAD]
    assert (await lab.deploy()).is_good
    assert trusted(lab) == pem(new)
