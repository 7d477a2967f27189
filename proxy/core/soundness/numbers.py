"""The numbers of a policy: from where to where each may go, and how it is called in ``mesh.yaml``.

A bound is there to refuse what would fail every request or exhaust the proxy, and units mixed
up; it is no advice.
"""

import math
from dataclasses import dataclass
from typing import Any

from proxy.core.soundness.finding import Findings, at
from proxy.model.authorization import TokenProvider
from proxy.model.policy import Balancing, Timeouts
from proxy.model.resilience import (
    ActiveHealth,
    Fault,
    Limits,
    OutlierDetection,
    RateLimit,
    Retries,
)
from proxy.model.routing import Destination, DirectResponse, HashOn, Mirror, RouteTimeouts
from proxy.model.telemetry import AccessLog, Telemetry, Tracing

DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Range:
    least: float
    most: float
    key: str
    """In ``mesh.yaml``, where times and shares carry their unit in the value."""
    or_zero: bool = False
    """0 is below ``least``, but has a meaning of its own."""

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most or (self.or_zero and value == 0)


def _time(key: str, least: float = 0.001, most: float = DAY_S, *, or_zero: bool = False) -> Range:
    return Range(least, most, key, or_zero)


_PERCENT = Range(0, 100, "percent")

RANGES: dict[type, dict[str, Range]] = {
    Timeouts: {
        "connect_s": _time("connect"),
        "per_try_s": _time("per_try", or_zero=True),
        "request_s": _time("request", or_zero=True),
        "grpc_s": _time("grpc", or_zero=True),
        "stream_idle_s": _time("stream_idle"),
        "connection_idle_s": _time("connection_idle"),
        "pool_idle_s": _time("pool_idle"),
    },
    RouteTimeouts: {
        "per_try_s": _time("per_try", or_zero=True),
        "request_s": _time("request", or_zero=True),
        "grpc_s": _time("grpc", or_zero=True),
    },
    Balancing: {
        "default_rtt_s": _time("default_rtt", 0.0001, 60),
        "decay_s": _time("decay", 0.1, 3600),
        "slow_start_s": _time("slow_start", 0.1, 3600, or_zero=True),
    },
    Retries: {
        "attempts": Range(0, 10, "attempts"),
        "backoff_base_s": _time("backoff_base", most=60),
        "backoff_max_s": _time("backoff_max", most=300),
        "budget_percent": Range(0, 100, "budget"),
        "budget_min_per_s": Range(0, 10_000, "budget_min_per_s"),
        "body_limit_bytes": Range(0, 16 * 1024 * 1024, "body_limit"),
    },
    Limits: {
        "connections": Range(1, 100_000, "connections"),
        "pending": Range(0, 100_000, "pending"),
        "requests": Range(1, 1_000_000, "requests"),
        "retries": Range(0, 100_000, "retries"),
        "new_connections_per_s": Range(0.1, 1_000_000, "new_connections_per_s", True),
    },
    OutlierDetection: {
        "consecutive_failures": Range(0, 1000, "consecutive_failures"),
        "ejection_s": _time("ejection", 0.1),
        "max_ejection_s": _time("max_ejection", 0.1),
        "max_ejected_percent": Range(0, 100, "max_ejected"),
        "panic_percent": Range(0, 100, "panic"),
    },
    ActiveHealth: {
        "interval_s": _time("interval", 0.1, 3600),
        "timeout_s": _time("timeout", 0.01, 300),
        "unhealthy_after": Range(1, 100, "unhealthy_after"),
        "healthy_after": Range(1, 100, "healthy_after"),
    },
    RateLimit: {
        "requests": Range(1, 1_000_000_000, "requests"),
        "per_s": _time("per"),
        "burst": Range(1, 1_000_000_000, "burst", True),
    },
    Fault: {
        "percent": _PERCENT,
        "delay_s": _time("delay", most=3600, or_zero=True),
        "abort_status": Range(200, 599, "abort", True),
    },
    HashOn: {"ttl_s": _time("ttl", 1, or_zero=True)},
    Destination: {"weight": Range(0, 1_000_000, "weight")},
    DirectResponse: {"status": Range(200, 599, "status")},
    Mirror: {"percent": _PERCENT},
    TokenProvider: {
        "refresh_s": _time("refresh", 10),
        "leeway_s": _time("leeway", 1, 300, or_zero=True),
    },
    AccessLog: {
        "percent": _PERCENT,
        "slow_ms": Range(1, DAY_S * 1000, "slow", True),
    },
    Tracing: {"percent": _PERCENT},
    Telemetry: {
        "log_file_bytes": Range(1024 * 1024, 16 * 1024**3, "log_file_size"),
        "log_files": Range(0, 1000, "log_files"),
    },
}
"""By field of the model. A field that is a number and not in here is a defect: a test asserts."""


_UNITS = (("_per_s", ""), ("_s", " s"), ("_ms", " ms"))


def check_numbers(path: str, value: Any) -> Findings:
    """``value`` is one of the structs in ``RANGES``."""
    for field, allowed in RANGES[type(value)].items():
        number = getattr(value, field)
        if number is not None and number not in allowed:
            unit = next((unit for end, unit in _UNITS if field.endswith(end)), "")
            shown = "not a number" if math.isnan(number) else f"{number:g}{unit}"
            yield at(
                f"{path}.{allowed.key}",
                f"{shown} is out of range",
                f"use {allowed.least:.15g} to {allowed.most:.15g}{unit}"
                + (", or 0" if allowed.or_zero else ""),
            )
