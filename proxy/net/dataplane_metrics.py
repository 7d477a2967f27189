"""The data plane's metrics under the names that Istio's dashboards know.

A reporter belongs to one pair of services seen from one side. It finds its series once for each
status and flag, and after that a request costs two increments and a bisection.
"""

from bisect import bisect_left
from collections.abc import Callable

from proxy.core.metrics import Family, Histogram, Metrics, Value
from proxy.http.exchange import Exchange
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
        self.recent = Recent()
        """Single requests, where the rest of this only counts."""
        self.telemetry = Telemetry(metrics)
        self.requests = metrics.counter("istio_requests_total", "HTTP requests answered.", _LABELS)
        self.durations = metrics.histogram(
            "istio_request_duration_milliseconds",
            "From the end of a request's head to the end of its response, in milliseconds.",
            _LABELS,
        )
        self.tcp_sent = metrics.counter(
            "istio_tcp_sent_bytes_total", "Bytes sent to the caller in TCP sessions.", _LABELS
        )
        self.tcp_received = metrics.counter(
            "istio_tcp_received_bytes_total",
            "Bytes received from the caller in TCP sessions.",
            _LABELS,
        )
        self.tcp_opened = metrics.counter(
            "istio_tcp_connections_opened_total", "TCP sessions begun.", _LABELS
        )
        self.tcp_closed = metrics.counter(
            "istio_tcp_connections_closed_total", "TCP sessions ended, by how.", _LABELS
        )
        self.upstream_connections = metrics.gauge(
            "mesh_upstream_connections",
            "Connections open or being opened to a service, or to the local application.",
            ("reporter", "source_workload", "destination_service"),
        )
        self.retries = metrics.counter(
            "mesh_retries_total",
            "Further attempts to serve a request.",
            ("source_workload", "destination_service"),
        )
        destination = ("source_workload", "destination_service")
        self.budget_exhausted = metrics.counter(
            "mesh_retry_budget_exhausted_total",
            "Retries not made because too many were made lately.",
            destination,
        )
        self.overflows = metrics.counter(
            "mesh_breaker_refusals_total",
            "Requests, TCP sessions and retries beyond a limit of the called service.",
            (*destination, "limit"),
        )
        self.ejections = metrics.counter(
            "mesh_ejections_total", "Endpoints taken out of use by outlier detection.", destination
        )
        self.returns = metrics.counter(
            "mesh_ejection_returns_total", "Ejected endpoints that came back.", destination
        )
        self.panics = metrics.gauge(
            "mesh_panic",
            "1: so few endpoints are available that all are used.",
            destination,
            combine="max",
        )
        self.failover_tier = metrics.gauge(
            "mesh_failover_tier",
            "Where requests go: 0 the service itself, 1 its first failover, and so on.",
            destination,
            combine="max",
        )
        self.mirrored = metrics.counter(
            "mesh_mirrored_requests_total",
            "Copies of requests, by how they were answered.",
            (*destination, "response_code", "response_flags"),
        )
        self.faults = metrics.counter(
            "mesh_faults_injected_total",
            "Requests delayed or aborted by policy.",
            (*destination, "fault"),
        )
        self.rate_limited = metrics.counter(
            "mesh_rate_limited_total",
            "Requests refused by a rate limit of the service.",
            (*destination, "rate_limit"),
        )
        self.denials = metrics.counter(
            "mesh_authorization_denials_total",
            "Calls refused by the called side, by what refused them.",
            (*destination, "policy"),
        )
        self.local_refusals = metrics.counter(
            "mesh_local_callers_refused_total",
            "Connections from processes of the host that may not call as the workload.",
            ("source_workload",),
        )
        self.audited = metrics.counter(
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

    def protocol_counters(self, reporter: str) -> tuple[Callable[[str], None], ...]:
        """What a ledger counts invalid requests and invalid responses by, given the reason."""

        def counts(family: Family) -> Callable[[str], None]:
            def count(reason: str) -> None:
                family.labels(reporter, reason).value += 1

            return count

        return counts(self.protocol_errors), counts(self.upstream_protocol_errors)


class Reporter:
    """One caller and one service, from one side."""

    __slots__ = (
        "_code_series",
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
        self._security = security
        self._remember = metrics.recent.ring(reporter).add
        self.log: Log | None = None
        """Of the service's access log; its owner sets it with each policy."""
        self._code_series: dict[tuple[int, str], tuple[Value, Histogram]] = {}
        self._unflagged: dict[int, tuple[Value, Histogram]] = {}
        """Those of ``_code_series`` with no flag: no key to be made."""

    def answered(self, exchange: Exchange, now: float) -> None:
        """``now``: monotonic seconds."""
        flag = exchange.flag
        series = (
            self._code_series.get((exchange.status, flag))
            if flag
            else self._unflagged.get(exchange.status)
        )
        if series is None:
            series = self._make_series((exchange.status, flag))
        count, histogram = series
        elapsed_ms = (now - exchange.started) * 1000.0
        count.value += 1
        histogram.counts[bisect_left(histogram.bounds, elapsed_ms)] += 1
        histogram.total += elapsed_ms
        self._remember(self._prefix[1], self._prefix[3], exchange, now)
        if exchange.span is not None:
            exchange.span.ended(exchange, now)
        if self.log is not None:
            self.log(exchange, now)

    def _make_series(self, key: tuple[int, str]) -> tuple[Value, Histogram]:
        if len(self._code_series) >= _SERIES_OF_ONE_REPORTER:
            self._code_series.clear()  # statuses are the upstream's to choose
            self._unflagged.clear()
        status, flag = key
        labels = (*self._prefix, "http", str(status), flag or "-", self._security)
        series = (self._metrics.requests.labels(*labels), self._metrics.durations.labels(*labels))
        self._code_series[key] = series
        if not flag:
            self._unflagged[status] = series
        return series

    def tcp(self, flag: str = "") -> "TcpSeries":
        metrics = self._metrics
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
