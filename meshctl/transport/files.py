"""Puts files on a host through ``Transport.run``: atomically, checked, with their final owner
and mode from the first moment; many of them in one round trip.
"""

import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from meshctl.errors import RemoteFailure
from meshctl.transport import Transport
from meshctl.transport.command import tail

_BASE_TIMEOUT_S = 60.0
_SLOWEST_LINK_BYTES_S = 128 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePut:
    """A file as it shall be on the host."""

    path: str
    """Absolute."""
    data: bytes = field(repr=False)
    mode: int = 0o644
    owner: str | None = None
    """None: whoever the command runs as."""
    group: str | None = None


async def put(
    transport: Transport,
    path: str,
    data: bytes,
    mode: int = 0o644,
    owner: str | None = None,
    group: str | None = None,
    *,
    parents: bool = False,
) -> None:
    """One file; otherwise as ``put_many``."""
    wanted = FilePut(path=path, data=data, mode=mode, owner=owner, group=group)
    await put_many(transport, [wanted], parents=parents)


async def put_many(
    transport: Transport,
    files: Sequence[FilePut],
    *,
    parents: bool = False,
    python: str = "python3",
    timeout_s: float | None = None,
) -> None:
    """All of ``files`` or none: they are renamed into place once every one is complete.

    ``parents`` makes missing folders, mode 0755. Without ``timeout_s`` the deadline follows from
    the size. Raises RemoteFailure with the host's own sentence: disk full, no such user, damaged.
    """
    if not files:
        return
    size = sum(len(file.data) for file in files)
    done = await transport.run(
        [python, "-I", "-c", put_script()],
        stdin=_request(files, parents=parents),
        timeout_s=timeout_s or _BASE_TIMEOUT_S + size / _SLOWEST_LINK_BYTES_S,
    )
    if done.exit_status != 0:
        said = tail(done.stderr).strip()
        subject = files[0].path if len(files) == 1 else f"{len(files)} files"
        raise RemoteFailure(f"{transport.host}: {subject} could not be written", output=said)


@cache
def put_script() -> str:
    """The text of ``host_put.py``, for ``python3 -I -c``."""
    return importlib.resources.files("meshctl.transport").joinpath("host_put.py").read_text()


def _request(files: Sequence[FilePut], *, parents: bool) -> bytes:
    header = {
        "parents": parents,
        "files": [
            {
                "path": file.path,
                "mode": file.mode,
                "owner": file.owner,
                "group": file.group,
                "size": len(file.data),
                "sha256": hashlib.sha256(file.data).hexdigest(),
            }
            for file in files
        ],
    }
    return b"".join([json.dumps(header).encode(), b"\n", *(file.data for file in files)])
