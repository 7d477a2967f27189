"""Where our own proxies spend their time under load, as a short text.

Two recorders at once: perf says how the time divides between the kernel and the libraries, py-spy
which of our functions it is.
"""

import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchkit import probe
from benchkit.contestants import Contestant
from benchkit.processes import Failed
from benchkit.turn import Bench, Effort, started

_PY_SPY_PER_S = 200
_PERF_PER_S = 997
_GRACE_S = 30.0
_SHOWN = 16
_NOTE = (
    "Functions: only Python frames. The own time of Runner.run is uvloop itself, waiting,\n"
    "reading, dispatching. A method that writes to a socket has the system call in its own time."
)

_HOMES = (
    ("kernel", ("[kernel", "[unknown]", "[vdso]")),
    ("OpenSSL", ("libssl", "libcrypto", "_ssl.")),
    ("uvloop", ("loop.",)),
    ("interpreter", ("libpython", "python")),
    ("libc", ("libc.", "libc-", "libpthread", "ld-linux", "libm.")),
)
"""Whose code a shared object is, by the beginning of its name; the rest is called other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorders:
    py_spy: Path
    perf: Path | None
    """None: not to be had on this machine; the shares are then left out."""


def record(
    bench: Bench, contestant: Contestant, effort: Effort, tools: Recorders, *, is_tcp: bool = False
) -> str:
    """The summary of both processes, sampled while wrk runs at full speed."""
    label = "profile-tcp" if is_tcp else "profile"
    with started(bench, contestant, label, lambda _: None) as attempt:
        site, pair, processes = attempt()
        path = bench.backend.large if is_tcp else bench.backend.routed
        port = site.ports.tcp_out if is_tcp else site.ports.http_out
        probe.wait_ready(list(processes), [port], bench.backend.routed)
        url = f"http://127.0.0.1:{port}{path}"
        connections = effort.tcp_connections if is_tcp else effort.connections
        bench.load.run(url, connections=connections, duration_s=1, is_varied=not is_tcp)
        seconds = max(round(effort.duration_s), 1)
        recorders = []
        try:
            data = site.directory / "perf.data"
            if tools.perf is not None:
                pids = ",".join(str(process.pid) for process in pair.both)
                recorders.append(_start(_perf(tools.perf, pids, data, seconds)))
            folded = {}
            for process in pair.both if not is_tcp else ():
                folded[process.name] = output = site.directory / f"{process.name}.folded"
                recorders.append(_start(_py_spy(tools.py_spy, process.pid, output, seconds)))
            outcome = bench.load.run(
                url, connections=connections, duration_s=seconds + 2, is_varied=not is_tcp
            )
            for recorder in recorders:
                _, said = recorder.communicate(timeout=_GRACE_S)
                if recorder.returncode != 0:
                    raise Failed(f"a recorder failed: {said.decode(errors='replace').strip()}")
        finally:
            for recorder in recorders:
                if recorder.poll() is None:
                    recorder.kill()
                    recorder.wait(_GRACE_S)
        sections = []
        if tools.perf is not None:
            sections.append(shares(_report(tools.perf, data).splitlines()))
        sections += [
            summary(name, output.read_text(encoding="utf-8").splitlines())
            for name, output in folded.items()
        ]
    what = "TCP relay" if is_tcp else "HTTP"
    counted = (
        f"{what}: {outcome.succeeded} requests, {', '.join(outcome.failures) or 'none failed'}"
    )
    return "\n\n".join([counted, *sections, *([_NOTE] if folded else [])]) + "\n"


def summary(name: str, folded: Iterable[str]) -> str:
    """From lines ``outer;inner;innermost count``: own and total share of each function."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in folded:
        stack, _, count = line.rpartition(" ")
        if not stack or not count.isdigit():
            continue
        functions = [_without_line(frame) for frame in stack.split(";")]
        own[functions[-1]] += int(count)
        for function in set(functions):
            total[function] += int(count)
    samples = own.total()
    if not samples:
        return f"{name}: no samples"
    lines = [f"{name}: {samples} samples", "  own %  total %  function"]
    lines += [
        f"  {count / samples:6.1%}  {total[function] / samples:6.1%}  {function}"
        for function, count in own.most_common(_SHOWN)
    ]
    return "\n".join(lines)


def shares(report: Iterable[str]) -> str:
    """From lines ``12.34%  name of a shared object``: how much is whose."""
    found: Counter[str] = Counter()
    for line in report:
        percent, _, name = line.strip().partition(" ")
        if percent.endswith("%") and name.strip():
            found[_home(name.strip())] += round(float(percent[:-1]) * 100)
    if not found:
        return "both processes: no samples"
    total = found.total()
    return "\n".join(
        [
            "both processes, by whose code it is",
            *(f"  {count / total:6.1%}  {home}" for home, count in found.most_common()),
        ]
    )


def _home(name: str) -> str:
    for home, beginnings in _HOMES:
        if name.startswith(beginnings):
            return home
    return "kernel" if name.startswith("[") else "other"


def _perf(perf: Path, pids: str, data: Path, seconds: int) -> list[str]:
    # cpu-clock: virtual machines often have no hardware counters.
    sampling = ["-e", "cpu-clock", "-F", str(_PERF_PER_S)]
    return [
        *(str(perf), "record", "-q", *sampling, "-p", pids, "-o", str(data)),
        *("--", "sleep", str(seconds)),
    ]


def _report(perf: Path, data: Path) -> str:
    command = [str(perf), "report", "-i", str(data), "--stdio", "--sort", "dso"]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_GRACE_S,
        check=False,
    ).stdout


def _py_spy(py_spy: Path, pid: int, output: Path, seconds: int) -> list[str]:
    return [
        *(str(py_spy), "record", "--pid", str(pid), "--format", "raw"),
        *("--rate", str(_PY_SPY_PER_S), "--duration", str(seconds)),
        *("--nonblocking", "--output", str(output)),
    ]


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _without_line(frame: str) -> str:
    """``name (file.py:12)`` -> ``name (file.py)``: a function is one entry, whatever its line."""
    head, colon, tail = frame.rpartition(":")
    return f"{head})" if colon and tail.rstrip(")").isdigit() else frame
