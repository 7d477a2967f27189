"""What an operator looks at."""

from demokit.scene import Scene

CLAIM = "The whole mesh at a glance"


def show(scene: Scene) -> None:
    scene.meshctl("status")
