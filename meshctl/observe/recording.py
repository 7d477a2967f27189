"""Recording rules: what dashboards and alerts would otherwise compute again each time.

Named ``level:metric:operation``, as Prometheus recommends: which labels are left, what it was made
from, what was done.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from meshctl.observe.terms import (
    ANSWERED,
    BLAMELESS,
    EDGE,
    FAILED,
    SERVICE,
    SOURCE,
    requests,
    share,
)

QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
ERROR_WINDOWS = ("5m", "30m", "1h", "6h")
"""Of the burn-rate alerts: two long ones and, for each, a short one that ends the alert in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    name: str
    labels: tuple[str, ...]
    """What the result is told apart by."""
    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    name: str
    rules: tuple[Recording, ...]


def groups() -> tuple[Group, ...]:
    return (
        Group(name="meshctl-edges", rules=tuple(_edges())),
        Group(name="meshctl-services", rules=tuple(_services())),
        Group(name="meshctl-routes-and-endpoints", rules=tuple(_parts())),
    )


def recordings() -> tuple[Recording, ...]:
    return tuple(rule for group in groups() for rule in group.rules)


def _recording(name: str, by: str, expression: str) -> Recording:
    return Recording(name=name, labels=tuple(by.split(", ")), expression=expression)


def _edges() -> Iterator[Recording]:
    yield from _requests("edge", EDGE)
    yield from _quantiles("edge", "istio_request_duration_milliseconds", EDGE, SOURCE)
    yield _recording(
        "edge:mesh_retries:ratio_rate5m",
        EDGE,
        share("rate(mesh_retries_total[5m])", "edge:istio_requests:rate5m", EDGE),
    )
    for what in ("sent", "received"):
        yield _recording(
            f"edge:istio_tcp_{what}_bytes:rate5m",
            EDGE,
            f"sum by ({EDGE}) (rate(istio_tcp_{what}_bytes_total{{{SOURCE}}}[5m]))",
        )


def _services() -> Iterator[Recording]:
    yield from _requests("service", SERVICE)
    yield from _quantiles("service", "istio_request_duration_milliseconds", SERVICE, SOURCE)
    for window in ERROR_WINDOWS:
        rate = f"service:istio_requests:rate{window}"
        if window != "5m":
            yield _recording(rate, SERVICE, f"sum by ({SERVICE}) ({requests(window)})")
        blamed = f'response_flags!~"{BLAMELESS}"'
        failed = " or ".join(requests(window, each, blamed) for each in FAILED)
        yield _recording(
            f"service:istio_requests_errors:ratio_rate{window}",
            SERVICE,
            share(failed, rate, SERVICE),
        )


def _parts() -> Iterator[Recording]:
    for level, metric, by in (
        ("route", "mesh_route_request_duration_milliseconds", f"{EDGE}, route"),
        (
            "endpoint",
            "mesh_endpoint_request_duration_milliseconds",
            f"{SERVICE}, destination_host, destination_version",
        ),
    ):
        rate = f"{level}:{metric}:rate5m"
        yield _recording(rate, by, f"sum by ({by}) (rate({metric}_count[5m]))")
        good = f'rate({metric}_count{{outcome="success"}}[5m])'
        yield _recording(f"{level}:{metric}_success:ratio_rate5m", by, share(good, rate, by))
        yield from _quantiles(level, metric, by, "")


def _requests(level: str, by: str) -> Iterator[Recording]:
    rate = f"{level}:istio_requests:rate5m"
    yield _recording(rate, by, f"sum by ({by}) ({requests('5m')})")
    good = requests("5m", ANSWERED)
    yield _recording(f"{level}:istio_requests_success:ratio_rate5m", by, share(good, rate, by))


def _quantiles(level: str, metric: str, by: str, selector: str) -> Iterator[Recording]:
    chosen = f"{{{selector}}}" if selector else ""
    for name, quantile in QUANTILES:
        yield _recording(
            f"{level}:{metric}:{name}_rate5m",
            by,
            f"histogram_quantile({quantile}, sum by (le, {by}) "
            f"(rate({metric}_bucket{chosen}[5m])))",
        )
