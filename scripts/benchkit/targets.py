"""The figures to reach, and whether a run reached them. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchkit import figures, observability, scale
from benchkit.contestants.ours import BEFORE
from benchkit.figures import Metric, Sample, Spread

OURS = "meshctl"
REFERENCE = "envoy"
SAME = 1.05
"""A ratio up to this is no growth: two goes of the same proxy differ as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    figure: str
    limit: str
    """In words, with its unit."""
    found: Spread | None
    is_met: bool | None
    """None: not measured."""


def judge(samples: Sequence[Sample]) -> list[Target]:
    """In the order to show."""

    def against(metric: Metric) -> Spread | None:
        return figures.ratio(samples, OURS, REFERENCE, metric)

    def policy(metric: Metric) -> Spread | None:
        return figures.of(samples, scale.NAME, metric)

    def growth(metric: Metric) -> Spread | None:
        return figures.within(samples, scale.NAME, metric, Metric.CPU_10_US)

    def observed(metric: Metric) -> Spread | None:
        return figures.of(samples, observability.NAME, metric)

    rows: list[tuple[str, str, Spread | None, Callable[[Spread], bool]]] = [
        (
            "CPU per request, two hops, of Envoy's",
            "at most 0.5",
            against(Metric.CPU_US_PER_REQUEST),
            lambda it: it.median <= 0.5,
        ),
        (
            "p99 added at a third of Envoy's saturation, of Envoy's",
            "below 1",
            against(Metric.P99_ADDED_MS),
            lambda it: it.median < 1,
        ),
        (
            "memory idle, of Envoy's",
            "at most 0.5",
            against(Metric.RSS_IDLE_MIB),
            lambda it: it.median <= 0.5,
        ),
        (
            "memory at 1,000 connections, of Envoy's",
            "at most 0.5",
            against(Metric.RSS_HELD_MIB),
            lambda it: it.median <= 0.5,
        ),
        (
            "CPU per GiB of TCP, of Envoy's",
            "at most 1",
            against(Metric.TCP_CPU_S_PER_GIB),
            lambda it: it.median <= 1,
        ),
        (
            "CPU per request over HTTP/1.1, of that of an earlier commit",
            f"does not grow (at most {SAME})",
            figures.ratio(samples, OURS, BEFORE, Metric.CPU_US_PER_REQUEST),
            lambda it: it.median <= SAME,
        ),
        (
            "CPU per unary gRPC call of 100 bytes, of Envoy's",
            "at most 0.7",
            against(Metric.UNARY_US),
            lambda it: it.median <= 0.7,
        ),
        (
            "CPU per streamed gRPC message of 1 KiB, as fast as they go, of Envoy's",
            "at most 1",
            against(Metric.FLOOD_US),
            lambda it: it.median <= 1,
        ),
        (
            "CPU per streamed gRPC message of 1 KiB, one at a time on each stream, of Envoy's",
            "at most 1",
            against(Metric.ECHO_US),
            lambda it: it.median <= 1,
        ),
        (
            "CPU per GiB of an HTTP/2 download, of Envoy's",
            "at most 1.2",
            against(Metric.DOWNLOAD_CPU_S_PER_GIB),
            lambda it: it.median <= 1.2,
        ),
        (
            "memory at 10,000 idle gRPC streams, of Envoy's",
            "at most 1",
            against(Metric.PSS_STREAMS_MIB),
            lambda it: it.median <= 1,
        ),
        (
            "memory at 1,000 WebSockets, of Envoy's",
            "at most 1",
            against(Metric.PSS_WEBSOCKETS_MIB),
            lambda it: it.median <= 1,
        ),
        (
            "policy of 1,000 services: published to applied, slowest",
            "at most 100 ms",
            policy(Metric.APPLY_SLOWEST_MS),
            lambda it: it.high <= 100,
        ),
        (
            "p99 while policies are applied, of the p99 without",
            "at most 2",
            policy(Metric.APPLY_P99_RATIO),
            lambda it: it.median <= 2,
        ),
        (
            "memory for that policy",
            "at most 20 MiB",
            policy(Metric.POLICY_AFTER_MIB),
            lambda it: it.median <= 20,
        ),
        (
            "CPU per request with 100 services, of that with 10",
            f"does not grow (at most {SAME})",
            growth(Metric.CPU_100_US),
            lambda it: it.median <= SAME,
        ),
        (
            "CPU per request with 1,000 services, of that with 10",
            f"does not grow (at most {SAME})",
            growth(Metric.CPU_1000_US),
            lambda it: it.median <= SAME,
        ),
        (
            "CPU per request with metrics, traces of 1 % and all access logs, of that without",
            "at most 1.15",
            figures.within(samples, observability.NAME, Metric.OBSERVED_US, Metric.OBSERVED_NOT_US),
            lambda it: it.median <= 1.15,
        ),
        (
            "`/metrics` with 1,000 series: its answer",
            "at most 50 ms",
            observed(Metric.SCRAPE_MS),
            lambda it: it.median <= 50,
        ),
        (
            "p99 while it is scraped every second, of the p99 without",
            "at most 1.5",
            observed(Metric.SCRAPE_P99_RATIO),
            lambda it: it.median <= 1.5,
        ),
        (
            "100 services, 1,000 edges: a refresh of `top`",
            "at most 1,000 ms",
            observed(Metric.TOP_MS),
            lambda it: it.high <= 1000,
        ),
        (
            "100 services, 1,000 edges: a refresh of the dashboard",
            "at most 1,000 ms",
            observed(Metric.DASHBOARD_MS),
            lambda it: it.high <= 1000,
        ),
    ]
    return [
        Target(
            figure=figure,
            limit=limit,
            found=found,
            is_met=None if found is None else is_within(found),
        )
        for figure, limit, found, is_within in rows
    ]
