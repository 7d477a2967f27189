"""The data plane's metrics under the names that Istio's dashboards know.

A reporter belongs to one pair of services seen from one side. It finds its series once for each
status and flag, and after that a request costs a bisection and a few increments.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from time import time
from typing import Any
from weakref import WeakSet

from proxy.core.metrics import (
    BYTES_BUCKETS,
    DURATION_MS_BUCKETS,
    Family,
    Histogram,
    Metrics,
    Value,
)
from proxy.http.exchange import Exchange
from proxy.model.endpoint import Endpoint
from proxy.model.flags import FINE
from proxy.model.telemetry import Telemetry as Choice
from proxy.net.recent import Recent
from proxy.net.telemetry import Log, Telemetry

_LABELS = (
    "reporter",
    "source_workload",
    "source_principal",
    "destination_workload",
    "destination_service",
    "request_protocol",
    "response_code",
    "response_flags",
    "connection_security_policy",
)
_SERIES_OF_ONE_REPORTER = 200


class DataPlaneMetrics:
    """All families of the data plane."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        metrics.count_series()
        self.recent = Recent()
        """Single requests, where the rest of this only counts."""
        self.telemetry = Telemetry(metrics)
        self.is_counting = True
        """Whether policy wants calls counted and remembered."""
        self._reporters: WeakSet[Reporter] = WeakSet()
        self.pairs: set[tuple[str, ...]] = set()
        """Callers with what they may call now: what happens between them is told though idle."""
        counter = partial(metrics.counter, fades=True)
        histogram = partial(metrics.histogram, fades=True)
        self.requests = counter("istio_requests_total", "HTTP requests answered.", _LABELS)
        self.durations = histogram(
            "istio_request_duration_milliseconds",
            "From the end of a request's head to the end of its response, in milliseconds.",
            _LABELS,
        )
        self.request_bytes = histogram(
            "istio_request_bytes", "Bodies of requests, in bytes.", _LABELS, BYTES_BUCKETS
        )
        self.response_bytes = histogram(
            "istio_response_bytes", "Bodies of responses, in bytes.", _LABELS, BYTES_BUCKETS
        )
        self.route_durations = histogram(
            "mesh_route_request_duration_milliseconds",
            "Requests by route, as the caller's side sees them, retries included.",
            ("source_workload", "destination_service", "route", "outcome"),
        )
        self.endpoint_durations = histogram(
            "mesh_endpoint_request_duration_milliseconds",
            "Requests by endpoint, as the caller's side sees them; each try counts.",
            (
                *("source_workload", "destination_service"),
                *("destination_host", "destination_version", "outcome"),
            ),
        )
        self.tcp_sent = counter(
            "istio_tcp_sent_bytes_total", "Bytes sent to the caller in TCP sessions.", _LABELS
        )
        self.tcp_received = counter(
            "istio_tcp_received_bytes_total",
            "Bytes received from the caller in TCP sessions.",
            _LABELS,
        )
        self.tcp_opened = counter(
            "istio_tcp_connections_opened_total", "TCP sessions begun.", _LABELS
        )
        self.tcp_closed = counter(
            "istio_tcp_connections_closed_total", "TCP sessions ended, by how.", _LABELS
        )
        destination = ("source_workload", "destination_service")

        def of_pair(name: str, text: str, labels: tuple[str, ...]) -> Family:
            # What happens rarely is seen by its increase, so it must have been there before.
            family = counter(name, text, labels)
            family.keep = lambda labels: labels[:2] in self.pairs
            return family

        self.retries = of_pair(
            "mesh_retries_total",
            "Further attempts to serve a request.",
            destination,
        )
        self.budget_exhausted = of_pair(
            "mesh_retry_budget_exhausted_total",
            "Retries not made because too many were made lately.",
            destination,
        )
        self.overflows = of_pair(
            "mesh_breaker_refusals_total",
            "Requests, TCP sessions and retries beyond a limit of the called service.",
            (*destination, "limit"),
        )
        self.ejections = of_pair(
            "mesh_ejections_total",
            "Endpoints taken out of use by outlier detection, by the failure that did it.",
            (*destination, "reason"),
        )
        self.dials = of_pair(
            "mesh_upstream_dials_total",
            "Connections that were tried to be made; requests beyond them used one again.",
            destination,
        )
        self.dial_failures = of_pair(
            "mesh_upstream_dial_failures_total",
            "Connections that could not be made, TLS included.",
            destination,
        )
        self.returns = of_pair(
            "mesh_ejection_returns_total", "Ejected endpoints that came back.", destination
        )
        self.mirrored = counter(
            "mesh_mirrored_requests_total",
            "Copies of requests, by how they were answered.",
            (*destination, "response_code", "response_flags"),
        )
        self.faults = of_pair(
            "mesh_faults_injected_total",
            "Requests delayed or aborted by policy.",
            (*destination, "fault"),
        )
        self.rate_limited = counter(
            "mesh_rate_limited_total",
            "Requests refused by a rate limit of the service.",
            (*destination, "rate_limit"),
        )
        self.denials = counter(
            "mesh_authorization_denials_total",
            "Calls refused by the called side, by what refused them.",
            (*destination, "policy"),
        )
        self.local_refusals = metrics.counter(
            "mesh_local_callers_refused_total",
            "Connections from processes of the host that may not call as the workload.",
            ("source_workload",),
        )
        self.audited = counter(
            "mesh_authorization_audited_total",
            "Calls that an audit intention would have decided otherwise.",
            (*destination, "policy"),
        )
        self.tls_failures = metrics.counter(
            "mesh_inbound_tls_failures_total",
            "Inbound connections that ended before or with the TLS handshake.",
            ("reason",),
        )
        self.protocol_errors = metrics.counter(
            "mesh_downstream_protocol_errors_total",
            "Requests refused because they are not valid HTTP.",
            ("reporter", "reason"),
        )
        self.upstream_protocol_errors = metrics.counter(
            "mesh_upstream_protocol_errors_total",
            "Responses refused because they are not valid HTTP.",
            ("reporter", "reason"),
        )
        self.out_of_memory = metrics.gauge(
            "mesh_out_of_memory",
            "1: above the memory cap, new requests are refused.",
            combine="max",
        ).labels()
        self.overloads = metrics.counter(
            "mesh_connections_shed_total",
            "Connections refused because the proxy is at its limit.",
            ("reporter",),
        )

    def apply(self, choice: Choice) -> None:
        """The mesh's policy, from now on."""
        self.is_counting = choice.metrics
        self.telemetry.apply(choice)

    def sweep(self, now: float) -> None:
        """About once a second."""
        if self._metrics.sweep(now):
            for reporter in self._reporters:
                reporter.let_go()

    def add(self, reporter: "Reporter") -> None:
        """It will be told when to look for its series anew."""
        self._reporters.add(reporter)

    def protocol_counters(self, reporter: str) -> tuple[Callable[[str], None], ...]:
        """What a ledger counts invalid requests and invalid responses by, given the reason."""

        def counts(family: Family) -> Callable[[str], None]:
            def count(reason: str) -> None:
                family.labels(reporter, reason).value += 1

            return count

        return counts(self.protocol_errors), counts(self.upstream_protocol_errors)


