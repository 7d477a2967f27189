"""The data plane's metrics under the names that Istio's dashboards know.

A reporter belongs to one pair of services seen from one side. It finds a request's outcome by one
look-up, and that costs a bisection and a few increments; see ``proxy.core.outcome``. What is
counted there goes to the series once a second, and before anybody reads them.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Hashable
from functools import partial
from time import time
from typing import Any

from proxy.core.access_entry import MAX_KEPT_BYTES, cut
from proxy.core.metrics import (
    BYTES_BUCKETS,
    DURATION_MS_BUCKETS,
    Family,
    Histogram,
    Metrics,
    Value,
)
from proxy.core.outcome import Outcome, Series
from proxy.http.exchange import Exchange
from proxy.model.endpoint import Endpoint
from proxy.model.flags import FINE
from proxy.model.telemetry import Telemetry as Choice
from proxy.net.pair_log import MAX_WAITING
from proxy.net.recent import Recent
from proxy.net.telemetry import Log, Telemetry

_ID = b"x-request-id: "
_TRACE = b"traceparent: "
_LABELS = (
    "reporter",
    "source_workload",
    "source_principal",
    "destination_workload",
    "destination_service",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
)
_SUCCESS = ("failure", "success")

Outcomes = dict[Hashable, Outcome]
"""Of one reporter: they are found again by what makes them differ."""
AT_ONCE = 32
_WITHIN_S = 0.02
"""For so long, at most, a finished request is held on to with what it was asked by."""
_OUTCOMES_OF_ONE = 200
_MAX_OUTCOMES = 4000
"""Of all: some have statuses, names of hosts and methods that others have chosen."""
_MAX_AUTHORITY_BYTES = 300


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
        self.finished: list[tuple[Reporter, Exchange, float]] = []
        """Requests that are not told of yet. They are told of some at once: what that takes is no
        longer in the processor's cache when the next request is over, and to get it there costs
        more than the rest. One list for good."""
        self._timer: asyncio.Handle | None = None
        self.recent.before_reading = self.work_off
        self._outcomes: list[tuple[Outcomes, Outcome]] = []
        """Those that may have something counted in them, with where they are found."""
        metrics.observers.append(self.settle)
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
        if self.is_counting != choice.metrics:
            self.settle(is_last=True)
        self.is_counting = choice.metrics
        self.telemetry.apply(choice)

    def sweep(self, now: float) -> None:
        """About once a second."""
        self.settle()
        self._metrics.sweep(now)

    def settle(self, *, is_last: bool = False) -> None:
        """What is counted by outcome goes to the series; those that were idle since it was done
        last, or with ``is_last`` all, are let go of."""
        self.work_off()
        left = []
        for each in self._outcomes:
            outcomes, outcome = each
            if outcome.settle() and not is_last:
                left.append(each)
            elif outcomes.get(outcome.key) is outcome:
                del outcomes[outcome.key]
                outcome.retire()
        self._outcomes = left

    def has_finished(self) -> None:
        """The first of some, or enough of them."""
        if len(self.finished) >= AT_ONCE:
            self.work_off()
        elif self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(_WITHIN_S, self._is_time)
            except RuntimeError:
                self.work_off()  # without a loop, nobody comes back to it

    def _is_time(self) -> None:
        self._timer = None
        self.work_off()

    async def close(self) -> None:
        """Writes what waits, within a second or so."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.settle()
        await self.telemetry.close()

    def work_off(self) -> None:
        """Tells of all that finished."""
        batch = self.finished[:]
        self.finished.clear()
        _tell(batch, is_counting=self.is_counting)

    def keep(self, outcomes: Outcomes, key: Hashable, outcome: Outcome) -> None:
        """It is found in ``outcomes`` from now on, for as long as it is not idle."""
        if len(outcomes) >= _OUTCOMES_OF_ONE:
            self.forget(outcomes)
        if len(self._outcomes) >= _MAX_OUTCOMES:
            self.settle(is_last=True)
        outcome.key = key
        self._outcomes.append((outcomes, outcome))
        if outcome.authority is None or len(outcome.authority) <= _MAX_AUTHORITY_BYTES:
            outcomes[key] = outcome

    def forget(self, outcomes: Outcomes) -> None:
        """Nothing more is counted in them."""
        for outcome in outcomes.values():
            outcome.retire()
        outcomes.clear()

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
        "_at",
        "_finished",
        "_is_source",
        "_log",
        "_metrics",
        "_outcomes",
        "_prefix",
        "_ring",
        "_security",
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
        self._finished = metrics.finished
        self._prefix = (reporter, caller, principal, service, service)
        self._is_source = reporter == "source"
        self._security = security
        self._ring = metrics.recent.ring(reporter)
        self._log: Log | None = None
        self._outcomes: Outcomes = {}
        self._at = -2
        """Where the last request had its id, from the end: its trace follows, and then what the
        proxy itself appends."""

    @property
    def log(self) -> Log | None:
        """Of the service's access log; its owner sets it with each policy."""
        return self._log

    @log.setter
    def log(self, log: Log | None) -> None:
        self._metrics.work_off()
        self._log = log
        self._metrics.forget(self._outcomes)  # they have the former one's printer

    def answered(self, exchange: Exchange, now: float) -> None:
        """HOT. ``exchange`` is finished, and kept for a moment; ``now``: monotonic seconds. What it
        has to say is told by ``_tell``."""
        if exchange.span is not None:
            exchange.span.ended(exchange, now)
        if self._metrics.is_counting or self._log is not None:
            finished = self._finished
            finished.append((self, exchange, now))
            if not 1 < len(finished) < AT_ONCE:
                self._metrics.has_finished()

    def tried(self, pool: Any, seconds: float, *, is_failure: bool) -> None:
        """One try, where it is not the only one of its request."""
        if self._metrics.is_counting:
            self._of_endpoint(pool, is_failure=is_failure).observe(seconds * 1000.0)

    def _find_ids(self, lines: list[bytes]) -> tuple[bytes, bytes]:
        """The lines of the request's id and trace; empty: there is none."""
        id_line = trace_line = b""
        for at in range(-1, -len(lines) - 1, -1):
            line = lines[at]
            if not id_line and line.startswith(_ID):
                id_line = line
                self._at = min(at, -2)
            elif line.startswith(_TRACE):
                trace_line = line
            else:
                continue
            if id_line and trace_line:
                break
        return id_line, trace_line

    def _find(self, key: tuple[Any, ...], exchange: Exchange) -> Outcome:
        status, flag, pool, rule, tries, method, authority, grpc_status = key
        bad = is_failure(exchange.judged_status if exchange.grpc is not None else status, flag)
        outcome = Outcome(
            caller=self._prefix[1],
            service=self._prefix[3],
            method=method,
            authority=authority,
            protocol="http" if grpc_status is None else "grpc",
            route=rule.name if rule is not None else "",
            endpoint=pool.endpoint if pool is not None else None,
            attempts=tries,
            status=status,
            grpc_status=grpc_status or "",
            flag=flag,
            is_failure=bad,
        )
        if self._metrics.is_counting:
            outcome.series = self._series(outcome, rule, pool if tries == 1 else None)
        if self._log is not None:
            self._log.printer.prepare(outcome)
        self._metrics.keep(self._outcomes, key, outcome)
        return outcome

    def _series(self, outcome: Outcome, rule: Any, pool: Any) -> Series:
        """``pool``: of the only try; None: there was another, or none."""
        metrics = self._metrics
        labels = (
            *self._prefix,
            outcome.protocol,
            str(outcome.status),
            outcome.grpc_status,
            outcome.flag or "-",
            self._security,
        )
        more = []
        if self._is_source:
            if rule is not None:
                more.append(
                    metrics.route_durations.labels(
                        outcome.caller,
                        outcome.service,
                        outcome.route or "-",
                        _SUCCESS[not outcome.is_failure],
                    )
                )
            if pool is not None:
                more.append(self._of_endpoint(pool, is_failure=outcome.is_failure))
        return Series(
            metrics.requests.labels(*labels),
            metrics.durations.labels(*labels),
            metrics.request_bytes.labels(*labels),
            metrics.response_bytes.labels(*labels),
            tuple(more),
        )

    def _of_endpoint(self, pool: Any, *, is_failure: bool) -> Histogram:
        endpoint: Endpoint = pool.endpoint
        return self._metrics.endpoint_durations.labels(
            self._prefix[1],
            endpoint.service,
            endpoint.host,
            endpoint.version,
            _SUCCESS[not is_failure],
        )

    def session_ended(self, **known: Any) -> None:
        """``known``: as ``recent.Ring.add_session`` has it."""
        if self._metrics.is_counting:
            ring = self._metrics.recent.ring(self._prefix[0])
            ring.add_session(self._prefix[1], self._prefix[3], **known)

    def tcp(self, flag: str = "") -> "TcpSeries":
        metrics = self._metrics
        if not metrics.is_counting:
            return TcpSeries(opened=Value(), closed=Value(), sent=Value(), received=Value())
        labels = (*self._prefix, "tcp", "0", "", flag or "-", self._security)
        return TcpSeries(
            opened=metrics.tcp_opened.labels(*labels),
            closed=metrics.tcp_closed.labels(*labels),
            sent=metrics.tcp_sent.labels(*labels),
            received=metrics.tcp_received.labels(*labels),
        )


