"""New keys and certificates for everybody."""

import asyncio
from typing import Any

from demokit.load import Load
from demokit.scene import Scene
from demokit.stage import holds, say

CLAIM = "Certificates are rotated under load"


def show(scene: Scene) -> None:
    load, rotated = asyncio.run(_rotate_under_load(scene))
    for entry in rotated:
        say(f"{entry['service']:6} on {entry['host']:6} now serves {entry['serial'][:16]}")
    holds(len(rotated) == 5, "five identities have new keys and certificates, seen on the wire")
    holds(not load.failed, f"{load.failed} of {load.total} requests failed meanwhile")


async def _rotate_under_load(scene: Scene) -> tuple[Load, Any]:
    load = Load(port=scene.ports.web_to_api)
    done = asyncio.Event()
    running = asyncio.create_task(load.run(2000, done))
    try:
        said = await asyncio.to_thread(scene.ask_meshctl, "certs", "rotate", "--yes")
    finally:
        done.set()
        await running
    return load, said["rotated"]
