"""One port for all upstreams, instead of one for each."""

from demokit.load import ask
from demokit.scene import Scene
from demokit.stage import holds, say

CLAIM = "One port leads to every upstream by its name"


def show(scene: Scene) -> None:
    port = scene.ports.web_to_all
    named = ask(port, "/hello", host="api.mesh")
    proxied = ask(port, "http://api.mesh/hello")
    stranger = ask(port, "/hello", host="users.mesh")
    for target, by, answer in (
        (f"http://127.0.0.1:{port}/hello", "Host: api.mesh", named),
        ("http://api.mesh/hello", f"http_proxy=127.0.0.1:{port}", proxied),
        (f"http://127.0.0.1:{port}/hello", "Host: users.mesh", stranger),
    ):
        say(f"GET {target:30} {by:28} {answer.status}")
    holds(
        named.status == proxied.status == 200
        and named.document["service"] == proxied.document["service"] == "api",
        "api answered as a host name, and with the mesh as http_proxy",
    )
    say(stranger.body.decode().strip(), "dim")
    holds(
        (stranger.status, stranger.headers.get("x-mesh-flag")) == (404, "NR"),
        "users, which web does not declare, was refused with the reason",
    )
