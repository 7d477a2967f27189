"""The state directory: what the operator's side keeps between two commands.

``.meshctl`` beside the inventory, mode 0700. In it: ``mesh.json`` (which mesh this is), ``ca/``,
``deployed.json`` (which identities each host may have), ``known_hosts``, ``cache/``, ``lock``.
Every file is whole or absent; one that is neither is reported by name, with the next command.
"""

import fcntl
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from meshctl import durable
from meshctl.errors import MeshError, Refused, StateCorrupt
from meshctl.pki.record import DeployRecord, HostRecord
from proxy.model import codec
from proxy.model.codec import Value
from proxy.model.names import (
    InvalidName,
    TrustDomain,
    parse_host,
    parse_service,
    parse_trust_domain,
)

__all__ = ["NAME", "DeployRecord", "HostRecord", "StateDir"]

NAME = ".meshctl"
MESH_FILE = "mesh.json"
RECORD_FILE = "deployed.json"
LOCK_FILE = "lock"
_LEFTOVER_S = 3600.0
"""A temporary file this old has no writer any more; some are written without the lock."""

T = TypeVar("T")


class Mesh(Value, frozen=True, kw_only=True):
    """``mesh.json``."""

    version: Literal[1] = 1
    trust_domain: str
    created: str
    """RFC 3339, UTC."""


class Holder(Value, frozen=True, kw_only=True):
    """Who holds the lock: the content of ``lock`` while it is held."""

    pid: int
    host: str
    command: str
    since: str


@dataclass(frozen=True, slots=True)
class StateDir:
    """An opened state directory; ``create`` and ``open`` make it, never the constructor."""

    path: Path
    trust_domain: TrustDomain
    created: str

    @classmethod
    def beside(cls, inventory: Path) -> Path:
        """Where the state directory of ``inventory`` is."""
        return inventory.absolute().parent / NAME

    @classmethod
    def create(cls, path: Path, trust_domain: TrustDomain, now: datetime) -> "StateDir":
        """Make ``path`` (which may exist if it is empty) with mode 0700 and a mesh in it.

        Raises Refused when something is there already.
        """
        with durable.translated(path, "made"):
            path.mkdir(mode=0o700, exist_ok=True)
            if any(path.iterdir()):
                raise Refused(f"{path} exists already and is not empty")
            path.chmod(0o700)
            (path / "cache").mkdir(mode=0o700)
        created = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        mesh = Mesh(trust_domain=trust_domain, created=created)
        durable.write(path / MESH_FILE, codec.encode_readable(mesh))
        return cls(path, trust_domain, created)

    @classmethod
    def open(cls, path: Path) -> "StateDir":
        """Read which mesh ``path`` holds.

        Raises Refused when there is none or others may use it, StateCorrupt when it is damaged.
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            raise Refused(
                f"there is no mesh in {path.parent}: {path} does not exist",
                hint=f"meshctl init {path.parent}",
            ) from None
        except OSError as error:
            raise MeshError(f"{path} cannot be read: {error.strerror}") from error
        if not stat.S_ISDIR(status.st_mode):
            raise StateCorrupt(
                f"{path} is not a folder",
                hint=f"move it away, then run meshctl init {path.parent}",
            )
        if status.st_mode & 0o077:
            raise Refused(
                f"{path} is open to other users (mode {status.st_mode & 0o7777:04o})",
                hint=f"chmod 700 {path}",
            )
        mesh = _read(path / MESH_FILE, Mesh)
        if mesh is None:
            raise StateCorrupt(
                f"{path / MESH_FILE} is missing, so {path} is not a complete state directory",
                hint=_restore(path / MESH_FILE),
            )
        try:
            trust_domain = parse_trust_domain(mesh.trust_domain)
        except InvalidName as error:
            raise StateCorrupt(
                f"{path / MESH_FILE}: {error}", hint=_restore(path / MESH_FILE)
            ) from error
        return cls(path, trust_domain, mesh.created)

    @property
    def known_hosts(self) -> Path:
        """SSH host keys of the mesh's hosts; may not exist yet."""
        return self.path / "known_hosts"

    @property
    def cache(self) -> Path:
        """Downloads and builds that can be made again."""
        return self.path / "cache"

    def read(self, name: str, into: type[T]) -> T | None:
        """The JSON file ``name`` as a value; None when it does not exist.

        Raises StateCorrupt when it is truncated or of another shape.
        """
        return _read(self.path / name, into)

    def write(self, name: str, value: object) -> None:
        """Replace the JSON file ``name`` (0600) in one step."""
        durable.write(self.path / name, codec.encode_readable(value))

    def read_record(self) -> DeployRecord:
        """Which identities each host may have; empty before the first deploy."""
        record = self.read(RECORD_FILE, DeployRecord)
        if record is None:
            return DeployRecord()
        try:
            for host, entry in record.hosts.items():
                parse_host(host)
                for service in entry.services:
                    parse_service(service)
        except InvalidName as error:
            path = self.path / RECORD_FILE
            raise StateCorrupt(f"{path}: {error}", hint=_restore(path)) from error
        return record

    def write_record(self, record: DeployRecord) -> None:
        """Replace the deploy record; call it while holding the lock."""
        self.write(RECORD_FILE, record)

    @contextmanager
    def lock(self, command: str | None = None) -> Iterator[None]:
        """Hold the mesh for one changing command; never waits.

        ``command`` is what is shown to whoever comes second (default: this process's arguments,
        in which secrets never stand). The kernel drops the lock with the process, so a killed
        meshctl leaves no obstacle. Raises Refused, naming the holder.
        """
        path = self.path / LOCK_FILE
        with durable.translated(path, "opened"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _held(path, _read_holder(descriptor)) from None
            holder = Holder(
                pid=os.getpid(),
                host=socket.gethostname(),
                command=command if command is not None else _own_command(),
                since=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
            with durable.translated(path, "written"):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, codec.encode(holder), 0)
            durable.sweep(self.path, older_than_s=_LEFTOVER_S)
            try:
                yield
            finally:
                # The file stays: removing it would let a third process lock another inode.
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)


def _own_command() -> str:
    return " ".join(["meshctl", *sys.argv[1:]])[:500]


def _read_holder(descriptor: int) -> Holder | None:
    try:
        return codec.decode(os.pread(descriptor, 4096, 0), Holder)
    except (codec.Malformed, OSError):
        return None  # The holder has the lock but has not written its name yet.


def _held(path: Path, holder: Holder | None) -> Refused:
    hint = "wait until it has ended, then run the same command again"
    if holder is None:
        return Refused(f"another meshctl is changing this mesh ({path} is locked)", hint=hint)
    return Refused(
        f"another meshctl is changing this mesh since {holder.since}: "
        f"{holder.command!r}, process {holder.pid} on {holder.host}",
        hint=hint,
    )


def _read(path: Path, into: type[T]) -> T | None:
    try:
        data = durable.read(path)
    except FileNotFoundError:
        return None
    try:
        return codec.decode(data, into)
    except codec.Malformed as error:
        what = "is empty" if not data.strip() else f"is damaged: {error}"
        raise StateCorrupt(f"{path} {what}", hint=_restore(path)) from error


def _restore(path: Path) -> str:
    if path.name == RECORD_FILE:
        return f"move {path} away, then run meshctl deploy, which writes it again"
    if path.name == MESH_FILE:
        example = json.dumps({"version": 1, "trust_domain": "<yours>", "created": "<when>"})
        return f"restore {path} from a backup, or write it again: {example}"
    return f"restore {path} from a backup, or move it away and run the command again"
