"""One contestant's go in one round: started fresh, warmed up, measured, stopped."""

import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchkit import connections, machine, probe
from benchkit.backend import Backend
from benchkit.contestants import Application, Contestant, Group, Pair, Ports, Site
from benchkit.figures import Metric, Sample
from benchkit.load import Load, Outcome, pause_for
from benchkit.processes import Failed, all_cpu_s
from benchkit.processes import Group as Processes

PHASES = ("http", "latency", "tcp", "memory")

_GIB = 1024**3
_MIB = 1024**2
_SETTLE_S = 0.5  # after readiness, before idle memory is read

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and how hard."""

    phases: frozenset[str]
    """Of ``PHASES``."""
    duration_s: float
    warmup_s: float
    paced_s: float
    tcp_s: float
    connections: int = 32
    tcp_connections: int = 4
    paced_connections: int = 64
    held_connections: int = 1000
    held_streams: int = 10_000
    download_bytes: int = _GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all goes of a run share."""

    directory: Path
    identities: Path
    backend: Backend
    load: Load
    proxy_core: int
    load_core: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The fixed rate of a run, and what a round's requests took without any proxy."""

    rate_per_s: float
    p50_ms: float
    p99_ms: float


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

    def warm_up(self, url: str, effort: Effort, *, is_varied: bool) -> None:
        self._bench.load.run(
            url,
            connections=effort.connections,
            duration_s=effort.warmup_s,
            is_varied=is_varied,
        )

    def http(self, url: str, effort: Effort, *, is_varied: bool) -> None:
        cores = (self._bench.proxy_core, self._bench.load_core)
        before, cpu, everything = busy_s(cores), self.cpu_s(), all_cpu_s()
        at = time.monotonic()
        outcome = self._bench.load.run(
            url,
            connections=effort.connections,
            duration_s=effort.duration_s,
            is_varied=is_varied,
        )
        wall = time.monotonic() - at
        used, ours = self.cpu_s() - cpu, all_cpu_s() - everything
        busy = [after - earlier for after, earlier in zip(busy_s(cores), before, strict=True)]
        if self.note_faults("http", outcome):
            self.figures |= {
                Metric.CPU_US_PER_REQUEST: used / outcome.succeeded * 1e6,
                Metric.REQUESTS_PER_S: outcome.succeeded / outcome.duration_s,
                Metric.PROXY_CORE_SHARE: used / wall,
                Metric.FOREIGN_SHARE: max(busy[0] - used, 0.0) / wall,
                Metric.MACHINE_FOREIGN_SHARE: max(sum(busy) - ours, 0.0) / wall / len(cores),
            }

    def paced(self, url: str, effort: Effort, pace: Pace) -> None:
        outcome = paced(self._bench.load, url, effort, pace.rate_per_s)
        if self.note_faults("latency", outcome):
            self.figures |= {
                Metric.PACED_PER_S: outcome.succeeded / outcome.duration_s,
                Metric.P50_ADDED_MS: outcome.p50_ms - pace.p50_ms,
                Metric.P99_ADDED_MS: outcome.p99_ms - pace.p99_ms,
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

    def held(self, port: int, path: str, effort: Effort) -> None:
        try:
            with connections.held(port, path, effort.held_connections):
                time.sleep(_SETTLE_S)
                self.memory(Metric.RSS_HELD_MIB, Metric.PSS_HELD_MIB)
        except Failed as error:
            self.faults.append(f"memory: {error}")


def busy_s(cores: Sequence[int]) -> list[float]:
    """How long each has worked so far, for whomever."""
    stat = Path("/proc/stat").read_text()
    return [machine.busy_ticks(stat, core) / machine.TICKS_PER_S for core in cores]


def paced(load: Load, url: str, effort: Effort, rate_per_s: float) -> Outcome:
    """The varied requests at the fixed rate, to a pair or to the backend itself."""
    return load.run(
        url,
        connections=effort.paced_connections,
        duration_s=effort.paced_s,
        pause=pause_for(rate_per_s, effort.paced_connections),
        is_varied=True,
    )


def take(
    bench: Bench,
    contestant: Contestant,
    number: int,
    effort: Effort,
    pace: Pace | None,
    progress: Progress,
) -> Sample:
    """Never raises for what a contestant does wrong: that becomes a fault of the sample.

    ``pace``: of the latency phase; None leaves it out.
    """
    measured: Measured | None = None
    seen: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()
    with started(bench, contestant, f"{number}-{contestant.group.name}", progress) as attempt:
        try:
            site, pair, processes = attempt()
            measured = Measured(bench, pair)
            seen = _run(bench, site, processes, contestant, measured, effort, pace, progress)
        except Failed as error:
            faults = (f"run: {error}",)
    return Sample(
        contestant=contestant.name,
        round=number,
        figures=measured.figures if measured else {},
        faults=(*(measured.faults if measured else ()), *faults),
        seen=tuple(sorted(seen)),
    )


@contextmanager
def started(
    bench: Bench,
    contestant: Contestant,
    label: str,
    progress: Progress,
    application: Application | None = None,
) -> Iterator[Callable[[], tuple[Site, Pair, Processes]]]:
    """A call that starts the contestant; everything it left ends with the context."""
    with ExitStack() as cleanup:
        site = cleanup.enter_context(new_site(bench, f"{label}-{contestant.name}", application))
        processes = cleanup.enter_context(Processes())

        def attempt() -> tuple[Site, Pair, Processes]:
            progress("starting")
            return site, contestant.start(site, processes), processes

        yield attempt


@contextmanager
def new_site(bench: Bench, label: str, application: Application | None = None) -> Iterator[Site]:
    """``application`` None: the backend."""
    directory = bench.directory / label.replace(" ", "-")
    directory.mkdir(mode=0o700)
    try:
        yield Site(
            directory=directory,
            identities=bench.identities,
            backend_port=bench.backend.port,
            application=application or Application(port=bench.backend.port),
            ports=free_ports(),
            proxy_core=bench.proxy_core,
            load_core=bench.load_core,
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_ports() -> Ports:
    """Distinct ports that nothing listens on; all are held until the last is known."""
    names = tuple(Ports.__dataclass_fields__)
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind(("0.0.0.0", 0))  # free on each of ADDRESSES
        return Ports(
            **{name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
        )


def _run(
    bench: Bench,
    site: Site,
    processes: Processes,
    contestant: Contestant,
    measured: Measured,
    effort: Effort,
    pace: Pace | None,
    progress: Progress,
) -> frozenset[str]:
    """Fills ``measured``; what of ``backend.ECHOED`` the application got."""
    phases = effort.phases & contestant.phases
    is_full = contestant.group is Group.FULL
    small = bench.backend.routed if is_full else bench.backend.small
    large = bench.backend.large
    http_out, tcp_out = site.ports.http_out, site.ports.tcp_out
    listeners = [http_out] if contestant.group is not Group.TCP else []
    listeners += [tcp_out] if "tcp" in phases else []
    url = f"http://127.0.0.1:{http_out}{small}"
    probe.wait_ready(list(processes), listeners, small)
    seen = frozenset(probe.echoed(http_out, bench.backend.echo)) if is_full else frozenset()
    if "memory" in phases:
        time.sleep(_SETTLE_S)
        measured.memory(Metric.RSS_IDLE_MIB, Metric.PSS_IDLE_MIB)
    if phases & {"http", "memory", "latency"}:
        progress("warming up")
        measured.warm_up(url, effort, is_varied=is_full)
    if "http" in phases:
        progress("requests at full speed")
        measured.http(url, effort, is_varied=is_full)
    if "latency" in phases and pace is not None:
        progress("requests at a fixed rate")
        measured.paced(url, effort, pace)
    if "memory" in phases:
        progress(f"{effort.held_connections} connections")
        measured.held(http_out, small, effort)
    if "tcp" in phases:
        progress("bytes through the relay")
        measured.tcp(f"http://127.0.0.1:{tcp_out}{large}", effort)
    progress("checking who is let in")
    if wrong := contestant.intruders(site):
        # It did less work than the others: nothing of this go counts.
        measured.figures.clear()
        measured.faults.extend(f"identity: {fault}" for fault in wrong)
    return seen
