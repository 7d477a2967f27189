"""Parts of a mesh in processes of their own, so that what each of them costs can be seen."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PROGRAM = Path(__file__).resolve().parent / "programs" / "part.py"
_TESTS = Path(__file__).resolve().parents[1]


class Part:
    """tests/integration/programs/part.py as a child."""

    def __init__(self, role: str, directory: Path, *ports: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(_PROGRAM), role, str(directory), *map(str, ports or (0,))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a line for each refusal, up to its rate
            env={"PYTHONPATH": f"{_TESTS}:{_TESTS.parent}", "PATH": "/usr/bin:/bin"},
        )
        assert self._child.stdout is not None
        self.port = int(self._child.stdout.readline() or b"0")
        assert self.port, "the process did not start"

    @property
    def rss_kib(self) -> float:
        pages = int(Path(f"/proc/{self._child.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1024

    def forget_peak(self) -> None:
        """``peak_kib`` begins anew (proc(5), clear_refs)."""
        Path(f"/proc/{self._child.pid}/clear_refs").write_text("5")

    @property
    def peak_kib(self) -> float:
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        return float(status.partition("VmHWM:")[2].split()[0])

    def stop(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(5)


@contextmanager
def many_files(count: int) -> Iterator[None]:
    """So many may be open, in children that are started meanwhile too."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < count:
        pytest.skip(f"needs {count} file descriptors, the limit is {before[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
