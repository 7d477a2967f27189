"""One contestant's go in one round: started fresh, warmed up, measured, stopped."""

import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchkit import machine, probe
from benchkit.backend import Backend
from benchkit.contestants import Contestant, Pair, Ports, Site
from benchkit.figures import Metric, Sample
from benchkit.load import Load, Outcome, pause_for
from benchkit.processes import Failed, Group

_GIB = 1024**3
_MIB = 1024**2
_SETTLE_S = 1.0  # after readiness, before idle memory is read

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and how hard."""

    phases: frozenset[str]
    """Of ``http``, ``tcp``, ``memory``."""
    duration_s: float
    warmup_s: float
    paced_s: float
    tcp_s: float
    connections: int = 32
    tcp_connections: int = 4
    paced_rate_per_s: float = 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all goes of a run share."""

    directory: Path
    identities: Path
    backend: Backend
    load: Load
    proxy_core: int
    load_core: int


class Measured:
    """A pair under load: runs it and relates what it used to what wrk counted."""

    def __init__(self, bench: Bench, pair: Pair) -> None:
        self._bench = bench
        self._pair = pair
        self.figures: dict[Metric, float] = {}
        self.faults: list[str] = []

    def cpu_s(self) -> float:
        return sum(process.cpu_s() for process in self._pair.both)

    def note_faults(self, phase: str, outcome: Outcome) -> bool:
        """True if every request of the phase succeeded."""
        problems = list(outcome.failures)
        if outcome.succeeded <= 0:
            problems.append("no request succeeded")
        if problems:
            self.faults.append(f"{phase}: {', '.join(problems)}")
        for process in self._pair.both:
            process.check()
        return not problems

    def http(self, url: str, effort: Effort) -> None:
        core = self._bench.proxy_core
        stat = Path("/proc/stat")
        self._bench.load.run(url, connections=effort.connections, duration_s=effort.warmup_s)
        busy, cpu, at = machine.busy_ticks(stat.read_text(), core), self.cpu_s(), time.monotonic()
        outcome = self._bench.load.run(
            url, connections=effort.connections, duration_s=effort.duration_s
        )
        wall = time.monotonic() - at
        used = self.cpu_s() - cpu
        busy_s = (machine.busy_ticks(stat.read_text(), core) - busy) / machine.TICKS_PER_S
        if self.note_faults("http", outcome):
            self.figures |= {
                Metric.CPU_US_PER_REQUEST: used / outcome.succeeded * 1e6,
                Metric.REQUESTS_PER_S: outcome.succeeded / outcome.duration_s,
                Metric.PROXY_CORE_SHARE: used / wall,
                Metric.FOREIGN_SHARE: max(busy_s - used, 0.0) / wall,
            }

    def paced(self, url: str, effort: Effort) -> None:
        outcome = self._bench.load.run(
            url,
            connections=effort.connections,
            duration_s=effort.paced_s,
            pause=pause_for(effort.paced_rate_per_s, effort.connections),
        )
        if self.note_faults("latency", outcome):
            self.figures |= {
                Metric.PACED_PER_S: outcome.succeeded / outcome.duration_s,
                Metric.P50_MS: outcome.p50_ms,
                Metric.P99_MS: outcome.p99_ms,
            }

    def tcp(self, url: str, effort: Effort) -> None:
        self._bench.load.run(url, connections=effort.tcp_connections, duration_s=1)
        cpu = self.cpu_s()
        outcome = self._bench.load.run(
            url, connections=effort.tcp_connections, duration_s=effort.tcp_s
        )
        used = self.cpu_s() - cpu
        if self.note_faults("tcp", outcome):
            self.figures |= {
                Metric.TCP_CPU_S_PER_GIB: used / (outcome.received_bytes / _GIB),
                Metric.TCP_MIB_PER_S: outcome.received_bytes / _MIB / outcome.duration_s,
            }

    def memory(self, rss: Metric, pss: Metric) -> None:
        """Per proxy: half of what the two have."""
        read = [process.memory() for process in self._pair.both]
        self.figures[rss] = sum(memory.rss_mib for memory in read) / len(read)
        self.figures[pss] = sum(memory.pss_mib for memory in read) / len(read)


def take(
    bench: Bench, contestant: Contestant, number: int, effort: Effort, progress: Progress
) -> Sample:
    """Never raises for what a contestant does wrong: that becomes a fault of the sample."""
    with ExitStack() as cleanup:
        directory = bench.directory / f"{number}-{contestant.name}"
        directory.mkdir(mode=0o700)
        cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
        group = cleanup.enter_context(Group())
        measured: Measured | None = None
        try:
            progress("starting")
            site = Site(
                directory=directory,
                identities=bench.identities,
                backend_port=bench.backend.port,
                ports=free_ports(),
                proxy_core=bench.proxy_core,
                load_core=bench.load_core,
            )
            pair = contestant.start(site, group)
            measured = Measured(bench, pair)
            _run(bench, site, group, measured, effort, progress)
        except Failed as error:
            found = measured.faults if measured else []
            figures = measured.figures if measured else {}
            return Sample(
                contestant=contestant.name,
                round=number,
                figures=figures,
                faults=(*found, f"run: {error}"),
            )
        return Sample(
            contestant=contestant.name,
            round=number,
            figures=measured.figures,
            faults=tuple(measured.faults),
        )


def free_ports() -> Ports:
    """Distinct ports that nothing listens on; all are held until the last is known."""
    names = tuple(Ports.__dataclass_fields__)
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return Ports(
            **{name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
        )


def _run(
    bench: Bench,
    site: Site,
    group: Group,
    measured: Measured,
    effort: Effort,
    progress: Progress,
) -> None:
    http_out, tcp_out = site.ports.http_out, site.ports.tcp_out
    listeners = [http_out] if "tcp" not in effort.phases else [http_out, tcp_out]
    small = f"http://127.0.0.1:{http_out}{bench.backend.small}"
    probe.wait_ready(list(group), listeners, bench.backend.small)
    if "memory" in effort.phases:
        time.sleep(_SETTLE_S)
        measured.memory(Metric.RSS_IDLE_MIB, Metric.PSS_IDLE_MIB)
    if "http" in effort.phases or "memory" in effort.phases:
        progress("requests at full speed")
        measured.http(small, effort)
    if "memory" in effort.phases:
        measured.memory(Metric.RSS_LOADED_MIB, Metric.PSS_LOADED_MIB)
    if "http" in effort.phases:
        progress("requests at a fixed rate")
        measured.paced(small, effort)
    if "tcp" in effort.phases:
        progress("bytes through the relay")
        measured.tcp(f"http://127.0.0.1:{tcp_out}{bench.backend.large}", effort)
    progress("checking who is let in")
    if wrong := probe.identity_faults(site, bench.backend.small):
        # It did less work than the others: nothing of this go counts.
        measured.figures.clear()
        measured.faults.extend(f"identity: {fault}" for fault in wrong)
