"""Runs on a host, not here: puts files in place, all of them or, on any fault, none.

Standard library only; sent as ``python3 -I -c <this text>``. Standard input: one line of JSON,
``{"parents": bool, "files": [{"path", "mode", "owner", "group", "size", "sha256"}]}``, then the
files' bytes one after the other. Each goes to a new file beside its place, made for its owner
only, then given its owner and mode, checked and made durable; the renames come last. Prints
nothing; on a fault exits with 1 and one sentence on standard error.
"""

import errno
import grp
import hashlib
import json
import os
import pwd
import secrets
import signal
import sys
import time
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20
HEADER_MAX_BYTES = 16 << 20
STALE_S = 600


class Fault(Exception):
    """One sentence for the operator."""


def stage(entry: dict[str, Any], source: BinaryIO) -> str:
    """Returns the path of the complete, checked temporary file."""
    folder, name = os.path.split(entry["path"])
    remove_stale(folder, name)
    partial = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(partial, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchown(file.fileno(), user_id(entry["owner"]), group_id(entry["group"]))
            os.fchmod(file.fileno(), entry["mode"])
            copy(source, file, entry)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(partial)
        raise
    return partial


def copy(source: BinaryIO, file: BinaryIO, entry: dict[str, Any]) -> None:
    digest = hashlib.sha256()
    left = entry["size"]
    while left:
        chunk = source.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise Fault(f"the connection ended in the middle of {entry['path']}")
        digest.update(chunk)
        file.write(chunk)
        left -= len(chunk)
    if digest.hexdigest() != entry["sha256"]:
        raise Fault(f"{entry['path']} arrived damaged")


def remove_stale(folder: str, name: str) -> None:
    """What a killed run may have left; not what a run beside this one is writing."""
    for found in os.scandir(folder):
        if (
            found.name.startswith(f".{name}.")
            and found.name.endswith(".partial")
            and time.time() - found.stat(follow_symlinks=False).st_mtime > STALE_S
        ):
            os.unlink(found.path)


def user_id(name: str | None) -> int:
    if name is None:
        return -1
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise Fault(f"there is no user {name}") from None


def group_id(name: str | None) -> int:
    if name is None:
        return -1
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Fault(f"there is no group {name}") from None


def sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(header: dict[str, Any], source: BinaryIO) -> None:
    staged: list[tuple[str, str]] = []
    try:
        for entry in header["files"]:
            if header["parents"]:
                os.makedirs(os.path.dirname(entry["path"]), 0o755, exist_ok=True)
            if os.path.isdir(entry["path"]) and not os.path.islink(entry["path"]):
                raise Fault(f"{entry['path']} is a directory")
            staged.append((stage(entry, source), entry["path"]))
        while staged:
            os.replace(*staged[0])
            staged.pop(0)
    finally:
        for partial, _ in staged:
            os.unlink(partial)
    for folder in {os.path.dirname(entry["path"]) for entry in header["files"]}:
        sync_folder(folder)


def give_up(*_: object) -> None:
    raise Fault("the run was stopped")


def main() -> None:
    signal.signal(signal.SIGTERM, give_up)
    signal.signal(signal.SIGHUP, give_up)
    os.umask(0o022)
    source = sys.stdin.buffer
    try:
        line = source.readline(HEADER_MAX_BYTES)
        if not line.endswith(b"\n"):
            raise Fault("the connection ended before the list of files")
        put(json.loads(line), source)
    except Fault as fault:
        sys.exit(str(fault))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f"the disk is full{where}; nothing was changed")
        sys.exit(f"{error.strerror}{where}")


if __name__ == "__main__":
    main()
