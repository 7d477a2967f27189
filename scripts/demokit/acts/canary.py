"""A new version gets a growing share of the requests."""

from demokit.load import send
from demokit.scene import Scene
from demokit.stage import holds, quote, shares

CLAIM = "A canary: the new version gets as much as mesh.yaml says, and then everything"

REQUESTS = 1000
TOLERANCE = 0.08
"""Of the share: five standard deviations of the widest, 50 of 100."""


def policy(old: int, new: int) -> str:
    return f"""\
services:
  api:
    subsets: {{old: v1, new: v2}}
    routes:
      - name: canary
        to:
          - {{subset: old, weight: {old}}}
          - {{subset: new, weight: {new}}}
"""


def show(scene: Scene) -> None:
    quote(policy(90, 10))
    for old, new in ((90, 10), (50, 50), (0, 100)):
        scene.put_in_force(policy(old, new), is_difference_shown=old == 90)
        load = send(scene.ports.web_to_api, REQUESTS, "/hello")
        found = {name: load.answers[name] for name in ("api v1", "api v2")}
        shares(f"weights {old} and {new}", found)
        wanted = new / (old + new)
        share = found["api v2"] / REQUESTS
        is_right = share == wanted if old == 0 else abs(share - wanted) < TOLERANCE
        holds(
            is_right and not load.failed,
            f"{found['api v2']} of {REQUESTS} requests reached v2, {load.failed} failed",
        )
