"""Load over the instances of a service."""

from demokit.load import send
from demokit.scene import Scene
from demokit.stage import holds, shares

CLAIM = "Load is balanced over the instances of a service"


def show(scene: Scene) -> None:
    load = send(scene.ports.web_to_api, 200)
    shares("200 requests", {name: load.answers[name] for name in ("api v1", "api v2")})
    holds(not load.failed and len(load.answers) == 2, "200 requests went to both versions of api")
