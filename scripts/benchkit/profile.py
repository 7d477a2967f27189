"""Where our own proxies spend their time under load: py-spy's samples as a short text."""

import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchkit import probe
from benchkit.contestants import Contestant, Site
from benchkit.processes import Failed, Group
from benchkit.turn import Bench, Effort, free_ports

_RATE_PER_S = 500
_GRACE_S = 30.0
_SHOWN = 30
_NOTE = (
    "Only Python frames are seen: the own time of Runner.run is uvloop itself (waiting, reads,\n"
    "dispatch); a method that writes to a socket has the system call in its own time."
)


def record(bench: Bench, contestant: Contestant, effort: Effort, py_spy: Path) -> str:
    """The summary of both processes, sampled while wrk runs at full speed."""
    directory = bench.directory / "profile"
    directory.mkdir(mode=0o700)
    with Group() as group:
        site = Site(
            directory=directory,
            identities=bench.identities,
            backend_port=bench.backend.port,
            ports=free_ports(),
            proxy_core=bench.proxy_core,
            load_core=bench.load_core,
        )
        pair = contestant.start(site, group)
        probe.wait_ready(list(group), [site.ports.http_out], bench.backend.small)
        url = f"http://127.0.0.1:{site.ports.http_out}{bench.backend.small}"
        bench.load.run(url, connections=effort.connections, duration_s=effort.warmup_s)
        recorders = []
        for process in pair.both:
            output = directory / f"{process.name}.folded"
            command = [
                *(str(py_spy), "record", "--pid", str(process.pid), "--format", "raw"),
                *("--rate", str(_RATE_PER_S), "--duration", str(max(round(effort.duration_s), 1))),
                *("--nonblocking", "--output", str(output)),
            ]
            recorder = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            recorders.append((process.name, output, recorder))
        try:
            outcome = bench.load.run(
                url, connections=effort.connections, duration_s=effort.duration_s + 2
            )
            sections = []
            for name, output, recorder in recorders:
                _, said = recorder.communicate(timeout=_GRACE_S)
                if recorder.returncode != 0 or not output.exists():
                    raise Failed(f"py-spy: {said.decode(errors='replace').strip()}")
                sections.append(summary(name, output.read_text(encoding="utf-8").splitlines()))
        finally:
            for _, _, recorder in recorders:
                if recorder.poll() is None:
                    recorder.kill()
                    recorder.wait(_GRACE_S)
    counted = f"{outcome.succeeded} requests, {', '.join(outcome.failures) or 'none failed'}"
    return "\n\n".join([counted, *sections, _NOTE]) + "\n"


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


def _without_line(frame: str) -> str:
    """``name (file.py:12)`` -> ``name (file.py)``: a function is one entry, whatever its line."""
    head, colon, tail = frame.rpartition(":")
    return f"{head})" if colon and tail.rstrip(")").isdigit() else frame
