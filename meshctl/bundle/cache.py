"""The operator's store of wheels, and the lock file that says which of them make a bundle.

The first resolution for a kind of host asks the package index; what it found is locked by name
and SHA-256. From then on the same meshctl gives the same bundle, without network, until the
``host`` requirements change. Wheels lie under their hash and are verified each time they are used.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from meshctl.bundle import closure, index, proxywheel, signerwheel
from meshctl.bundle.model import Bundle, Kind, Target, Wheel
from meshctl.errors import MeshError, Refused, StateCorrupt, Unreachable
from proxy.model import codec

LOCK_WAIT_S = 900.0
"""Longer than a download takes: the other meshctl is fetching what this one needs."""

INSTALLER = Requirement("pip>=23.2")
"""Runs on the host from its own wheel; what a host's system has is of any age, or absent."""


class _LockedWheel(codec.Value, frozen=True, kw_only=True):
    name: str
    sha256: str
    size: int


class _LockedSet(codec.Value, frozen=True, kw_only=True):
    requirements: str
    """Digest of the requirements that were resolved."""
    wheels: tuple[_LockedWheel, ...]


class _LockFile(codec.Value, frozen=True, kw_only=True):
    version: Literal[1] = 1
    targets: dict[str, _LockedSet] = {}


class BundleCache:
    """Makes bundles. Blocking: call it through ``asyncio.to_thread``. Safe between processes."""

    def __init__(self, cache_dir: Path, lock_path: Path) -> None:
        self._dir = cache_dir
        self._lock_path = lock_path

    def resolve(self, target: Target, *, kind: Kind = "proxy", offline: bool = False) -> Bundle:
        """Raises Unreachable (no network, or ``offline`` and something is missing), NoWheel,
        StateCorrupt, MeshError.
        """
        try:
            with self._alone():
                locked = self._locked(target, kind, offline=offline)
                wheels = [self._present(one, target, offline=offline) for one in locked.wheels]
                wheels += [self._built(*made) for made in _own(kind)]
        except OSError as error:
            raise MeshError(
                f"the bundle cache {self._dir} cannot be used: {error.strerror or error}",
                hint="check free space and rights there",
            ) from error
        wheels.sort(key=lambda one: one.name)
        return Bundle(target=target, kind=kind, wheels=tuple(wheels))

    def prefetch(self, target: Target | None = None) -> Bundle:
        """Fills the cache while there is a network; without ``target``, for this machine."""
        return self.resolve(target or Target.of_this_machine())

    def _locked(self, target: Target, kind: Kind, *, offline: bool) -> _LockedSet:
        roots = (*requirements(target, kind), INSTALLER)
        key = str(target) if kind == "proxy" else f"{target}+{kind}"
        wanted = codec.digest("\n".join(sorted(map(str, roots))).encode())
        recorded = self._read_lock()
        locked = recorded.targets.get(key)
        if locked is not None and locked.requirements == wanted:
            return locked
        if offline:
            raise Unreachable(
                f"the wheels for {target} were never fetched, and fetching is off",
                hint="run `meshctl bundle fetch` once with network access",
            )
        locked = _LockedSet(requirements=wanted, wheels=self._download(roots, target))
        self._write_lock(_LockFile(targets={**recorded.targets, key: locked}))
        return locked

    def _download(self, roots: Iterable[Requirement], target: Target) -> tuple[_LockedWheel, ...]:
        with self._workspace() as folder:

            def fetch(wanted: Iterable[Requirement]) -> Iterable[closure.Candidate]:
                layer = Path(tempfile.mkdtemp(dir=folder))
                return index.fetch(wanted, target, layer)

            found = closure.resolve(roots, target, fetch)
            return tuple(self._keep(candidate.path) for candidate in found)

    def _present(self, locked: _LockedWheel, target: Target, *, offline: bool) -> Wheel:
        """From the cache; a file that is missing or damaged is fetched again, that one only."""
        path = self._place(locked.sha256, locked.name)
        if not path.is_file() or _sha256(path) != locked.sha256:
            if offline:
                raise Unreachable(
                    f"{locked.name} is missing from the cache or damaged, and fetching is off",
                    hint="run `meshctl bundle fetch` once with network access",
                )
            self._refetch(locked, target)
        return Wheel(name=locked.name, sha256=locked.sha256, size=locked.size, path=path)

    def _refetch(self, locked: _LockedWheel, target: Target) -> None:
        name, version, _, _ = parse_wheel_filename(locked.name)
        with self._workspace() as folder:
            (candidate,) = index.fetch([Requirement(f"{name}=={version}")], target, folder)
            again = self._keep(candidate.path)
        if (again.name, again.sha256) != (locked.name, locked.sha256):
            raise Refused(
                f"the package index now has another file for {locked.name}: locked is"
                f" {locked.sha256[:16]}, it gave {again.name} {again.sha256[:16]}",
                hint=f"if that is expected, remove {self._lock_path} to resolve anew",
            )

    def _built(self, name: str, content: bytes) -> Wheel:
        """Built each time: cheap, and then always what is installed here."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._place(sha256, name)
        if not path.is_file() or _sha256(path) != sha256:
            with self._workspace() as folder:
                made = folder / path.name
                made.write_bytes(content)
                self._keep(made)
        return Wheel(name=path.name, sha256=sha256, size=len(content), path=path)

    def _keep(self, downloaded: Path) -> _LockedWheel:
        sha256 = _sha256(downloaded)
        size = downloaded.stat().st_size
        path = self._place(sha256, downloaded.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(downloaded, path)
        return _LockedWheel(name=path.name, sha256=sha256, size=size)

    def _place(self, sha256: str, name: str) -> Path:
        return self._dir / "wheels" / sha256[:16] / name

    @contextmanager
    def _workspace(self) -> Iterator[Path]:
        """On the cache's own file system, so that a finished file is renamed into place."""
        folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=self._dir))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Refused(
                            f"another meshctl has held the bundle cache {self._dir} for"
                            f" {LOCK_WAIT_S:g} s"
                        ) from None
                    time.sleep(0.05)
            for left in self._dir.glob(".partial-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            os.close(descriptor)

    def _read_lock(self) -> _LockFile:
        try:
            return codec.decode(self._lock_path.read_bytes(), _LockFile)
        except FileNotFoundError:
            return _LockFile()
        except codec.Malformed as error:
            raise StateCorrupt(
                f"{self._lock_path} is not a bundle lock: {error}",
                hint=f"remove {self._lock_path}; the next deploy resolves anew",
            ) from error

    def _write_lock(self, lock: _LockFile) -> None:
        self._lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(
            prefix=f".{self._lock_path.name}.", dir=self._lock_path.parent
        )
        try:
            with open(descriptor, "wb") as file:
                file.write(codec.encode_readable(lock))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self._lock_path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise


def requirements(target: Target, kind: Kind = "proxy") -> tuple[Requirement, ...]:
    """What the installed meshctl asks for on ``target``: a proxy's by the ``host`` extra, a
    signer's by what meshctl itself asks of the same libraries.
    """
    try:
        lines = importlib.metadata.requires("meshctl") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MeshError(
            "meshctl is not installed, so what a host needs is not known",
            hint="install it with pip; running it from a source tree is not enough",
        ) from error
    if kind == "proxy":
        return closure.of_extra(lines, target, "host")
    return tuple(
        requirement
        for requirement in closure.applicable(lines, target)
        if requirement.name in signerwheel.REQUIRES
    )


def _own(kind: Kind) -> list[tuple[str, bytes]]:
    """Our own wheels: name and content. A signer shares the vocabulary of the proxy."""
    own = [(proxywheel.file_name(), proxywheel.build())]
    if kind == "signer":
        own.append((signerwheel.file_name(), signerwheel.build()))
    return own


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
