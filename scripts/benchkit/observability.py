"""What observing costs: metrics, traces and access logs against none of them, and a scrape.

One pair of proxies, whose policy is switched while it runs: nothing, all, all, nothing. So both
are the same processes with the same connections, and what drifts cancels out.
"""

import http.client
import json
import os
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchkit import probe, registry
from benchkit.contestants import Pair, Site
from benchkit.contestants.ours import Json, Keys, Ours
from benchkit.figures import Metric, Sample
from benchkit.load import Outcome
from benchkit.processes import Failed, Process
from benchkit.processes import Group as Processes
from benchkit.turn import Bench, Effort, Measured, free_ports, new_site, paced

NAME = "observability"
"""Stands in for a contestant in the samples."""

TRACED_PERCENT = 1.0
SERIES = 1000
"""At least, of the proxy that is scraped."""
_SERIES_PER_STATUS = 4
"""Requests, durations and both sizes; beyond it what the proxy has anyway."""
_STATUSES = tuple(range(200, 200 + SERIES // _SERIES_PER_STATUS))
_SCRAPES = 20
_SCRAPE_EVERY_S = 1.0
"""While requests are timed: often enough that what is slow during a scrape is in the p99."""
_IN_FORCE_S = 10.0
_ARRIVES_S = 10.0
_POLL_S = 0.01
_STOP_S = 5.0
_SINK = Path(__file__).with_name("sink.py")
_VIEWING = Path(__file__).with_name("viewing.py")
_VIEWING_S = 120
_SWITCHES = (False, True, True, False)

Progress = Callable[[str], None]


def take(
    bench: Bench,
    ours: Ours,
    number: int,
    effort: Effort,
    rate_per_s: float,
    progress: Progress,
) -> Sample:
    """Never raises for what the proxy does wrong."""
    figures: dict[Metric, float] = {}
    faults: list[str] = []
    try:
        with _running(bench, ours) as running:
            progress(f"round {number}, {NAME}: all off and all on, in turn")
            figures |= running.switched(effort, faults)
            progress(f"round {number}, {NAME}: a scrape of {SERIES:,} series")
            figures |= running.scraped(effort, rate_per_s, faults)
        progress(f"round {number}, {NAME}: a view of a large mesh")
        figures |= _viewed(ours)
    except (Failed, OSError, http.client.HTTPException) as error:
        faults.append(f"{NAME}: {error}")
    return Sample(contestant=NAME, round=number, figures=figures, faults=tuple(faults))


class _Running:
    def __init__(
        self, bench: Bench, site: Site, pair: Pair, policies: Iterator[tuple[int, Keys]]
    ) -> None:
        """``policies``: those to come, in order, with their generations."""
        self._bench, self._site, self._pair = bench, site, pair
        self._policies = policies
        self._admin_ports = site.ports.client_admin, site.ports.server_admin
        self._url = f"http://127.0.0.1:{site.ports.http_out}{bench.backend.routed}"

    def switched(self, effort: Effort, faults: list[str]) -> dict[Metric, float]:
        found: dict[bool, list[float]] = {False: [], True: []}
        for is_on in _SWITCHES:
            self._put_next_in_force()
            measured = Measured(self._bench, self._pair)
            measured.warm_up(self._url, effort, is_varied=True)
            before = self._told()
            measured.http(self._url, effort, is_varied=True)
            requests = measured.figures.get(Metric.REQUESTS_PER_S, 0.0) * effort.duration_s
            wrong = measured.faults or self._untrue(before, is_on, requests)
            faults += [f"{NAME}: {fault}" for fault in wrong]
            if not wrong:
                found[is_on].append(measured.figures[Metric.CPU_US_PER_REQUEST])
        if len(found[False]) + len(found[True]) < len(_SWITCHES):
            return {}
        return {
            Metric.OBSERVED_NOT_US: statistics.mean(found[False]),
            Metric.OBSERVED_US: statistics.mean(found[True]),
        }

    def _untrue(self, before: Mapping[str, float], is_on: bool, requests: float) -> list[str]:
        """What was not told of ``requests``, or was told although it should not."""
        deadline = time.monotonic() + _ARRIVES_S
        # Both sides tell of a request: two lines, and two spans if it is traced.
        wanted = {
            "istio_requests_total": 2 * requests,
            "mesh_access_log_lines_total": 2 * requests,
            "mesh_spans_exported_total": 2 * requests * TRACED_PERCENT / 100,
        }
        while True:
            after = self._told()
            grown = {name: after[name] - before[name] for name in wanted}
            if not is_on:
                return [f"{name} grew while it was off" for name, more in grown.items() if more]
            # Half: the load tool goes on a little, and which requests are traced is chance.
            missing = [name for name, least in wanted.items() if grown[name] < least / 2]
            if not missing or time.monotonic() > deadline:
                dropped = after["mesh_access_log_dropped_total"] + after["mesh_spans_dropped_total"]
                dropped -= before["mesh_access_log_dropped_total"]
                dropped -= before["mesh_spans_dropped_total"]
                told = [f"{name} grew by {grown[name]:.0f} only" for name in missing]
                return told + ([f"{dropped:.0f} lines or spans were dropped"] if dropped else [])
            time.sleep(_POLL_S)

    def _told(self) -> dict[str, float]:
        """Over both proxies."""
        names = (
            *("istio_requests_total", "mesh_access_log_lines_total", "mesh_spans_exported_total"),
            *("mesh_access_log_dropped_total", "mesh_spans_dropped_total"),
        )
        pages = [_metrics(port) for port in self._admin_ports]
        return {name: sum(total(page, name) for page in pages) for name in names}

    def _put_next_in_force(self) -> None:
        generation, keys = next(self._policies)
        registry.publish(self._site.ports.registry, keys)
        for port in self._admin_ports:
            _wait_generation(port, generation)

    def scraped(self, effort: Effort, rate_per_s: float, faults: list[str]) -> dict[Metric, float]:
        self._put_next_in_force()
        self._make_series()
        port = self._site.ports.client_admin
        page = _metrics(port)
        series = len(series_of(page))
        if series < SERIES:
            faults.append(f"{NAME}: {series} series instead of {SERIES}")
            return {}
        taken_ms = []
        for _ in range(_SCRAPES):
            began = time.monotonic()
            _metrics(port)
            taken_ms.append((time.monotonic() - began) * 1000)
        found = {
            Metric.SCRAPE_SERIES: float(series),
            Metric.SCRAPE_MIB: len(page) / 1024**2,
            Metric.SCRAPE_MS: statistics.median(taken_ms),
            Metric.SCRAPE_SLOWEST_MS: max(taken_ms),
        }
        if rate_per_s <= 0:
            return found
        without = paced(self._bench.load, self._url, effort, rate_per_s)
        during = self._while_scraping(port, effort, rate_per_s)
        measured = Measured(self._bench, self._pair)
        is_fine = measured.note_faults("without", without)
        if measured.note_faults("during", during) and is_fine and without.p99_ms > 0:
            found[Metric.SCRAPE_P99_RATIO] = during.p99_ms / without.p99_ms
        faults += [f"{NAME}: {fault}" for fault in measured.faults]
        return found

    def _make_series(self) -> None:
        """The proxy itself answers ``/status/NNN`` with NNN, so each makes series of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self._site.ports.http_out, timeout=5)
        try:
            for status in _STATUSES:
                connection.request("GET", f"/status/{status}")
                response = connection.getresponse()
                response.read()
                if response.status != status:
                    raise Failed(f"/status/{status} was answered with {response.status}")
        finally:
            connection.close()

    def _while_scraping(self, port: int, effort: Effort, rate_per_s: float) -> Outcome:
        stop = threading.Event()
        failed: list[BaseException] = []

        def scrape() -> None:
            os.sched_setaffinity(0, {self._bench.load_core})  # of this thread
            try:
                while not stop.wait(_SCRAPE_EVERY_S):
                    _metrics(port)
            except (OSError, Failed, http.client.HTTPException) as error:
                failed.append(error)

        thread = threading.Thread(target=scrape, name="scraper", daemon=True)
        thread.start()
        try:
            outcome = paced(self._bench.load, self._url, effort, rate_per_s)
        finally:
            stop.set()
            thread.join(_STOP_S)
        if failed:
            return replace(outcome, failures=(*outcome.failures, f"scraping: {failed[0]}"))
        return outcome


@contextmanager
def _running(bench: Bench, ours: Ours) -> Iterator[_Running]:
    with ExitStack() as cleanup:
        site = cleanup.enter_context(new_site(bench, NAME))
        processes = cleanup.enter_context(Processes())
        port = free_ports().http_out
        receiver = Process(
            "receiver",
            [sys.executable, "-I", str(_SINK), str(port)],
            core=bench.load_core,
            log=site.directory / "receiver.log",
        )
        processes.add(receiver)
        told = [_told(is_on, port) for is_on in (False, *_SWITCHES, True)]
        told[-1]["statuses"] = list(_STATUSES)
        generations = range(1, len(told) + 1)
        policies = ours.policies(site, generations=generations, told=told)
        pair = ours.start_with(site, processes, policy=policies[0], has_log_files=True)
        probe.wait_ready(list(processes), [site.ports.http_out], bench.backend.routed)
        for admin in (site.ports.client_admin, site.ports.server_admin):
            _wait_generation(admin, 1)
        rest = zip(generations, policies, strict=True)
        next(rest)
        yield _Running(bench, site, pair, rest)


def _told(is_on: bool, port: int) -> Json:
    if not is_on:
        return {"telemetry": {"metrics": False}}
    return {
        "telemetry": {"otlp": f"http://127.0.0.1:{port}/v1/traces", "log_to": "file"},
        "tracing": {"percent": TRACED_PERCENT},
        "access_log": {"percent": 100.0},
    }


def _viewed(ours: Ours) -> dict[Metric, float]:
    """The operator's side: what a refresh takes once all hosts have answered."""
    taken = json.loads(ours.run_as_operator([str(_VIEWING)], timeout_s=_VIEWING_S))
    return {Metric.TOP_MS: taken["top_ms"], Metric.DASHBOARD_MS: taken["dashboard_ms"]}


def _wait_generation(port: int, generation: int) -> None:
    deadline = time.monotonic() + _IN_FORCE_S
    while True:
        status = json.loads(registry.ask(port, "GET", "/status"))
        if status["generation"] >= generation:
            return
        if status["refused"]:
            raise Failed(f"generation {generation} was refused: {status['refused']}")
        if time.monotonic() > deadline:
            raise Failed(f"generation {generation} is not in force after {_IN_FORCE_S:g} s")
        time.sleep(_POLL_S)


def _metrics(port: int) -> str:
    return registry.ask(port, "GET", "/metrics").decode()


def total(page: str, name: str) -> float:
    """The sum of all series of ``name``; 0 if there is none."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith((f"{name}{{", f"{name} "))
    )


def series_of(page: str) -> set[str]:
    """Names with their labels; all lines of a histogram are one."""
    histograms = set(re.findall(r"^# TYPE (\S+) histogram$", page, re.MULTILINE))
    found = set()
    for line in page.splitlines():
        if not line or line.startswith("#"):
            continue
        name, brace, labels = line.rpartition(" ")[0].partition("{")
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if base in histograms:
            name, labels = base, re.sub(r'(?:^|,)le="[^"]*"', "", labels)
        found.add(name + brace + labels)
    return found
