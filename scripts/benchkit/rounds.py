"""The run as a whole: backend up, rounds with their rotating order, everything down again."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchkit import backend, figures, probe
from benchkit.contestants import (
    CALLER,
    HTTP_SERVICE,
    STRANGER,
    TCP_SERVICE,
    TRUST_DOMAIN,
    Contestant,
)
from benchkit.figures import Metric, Sample
from benchkit.load import Load
from benchkit.processes import Failed, Group
from benchkit.turn import Bench, Effort, Pace, free_ports, paced, take

DIRECT = "direct"
"""Stands in for a contestant in the samples without any proxy."""
_IDENTITIES = Path(__file__).with_name("identities.py")

Progress = Callable[[str], None]


@contextmanager
def bench(python: Path, *, proxy_core: int, load_core: int) -> Iterator[Bench]:
    """A directory, certificates (made by ``python``, which has cryptography) and the backend.

    Everything is gone when the context ends, however it ends.
    """
    with tempfile.TemporaryDirectory(prefix="meshctl-bench-") as name, Group() as group:
        directory = Path(name)
        identities = directory / "identities"
        services = (CALLER, HTTP_SERVICE, TCP_SERVICE, STRANGER)
        made = subprocess.run(
            [str(python), str(_IDENTITIES), str(identities), TRUST_DOMAIN, *services],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise Failed(f"certificates could not be made: {made.stderr.strip()}")
        port = free_ports().http_out
        served, process = backend.start(directory / "backend", port=port, core=load_core)
        group.add(process)
        probe.wait_ready([process], [port], served.small)
        yield Bench(
            directory=directory,
            identities=identities,
            backend=served,
            load=Load(directory, core=load_core),
            proxy_core=proxy_core,
            load_core=load_core,
        )


def calibrate(site: Bench, contestant: Contestant, effort: Effort, progress: Progress) -> float:
    """The requests per second that ``contestant`` reaches at full speed, in a short go."""
    short = replace(effort, phases=frozenset({"http"}), duration_s=min(effort.duration_s, 4.0))
    sample = take(site, contestant, 0, short, None, progress)
    reached = sample.figures.get(Metric.REQUESTS_PER_S)
    if reached is None:
        raise Failed(f"{contestant.name} does not run: {'; '.join(sample.faults)}")
    return reached


def run(
    site: Bench,
    contestants: Sequence[Contestant],
    rounds: int,
    effort: Effort,
    rate_per_s: float,
    progress: Progress,
) -> Iterator[Sample]:
    """Yields each sample as it is made, so that an interrupted run still has the earlier ones."""
    by_name = {contestant.name: contestant for contestant in contestants}
    total, done = rounds * len(by_name), 0
    for number in range(1, rounds + 1):
        pace: Pace | None = None
        if "latency" in effort.phases:
            progress(f"round {number}: without any proxy")
            direct, pace = _direct(site, number, effort, rate_per_s)
            yield direct
        for name in figures.order(tuple(by_name), number):
            done += 1
            head = f"[{done}/{total}] round {number}, {name}"
            yield take(
                site,
                by_name[name],
                number,
                effort,
                pace,
                lambda what, head=head: progress(f"{head}: {what}"),  # type: ignore[misc]
            )


def _direct(
    site: Bench, number: int, effort: Effort, rate_per_s: float
) -> tuple[Sample, Pace | None]:
    """The same requests at the same rate, from the load tool straight to the backend."""
    url = f"http://127.0.0.1:{site.backend.port}{site.backend.small}"
    outcome = paced(site.load, url, effort, rate_per_s)
    if outcome.failures or outcome.succeeded <= 0:
        faults = (f"latency: {', '.join(outcome.failures) or 'no request succeeded'}",)
        return Sample(contestant=DIRECT, round=number, faults=faults), None
    sample = Sample(
        contestant=DIRECT,
        round=number,
        figures={
            Metric.PACED_PER_S: outcome.succeeded / outcome.duration_s,
            Metric.P50_DIRECT_MS: outcome.p50_ms,
            Metric.P99_DIRECT_MS: outcome.p99_ms,
        },
    )
    return sample, Pace(rate_per_s=rate_per_s, p50_ms=outcome.p50_ms, p99_ms=outcome.p99_ms)
