"""An instance that fails gets no requests, until it has recovered."""

from demokit.load import CLIENTS, send
from demokit.scene import Scene
from demokit.stage import holds, outcomes, quote

CLAIM = "An instance that fails is ejected, and comes back when it has recovered"

IN_A_ROW = 5
POLICY = f"""\
services:
  api:
    load_balancing: {{algorithm: round_robin}}
    outlier_detection: {{consecutive_failures: {IN_A_ROW}, ejection: 4s}}
"""


def show(scene: Scene) -> None:
    quote(POLICY)
    scene.put_in_force(POLICY)
    port = scene.ports.web_to_api
    well = send(port, 100, "/hello")
    scene.services.breaks("api v2")
    try:
        failing = send(port, 100, "/hello")
        ejected = send(port, 100, "/hello")
    finally:
        scene.services.mends("api v2")
    back_s = scene.wait_answers("api v2")
    returned = send(port, 100, "/hello")
    outcomes(
        {
            "both are well": well,
            "api v2 begins to answer 503": failing,
            "it is ejected": ejected,
            f"{back_s:.1f} s after it recovered": returned,
        }
    )
    holds(
        IN_A_ROW <= failing.failed <= IN_A_ROW + CLIENTS,
        f"{failing.failed} requests failed: {IN_A_ROW} in a row, and what was on its way then",
    )
    holds(not ejected.failed, f"while it was ejected, {ejected.failed} of {ejected.total} failed")
    holds(
        not returned.failed and returned.answers["api v2"] >= 40,
        "one real request found it well, and it has its share again",
    )
