"""Making a mesh."""

import time
from typing import Any

from demokit.inventory import inventory
from demokit.scene import Scene
from demokit.services import NAMES
from demokit.stage import say

CLAIM = "From an empty directory to a mesh"


def show(scene: Scene) -> None:
    scene.meshctl("init", ".", "--trust-domain", "demo.mesh", "--no-passphrase")
    text = inventory(scene.directory / "hosts", scene.ports)
    (scene.directory / "inventory.yaml").write_text(text)
    scene.ask_meshctl("bundle", "fetch")
    began = time.monotonic()
    for name in NAMES:
        scene.services.start(name)
    summarize(scene.ask_meshctl("deploy", "--yes"))
    scene.wait_healthy()
    say(f"ready {time.monotonic() - began:.1f} s after the wheels were there")


def summarize(deploy: Any) -> None:
    """The gist of plan and report; without ``-o json`` they come whole, as tables."""
    say(f"plan: {deploy['plan']['summary']}")
    for host in deploy["plan"]["hosts"]:
        for step in host["steps"]:
            say(f"{host['host']:8}{step['title']}", "dim")
    if deploy["report"]:
        say(f"report: {deploy['report']['summary']}")
