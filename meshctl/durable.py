"""Files of the operator's side that are whole or absent, whatever happens in between.

Written under a temporary name with their final mode, flushed to the disk, then renamed; read with
a limit. The operating system's errors become sentences that name the file.
"""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from meshctl.errors import MeshError, Refused, StateCorrupt

MAX_BYTES = 16 * 1024 * 1024
"""Nothing that is kept here is larger; a larger file is not ours."""

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path``: readers see the old content or the new, never a part of either.

    Raises MeshError when the disk is full or the folder cannot be written; the old file stays.
    """
    temporary = _temporary(path)
    with translated(path, "written"):
        try:
            _fill(temporary, data, mode)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def create(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make ``path``, which must not exist; raises Refused when it does."""
    temporary = _temporary(path)
    with translated(path, "written"):
        try:
            _fill(temporary, data, mode)
            os.link(temporary, path)
        except FileExistsError:
            raise Refused(f"{path} exists already") from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        flush_folder(path.parent)


def read(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """The content of ``path``; FileNotFoundError is for the caller to judge.

    Raises StateCorrupt when it is larger than ``limit`` or not a plain file.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO left here would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise StateCorrupt(f"{path} is a folder, a file was expected") from None
    except OSError as error:
        raise MeshError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise StateCorrupt(f"{path} is larger than {limit} bytes, so it is not what it should be")
    return data


def sweep(folder: Path, *, older_than_s: float = 0.0) -> None:
    """Remove what killed writers left in ``folder``.

    Without an age, only where nobody else can be writing: the caller holds a lock.
    """
    oldest = time.time() - older_than_s
    with translated(folder, "tidied"):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name) and path.lstat().st_mtime <= oldest:
                path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(path: Path, verb: str) -> Iterator[None]:
    """OSError to MeshError: ``<path> cannot be <verb>: No space left on device``."""
    try:
        yield
    except OSError as error:
        raise MeshError(
            f"{path} cannot be {verb}: {error.strerror}",
            hint="free space or correct the permissions, then run the same command again",
        ) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _fill(path: Path, data: bytes, mode: int) -> None:
    # O_EXCL: a link planted under this name must not decide where a key is written.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
