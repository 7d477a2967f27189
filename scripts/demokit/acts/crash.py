"""An instance that is killed while it serves."""

import asyncio

from demokit.load import CLIENTS, Load
from demokit.scene import Scene
from demokit.stage import holds, say

CLAIM = "An instance dies under load"


def show(scene: Scene) -> None:
    load = asyncio.run(_kill_in_the_middle(scene))
    answers = load.answers
    say(
        f"api v2 killed after 300 of {load.total} requests; "
        f"{answers['api v1']} were answered by v1, {answers['api v2']} by v2"
    )
    for failure, count in load.failures.items():
        say(f"{count} x {failure}")
    # What was inside the killed process may be lost with it; what came after may not.
    holds(
        load.failed <= CLIENTS and load.answers["api v1"] > 500,
        f"traffic went on: {load.failed} of {load.total} failed, "
        "at most what the killed process was working on",
    )
    scene.services.start("api v2")
    scene.wait_healthy()


async def _kill_in_the_middle(scene: Scene) -> Load:
    load = Load(port=scene.ports.web_to_api)
    killed = asyncio.Event()
    running = asyncio.create_task(load.run(1000, killed))
    while load.total < 300:
        await asyncio.sleep(0.005)
    scene.services.kill("api v2")
    killed.set()
    await running
    return load
