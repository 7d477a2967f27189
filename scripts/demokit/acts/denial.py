"""What a caller may not do, however it spells it, and why."""

from collections import Counter

from demokit.load import ask
from demokit.scene import Scene
from demokit.stage import holds, quote, say

CLAIM = "Who may do what: a denied path is denied in every spelling, and says by which rule"

POLICY = """\
services:
  api:
    intentions:
      - {name: web-reads, allow: web, match: {methods: [GET]}}
      - {name: no-admin, deny: "*", match: {path: /admin}}
"""
SPELLINGS = (
    "/admin",
    "//admin",
    "/x/../admin",
    "/%61dmin",
    "/ADMIN",
    "/x%2f..%2fadmin",
    "/admin;v=1",
)
REQUEST_ID = "demo-denied"
DENIED = 3
"""``meshctl explain`` ends with it, of what is denied."""


def show(scene: Scene) -> None:
    quote(POLICY)
    scene.put_in_force(POLICY)
    port = scene.ports.web_to_api
    reads, writes = ask(port, "/hello"), ask(port, "/hello", method="POST")
    say(f"GET /hello   {reads.status}")
    say(f"POST /hello  {writes.status}  x-mesh-policy: {writes.headers.get('x-mesh-policy', '')}")
    answers = {path: ask(port, path) for path in SPELLINGS}
    for path, answer in answers.items():
        say(f"GET {path:16} {answer.status}  {answer.headers.get('x-mesh-policy', '')}")
    counts = Counter(answer.status for answer in answers.values())
    holds(
        reads.status == 200 and writes.headers.get("x-mesh-policy") == "api/default-deny",
        "web reads, and does nothing else: what is not allowed is denied",
    )
    holds(counts == {403: len(SPELLINGS)}, f"{counts[403]} spellings of /admin, all denied")
    scene.meshctl("explain", "web", "api", "GET", SPELLINGS[3], expect=DENIED)
    ask(port, SPELLINGS[2], headers={"x-request-id": REQUEST_ID})
    scene.meshctl("explain", "--request-id", REQUEST_ID)
