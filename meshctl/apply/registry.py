"""The embedded registry as a process: started where nothing answers, ended by uninstall."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from meshctl.errors import MeshError, RemoteFailure
from meshctl.onhost.command import ask
from meshctl.state import StateDir

START_S = 15.0
_POLL_S = 0.05


async def start(state: StateDir, address: str, datacenter: str) -> None:
    """Returns once it answers; does nothing if something does already."""
    await asyncio.to_thread(_start, state, address, datacenter)


async def stop(state: StateDir) -> bool:
    """False: it did not run."""
    return await asyncio.to_thread(_stop, state)


def _start(state: StateDir, address: str, datacenter: str) -> None:
    url = urlsplit(address)
    if _answers(url.netloc):
        return
    log = state.path / "registry.log"
    argv = [
        sys.executable, "-m", "meshctl.registry",
        "--host", url.hostname or "127.0.0.1",
        "--port", str(url.port or 8500),
        "--datacenter", datacenter,
        "--data", str(state.path / "registry.json"),
        "--pid-file", str(_pid_file(state)),
    ]  # fmt: skip
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    deadline = time.monotonic() + START_S
    while not _answers(url.netloc):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_bytes()[-2000:].decode("utf-8", "replace")
            raise RemoteFailure(
                f"the embedded registry did not start at {address}",
                output=said,
                hint=f"see {log}; if another process has the port, change consul.address",
            )
        time.sleep(_POLL_S)
    # It outlives this process on purpose: the interpreter has nothing to say about that.
    process.returncode = 0


def _stop(state: StateDir) -> bool:
    pid = _pid(state)
    if pid == 0:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_S
    while _pid(state) == pid:
        if time.monotonic() > deadline:
            raise MeshError(f"the embedded registry, process {pid}, does not end")
        time.sleep(_POLL_S)
    return True


def _pid_file(state: StateDir) -> Path:
    return state.path / "registry.pid"


def _pid(state: StateDir) -> int:
    """0: it does not run. The id may have been given to another process: asked by its name."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(_pid_file(state).read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"meshctl.registry" in arguments and str(_pid_file(state)).encode() in arguments:
            return pid
    return 0


def _answers(authority: str) -> bool:
    return ask(authority, "GET", "/v1/status/leader", timeout_s=2)[0] == 200
