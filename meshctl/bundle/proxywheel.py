"""The installed ``proxy`` package as a wheel, made in memory, the same bytes from the same source.

Its distribution is ``meshctl-proxy``, so that a host never has anything called meshctl.
"""

import importlib.resources
from collections.abc import Iterator
from importlib.resources.abc import Traversable

from meshctl.bundle import packing

DISTRIBUTION = "meshctl_proxy"


def file_name() -> str:
    return packing.file_name(DISTRIBUTION)


def build() -> bytes:
    sources = dict(_sources(importlib.resources.files("proxy"), "proxy"))
    return packing.pack(DISTRIBUTION, "The host side of meshctl", sources)


def _sources(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Depth first, sorted by name: a directory's own order differs between machines."""
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _sources(entry, f"{prefix}/{entry.name}")
        elif entry.name.endswith((".py", ".typed")):
            yield f"{prefix}/{entry.name}", entry.read_bytes()
