"""What a lab remembers between invocations, who else is at work on it, and which process is which.

A process is known by its id and its start time, so that an id the kernel gave to somebody else is
never signalled.
"""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from labkit.command import LabError, say

_LOCK_DEADLINE_S = 1500
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that cannot be mistaken for another."""

    pid: int
    started: int
    """Clock ticks since the machine's boot (field 22 of proc_pid_stat(5))."""

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        stat = _stat(pid)
        return None if stat is None else cls(pid=pid, started=int(stat[19]))

    def is_alive(self) -> bool:
        stat = _stat(self.pid)
        return stat is not None and int(stat[19]) == self.started and stat[0] not in "ZX"

    def children(self) -> list["Process"]:
        if not self.is_alive():
            return []
        found = []
        for entry in Path("/proc").iterdir():
            stat = _stat(int(entry.name)) if entry.name.isdigit() else None
            if stat is not None and int(stat[1]) == self.pid:
                found.append(Process(pid=int(entry.name), started=int(stat[19])))
        return found

    def send(self, number: int) -> None:
        """Signal it; nothing happens to a process that is gone or is not the one meant."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Opened first, checked second: from here on the handle means this very process.
            if self.is_alive():
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return
        finally:
            os.close(handle)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on; the name before them may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


@dataclass(slots=True, kw_only=True)
class HostRecord:
    index: int
    python: bool = True
    watcher: Process | None = None
    """The process that runs the machine and starts it again when it reboots."""


@dataclass(slots=True, kw_only=True)
class Record:
    hosts: dict[str, HostRecord] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Record":
        """An empty record when there is none or it cannot be read: ``down`` needs none."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["format"] != _FORMAT:
                return cls()
            return cls(
                hosts={
                    name: HostRecord(
                        index=int(host["index"]),
                        python=bool(host["python"]),
                        watcher=Process(**host["watcher"]) if host["watcher"] else None,
                    )
                    for name, host in raw["hosts"].items()
                }
            )
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            say(f"{path} cannot be read and is taken as empty")
            return cls()

    def save(self, path: Path) -> None:
        write(path, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n")


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Whole or not at all, and with its final mode from the start."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode), "w") as sink:
        sink.write(text)
    new.rename(path)


@contextmanager
def locked(path: Path, *, what: str) -> Iterator[int]:
    """One invocation at a time; a second one waits and says why. Yields the lock's descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        deadline = time.monotonic() + _LOCK_DEADLINE_S
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LabError(f"gave up waiting for {path}: {what}") from None
                if not told:
                    say(f"waiting: {what}")
                    told = True
                time.sleep(0.2)
        # A copy with a high number: a shell script that inherits it may use the low ones itself.
        copy = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 100)
        try:
            yield copy
        finally:
            os.close(copy)
