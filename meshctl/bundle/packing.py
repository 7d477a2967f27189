"""A pure Python wheel made in memory: the same bytes from the same files, wherever it is made.

Stored, not compressed: the bytes would otherwise depend on the operator's zlib, and with them the
digest that says whether hosts are up to date.
"""

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping

import proxy

_MADE = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip file can hold
_FILE_MODE = 0o100644 << 16


def file_name(distribution: str) -> str:
    return f"{distribution}-{proxy.__version__}-py3-none-any.whl"


def pack(distribution: str, summary: str, sources: Mapping[str, bytes]) -> bytes:
    """``distribution`` with underscores; ``sources`` by path, in the order they are written."""
    info = f"{distribution}-{proxy.__version__}.dist-info"
    members = dict(sources)
    members[f"{info}/METADATA"] = _metadata(distribution, summary)
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


def _metadata(distribution: str, summary: str) -> bytes:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {distribution.replace('_', '-')}",
        f"Version: {proxy.__version__}",
        f"Summary: {summary}",
        "Requires-Python: >=3.11",
    ]
    return ("\n".join(lines) + "\n").encode()


def _record(members: Mapping[str, bytes], itself: str) -> bytes:
    return "".join(f"{line}\n" for line in _record_lines(members.items(), itself)).encode()


def _record_lines(members: Iterable[tuple[str, bytes]], itself: str) -> Iterator[str]:
    for name, content in members:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        yield f"{name},sha256={digest},{len(content)}"
    yield f"{itself},,"
