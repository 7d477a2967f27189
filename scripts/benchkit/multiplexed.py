"""HTTP/2, gRPC and WebSocket through two sidecars: one contestant's go in each of the groups.

Each go starts two fresh processes, as everywhere, with an application that fits: nghttpd for calls
and the download, ``streaming_app`` for streams and WebSockets.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchkit import figures, h2load, probe, streaming_load, websockets
from benchkit.contestants import CALL_ROUTES, ROUTES, Application, Contestant
from benchkit.contestants import Site as ContestantSite
from benchkit.figures import Metric, Sample
from benchkit.processes import Failed, Process
from benchkit.processes import Group as Processes
from benchkit.turn import Bench, Effort, Measured, Progress, busy_s, free_ports, started

PHASES = ("unary", "streaming", "download", "streams", "websockets")

CALL_CONNECTIONS, CALLS_EACH = 4, 8
_T = TypeVar("_T")
_GIB = 1024**3
_READY_S = 30.0
_PAUSE_S = 0.1
_SETTLE_S = 0.5
_WARM_UP_S = 1.0
_GRACE_S = 30.0
_STREAMS_EACH = 100
_SCRIPTS = Path(__file__).resolve().parents[1]
_SERVICES = {"download": "http2", "websockets": "http"}
"""The application's protocol; grpc otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Go:
    """A pair that runs, and who asks it."""

    bench: Bench
    port: int
    """Of the client sidecar."""
    effort: Effort
    measured: Measured

    def cost_s(self, load: Callable[[], _T]) -> tuple[_T, float]:
        """What ``load`` counted, and the CPU time of both proxies meanwhile; notes what others
        took of their core."""
        core = (self.bench.proxy_core,)
        busy, cpu, at = busy_s(core), self.measured.cpu_s(), time.monotonic()
        counted = load()
        used, wall = self.measured.cpu_s() - cpu, time.monotonic() - at
        foreign = max(busy_s(core)[0] - busy[0] - used, 0.0) / wall
        known = self.measured.figures.get(Metric.MULTIPLEXED_FOREIGN_SHARE, 0.0)
        self.measured.figures[Metric.MULTIPLEXED_FOREIGN_SHARE] = max(foreign, known)
        return counted, used

    def fail(self, phase: str, counted: h2load.Counted) -> bool:
        """Notes what went wrong, if anything did."""
        if counted.failures or counted.succeeded <= 0:
            self.measured.faults.append(
                f"{phase}: {', '.join(counted.failures) or 'no request succeeded'}"
            )
            return True
        return False


def run(
    bench: Bench,
    contestants: Sequence[Contestant],
    rounds: int,
    effort: Effort,
    phases: frozenset[str],
    progress: Progress,
) -> Iterator[Sample]:
    """Each group of each round with everybody in it, before the next group: what is compared is
    measured within a minute."""
    for number in range(1, rounds + 1):
        for phase in (one for one in PHASES if one in phases):
            able = {one.name: one for one in contestants if phase in one.phases}
            for name in figures.order(tuple(able), number):
                progress(f"round {number}, {phase}: {name}")
                yield take(bench, able[name], number, phase, effort)


def take(bench: Bench, contestant: Contestant, number: int, phase: str, effort: Effort) -> Sample:
    """Never raises for what a contestant does wrong: that becomes a fault of the sample."""
    measured: Measured | None = None
    faults: list[str] = []
    try:
        with (
            _application(bench, phase, effort) as application,
            started(bench, contestant, f"{phase}-{number}", _silent, application) as attempt,
        ):
            site, pair, processes = attempt()
            measured = Measured(bench, pair)
            _wait_ready(site, list(processes), phase)
            _GOES[phase](
                _Go(bench=bench, port=site.ports.http_out, effort=effort, measured=measured)
            )
            for process in pair.both:
                process.check()
            if wrong := contestant.intruders(site):
                # It did less work than the others: nothing of this go counts.
                measured.figures.clear()
                faults += [f"identity: {fault}" for fault in wrong]
    except (Failed, OSError) as error:
        faults.append(f"{phase}: {error}")
    return Sample(
        contestant=contestant.name,
        round=number,
        figures=measured.figures if measured and not faults else {},
        faults=(*(measured.faults if measured else ()), *faults),
    )


@contextmanager
def _application(bench: Bench, phase: str, effort: Effort) -> Iterator[Application]:
    protocol = _SERVICES.get(phase, "grpc")
    with ExitStack() as cleanup:
        processes = cleanup.enter_context(Processes())
        port = free_ports().http_out
        directory = bench.directory / f"application-{phase}-{port}"
        directory.mkdir(mode=0o700)
        if phase in {"unary", "download"}:
            process = h2load.serve(
                directory, port=port, core=bench.load_core, large_bytes=effort.download_bytes
            )
        else:
            process = Process(
                "streaming application",
                [sys.executable, "-m", "benchkit.streaming_app", str(port)],
                core=bench.load_core,
                log=directory / "application.log",
                environment=_environment(),
            )
        probe.wait_listening(processes.add(process), port)
        held = {"streams": effort.held_streams, "websockets": effort.held_connections}
        yield Application(
            port=port,
            protocol=protocol,
            routes=ROUTES if protocol == "http" else CALL_ROUTES,
            most_requests=max(2 * held.get(phase, 0), 1024),
        )


