"""The installed ``proxy`` package as a wheel, made in memory, the same bytes from the same source.

Stored, not compressed: the bytes would otherwise depend on the operator's zlib, and with them the
digest that says whether hosts are up to date. Its distribution is ``meshctl-proxy``, so that a
host never has anything called meshctl.
"""

import base64
import hashlib
import importlib.resources
import io
import zipfile
from collections.abc import Iterable, Iterator
from importlib.resources.abc import Traversable

import proxy

DISTRIBUTION = "meshctl_proxy"

_MADE = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip file can hold
_FILE_MODE = 0o100644 << 16


def file_name() -> str:
    return f"{DISTRIBUTION}-{proxy.__version__}-py3-none-any.whl"


def build() -> bytes:
    info = f"{DISTRIBUTION}-{proxy.__version__}.dist-info"
    members = dict(_sources(importlib.resources.files("proxy"), "proxy"))
    members[f"{info}/METADATA"] = _metadata()
    members[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: meshctl\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, _MADE)
            entry.external_attr = _FILE_MODE
            entry.create_system = 3  # Unix, wherever this runs
            archive.writestr(entry, content)
    return buffer.getvalue()


def _sources(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Depth first, sorted by name: a directory's own order differs between machines."""
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _sources(entry, f"{prefix}/{entry.name}")
        elif entry.name.endswith((".py", ".typed")):
            yield f"{prefix}/{entry.name}", entry.read_bytes()


def _metadata() -> bytes:
    lines = [
        "Metadata-Version: 2.1",
        "Name: meshctl-proxy",
        f"Version: {proxy.__version__}",
        "Summary: The host side of meshctl",
        "Requires-Python: >=3.11",
    ]
    return ("\n".join(lines) + "\n").encode()


def _record(members: dict[str, bytes], itself: str) -> bytes:
    return "".join(f"{line}\n" for line in _record_lines(members.items(), itself)).encode()


def _record_lines(members: Iterable[tuple[str, bytes]], itself: str) -> Iterator[str]:
    for name, content in members:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        yield f"{name},sha256={digest},{len(content)}"
    yield f"{itself},,"
