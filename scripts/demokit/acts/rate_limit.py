"""More requests than a service takes."""

import time
from collections import Counter

from demokit.load import ask
from demokit.scene import Scene
from demokit.stage import holds, quote, say

CLAIM = "A rate limit: so many are answered, the rest is told when to come back"

ALLOWED = 10
ASKED = 15
# Each proxy of the called service counts for itself, so the route leads to one of them.
POLICY = f"""\
services:
  api:
    subsets: {{old: v1}}
    routes:
      - {{name: limited, match: {{path: /limited}}, to: {{subset: old}}}}
    rate_limits:
      - {{name: demo, requests: {ALLOWED}, per: 10s, match: {{path: /limited}}}}
"""


def show(scene: Scene) -> None:
    quote(POLICY)
    scene.put_in_force(POLICY)
    port = scene.ports.web_to_api
    began = time.monotonic()
    answers = [ask(port, "/limited") for _ in range(ASKED)]
    elapsed_s = time.monotonic() - began
    counts = Counter(answer.status for answer in answers)
    say(f"{ASKED} requests: " + ", ".join(f"{count} x {code}" for code, count in counts.items()))
    last = answers[-1]
    shown = ("x-mesh-flag", "retry-after", "ratelimit-limit", "ratelimit-remaining")
    say(f"HTTP/1.1 {last.status}", "dim")
    say("\n".join(f"{name}: {last.headers.get(name, '')}" for name in shown), "dim")
    say(f"\n{last.body.decode().strip()}", "dim")
    holds(
        ALLOWED <= counts[200] <= ALLOWED + elapsed_s + 1
        and counts[200] + counts[429] == ASKED
        and last.status == 429,
        f"{counts[200]} were answered, {counts[429]} refused with 429",
    )
    wait_s = int(last.headers["retry-after"])
    time.sleep(wait_s)
    again = ask(port, "/limited")
    elsewhere = ask(port, "/hello")
    holds(
        again.status == elsewhere.status == 200,
        f"after the {wait_s} s that it asked for: {again.status}; other paths were never limited",
    )
