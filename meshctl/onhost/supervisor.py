"""Who starts a service and keeps it: systemd on a real host, a process id file in the demo."""

import contextlib
import json
import os
import signal
import subprocess
import time
from typing import Any, Protocol

from meshctl.onhost import files
from meshctl.onhost.command import attempt, run
from meshctl.onhost.fault import Fault

_JOURNAL_LINES = 20
_LINE_MAX = 400
_POLL_S = 0.05
_EXEC_TRIES = 20
_EXEC_POLL_S = 0.01


class Supervisor(Protocol):
    """``start`` and ``restart`` return once the service says it is ready, where it can say so."""

    def is_active(self) -> bool: ...
    def is_failed(self) -> bool:
        """Whether waiting for it to become ready is in vain."""
        ...

    def is_enabled(self) -> bool: ...
    def enable(self) -> None: ...
    def disable(self) -> None: ...
    def start(self, timeout_s: float) -> None: ...
    def restart(self, timeout_s: float) -> None: ...
    def stop(self, timeout_s: float) -> None: ...
    def hang_up(self) -> None:
        """Have it read its identities again."""
        ...

    def refresh(self) -> None:
        """Have the unit files read again."""
        ...

    def log(self, since: float) -> str: ...


class Systemd:
    def __init__(self, unit: str) -> None:
        self.unit = unit

    def _property(self, name: str) -> str:
        return run(["systemctl", "show", "-p", name, "--value", "--", self.unit]).strip()

    def is_active(self) -> bool:
        return self._property("ActiveState") in ("active", "reloading")

    def is_failed(self) -> bool:
        return self._property("ActiveState") in ("failed", "inactive")

    def is_enabled(self) -> bool:
        return self._property("UnitFileState") == "enabled"

    def enable(self) -> None:
        run(["systemctl", "enable", "--quiet", "--", self.unit])

    def disable(self) -> None:
        attempt(["systemctl", "disable", "--quiet", "--", self.unit])

    def start(self, timeout_s: float) -> None:
        attempt(["systemctl", "reset-failed", "--", self.unit])
        run(["systemctl", "start", "--", self.unit], timeout_s)

    def restart(self, timeout_s: float) -> None:
        attempt(["systemctl", "reset-failed", "--", self.unit])
        run(["systemctl", "restart", "--", self.unit], timeout_s)

    def stop(self, timeout_s: float) -> None:
        status, output = attempt(["systemctl", "stop", "--", self.unit], timeout_s)
        if status not in (0, 5):  # 5: no such unit
            raise Fault(f"{self.unit} could not be stopped", output=output)
        attempt(["systemctl", "reset-failed", "--", self.unit])

    def hang_up(self) -> None:
        run(["systemctl", "reload", "--", self.unit])

    def refresh(self) -> None:
        run(["systemctl", "daemon-reload"])

    def log(self, since: float) -> str:
        _, text = attempt(
            ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--lines={_JOURNAL_LINES}",
             f"--since=@{int(since)}", f"--unit={self.unit}"]
        )  # fmt: skip
        return _readable(text)


class Process:
    """A detached process. Alive means: the id in the file is a process that runs our program."""

    # The shell writes the id before it becomes the program, so that no interruption can leave a
    # process that nobody knows of.
    _START = 'umask 077; echo "$$" > "$1.new" && mv "$1.new" "$1" && shift && exec "$@"'

    def __init__(self, argv: list[str], pid_file: str, log_file: str, marker: str) -> None:
        self.argv = argv
        self.pid_file = pid_file
        self.log_file = log_file
        self.marker = marker
        """A part of the command line that no other process has."""

    def pid(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            pid = int(files.content(self.pid_file) or b"0")
            if self.marker.encode() in _arguments(pid):
                return pid
        return 0

    def is_active(self) -> bool:
        return self.pid() != 0

    def is_failed(self) -> bool:
        return self.pid() == 0

    def is_enabled(self) -> bool:
        return True

    def enable(self) -> None: ...
    def disable(self) -> None: ...
    def refresh(self) -> None: ...

    def start(self, timeout_s: float) -> None:
        if self.is_active():
            return
        for path in (self.pid_file, self.log_file):
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        with open(self.log_file, "ab") as log:
            child = subprocess.Popen(
                ["sh", "-c", self._START, "sh", self.pid_file, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not self.is_active():
            if child.poll() is not None or time.monotonic() > deadline:
                raise Fault("the process did not start", output=self.log(0))
            time.sleep(_POLL_S)
        # It outlives this process on purpose: nothing is to be said of that.
        child.returncode = 0

    def restart(self, timeout_s: float) -> None:
        self.stop(timeout_s)
        self.start(timeout_s)

    def stop(self, timeout_s: float) -> None:
        pid = self.pid()
        deadline = time.monotonic() + timeout_s
        sent = 0
        while pid and self.pid() == pid:
            late = time.monotonic() > deadline
            with contextlib.suppress(ProcessLookupError):
                if late and sent == signal.SIGTERM:
                    sent = signal.SIGKILL
                    deadline = time.monotonic() + 5
                    os.kill(pid, signal.SIGKILL)
                elif late and sent == signal.SIGKILL:
                    raise Fault(f"process {pid} does not end")
                elif not sent:
                    sent = signal.SIGTERM
                    os.kill(pid, signal.SIGTERM)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(_POLL_S)
        files.remove(self.pid_file)

    def hang_up(self) -> None:
        if pid := self.pid():
            os.kill(pid, signal.SIGHUP)

    def log(self, since: float) -> str:
        """The end of the file: it does not say when."""
        with contextlib.suppress(OSError), open(self.log_file, "rb") as file:
            file.seek(max(0, os.path.getsize(self.log_file) - 8192))
            return _readable(file.read().decode("utf-8", "replace"))
        return ""


def _arguments(pid: int) -> list[bytes]:
    """Of a process; raises OSError if there is none. A zombie has none, and counts as dead."""
    for _ in range(_EXEC_TRIES):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            text = file.read()
        with open(f"/proc/{pid}/stat", "rb") as file:
            is_zombie = file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
        if text or is_zombie:
            return text.split(b"\0")
        # Empty for a moment while it becomes another program (execve).
        time.sleep(_EXEC_POLL_S)
    return []


def _readable(text: str) -> str:
    """The last lines, each cut to a length; of the proxy's own, which are JSON, what they say."""
    return "\n".join(_line(line)[:_LINE_MAX] for line in text.splitlines()[-_JOURNAL_LINES:])


def _line(line: str) -> str:
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and "msg" in entry:
            error = str(entry.get("error", "")).strip().rpartition("\n")[2]
            said = f"{entry.get('level', '')}: {entry['msg']}".replace("\n", " ")
            return f"{said} ({error})" if error else said
    return line


def supervisor(request: dict[str, Any]) -> Supervisor:
    if request["kind"] == "systemd":
        return Systemd(request["unit"])
    return Process(request["argv"], request["pid_file"], request["log_file"], request["marker"])
