"""A bridge in the operator's namespace, and a namespace with one address for each host.

Nothing leads out: there is no route to the internet, to the machine's own network or to another
lab. Every step finds out whether it was done already, so that a half-made lab is completed.
"""

import json
from pathlib import Path

from labkit.command import run
from labkit.place import Host, Lab

_BRIDGE = "br0"
_DISABLED = 0
_FORWARDING = 3


def make_operator(lab: Lab) -> None:
    """The operator's end: the bridge and the gateway's address."""
    _make_namespace(lab.operator)
    if not _has_link(lab.operator, _BRIDGE):
        run(["ip", "-n", lab.operator, "link", "add", _BRIDGE, "type", "bridge"])
    _address(lab.operator, _BRIDGE, lab.gateway)


def connect(host: Host) -> None:
    """The host's end: ``eth0``, whose other side is a port of the bridge named like the host."""
    operator = host.lab.operator
    _make_namespace(host.namespace)
    if not _has_link(operator, host.name):
        peer = ("peer", "name", "eth0", "netns", host.namespace)
        run(["ip", "-n", operator, "link", "add", host.name, "type", "veth", *peer])
    run(["ip", "-n", operator, "link", "set", host.name, "master", _BRIDGE, "up"])
    _address(host.namespace, "eth0", host.address)


def cut(host: Host, *, is_cut: bool) -> None:
    """Drop every frame to and from the host, or stop doing so.

    The port is disabled rather than the link taken down: in a real partition nobody is told, and
    packets just vanish.
    """
    state = str(_DISABLED if is_cut else _FORWARDING)
    run(["bridge", "-n", host.lab.operator, "link", "set", "dev", host.name, "state", state])


def is_cut(host: Host) -> bool:
    done = run(["bridge", "-n", host.lab.operator, "-json", "link", "show", "dev", host.name])
    return bool(json.loads(done.stdout or "[{}]")[0].get("state") == "disabled")


def delete(lab: Lab) -> None:
    """Delete every namespace that carries the lab's name, and with them their links."""
    registry = Path("/run/netns")
    names = sorted(p.name for p in registry.iterdir()) if registry.is_dir() else []
    for name in names:
        prefix, _, rest = name.rpartition("-")
        if prefix == lab.name and (rest == "ops" or rest.removeprefix("mesh").isdigit()):
            run(["ip", "netns", "delete", name])


def inside(namespace: str) -> list[str]:
    """The words that make a command run in a namespace."""
    return ["ip", "netns", "exec", namespace]


def _make_namespace(name: str) -> None:
    if (Path("/run/netns") / name).exists():
        if run(["ip", "-n", name, "link", "show", "lo"], check=False).returncode == 0:
            return
        run(["ip", "netns", "delete", name])  # left by an invocation that was killed in between
    run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def _has_link(namespace: str, link: str) -> bool:
    return run(["ip", "-n", namespace, "link", "show", link], check=False).returncode == 0


def _address(namespace: str, link: str, address: str) -> None:
    run(["ip", "-n", namespace, "address", "replace", f"{address}/24", "dev", link])
    run(["ip", "-n", namespace, "link", "set", link, "up"])
