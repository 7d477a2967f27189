"""Whose restarts wait for each other."""

import asyncio
from typing import Any

from meshctl.apply.means import Means


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
