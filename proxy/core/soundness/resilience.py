"""Timeouts, retries, limits, outliers, health, rate limits, faults, failover of one service."""

from proxy.core.soundness import words
from proxy.core.soundness.finding import Finding, Findings, Wrong, at, judged
from proxy.core.soundness.lists import at_most, each_of, unique
from proxy.core.soundness.matching import MAX_CONDITIONS, check_hash, check_match
from proxy.core.soundness.numbers import check_numbers
from proxy.core.soundness.routing import Subsets, check_subset
from proxy.model.names import ServiceName
from proxy.model.policy import Balancing, Timeouts
from proxy.model.resilience import (
    ActiveHealth,
    Failover,
    Fault,
    OutlierDetection,
    RateLimit,
    Retries,
)

MAX_RATE_LIMITS = 64
MAX_FAULTS = 64
MAX_FAILOVERS = 16

_HASHING = ("ring_hash", "maglev")


def check_timeouts(path: str, timeouts: Timeouts) -> Findings:
    yield from check_numbers(path, timeouts)
    yield from _shorter(path, "connect", timeouts.connect_s, "request", timeouts.request_s)
    yield from check_tries((path,), timeouts.per_try_s, timeouts.request_s)
    yield from _shorter(path, "connect", timeouts.connect_s, "grpc", timeouts.grpc_s)


def check_tries(paths: tuple[str, ...], per_try_s: float, request_s: float) -> Findings:
    """``paths`` are the places that the two may come from, the nearest first."""
    if 0 < request_s <= per_try_s:
        yield Finding(
            paths=tuple(f"{path}.{key}" for path in paths for key in ("per_try", "request")),
            message=f"per_try ({_time(per_try_s)}) is not shorter than request "
            f"({_time(request_s)}), so no second try could be made",
            hint="lower per_try, raise request, or set request: 0",
        )


def _shorter(path: str, short: str, short_s: float, long: str, long_s: float) -> Findings:
    if 0 < long_s <= short_s:
        yield Finding(
            paths=(f"{path}.{short}", f"{path}.{long}"),
            message=f"{short} ({_time(short_s)}) is not shorter than {long} ({_time(long_s)}), "
            f"so no slow {short} could succeed",
            hint=f"lower {short}, raise {long}, or set {long}: 0",
        )


def check_retries(path: str, retries: Retries) -> Findings:
    yield from check_numbers(path, retries)
    yield from each_of(f"{path}.on", retries.on, _known, MAX_CONDITIONS)
    yield from each_of(f"{path}.methods", retries.methods, words.method, MAX_CONDITIONS)
    yield from each_of(f"{path}.statuses", retries.statuses, _failure, MAX_CONDITIONS)
    if retries.statuses and "statuses" not in retries.on:
        message = "they do nothing, as 'on' does not have 'statuses'"
        yield Finding(
            paths=(f"{path}.statuses", f"{path}.on"), message=message, hint="add 'statuses' to 'on'"
        )
    if "statuses" in retries.on and not retries.statuses:
        yield Finding(
            paths=(f"{path}.on", f"{path}.statuses"),
            message="it has 'statuses', but none is listed",
            hint="list them: statuses: [503]",
        )
    if retries.backoff_base_s > retries.backoff_max_s:
        yield Finding(
            paths=(f"{path}.backoff_base", f"{path}.backoff_max"),
            message=f"backoff_base ({_time(retries.backoff_base_s)}) is longer than backoff_max "
            f"({_time(retries.backoff_max_s)})",
            hint="raise backoff_max",
        )


def check_balancing(path: str, balancing: Balancing) -> Findings:
    yield from check_numbers(path, balancing)
    if balancing.hash_on is not None:
        yield from check_hash(f"{path}.hash_on", balancing.hash_on)
    if balancing.algorithm in _HASHING and balancing.hash_on is None:
        yield Finding(
            paths=(f"{path}.algorithm", path),
            message=f"{balancing.algorithm} has nothing to hash",
            hint="add hash_on, with header, cookie or source",
        )
    if balancing.algorithm not in _HASHING and balancing.hash_on is not None:
        yield Finding(
            paths=(f"{path}.hash_on", f"{path}.algorithm"),
            message=f"it does nothing with {balancing.algorithm}",
            hint=f"use it with {' or '.join(_HASHING)}",
        )


