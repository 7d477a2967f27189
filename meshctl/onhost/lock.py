"""One deploy at a time on a host, whoever's: a lease in a file, and a kernel lock while it works.

The lease names an operator's state directory and ends by itself; the kernel lock lasts as long
as an operation runs, so that the next one of a killed meshctl waits for the one it left behind.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator

from meshctl.onhost import files
from meshctl.onhost.fault import Fault

LEASE_S = 900.0
"""Renewed by each operation: longer than any one of them, pushing the binary of Consul included."""
_POLL_S = 0.1


@contextlib.contextmanager
def held(path: str, owner: str, wait_s: float) -> Iterator[None]:
    """Raises Fault: another operator has the host, or our own operation does not end."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    descriptor = os.open(path + ".running", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for(descriptor, wait_s)
        holder, until = lease(path)
        if holder not in ("", owner) and until > time.time():
            raise Fault(
                f"{holder} is deploying to this host; the lease ends in"
                f" {until - time.time():.0f} s",
                code="locked",
            )
        record = {"owner": owner, "until": time.time() + LEASE_S}
        files.write(path, json.dumps(record).encode(), 0o600)
        yield
    finally:
        os.close(descriptor)


def release(path: str, owner: str) -> None:
    holder, _ = lease(path)
    if holder == owner:
        files.remove(path)


def lease(path: str) -> tuple[str, float]:
    try:
        found = json.loads(files.content(path) or b"{}")
        return str(found.get("owner", "")), float(found.get("until", 0))
    except (ValueError, AttributeError, TypeError):
        return "", 0.0


def _wait_for(descriptor: int, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Fault(
                    "an earlier operation of meshctl still runs on this host", code="locked"
                ) from None
            time.sleep(_POLL_S)
