"""What a large policy costs our proxy: to take it, to have it, and to serve requests under it.

A mesh of 1,000 services with 10 endpoints and 5 routes each, in a proxy that uses 10 of them. The
registry really has the 10,000 endpoints; those of the service under load all lead to the one
server sidecar, each under a loopback address of its own.
"""

import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchkit import probe, registry
from benchkit.contestants import HTTP_SERVICE, Pair, Site
from benchkit.contestants.ours import Json, Keys, Ours, endpoint
from benchkit.figures import Metric, Sample
from benchkit.load import Outcome
from benchkit.processes import Failed
from benchkit.processes import Group as Processes
from benchkit.turn import Bench, Effort, Measured, free_ports, new_site, paced

NAME = "policy scale"
"""Stands in for a contestant in the samples."""

_CPU = {10: Metric.CPU_10_US, 100: Metric.CPU_100_US, 1000: Metric.CPU_1000_US}
_LARGEST = max(_CPU)
_USED = 10
_ENDPOINTS = 10
"""Of each service."""
_APPLIES = 10
_APPLY_EVERY_S = 1.0
"""While requests are timed. The proxy asks the registry at most 4 times a second."""
_APART_S = 0.3
_POLL_S = 0.002
_APPLIED_S = 10.0
_SETTLE_S = 1.0
_STOP_S = 5.0
_UNWATCHED = "bench/unwatched"

Progress = Callable[[str], None]


def services(count: int) -> list[str]:
    """All but the one under load; the first of them are the ones that the proxy uses, too."""
    return [f"svc-{number:04}" for number in range(1, count)]


def endpoints(names: Sequence[str]) -> list[Json]:
    """Of services that nobody calls: nothing listens there."""
    return [
        endpoint(service, f"h{number}", f"127.0.1.{number}", 1)
        for service in names
        for number in range(1, _ENDPOINTS + 1)
    ]


def take(
    bench: Bench,
    ours: Ours,
    number: int,
    effort: Effort,
    rate_per_s: float,
    progress: Progress,
) -> Sample:
    """All sizes once, in an order that rotates; never raises for what the proxy does wrong."""
    figures: dict[Metric, float] = {}
    faults: list[str] = []
    counts = [0, *_CPU]
    shift = number % len(counts)
    for count in counts[shift:] + counts[:shift]:
        progress(f"round {number}, {NAME}: {count} services")
        try:
            found, wrong = _take_one(bench, ours, count, effort, rate_per_s)
            figures |= found
            faults += wrong
        except (Failed, OSError) as error:
            faults.append(f"scale: {count} services: {error}")
    idle = figures.pop(Metric.RSS_IDLE_MIB, None)
    for metric in (Metric.POLICY_START_MIB, Metric.POLICY_AFTER_MIB):
        if idle is None:
            figures.pop(metric, None)
        elif metric in figures:
            figures[metric] -= idle
    return Sample(contestant=NAME, round=number, figures=figures, faults=tuple(faults))


def _take_one(
    bench: Bench, ours: Ours, count: int, effort: Effort, rate_per_s: float
) -> tuple[dict[Metric, float], list[str]]:
    """``count`` 0: the same proxy without a policy, for its memory alone.

    Memory is that of the client's process, not yet without what it is without a policy.
    """
    with new_site(bench, f"scale-{count}") as site, Processes() as processes:
        generations = range(1, _policies(count, effort) + 1)
        policies = ours.policies(site, generations=generations, others=services(count))
        upstreams = dict(zip(services(_USED), _more_ports(_USED - 1), strict=True))
        pair = ours.start_with(
            site,
            processes,
            policy=policies[0] if policies else None,
            upstreams=upstreams,
            registered=endpoints(services(count)),
        )
        further = (f"127.0.0.{each}" for each in range(3, _ENDPOINTS + 1))
        registry.register(
            site.ports.registry,
            *(
                endpoint(HTTP_SERVICE, f"h{each}", address, site.ports.http_in)
                for each, address in enumerate(further)
            ),
        )
        probe.wait_ready(list(processes), [site.ports.http_out], bench.backend.routed)
        time.sleep(_SETTLE_S)
        if not policies:
            return {Metric.RSS_IDLE_MIB: pair.client.memory().rss_mib}, []
        wait_generation(site, 1)
        measured = Measured(bench, pair)
        found: dict[Metric, float] = {}
        if count == _LARGEST:
            found |= _applies(site, pair, policies[1 : _APPLIES + 1])
        url = f"http://127.0.0.1:{site.ports.http_out}{bench.backend.routed}"
        measured.warm_up(url, effort, is_varied=True)
        measured.http(url, effort, is_varied=True)
        if Metric.CPU_US_PER_REQUEST in measured.figures:
            found[_CPU[count]] = measured.figures[Metric.CPU_US_PER_REQUEST]
        if count == _LARGEST:
            rest = policies[_APPLIES + 1 :]
            found |= _while_applying(bench, site, measured, url, rest, effort, rate_per_s)
        return found, [f"scale: {count} services: {fault}" for fault in measured.faults]


