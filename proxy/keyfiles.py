"""Key and chain on disk as one thing: written 0600 in 0700, switched by one rename, one writer.

Shared by the commands that make identities on a host (``proxy.keys``, and the signer's own). A
directory holds ``current`` -> ``<serial>/{key.pem,chain.pem}`` and, while a certificate is on its
way, ``pending/key.pem``. Standard library only.
"""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_PEM_BYTES = 256 * 1024
KEY, CHAIN, CURRENT, PENDING = "key.pem", "chain.pem", "current", "pending"


class Refused(Exception):
    """One sentence that says what is wrong."""


def read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_PEM_BYTES:
        raise Refused(f"{path} is larger than {MAX_PEM_BYTES} bytes")
    return data


def read_chain() -> bytes:
    """From standard input. Raises Refused when there is more than any chain needs."""
    chain = sys.stdin.buffer.read(MAX_PEM_BYTES + 1)
    if len(chain) > MAX_PEM_BYTES:
        raise Refused(f"the chain is larger than {MAX_PEM_BYTES} bytes")
    return chain


def told(work: Callable[[], bytes], state_dir: Path) -> int:
    """The exit code of a command: what ``work`` gives goes to standard output, or one sentence
    that says what was in the way to standard error."""
    os.umask(0o077)
    try:
        sys.stdout.buffer.write(work())
        sys.stdout.buffer.flush()
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or state_dir}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def put_in_force(directory: Path, target: Path, key: bytes, chain: bytes) -> None:
    """Ends with one rename; before it the old identity is in force, after it the new one."""
    previous = read_link(directory / CURRENT)
    incoming = directory / f".{target.name}.new"
    _remove(incoming)
    make_directory(incoming)
    write(incoming / KEY, key)
    write(incoming / CHAIN, chain)
    _remove(target)  # left by an interrupted run: it is not what `current` names
    incoming.rename(target)
    link = directory / f".{CURRENT}.new"
    with suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(target.name)
    link.rename(directory / CURRENT)
    _sync(directory)
    _remove(directory / PENDING)
    keep = {target.name, previous, CURRENT}
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry.name not in keep:
            _remove(entry)


@contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """``directory``, made if need be, for one writer at a time. Raises Refused for a second."""
    make_directory(directory)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(f"{what} is being changed right now") from error
        yield
    finally:
        os.close(lock)


def make_directory(path: Path) -> None:
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if path.is_symlink() or not path.is_dir():
        raise Refused(f"{path} is not a directory")
    path.chmod(0o700)  # the umask may have taken bits away, an earlier hand may have added some


def write(path: Path, data: bytes) -> None:
    """Atomic, durable, 0600 from the start."""
    temporary = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        temporary.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(directory: Path) -> None:
    """A directory of ours: files only."""
    if not directory.is_dir():
        return
    for entry in directory.iterdir():
        entry.unlink()
    directory.rmdir()


def read_link(path: Path) -> str:
    return os.readlink(path) if path.is_symlink() else ""


def become_owner(state_dir: Path) -> None:
    """Root gives up root, for good. What is imported lazily must have been imported before."""
    if os.geteuid() != 0:
        return
    try:
        owner = state_dir.stat()
    except OSError as error:
        raise Refused(f"{state_dir} cannot be read: {error.strerror}") from error
    if owner.st_uid == 0:
        return
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)