_Found = tuple[Value, Histogram, Histogram, Histogram, bool]
"""Of one status and flag: requests, their durations and bytes both ways, and whether it is bad."""


class Reporter:
    """One caller and one service, from one side."""

    __slots__ = (
        "__weakref__",
        "_code_series",
        "_is_source",
        "_metrics",
        "_prefix",
        "_remember",
        "_security",
        "_unflagged",
        "log",
    )

    def __init__(
        self,
        metrics: DataPlaneMetrics,
        reporter: str,
        caller: str,
        principal: str,
        service: str,
        security: str = "mutual_tls",
    ) -> None:
        self._metrics = metrics
        self._prefix = (reporter, caller, principal, service, service)
        self._is_source = reporter == "source"
        self._security = security
        self._remember = metrics.recent.ring(reporter).add
        self.log: Log | None = None
        """Of the service's access log; its owner sets it with each policy."""
        self._code_series: dict[tuple[int, str], _Found] = {}
        self._unflagged: dict[int, _Found] = {}
        """Those of ``_code_series`` with no flag: no key to be made."""
        metrics.add(self)

    def answered(self, exchange: Exchange, now: float) -> None:
        """HOT. ``now``: monotonic seconds."""
        if self._metrics.is_counting:
            flag = exchange.flag
            found = (
                self._code_series.get((exchange.status, flag))
                if flag
                else self._unflagged.get(exchange.status)
            )
            if found is None:
                found = self._find((exchange.status, flag))
            count, took, asked, answer, is_failure = found
            elapsed_ms = (now - exchange.started) * 1000.0
            at = bisect_left(DURATION_MS_BUCKETS, elapsed_ms)
            count.value += 1
            took.counts[at] += 1
            took.total += elapsed_ms
            size = exchange.body_bytes
            if size:
                asked.counts[bisect_left(BYTES_BUCKETS, size)] += 1
                asked.total += size
            else:
                asked.counts[0] += 1
            size = exchange.response_bytes
            if size:
                answer.counts[bisect_left(BYTES_BUCKETS, size)] += 1
                answer.total += size
            else:
                answer.counts[0] += 1
            if self._is_source:
                rule = exchange.rule
                if rule is not None:
                    series = rule.failed if is_failure else rule.answered
                    if series is None:
                        series = self._of_route(rule, is_failure)
                    series.counts[at] += 1
                    series.total += elapsed_ms
                pool = exchange.target
                if pool is not None:
                    if exchange.tries == 1:
                        series = pool.failed if is_failure else pool.answered
                        if series is None:
                            series = self._of_endpoint(pool, is_failure)
                        series.counts[at] += 1
                        series.total += elapsed_ms
                    else:
                        self.tried(pool, now - exchange.tried_at, is_failure=is_failure)
            self._remember(self._prefix[1], self._prefix[3], exchange, now)
            if exchange.span is not None:
                took.exemplify(at, exchange.span.trace_id, elapsed_ms, time())
        if exchange.span is not None:
            exchange.span.ended(exchange, now)
        if self.log is not None:
            self.log(exchange, now)

    def tried(self, pool: Any, seconds: float, *, is_failure: bool) -> None:
        """One try, where it is not the only one of its request."""
        if not self._metrics.is_counting:
            return
        series = pool.failed if is_failure else pool.answered
        (series or self._of_endpoint(pool, is_failure)).observe(seconds * 1000.0)

    def let_go(self) -> None:
        """Of series that may have been dropped."""
        self._code_series.clear()
        self._unflagged.clear()

    def _find(self, key: tuple[int, str]) -> _Found:
        if len(self._code_series) >= _SERIES_OF_ONE_REPORTER:
            self.let_go()  # statuses are the upstream's to choose
        status, flag = key
        metrics = self._metrics
        labels = (*self._prefix, "http", str(status), flag or "-", self._security)
        found = (
            metrics.requests.labels(*labels),
            metrics.durations.labels(*labels),
            metrics.request_bytes.labels(*labels),
            metrics.response_bytes.labels(*labels),
            is_failure(status, flag),
        )
        self._code_series[key] = found
        if not flag:
            self._unflagged[status] = found
        return found

    def _of_route(self, rule: Any, is_failure: bool) -> Histogram:
        series = self._metrics.route_durations.labels(
            self._prefix[1],
            self._prefix[3],
            rule.name or "-",
            "failure" if is_failure else "success",
        )
        if is_failure:
            rule.failed = series
        else:
            rule.answered = series
        return series

    def _of_endpoint(self, pool: Any, is_failure: bool) -> Histogram:
        endpoint: Endpoint = pool.endpoint
        series = self._metrics.endpoint_durations.labels(
            self._prefix[1],
            endpoint.service,
            endpoint.host,
            endpoint.version,
            "failure" if is_failure else "success",
        )
        if is_failure:
            pool.failed = series
        else:
            pool.answered = series
        return series

    def session_ended(self, **known: Any) -> None:
        """``known``: as ``recent.Ring.add_session`` has it."""
        if self._metrics.is_counting:
            ring = self._metrics.recent.ring(self._prefix[0])
            ring.add_session(self._prefix[1], self._prefix[3], **known)

    def tcp(self, flag: str = "") -> "TcpSeries":
        metrics = self._metrics
        if not metrics.is_counting:
            return TcpSeries(opened=Value(), closed=Value(), sent=Value(), received=Value())
        labels = (*self._prefix, "tcp", "0", flag or "-", self._security)
        return TcpSeries(
            opened=metrics.tcp_opened.labels(*labels),
            closed=metrics.tcp_closed.labels(*labels),
            sent=metrics.tcp_sent.labels(*labels),
            received=metrics.tcp_received.labels(*labels),
        )


class TcpSeries:
    """What one TCP session counts in."""

    __slots__ = ("closed", "opened", "received", "sent")

    def __init__(self, *, opened: Value, closed: Value, sent: Value, received: Value) -> None:
        self.opened = opened
        self.closed = closed
        self.sent = sent
        """To the caller."""
        self.received = received
        """From the caller."""


def is_failure(status: int, flag: str) -> bool:
    """Whether a request did not go well, for whoever wanted its answer."""
    return status >= 500 or not status or flag not in FINE
