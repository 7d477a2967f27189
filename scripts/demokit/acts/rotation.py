"""New keys and certificates for everybody, and then a new root."""

import asyncio
from typing import Any

from demokit.load import Load
from demokit.scene import Scene
from demokit.stage import holds, say

CLAIM = "Certificates are rotated under load, and so is the root"


def show(scene: Scene) -> None:
    load, said = asyncio.run(_under_load(scene, "certs", "rotate", "--yes"))
    rotated = said["rotated"]
    for entry in rotated:
        say(f"{entry['service']:6} on {entry['host']:6} now serves {entry['serial'][:16]}")
    holds(len(rotated) == 5, "five identities have new keys and certificates, seen on the wire")
    holds(not load.failed, f"{load.failed} of {load.total} requests failed meanwhile")
    load, said = asyncio.run(_under_load(scene, "certs", "rotate", "root", "--yes", "--retire-now"))
    say(f"root {said['old_root'][:16]} is replaced by {said['new_root'][:16]}")
    holds(said["is_done"], "every host proved that it trusts the new root and refuses the old one")
    holds(not load.failed, f"{load.failed} of {load.total} requests failed meanwhile")


async def _under_load(scene: Scene, *command: str) -> tuple[Load, Any]:
    load = Load(port=scene.ports.web_to_api)
    done = asyncio.Event()
    running = asyncio.create_task(load.run(2000, done))
    try:
        said = await asyncio.to_thread(scene.ask_meshctl, *command)
    finally:
        done.set()
        await running
    return load, said