def _policies(count: int, effort: Effort) -> int:
    if count != _LARGEST:
        return min(count, 1)
    return 1 + _APPLIES + round(effort.paced_s / _APPLY_EVERY_S)


def _applies(site: Site, pair: Pair, policies: Sequence[Keys]) -> dict[Metric, float]:
    """Without load: from the moment of publishing, so the registry's part is in it, to in force."""
    started = pair.client.memory().rss_mib
    taken_ms = []
    for generation, keys in enumerate(policies, start=2):
        published = time.monotonic()
        registry.publish(site.ports.registry, keys)
        wait_generation(site, generation)
        taken_ms.append((time.monotonic() - published) * 1000)
        time.sleep(_APART_S)
    return {
        Metric.APPLY_MS: statistics.median(taken_ms),
        Metric.APPLY_SLOWEST_MS: max(taken_ms),
        Metric.POLICY_START_MIB: started,
        Metric.POLICY_AFTER_MIB: pair.client.memory().rss_mib,
    }


def _while_applying(
    bench: Bench,
    site: Site,
    measured: Measured,
    url: str,
    policies: Sequence[Keys],
    effort: Effort,
    rate_per_s: float,
) -> dict[Metric, float]:
    """p99 with one policy after the other, against p99 with the same bytes published where no
    proxy looks: what the registry costs the load core is then in both."""
    unwatched = [{_UNWATCHED: b"".join(keys.values())} for keys in policies]
    without = _publishing(bench, site, url, unwatched, effort, rate_per_s)
    during = _publishing(bench, site, url, policies, effort, rate_per_s)
    fine = measured.note_faults("without", without) and measured.note_faults("during", during)
    if not fine or without.p99_ms <= 0:
        return {}
    return {Metric.APPLY_P99_RATIO: during.p99_ms / without.p99_ms}


def _publishing(
    bench: Bench,
    site: Site,
    url: str,
    each: Sequence[Keys],
    effort: Effort,
    rate_per_s: float,
) -> Outcome:
    stop = threading.Event()
    failed: list[BaseException] = []

    def publish() -> None:
        try:
            for keys in each:
                if stop.wait(_APPLY_EVERY_S):
                    return
                registry.publish(site.ports.registry, keys)
        except (Failed, OSError) as error:
            failed.append(error)

    thread = threading.Thread(target=publish, name="publisher", daemon=True)
    thread.start()
    try:
        outcome = paced(bench.load, url, effort, rate_per_s)
    finally:
        stop.set()
        thread.join(_STOP_S)
    if failed:
        return replace(outcome, failures=(*outcome.failures, f"publishing: {failed[0]}"))
    return outcome


def wait_generation(site: Site, generation: int) -> None:
    """Until the client sidecar has it in force; raises Failed if refused, or at a deadline."""
    deadline = time.monotonic() + _APPLIED_S
    while True:
        status = json.loads(registry.ask(site.ports.client_admin, "GET", "/status"))
        if status["generation"] >= generation:
            return
        if status["refused"]:
            raise Failed(f"generation {generation} was refused: {status['refused']}")
        if time.monotonic() > deadline:
            raise Failed(f"generation {generation} is not in force after {_APPLIED_S:g} s")
        time.sleep(_POLL_S)


def _more_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        ports = free_ports()
        found += [getattr(ports, name) for name in type(ports).__dataclass_fields__]
    return found[:count]
