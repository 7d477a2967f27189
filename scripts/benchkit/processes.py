"""Start on a core, read what it used, stop. Only processes that were started here are touched."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_STOP_S = 4.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LOG_TAIL_BYTES = 4000


class Failed(Exception):
    """A process that did not do what it was started for; the text has the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident memory of one process and its descendants."""

    rss_mib: float
    pss_mib: float
    """Shared pages counted in proportion: what it costs where its twin runs beside it."""


class Process:
    """A child pinned to one core, dead at the latest when this program is."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        core: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = log
        # setpriv: the kernel ends the child if we are killed without a chance to clean up.
        pinned = ["taskset", "-c", str(core), "setpriv", "--pdeathsig", "KILL", *command]
        with log.open("ab") as sink:
            self._child = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=dict(environment) if environment is not None else None,
                # Its own group: a Ctrl-C reaches us alone, and we stop everything in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the program itself: taskset and setpriv replace themselves by it."""
        return self._child.pid

    def check(self) -> None:
        """Raises Failed if it has ended."""
        code = self._child.poll()
        if code is not None:
            raise Failed(f"{self.name} ended with code {code}; its log ends:\n{self.log_tail()}")

    def log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return ""

    def cpu_s(self) -> float:
        """User and system time so far, of its descendants too."""
        return sum(_cpu_ticks(pid) for pid in _tree(self.pid)) / _TICKS_PER_S

    def memory(self) -> Memory:
        rollups = [_rollup(pid) for pid in _tree(self.pid)]
        return Memory(
            rss_mib=sum(rollup_mib(text, "Rss") for text in rollups),
            pss_mib=sum(rollup_mib(text, "Pss") for text in rollups),
        )

    def stop(self) -> None:
        """Ask, wait, then insist. Does nothing if it has ended."""
        if self._child.poll() is None:
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_STOP_S)
        # The group was made by us for this child: what is left of it is ours to end.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait(_STOP_S)


class Group:
    """Processes that are stopped together, the last started first."""

    def __init__(self) -> None:
        self._members: list[Process] = []

    def add(self, process: Process) -> Process:
        self._members.append(process)
        return process

    def __iter__(self) -> Iterator[Process]:
        return iter(self._members)

    def __enter__(self) -> "Group":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._members:
            self._members.pop().stop()


def all_cpu_s() -> float:
    """User and system time of this program and of everything that it ever started."""
    alive = 0
    for pid in _tree(os.getpid()):
        with contextlib.suppress(Failed):
            alive += _cpu_ticks(pid)
    ended = os.times()
    return alive / _TICKS_PER_S + ended.children_user + ended.children_system


def cpu_ticks(stat: str) -> int:
    """utime + stime from the text of ``/proc/PID/stat``.

    The name in the second field may hold blanks and parentheses: counting starts behind the last.
    """
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def rollup_mib(text: str, key: str) -> float:
    """A value such as ``Pss`` from the text of ``/proc/PID/smaps_rollup``; 0 if it is absent."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def _tree(pid: int) -> list[int]:
    """``pid`` and its descendants, found through the kernel's lists of children."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found.extend(int(child) for child in children.read_text().split())
    return found


def _cpu_ticks(pid: int) -> int:
    try:
        return cpu_ticks(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except FileNotFoundError as error:
        raise Failed(f"process {pid} ended while it was measured") from error


def _rollup(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError as error:
        raise Failed(f"the memory of process {pid} cannot be read: {error}") from error
