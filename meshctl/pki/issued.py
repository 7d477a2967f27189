"""``issued.jsonl``: one line for each leaf that was signed, appended and never rewritten."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meshctl import durable
from meshctl.errors import MeshError
from meshctl.pki.authority import Leaf
from proxy.model import codec
from proxy.model.codec import Value

_READ_MAX_BYTES = 4 * 1024 * 1024
"""Some 20,000 leaves: what is read at once, from the end."""


class Issued(Value, frozen=True, kw_only=True):
    """One signed leaf. Moments are RFC 3339, UTC."""

    serial: str
    """Lower-case hex without leading zeros."""
    spiffe_id: str
    host: str
    not_after: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The newest entries, oldest first."""

    entries: tuple[Issued, ...]
    damaged_lines: int
    """Among what was read; a crash while appending leaves one."""


@dataclass(frozen=True, slots=True)
class IssuedLog:
    """Append-only; a line cut off by a crash is skipped: its leaf was never handed out."""

    path: Path

    def append(self, leaf: Leaf, at: str) -> None:
        """On the disk before this returns. Raises MeshError when it cannot be."""
        not_after = leaf.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = Issued(
            serial=leaf.serial, spiffe_id=leaf.spiffe_id, host=leaf.host, not_after=not_after, at=at
        )
        line = codec.encode(entry) + b"\n"
        with durable.translated(self.path, "written"):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def newest(self, limit: int = 1000) -> Reading:
        """At most ``limit`` entries, from the last 4 MiB; none when nothing was signed yet."""
        try:
            with self.path.open("rb") as file:
                start = max(0, file.seek(0, os.SEEK_END) - _READ_MAX_BYTES)
                file.seek(start)
                data = file.read(_READ_MAX_BYTES)
        except FileNotFoundError:
            return Reading(entries=(), damaged_lines=0)
        except OSError as error:
            raise MeshError(f"{self.path} cannot be read: {error.strerror}") from error
        # The first line read may begin in its middle.
        lines = [line for line in data.split(b"\n")[1 if start else 0 :] if line][-limit:]
        entries = []
        for line in lines:
            with suppress(codec.Malformed):
                entries.append(codec.decode(line, Issued))
        return Reading(entries=tuple(entries), damaged_lines=len(lines) - len(entries))
