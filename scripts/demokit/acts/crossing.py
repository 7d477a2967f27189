"""Mutual TLS between the proxies."""

from demokit.load import ask
from demokit.scene import Scene
from demokit.stage import console, holds, say

CLAIM = "A request crosses two proxies; both ends have proven who they are"


def show(scene: Scene) -> None:
    answer = ask(scene.ports.web_to_api).document
    ends = _identities(str(answer["caller"]))
    version = answer["version"]
    far = "back-1" if version == "v1" else "back-2"
    console.print(
        f"   web --> [bold]proxy on front[/] ==mTLS==> [bold]proxy on {far}[/] --> api {version}"
    )
    say(f"caller  {ends.get('URI', '?')}\ncallee  {ends.get('By', '?')}")
    holds(
        ends.get("URI", "").endswith("/svc/web") and ends.get("By", "").endswith("/svc/api"),
        "the application behind the second proxy was told both identities, proven by certificate",
    )
    called = answer["called"]
    holds(
        isinstance(called, dict) and called["users"].get("service") == "users",
        "api in turn reached users through its own proxy",
    )


def _identities(xfcc: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in xfcc.split(";") if "=" in part)