def check_outliers(path: str, outliers: OutlierDetection) -> Findings:
    yield from check_numbers(path, outliers)
    if outliers.ejection_s > outliers.max_ejection_s:
        yield Finding(
            paths=(f"{path}.ejection", f"{path}.max_ejection"),
            message=f"ejection ({_time(outliers.ejection_s)}) is longer than max_ejection "
            f"({_time(outliers.max_ejection_s)})",
            hint="raise max_ejection",
        )


def check_health(path: str, health: ActiveHealth) -> Findings:
    yield from check_numbers(path, health)
    yield from judged(f"{path}.http", words.path(health.path.partition("?")[0]))
    yield from each_of(f"{path}.statuses", health.statuses, _answer, MAX_CONDITIONS)
    if health.kind == "tcp" and health.statuses:
        yield at(f"{path}.statuses", "a connection has no status", "use it with http")
    if health.kind == "grpc":
        yield from judged(f"{path}.grpc", words.grpc_service(health.grpc_service))
        if health.statuses:
            yield at(f"{path}.statuses", "gRPC answers with words, not statuses", "remove it")
    if health.timeout_s > health.interval_s:
        yield Finding(
            paths=(f"{path}.timeout", f"{path}.interval"),
            message=f"timeout ({_time(health.timeout_s)}) is longer than interval "
            f"({_time(health.interval_s)})",
            hint="lower timeout, or raise interval",
        )


def check_rate_limits(path: str, limits: tuple[RateLimit, ...]) -> Findings:
    yield from at_most(path, limits, MAX_RATE_LIMITS)
    yield from unique(path, [limit.name for limit in limits])
    for number, limit in enumerate(limits[:MAX_RATE_LIMITS]):
        here = f"{path}[{number}]"
        yield from judged(f"{here}.name", words.name(limit.name))
        yield from check_numbers(here, limit)
        yield from check_match(f"{here}.match", limit.match)


def check_faults(path: str, faults: tuple[Fault, ...]) -> Findings:
    yield from at_most(path, faults, MAX_FAULTS)
    yield from unique(path, [fault.name for fault in faults])
    for number, fault in enumerate(faults[:MAX_FAULTS]):
        here = f"{path}[{number}]"
        yield from judged(f"{here}.name", words.name(fault.name))
        yield from check_numbers(here, fault)
        yield from check_match(f"{here}.match", fault.match)
        if fault.until.utcoffset() is None:
            hint = "write it with Z for UTC: 2026-12-01T12:00:00Z"
            yield at(f"{here}.until", "it has no time zone", hint)
        if not (fault.delay_s or fault.abort_status or fault.grpc_status):
            yield at(here, "it does nothing", "give delay, abort, grpc_status or several of them")


def check_failover(
    path: str, service: ServiceName, steps: tuple[Failover, ...], subsets: Subsets
) -> Findings:
    yield from at_most(path, steps, MAX_FAILOVERS)
    seen: dict[Failover, int] = {}
    for number, step in enumerate(steps[:MAX_FAILOVERS]):
        here = f"{path}[{number}]"
        if step.service is not None:
            yield from judged(f"{here}.service", words.service_name(step.service))
        if step.datacenter:
            yield from judged(f"{here}.datacenter", words.datacenter(step.datacenter))
        yield from check_subset(f"{here}.subset", step.service or service, step.subset, subsets)
        if not (step.service or step.subset or step.datacenter):
            yield at(here, "it says nowhere to go", "give service, subset or datacenter")
        elif (step.service or service) == service and not (step.subset or step.datacenter):
            message = f"{service} would stand in for itself"
            yield at(here, message, "name another service, a subset or a datacenter")
        first = seen.setdefault(step, number)
        if first != number:
            yield at(here, f"it is the same as {path}[{first}]", "keep one")


def _failure(status: int) -> Wrong | None:
    return _within(status, 400, 599, "a failure")


def _answer(status: int) -> Wrong | None:
    return _within(status, 200, 599, "a status of an answer")


def _within(status: int, least: int, most: int, what: str) -> Wrong | None:
    if least <= status <= most:
        return None
    return Wrong(f"{status} is not {what}", f"use {least} to {most}")


def _known(_: object) -> Wrong | None:
    return None


def _time(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"
