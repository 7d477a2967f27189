"""The bundle as a file: one tar.gz, for its owner only, whole or absent.

Everything in it went through the scrubber, and stands in the manifest; so does what is missing.
"""

import asyncio
import hashlib
import io
import os
import secrets
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from meshctl import __version__, durable
from meshctl.errors import Refused
from meshctl.support.scrub import Scrubbed, Scrubber
from proxy.model.codec import Value, encode_readable

MAX_ITEM_BYTES: Final = 8 * 2**20
MAX_FOLDER_BYTES: Final = 32 * 2**20
"""Of one host."""
MAX_BYTES: Final = 1024 * 2**20
"""Before it is compressed."""

NEVER: Final = (
    "private keys, of the CA, of workloads and of SSH",
    "tokens of Consul, its gossip key, passphrases",
    "the environment and the command lines of processes",
    "headers, bodies and query strings of requests",
    "access log lines of calls that went well",
)


class Entry(Value, frozen=True, kw_only=True):
    file: str
    bytes: int
    sha256: str
    removed: int
    """Places where the scrubber took something out."""
    cut_bytes: int
    """Left out at its beginning, because it was too large."""


class Missing(Value, frozen=True, kw_only=True):
    file: str
    why: str


class Manifest(Value, frozen=True, kw_only=True):
    version: int = 1
    meshctl: str
    made_at: str
    """RFC 3339, UTC."""
    since: str
    """What log lines were asked for."""
    entries: tuple[Entry, ...]
    missing: tuple[Missing, ...]
    never: tuple[str, ...] = NEVER


class Archive:
    """Made by ``creating``."""

    def __init__(self, tar: tarfile.TarFile, folder: str, scrubber: Scrubber) -> None:
        self._tar, self._folder, self._scrubber = tar, folder, scrubber
        self._entries: list[Entry] = []
        self._missing: list[Missing] = []
        self._bytes: dict[str, int] = {}
        self._made = time.time()

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    @property
    def missing(self) -> tuple[Missing, ...]:
        return tuple(self._missing)

    def add(self, file: str, data: bytes) -> None:
        self.put(file, self._scrubber(data))

    async def add_large(self, file: str, data: bytes) -> None:
        """The same, without holding up what else goes on."""
        self.put(file, await asyncio.to_thread(self._scrubber, data))

    def put(self, file: str, cleaned: Scrubbed) -> None:
        """``file``: a path in the bundle; its folder's share is bounded. Of too much the end is
        kept, where logs have what is new."""
        kept = cleaned.data[-MAX_ITEM_BYTES:]
        place = file.rpartition("/")[0]
        room = min(
            MAX_FOLDER_BYTES - self._bytes.get(place, 0), MAX_BYTES - sum(self._bytes.values())
        )
        if len(kept) > room:
            self.lack(file, f"the bundle has no room for its {len(kept)} bytes")
            return
        self._bytes[place] = self._bytes.get(place, 0) + len(kept)
        self._entries.append(
            Entry(
                file=file,
                bytes=len(kept),
                sha256=hashlib.sha256(kept).hexdigest(),
                removed=cleaned.removed,
                cut_bytes=len(cleaned.data) - len(kept),
            )
        )
        self._write(file, kept)

    def lack(self, file: str, why: str) -> None:
        text = self._scrubber(why.encode("utf-8", "replace")).data.decode("utf-8", "replace")
        self._missing.append(Missing(file=file, why=text[:2000]))

    def finish(self, since: str) -> None:
        manifest = Manifest(
            meshctl=__version__,
            made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._made)),
            since=since,
            entries=tuple(sorted(self._entries, key=lambda each: each.file)),
            missing=tuple(sorted(self._missing, key=lambda each: each.file)),
        )
        self._write("manifest.json", encode_readable(manifest))

    def _write(self, file: str, data: bytes) -> None:
        member = tarfile.TarInfo(f"{self._folder}/{file}")
        member.size, member.mtime, member.mode = len(data), int(self._made), 0o600
        self._tar.addfile(member, io.BytesIO(data))


@contextmanager
def creating(path: Path, scrubber: Scrubber) -> Iterator[Archive]:
    """``path`` appears when the context ends well. Raises Refused if there is one already."""
    if path.exists():
        raise Refused(f"{path} exists already", hint="name another with -o, or move it away")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    folder = path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
    with durable.translated(path, "written"):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as tar:
                    yield Archive(tar, folder, scrubber)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            raise Refused(f"{path} exists already", hint="name another with -o") from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
