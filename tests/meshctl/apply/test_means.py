"""Which identities each host may have, and whose restarts wait for each other."""

import asyncio
from typing import Any

from meshctl.apply.means import Means, left_behind, planned_record
from meshctl.plan.model import HostPlan, Plan, Verdict
from meshctl.state import DeployRecord, HostRecord


def record(**hosts: tuple[str, ...]) -> DeployRecord:
    return DeployRecord(
        hosts={name: HostRecord(services=services) for name, services in hosts.items()}  # type: ignore[misc, arg-type]
    )


def plan(**reached: bool) -> Plan:
    return Plan(
        hosts=tuple(
            HostPlan(
                host=name,  # type: ignore[arg-type]
                address="",
                verdict=Verdict.CHANGE if is_reached else Verdict.SKIPPED,
                python="/usr/bin/python3" if is_reached else "",
            )
            for name, is_reached in reached.items()
        )
    )


def test_a_host_that_is_deployed_to_may_have_what_the_inventory_gives_it(world: Any) -> None:
    made = planned_record(world.inventory, plan(front=True, back=True), DeployRecord())
    assert made == record(front=("web",), back=("api", "users"))


def test_a_host_that_is_left_out_keeps_what_it_had(world: Any) -> None:
    before = record(back=("old",))
    made = planned_record(world.inventory, plan(front=True, back=False), before)
    assert made == record(front=("web",), back=("old",))


def test_a_host_that_left_the_inventory_may_have_nothing_but_is_not_forgotten(world: Any) -> None:
    before = record(front=("web",), gone=("api",))
    made = planned_record(world.inventory, plan(front=True, back=True), before)
    assert made.hosts["gone"].services == ()  # type: ignore[index]
    assert left_behind(world.inventory, made) == ("gone",)


async def test_replicas_restart_in_turn_and_strangers_at_the_same_time(world_of: Any) -> None:
    world = world_of("""\
version: 1
consul: {mode: existing}
hosts:
  - {name: a, address: 10.0.0.1, services: [{name: api, port: 1}]}
  - {name: b, address: 10.0.0.2, services: [{name: api, port: 1}, {name: web, port: 2}]}
  - {name: c, address: 10.0.0.3, services: [{name: other, port: 1}]}
""")
    means = Means(
        inventory=world.inventory,
        trust_domain=world.desired.trust_domain,
        **dict.fromkeys(
            ("connector", "signer", "record", "owner", "start_registry", "publish", "now",
             "observer"),
        ),
    )  # fmt: skip
    order: list[str] = []
    release = asyncio.Event()

    async def restart(name: str) -> None:
        async with means.taking_turns(world.host(name)):
            order.append(f"{name} down")
            await release.wait()
            order.append(f"{name} up")

    tasks = [asyncio.create_task(restart(name)) for name in ("a", "b", "c")]
    while len(order) < 2:
        await asyncio.sleep(0)
    assert order == ["a down", "c down"]
    release.set()
    await asyncio.gather(*tasks)
    assert order.index("a up") < order.index("b down")
