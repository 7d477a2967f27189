"""Making a mesh in a folder: state, CA, starting files. What exists already is never overwritten.

The state directory, CA included, is built under another name and renamed: a crash leaves a whole
one or none. Starting files are written one by one, each whole, and whichever is missing is
written by the next run.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from meshctl import durable
from meshctl.errors import MeshError, Refused
from meshctl.inventory.starting import starting_inventory_yaml
from meshctl.pki.passphrase import Passphrase
from meshctl.pki.store import CaStore
from meshctl.policy import starting_mesh_yaml
from meshctl.state import NAME, StateDir
from proxy.model.names import TrustDomain

DEFAULT_TRUST_DOMAIN = TrustDomain("mesh.internal")
INVENTORY_FILE = "inventory.yaml"
POLICY_FILE = "mesh.yaml"
IGNORE_FILE = ".gitignore"
_IGNORED = f"{NAME}/"
_BUILDING = f"{NAME}.new-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialised:
    """What is in the folder now, and what this run did to it."""

    folder: Path
    state: StateDir
    ca: CaStore
    made: tuple[str, ...]
    """Names in the folder that were written, in order; empty if nothing changed."""
    kept: tuple[str, ...]
    """Names that were there already."""
    backups: tuple[str, ...]
    """Where replaced files went."""


def initialise(
    folder: Path,
    *,
    trust_domain: TrustDomain | None,
    passphrase: Callable[[], Passphrase | None],
    force: bool,
    now: datetime,
) -> Initialised:
    """Make whatever is missing of a mesh in ``folder``, which is made too.

    ``trust_domain`` None: mesh.internal, or the existing mesh's. ``passphrase`` is called only
    when a CA is going to be made. With ``force``, starting files are written anew, after a
    backup, but not beside an existing CA: that raises Refused, as does another trust domain.
    """
    with durable.translated(folder, "made"):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        durable.sweep(folder)
        path = folder / NAME
        made: list[str] = []
        kept: list[str] = []
        backups: list[str] = []
        if _is_occupied(path):
            state = _open_existing(path, trust_domain, force)
            kept.append(_IGNORED)
        else:
            state = _build(path, trust_domain or DEFAULT_TRUST_DOMAIN, passphrase(), now)
            made.append(_IGNORED)
        ca = CaStore.open(state)
        for name, text in (
            (INVENTORY_FILE, starting_inventory_yaml()),
            (POLICY_FILE, starting_mesh_yaml()),
        ):
            file = folder / name
            if not _exists(file):
                durable.write(file, text.encode(), mode=0o644)
                made.append(name)
            elif force and durable.read(file) != text.encode():
                backups.append(_back_up(file))
                durable.write(file, text.encode(), mode=0o644)
                made.append(name)
            else:
                kept.append(name)
        (made if _ignore(folder / IGNORE_FILE) else kept).append(IGNORE_FILE)
    return Initialised(
        folder=folder,
        state=state,
        ca=ca,
        made=tuple(made),
        kept=tuple(kept),
        backups=tuple(backups),
    )


def _open_existing(path: Path, trust_domain: TrustDomain | None, force: bool) -> StateDir:
    state = StateDir.open(path)
    away = f"to begin anew, move it away first: mv {path} {path}.old"
    if trust_domain is not None and trust_domain != state.trust_domain:
        raise Refused(
            f"{path} is the mesh {state.trust_domain}, not {trust_domain}: "
            "a trust domain cannot be changed",
            hint=away,
        )
    if force:
        raise Refused(f"there is a CA in {path} already; it is never overwritten", hint=away)
    return state


def _build(
    path: Path, trust_domain: TrustDomain, passphrase: Passphrase | None, now: datetime
) -> StateDir:
    with durable.translated(path, "made"):
        # Of a run that was killed; ours is the only one, and its keys were never in use.
        for leftover in path.parent.glob(f"{_BUILDING}*"):
            shutil.rmtree(leftover)
        building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=path.parent))
        try:
            CaStore.create(StateDir.create(building, trust_domain, now), passphrase, now)
            building.rename(path)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise Refused(f"{path} has been made by somebody else meanwhile") from None
            raise
        finally:
            if building.exists():
                shutil.rmtree(building)
        durable.flush_folder(path.parent)
    return StateDir.open(path)


def _is_occupied(path: Path) -> bool:
    """Whether something is at ``path`` that a rename would not simply replace."""
    if not _exists(path):
        return False
    try:
        return not path.is_dir() or path.is_symlink() or any(path.iterdir())
    except OSError:
        return True


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _back_up(file: Path) -> str:
    """A second name for the content; the first is replaced afterwards."""
    for number in range(1, 1000):
        backup = file.with_name(f"{file.name}.bak{number}")
        try:
            os.link(file, backup)
        except FileExistsError:
            continue
        except OSError as error:
            raise MeshError(f"{file} cannot be backed up: {error.strerror}") from error
        return backup.name
    raise Refused(f"there are too many backups of {file}", hint=f"remove some of {file}.bak*")


def _ignore(file: Path) -> bool:
    """Keep keys out of version control. Whether the file had to be changed."""
    try:
        data = durable.read(file)
    except FileNotFoundError:
        data = b""
    present = {line.strip().strip(b"/") for line in data.splitlines()}
    if NAME.encode() in present:
        return False
    separator = b"\n" if data and not data.endswith(b"\n") else b""
    mode = file.stat().st_mode & 0o777 if data else 0o644
    durable.write(file, data + separator + _IGNORED.encode() + b"\n", mode=mode)
    return True


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One ``init`` at a time in a folder; the kernel ends it with the process."""
    with durable.translated(folder, "used"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                f"another meshctl init works in {folder}", hint="wait until it has ended"
            ) from None
        yield
    finally:
        os.close(descriptor)
