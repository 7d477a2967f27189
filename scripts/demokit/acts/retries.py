"""An instance fails, and the callers do not notice."""

from demokit.load import send
from demokit.scene import Scene
from demokit.stage import holds, outcomes, quote, say

CLAIM = "Retries hide an instance that answers 503"

REQUESTS = 300
# Round robin and no ejection, so that the failing instance keeps its half of the requests: what
# is seen is the retries' work alone.
WITHOUT = """\
services:
  api:
    load_balancing: {algorithm: round_robin}
    outlier_detection: {consecutive_failures: 0}
"""
RETRIES = """\
    retries:
      on: [connect-failure, refused, reset-reused, gateway-error]
      budget: 100%   # half of all requests meet the failing instance; the default is 20%
"""


def show(scene: Scene) -> None:
    quote(WITHOUT)
    scene.put_in_force(WITHOUT)
    scene.wait_answers("api v2")
    say("api v2 answers 503 from here on; its health check still passes")
    scene.services.breaks("api v2")
    try:
        without = send(scene.ports.web_to_api, REQUESTS, "/hello")
        quote(RETRIES)
        scene.put_in_force(WITHOUT + RETRIES)
        with_retries = send(scene.ports.web_to_api, REQUESTS, "/hello")
    finally:
        scene.services.mends("api v2")
    outcomes({"without retries": without, "with retries": with_retries})
    holds(
        without.failed >= REQUESTS // 4,
        f"without: {without.failed} of {without.total} requests failed",
    )
    holds(
        not with_retries.failed and with_retries.answers["api v1"] == with_retries.total,
        f"with: {with_retries.failed} of {with_retries.total} requests failed",
    )