def _tell(batch: list[tuple[Reporter, Exchange, float]], *, is_counting: bool) -> None:
    """HOT. What their reporters have put off. One function, as a call for each request would cost
    as much as a tenth of this."""
    durations, sizes, most = DURATION_MS_BUCKETS, BYTES_BUCKETS, MAX_KEPT_BYTES
    for reporter, exchange, now in batch:
        log = reporter._log
        if log is None and not is_counting:
            continue
        head, tries, target = exchange.head, exchange.tries, exchange.target
        key = (
            exchange.status, exchange.flag, target, exchange.rule, tries,
            head.method, head.authority,
            None if exchange.grpc is None else exchange.grpc_status,
        )  # fmt: skip
        outcome = reporter._outcomes.get(key)
        if outcome is None:
            outcome = reporter._find(key, exchange)
        started, asked, size = exchange.started, exchange.body_bytes, exchange.response_bytes
        if is_counting:
            elapsed_ms = (now - started) * 1000.0
            at = bisect_left(durations, elapsed_ms)
            outcome.counts[at] += 1
            outcome.total_ms += elapsed_ms
            if asked:
                outcome.asked[bisect_left(sizes, asked)] += 1
                outcome.asked_bytes += asked
            if size:
                outcome.answers[bisect_left(sizes, size)] += 1
                outcome.answer_bytes += size
            if tries > 1 and reporter._is_source and target is not None:
                reporter.tried(target, now - exchange.tried_at, is_failure=outcome.is_failure)
            if exchange.span is not None and outcome.series is not None:
                outcome.series.took.exemplify(at, exchange.span.trace_id, elapsed_ms, time())
        lines = head.lines
        at = reporter._at
        try:
            id_line, trace_line = lines[at], lines[at + 1]
        except IndexError:
            id_line = trace_line = b""
        if not (id_line.startswith(_ID) and trace_line.startswith(_TRACE)):
            id_line, trace_line = reporter._find_ids(lines)
        is_logged = log is not None and (
            log.is_all
            or outcome.is_failure
            or (log.is_any and log.is_wanted(id_line, now - started))
        )
        if not is_counting and not is_logged:
            continue
        path, tried = head.target, exchange.tried
        if len(id_line) + len(trace_line) + len(path) > most:
            id_line, trace_line, path = cut(id_line, trace_line, path)
        queue_s = exchange.queue_s
        if exchange.waits_since:
            queue_s += now - exchange.waits_since
        entry = (
            outcome, now, started, exchange.headed, queue_s, exchange.connect_s,
            id_line, trace_line, path,
            tuple([each.endpoint for each in tried]) if tried else (),  # type: ignore[attr-defined]
            exchange.policy, exchange.detail, asked, size,
        )  # fmt: skip
        if is_counting and id_line:  # else refused before it was given one
            ring = reporter._ring
            if outcome.is_bad:
                ring.bads += 1
                ring.bad.append(entry)
            else:
                ring.goods += 1
                ring.good.append(entry)
        if is_logged:
            waiting = log.waiting  # type: ignore[union-attr]  # it is logged
            if 0 < len(waiting) < MAX_WAITING:
                waiting.append(entry)
            else:
                log.add(entry, is_bad=outcome.is_failure)  # type: ignore[union-attr]


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
