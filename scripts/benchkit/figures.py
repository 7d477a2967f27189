"""From samples to medians, spreads and ratios. Pure; a sample with a fault is never averaged."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Metric(StrEnum):
    """What is measured; the unit is part of the name."""

    CPU_US_PER_REQUEST = "cpu_us_per_request"
    REQUESTS_PER_S = "requests_per_s"
    PROXY_CORE_SHARE = "proxy_core_share"
    FOREIGN_SHARE = "foreign_share"
    MACHINE_FOREIGN_SHARE = "machine_foreign_share"
    PACED_PER_S = "paced_requests_per_s"
    P50_ADDED_MS = "p50_added_ms"
    P99_ADDED_MS = "p99_added_ms"
    P50_DIRECT_MS = "p50_direct_ms"
    P99_DIRECT_MS = "p99_direct_ms"
    RSS_IDLE_MIB = "rss_idle_mib"
    RSS_HELD_MIB = "rss_held_mib"
    PSS_IDLE_MIB = "pss_idle_mib"
    PSS_HELD_MIB = "pss_held_mib"
    TCP_CPU_S_PER_GIB = "tcp_cpu_s_per_gib"
    TCP_MIB_PER_S = "tcp_mib_per_s"
    APPLY_MS = "apply_ms"
    APPLY_SLOWEST_MS = "apply_slowest_ms"
    APPLY_P99_RATIO = "apply_p99_ratio"
    POLICY_START_MIB = "policy_start_mib"
    POLICY_AFTER_MIB = "policy_after_mib"
    CPU_10_US = "cpu_10_services_us"
    CPU_100_US = "cpu_100_services_us"
    CPU_1000_US = "cpu_1000_services_us"
    OBSERVED_NOT_US = "cpu_observed_not_us"
    OBSERVED_US = "cpu_observed_us"
    SCRAPE_SERIES = "scrape_series"
    SCRAPE_MIB = "scrape_mib"
    SCRAPE_MS = "scrape_ms"
    SCRAPE_SLOWEST_MS = "scrape_slowest_ms"
    SCRAPE_P99_RATIO = "scrape_p99_ratio"
    TOP_MS = "top_refresh_ms"
    DASHBOARD_MS = "dashboard_refresh_ms"
    MULTIPLEXED_FOREIGN_SHARE = "multiplexed_foreign_share"
    UNARY_US = "cpu_us_per_call"
    UNARY_PER_S = "calls_per_s"
    FLOOD_US = "cpu_us_per_streamed_message"
    FLOOD_PER_S = "streamed_messages_per_s"
    ECHO_US = "cpu_us_per_echoed_message"
    ECHO_PER_S = "echoed_messages_per_s"
    DOWNLOAD_CPU_S_PER_GIB = "http2_cpu_s_per_gib"
    DOWNLOAD_MIB_PER_S = "http2_mib_per_s"
    RSS_STREAMS_MIB = "rss_idle_streams_mib"
    PSS_STREAMS_MIB = "pss_idle_streams_mib"
    RSS_WEBSOCKETS_MIB = "rss_websockets_mib"
    PSS_WEBSOCKETS_MIB = "pss_websockets_mib"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One contestant's go in one round."""

    contestant: str
    round: int
    figures: Mapping[Metric, float] = field(default_factory=dict)
    """Only of phases in which every single request succeeded."""
    faults: tuple[str, ...] = ()
    """Why a phase of this go does not count; each begins with the phase's name."""
    seen: tuple[str, ...] = ()
    """Header fields of ``backend.ECHOED`` that reached the application."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle and the extremes of ``count`` values."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Iterable[float]) -> Spread | None:
    """None if there is no value: an absent figure is never shown as zero."""
    known = sorted(values)
    if not known:
        return None
    return Spread(median=statistics.median(known), low=known[0], high=known[-1], count=len(known))


def of(samples: Sequence[Sample], contestant: str, metric: Metric) -> Spread | None:
    """The spread of one contestant's values over all rounds in which it has one."""
    return spread(
        sample.figures[metric]
        for sample in samples
        if sample.contestant == contestant and metric in sample.figures
    )


def ratio(
    samples: Sequence[Sample], contestant: str, reference: str, metric: Metric
) -> Spread | None:
    """``contestant / reference``, formed within each round, then spread.

    Not the ratio of the medians: what disturbs a round disturbs both, and cancels out. A round in
    which either has no value, or the reference's is zero, is left out.
    """
    by_round = {
        (sample.round, sample.contestant): sample.figures[metric]
        for sample in samples
        if metric in sample.figures
    }
    return spread(
        value / base
        for (number, name), value in by_round.items()
        if name == contestant and (base := by_round.get((number, reference), 0.0)) > 0
    )


def within(
    samples: Sequence[Sample], contestant: str, metric: Metric, base: Metric
) -> Spread | None:
    """``metric / base`` of the same contestant, formed within each round, then spread."""
    return spread(
        sample.figures[metric] / sample.figures[base]
        for sample in samples
        if sample.contestant == contestant
        and metric in sample.figures
        and sample.figures.get(base, 0.0) > 0
    )


def faults(samples: Sequence[Sample]) -> tuple[tuple[int, str, str], ...]:
    """(round, contestant, reason) of everything that was left out, in order of rounds."""
    return tuple(
        (sample.round, sample.contestant, fault)
        for sample in sorted(samples, key=lambda sample: sample.round)
        for fault in sample.faults
    )


def order(contestants: Sequence[str], number: int) -> tuple[str, ...]:
    """Who goes when in round ``number`` (from 1): everybody is first, and last, equally often."""
    shift = (number - 1) % len(contestants) if contestants else 0
    return (*contestants[shift:], *contestants[:shift])
