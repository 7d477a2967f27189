"""Deploying what is deployed."""

from demokit.acts.first_deploy import summarize
from demokit.scene import Scene
from demokit.stage import holds

CLAIM = "Deploying again changes nothing"


def show(scene: Scene) -> None:
    deploy = scene.ask_meshctl("deploy", "--yes")
    summarize(deploy)
    steps = [step for host in deploy["plan"]["hosts"] for step in host["steps"]]
    holds(not steps, "not one step was needed")