def _wait_ready(site: ContestantSite, processes: Sequence[Process], phase: str) -> None:
    """Until what the group asks for is answered; raises Failed at the deadline."""
    port = site.ports.http_out
    if phase == "websockets":
        probe.wait_ready(processes, [port], site.application.routes[-1].path_prefix + "/0")
        return
    deadline = time.monotonic() + _READY_S
    while problem := streaming_load.answers(port):
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            tails = "\n".join(f"-- {process.name}:\n{process.log_tail()}" for process in processes)
            raise Failed(f"not ready after {_READY_S:.0f} s ({problem})\n{tails}")
        time.sleep(_PAUSE_S)


def _unary(go: _Go) -> None:
    load = h2load.H2Load(go.bench.directory / "h2load", core=go.bench.load_core)

    def calls(seconds: float) -> h2load.Counted:
        return load.calls(
            go.port, connections=CALL_CONNECTIONS, streams=CALLS_EACH, duration_s=seconds
        )

    calls(_WARM_UP_S)
    counted, used = go.cost_s(lambda: calls(go.effort.duration_s))
    if go.fail("unary", counted):
        return
    go.measured.figures |= {
        Metric.UNARY_US: used / counted.succeeded * 1e6,
        Metric.UNARY_PER_S: counted.succeeded / counted.duration_s,
    }


def _streaming(go: _Go) -> None:
    for mode, cost, rate in (
        ("flood", Metric.FLOOD_US, Metric.FLOOD_PER_S),
        ("echo", Metric.ECHO_US, Metric.ECHO_PER_S),
    ):
        _messages(go, mode, _WARM_UP_S)
        load = partial(_messages, go, mode, go.effort.duration_s)
        counted, used = go.cost_s(load)
        count = counted["received"] + (counted["sent"] if mode == "echo" else 0)
        go.measured.figures |= {cost: used / count * 1e6, rate: count / counted["duration_s"]}


def _messages(go: _Go, mode: str, seconds: float) -> dict[str, float]:
    """Raises Failed if one message is lost or one stream ends badly."""
    command = [
        *("taskset", "-c", str(go.bench.load_core), "setpriv", "--pdeathsig", "KILL"),
        *(sys.executable, "-m", "benchkit.streaming_load", str(go.port), mode),
        *(str(CALL_CONNECTIONS), str(CALLS_EACH), f"{seconds:g}"),
    ]
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + _GRACE_S,
            env=_environment(),
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"the caller of streams was still running {_GRACE_S:.0f} s late") from error
    if ended.returncode != 0:
        raise Failed(f"{mode}: {ended.stderr.strip()}")
    counted: dict[str, float] = json.loads(ended.stdout)
    if counted["received"] <= 0 or (mode == "echo" and counted["sent"] != counted["received"]):
        raise Failed(f"{mode}: {counted['sent']} messages sent, {counted['received']} received")
    return counted


def _download(go: _Go) -> None:
    size, seconds = go.effort.download_bytes, _READY_S + go.effort.download_bytes / _GIB * 60
    load = h2load.H2Load(go.bench.directory / "h2load", core=go.bench.load_core)
    counted, used = go.cost_s(lambda: load.download(go.port, size=size, most_s=seconds))
    if go.fail("download", counted):
        return
    go.measured.figures |= {
        Metric.DOWNLOAD_CPU_S_PER_GIB: used / (counted.received_bytes / _GIB),
        Metric.DOWNLOAD_MIB_PER_S: counted.received_bytes / 1024**2 / counted.duration_s,
    }


def _streams(go: _Go) -> None:
    connections = max(go.effort.held_streams // _STREAMS_EACH, 1)
    each = min(go.effort.held_streams, _STREAMS_EACH)
    with streaming_load.held(go.port, connections=connections, streams=each):
        time.sleep(_SETTLE_S)
        go.measured.memory(Metric.RSS_STREAMS_MIB, Metric.PSS_STREAMS_MIB)


def _websockets(go: _Go) -> None:
    with websockets.held(go.port, go.effort.held_connections):
        time.sleep(_SETTLE_S)
        go.measured.memory(Metric.RSS_WEBSOCKETS_MIB, Metric.PSS_WEBSOCKETS_MIB)


_GOES: dict[str, Callable[[_Go], None]] = {
    "unary": _unary,
    "streaming": _streaming,
    "download": _download,
    "streams": _streams,
    "websockets": _websockets,
}


def _environment() -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "TZ") if key in os.environ}
    return {**kept, "PYTHONPATH": str(_SCRIPTS)}


def _silent(_: str) -> None:
    """A go of one group is one line of progress."""
