"""Runs on a host, not here: makes a release directory from pushed wheels.

Standard library only; sent as ``python3 -I -c <this text>``. Standard input: one JSON object,
``{"wheels_dir", "release", "pip", "wheels": [[name, sha256]], "probe": [module], "wait_s"}``.
Standard output: one JSON object, ``{"release", "changed"}``. On a fault: exit 1 and one sentence
on standard error, with nothing half made left behind.

A virtual environment cannot be moved, so it is made where it stays; it counts only once its
``.complete`` file exists, written last. A run that died is recognised by that file's absence and
its remains are removed. Two runs wait for each other.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from typing import Any

COMPLETE = ".complete"
SPARE_BYTES = 16 << 20
BYTECODE_FACTOR = 2.2
PIP_S = 300.0
BLOCK = 4096


class Fault(Exception):
    """One sentence for the operator."""


def wait_for_lock(path: str, wait_s: float) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Fault(f"another installation has been running for {wait_s:g} s") from None
            time.sleep(0.05)


def verify(folder: str, wheels: list[list[str]]) -> None:
    """Removes a damaged wheel, so that the next deploy pushes it again."""
    for name, expected in wheels:
        path = os.path.join(folder, name)
        try:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise Fault(f"the wheel {name} is missing") from None
        if found != expected:
            os.unlink(path)
            raise Fault(f"the wheel {name} was damaged and has been removed; deploy again")


def check_space(folder: str, paths: list[str]) -> None:
    needed = SPARE_BYTES
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                factor = BYTECODE_FACTOR if entry.filename.endswith(".py") else 1.0
                needed += int(entry.file_size * factor) + BLOCK
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    if free < needed:
        raise Fault(
            f"the disk of {folder} has {free >> 20} MiB free; {needed >> 20} MiB are needed"
        )


def install(release: str, pip: str, paths: list[str], lock: int) -> None:
    """``venv`` without pip, because Debian ships no ensurepip without python3-venv; pip runs from
    its own wheel, deaf to configuration, environment and network.
    """
    venv.EnvBuilder(symlinks=True, with_pip=False).create(release)
    python = os.path.join(release, "bin", "python")
    command = [python, "-I", os.path.join(pip, "pip"), "--isolated", "--no-input"]
    command += ["--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-cache-dir", "--compile", "--no-warn-script-location", *paths]
    done = run(command, release, lock)
    if done.returncode != 0:
        raise Fault(f"pip could not install the wheels: {last_line(done.stderr)}")


def probe(release: str, modules: list[str], lock: int) -> None:
    """A wheel for another ABI shows now, not when the running proxy has been switched."""
    if modules:
        code = "import " + ", ".join(modules)
        done = run([os.path.join(release, "bin", "python"), "-I", "-c", code], release, lock)
        if done.returncode != 0:
            raise Fault(f"the installed release does not load: {last_line(done.stderr)}")


def run(command: list[str], release: str, lock: int) -> "subprocess.CompletedProcess[str]":
    """The child holds the lock too: if this process is killed, the next run must not begin while
    an orphaned pip still writes into the release.
    """
    environment = {
        "PATH": os.defpath,
        "HOME": release,
        "LANG": "C.UTF-8",
        "PIP_CONFIG_FILE": os.devnull,
    }
    return subprocess.run(
        command,
        env=environment,
        pass_fds=(lock,),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PIP_S,
        check=False,
    )


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def make_durable(folder: str) -> None:
    """One call for thousands of files; only then may ``.complete`` say that they are there."""
    try:
        import ctypes  # noqa: PLC0415 - absent from the smallest Pythons

        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if ctypes.CDLL(None).syncfs(descriptor) == 0:
                return
        finally:
            os.close(descriptor)
    except (ImportError, OSError, AttributeError):
        pass
    os.sync()


def mark_complete(release: str, content: str) -> None:
    partial = os.path.join(release, COMPLETE + ".partial")
    with open(partial, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, os.path.join(release, COMPLETE))
    for folder in (release, os.path.dirname(release)):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)


def is_complete(release: str, content: str) -> bool:
    try:
        with open(os.path.join(release, COMPLETE)) as file:
            return file.read() == content
    except (FileNotFoundError, NotADirectoryError):
        return False


def make(request: dict[str, Any]) -> bool:
    """False: it was there already."""
    release, folder = request["release"], request["wheels_dir"]
    wheels = request["wheels"]
    content = json.dumps({"wheels": wheels}, indent=1) + "\n"
    releases = os.path.dirname(release)
    os.makedirs(releases, 0o755, exist_ok=True)
    lock = wait_for_lock(os.path.join(releases, ".install.lock"), request["wait_s"])
    try:
        if is_complete(release, content):
            return False
        verify(folder, wheels)
        paths = [os.path.join(folder, name) for name, _ in wheels if name != request["pip"]]
        remove(release)
        check_space(releases, paths)
        try:
            install(release, os.path.join(folder, request["pip"]), paths, lock)
            probe(release, request["probe"], lock)
            make_durable(release)
            mark_complete(release, content)
        except BaseException as error:
            is_full = shutil.disk_usage(releases).free < SPARE_BYTES // 2
            remove(release)
            if is_full and isinstance(error, Fault):
                raise OSError(errno.ENOSPC, "disk full", release) from error
            raise
        return True
    finally:
        os.close(lock)


def remove(release: str) -> None:
    if os.path.lexists(release):
        shutil.rmtree(release)


def give_up(*_: object) -> None:
    raise Fault("the installation was stopped; deploy again")


def main() -> None:
    signal.signal(signal.SIGTERM, give_up)
    signal.signal(signal.SIGHUP, give_up)
    os.umask(0o022)
    try:
        request = json.load(sys.stdin)
        changed = make(request)
    except Fault as fault:
        sys.exit(str(fault))
    except subprocess.TimeoutExpired as error:
        sys.exit(f"pip did not finish within {error.timeout:g} s")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f"the disk is full{where}; the unfinished release was removed")
        sys.exit(f"{error.strerror}{where}")
    except (ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"what was sent cannot be used: {error}")
    print(json.dumps({"release": request["release"], "changed": changed}))


if __name__ == "__main__":
    main()
