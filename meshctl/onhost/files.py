"""Files, links and directories on a host, changed so that each is old or new, never in between."""

import contextlib
import grp
import os
import pwd
import secrets
import shutil

from meshctl.onhost.fault import Fault


def write(path: str, data: bytes, mode: int, owner: str = "", group: str = "") -> None:
    """Made with its final mode and owner under another name, flushed, then renamed."""
    folder, name = os.path.split(path)
    os.makedirs(folder, 0o755, exist_ok=True)
    temporary = f"{folder}/.{name}.{secrets.token_hex(6)}.partial"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            os.fchown(descriptor, user_id(owner), group_id(group))
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    flush(folder)


def link(path: str, target: str) -> None:
    """Point the symbolic link at ``target`` in one step."""
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name}.{secrets.token_hex(6)}.partial"
    os.symlink(target, temporary)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    flush(folder)


def target_name(path: str) -> str:
    """The last part of a link's target; empty: there is no link."""
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return ""


def content(path: str) -> "bytes | None":
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def directory(path: str, mode: int, owner: str, group: str = "") -> None:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    if os.path.islink(path) or not os.path.isdir(path):
        raise Fault(f"{path} is not a directory")
    if owner:
        os.chown(path, user_id(owner), group_id(group or owner))
    os.chmod(path, mode)


def remove(path: str) -> bool:
    """A file, a link or a whole tree; false: it was not there."""
    if not os.path.lexists(path):
        return False
    if os.path.isdir(path) and not os.path.islink(path):
        # Renamed first: a tree that is half removed must not be taken for a whole one.
        folder, name = os.path.split(path)
        doomed = f"{folder}/.{name}.{secrets.token_hex(6)}.removed"
        os.rename(path, doomed)
        shutil.rmtree(doomed)
    else:
        os.unlink(path)
    return True


def flush(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def user_id(name: str) -> int:
    if not name:
        return -1
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise Fault(f"there is no user {name}") from None


def group_id(name: str) -> int:
    if not name:
        return -1
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Fault(f"there is no group {name}") from None
