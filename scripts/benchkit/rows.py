"""The rows of the report's tables: which metric, under which name, in which unit."""

from dataclasses import dataclass

from benchkit.figures import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    metric: Metric
    title: str
    unit: str
    is_better_low: bool = True
    has_ratio: bool = True
    scale: float = 1.0


ROWS = (
    Row(metric=Metric.CPU_US_PER_REQUEST, title="CPU per request", unit="µs"),
    Row(metric=Metric.REQUESTS_PER_S, title="requests on one core", unit="/s", is_better_low=False),
    Row(metric=Metric.P50_ADDED_MS, title="p50 added at the fixed rate", unit="ms"),
    Row(metric=Metric.P99_ADDED_MS, title="p99 added at the fixed rate", unit="ms"),
    Row(
        metric=Metric.PACED_PER_S,
        title="the fixed rate, as reached",
        unit="/s",
        is_better_low=False,
        has_ratio=False,
    ),
    Row(metric=Metric.RSS_IDLE_MIB, title="RSS a proxy, idle", unit="MiB"),
    Row(metric=Metric.RSS_HELD_MIB, title="RSS a proxy, 1,000 connections", unit="MiB"),
    Row(metric=Metric.PSS_IDLE_MIB, title="PSS a proxy, idle", unit="MiB"),
    Row(metric=Metric.PSS_HELD_MIB, title="PSS a proxy, 1,000 connections", unit="MiB"),
    Row(metric=Metric.TCP_CPU_S_PER_GIB, title="CPU of the TCP relay", unit="s/GiB"),
    Row(
        metric=Metric.TCP_MIB_PER_S,
        title="TCP relay on one core",
        unit="MiB/s",
        is_better_low=False,
    ),
    Row(
        metric=Metric.PROXY_CORE_SHARE,
        title="proxy core used",
        unit="%",
        is_better_low=False,
        has_ratio=False,
        scale=100,
    ),
    Row(
        metric=Metric.FOREIGN_SHARE,
        title="proxy core used by others",
        unit="%",
        has_ratio=False,
        scale=100,
    ),
    Row(
        metric=Metric.MACHINE_FOREIGN_SHARE,
        title="both cores used by others",
        unit="%",
        has_ratio=False,
        scale=100,
    ),
)

MULTIPLEXED_ROWS = (
    Row(metric=Metric.UNARY_US, title="CPU per unary call", unit="µs"),
    Row(metric=Metric.UNARY_PER_S, title="unary calls", unit="/s", is_better_low=False),
    Row(metric=Metric.FLOOD_US, title="CPU per message, as fast as they go", unit="µs"),
    Row(
        metric=Metric.FLOOD_PER_S,
        title="messages, as fast as they go",
        unit="/s",
        is_better_low=False,
    ),
    Row(metric=Metric.ECHO_US, title="CPU per message, one at a time", unit="µs"),
    Row(metric=Metric.ECHO_PER_S, title="messages, one at a time", unit="/s", is_better_low=False),
    Row(metric=Metric.DOWNLOAD_CPU_S_PER_GIB, title="CPU of the download", unit="s/GiB"),
    Row(metric=Metric.DOWNLOAD_MIB_PER_S, title="the download", unit="MiB/s", is_better_low=False),
    Row(metric=Metric.RSS_STREAMS_MIB, title="RSS a proxy, 10,000 idle streams", unit="MiB"),
    Row(metric=Metric.PSS_STREAMS_MIB, title="PSS a proxy, 10,000 idle streams", unit="MiB"),
    Row(metric=Metric.RSS_WEBSOCKETS_MIB, title="RSS a proxy, 1,000 WebSockets", unit="MiB"),
    Row(metric=Metric.PSS_WEBSOCKETS_MIB, title="PSS a proxy, 1,000 WebSockets", unit="MiB"),
    Row(
        metric=Metric.MULTIPLEXED_FOREIGN_SHARE,
        title="proxy core used by others",
        unit="%",
        has_ratio=False,
        scale=100,
    ),
)

SCALE_ROWS = (
    Row(metric=Metric.APPLY_MS, title="published to applied, median of ten", unit="ms"),
    Row(metric=Metric.APPLY_SLOWEST_MS, title="published to applied, slowest of ten", unit="ms"),
    Row(
        metric=Metric.APPLY_P99_RATIO,
        title="p99 with one policy a second, against without",
        unit="ratio",
    ),
    Row(metric=Metric.POLICY_START_MIB, title="memory more than without, after start", unit="MiB"),
    Row(
        metric=Metric.POLICY_AFTER_MIB,
        title="memory more than without, after ten changes",
        unit="MiB",
    ),
    Row(metric=Metric.CPU_10_US, title="CPU per request, 10 services", unit="µs"),
    Row(metric=Metric.CPU_100_US, title="CPU per request, 100 services", unit="µs"),
    Row(metric=Metric.CPU_1000_US, title="CPU per request, 1,000 services", unit="µs"),
)

OBSERVABILITY_ROWS = (
    Row(metric=Metric.OBSERVED_NOT_US, title="CPU per request, all off", unit="µs"),
    Row(metric=Metric.OBSERVED_US, title="CPU per request, all on", unit="µs"),
    Row(metric=Metric.SCRAPE_SERIES, title="series of the proxy that is scraped", unit="series"),
    Row(metric=Metric.SCRAPE_MIB, title="the page of them", unit="MiB"),
    Row(metric=Metric.SCRAPE_MS, title="its answer, median of twenty", unit="ms"),
    Row(metric=Metric.SCRAPE_SLOWEST_MS, title="its answer, slowest of twenty", unit="ms"),
    Row(
        metric=Metric.SCRAPE_P99_RATIO,
        title="p99 of requests with a scrape a second, against without",
        unit="ratio",
    ),
    Row(metric=Metric.TOP_MS, title="a refresh of `top`, slowest of twenty", unit="ms"),
    Row(
        metric=Metric.DASHBOARD_MS, title="a refresh of the dashboard, slowest of twenty", unit="ms"
    ),
)

CHARTED = (
    (Metric.CPU_US_PER_REQUEST, "CPU per request, µs (less is better)"),
    (Metric.P99_ADDED_MS, "p99 added at a third of Envoy's saturation, ms (less is better)"),
    (Metric.RSS_HELD_MIB, "Resident memory per proxy at 1,000 connections, MiB (less is better)"),
    (Metric.TCP_CPU_S_PER_GIB, "TCP relay, CPU seconds per GiB (less is better)"),
)

CONDITIONS = (
    "Path: wrk, client sidecar, mTLS, server sidecar, nginx; every hop on loopback.",
    "All features on: three routes of which the last is taken, by a path prefix and the prefix of "
    "a header; two endpoints (one server sidecar under two addresses); retries, limits, timeouts "
    "and outlier detection configured; request id and trace context; the caller's identity checked "
    "by a rule and passed on; metrics. What each of them does not do is listed below.",
    "Bare: one endpoint, no routes, none of that as far as it can be turned off, one request "
    "again and again: for comparison with earlier figures.",
    "TLS 1.3 only, certificates on both sides (EC P-256, root, issuing CA, leaf), no session "
    "tickets. Each side checks that its peer is the service it expects; after each go a caller "
    "with a valid certificate of another service, and one with none, must be turned away, over "
    "HTTP and TCP, or the go does not count. Cipher suites are each TLS library's own choice.",
    "Keep-alive everywhere; upstream connections are reused. HTTP/1.1, body of 1 KiB, "
    "no access logs. The requests differ: 509 paths and 127 values of a header in turn.",
    "Both proxies of a pair are pinned to one core, together; wrk, nginx, registry and Consul's "
    "agent to another.",
    "Each go starts two fresh processes, warms them up, measures, stops them. Rounds interleave "
    "the contestants and rotate who goes first.",
    "CPU per request: user and system time of the two processes from /proc, divided by the "
    "responses that wrk read to their end with a status below 400.",
    "A phase in which a single request fails is listed and left out of every figure.",
    "Added latency: the percentile through the proxies less the same percentile straight to the "
    "backend, at the same rate in the same round. The rate is a third of what Envoy with all "
    "features reached just before the first round; 64 connections, each pausing a random time "
    "between an answer and its next request.",
    "Memory is per proxy, half of the pair's. RSS is what a host pays that runs one; PSS shares "
    "the pages that processes have in common. The 1,000 connections are open at the same time, "
    "each after one request.",
    "TCP relay: a body of 8 MiB, again and again, through the TCP path of the same two processes.",
    "Ratios are formed within each round, then their median is taken. In brackets: smallest and "
    "largest.",
)

MULTIPLEXED_CONDITIONS = (
    "The same two sidecars with every feature on, but the service is declared as gRPC (or HTTP/2, "
    "or for WebSockets HTTP/1.1) and routed by gRPC service and a header. Whoever can speaks "
    "HTTP/2 on all three connections; our two proxies speak their own frames between them. "
    "Envoy counts calls by service, method and status too.",
    "Unary: h2load, 4 connections of 8 calls at a time, 16 methods in turn, messages of 100 bytes "
    "either way; the application is nghttpd, which answers with a message and `grpc-status: 0`. "
    "An answer without the message is a failure, as a gRPC error has status 200 too.",
    "Streams: 4 connections of 8 streams, messages of 1 KiB, caller and application of this "
    "project (standard library only): frames that were made beforehand, and flow control as the "
    "specification has it, windows of 64 KiB, granted in steps of 32 KiB. As fast as they go: "
    "the application sends whatever credit allows. One at a time: each message is answered with "
    "itself before the next is sent; both are counted. A go counts only if not one message is "
    "missing and each stream ends with `grpc-status: 0`.",
    "Download: one body of 1 GiB (256 MiB with --quick) on one stream of one connection, h2load "
    "and nghttpd. It costs from the start: there is no warming up.",
    "Idle: 100 connections of 100 streams, each after one message either way, and 1,000 "
    "WebSockets after one frame either way. The limits of requests in flight are raised for it, "
    "for all alike.",
    "CPU per call, message or GiB is that of the two proxies, whatever the load tool costs.",
)

SCALE_CONDITIONS = (
    "1,000 services with 5 routes and 10 registered endpoints each; the client sidecar uses 10 of "
    "the services, and requests go to one of them, over its 10 endpoints (one server sidecar under "
    "ten addresses).",
    "Published to applied: from the call to the registry until the proxy's status has the new "
    "generation, asked every 2 ms; every service differs from one generation to the next.",
    "p99 at the fixed rate: once while a policy a second is published, once while the same bytes "
    "are published under a key that no proxy watches.",
    "Memory: of the client's process, beyond that of the same proxy without a policy.",
)

OBSERVABILITY_CONDITIONS = (
    "All off: `telemetry: {metrics: false}`, no access log but of what fails (nothing does), no "
    "traces. All on: metrics, a JSON line for each request at both sides, to a file, and one "
    "request in a hundred traced, its spans sent by OTLP over HTTP. The same two processes, "
    "switched by policy while they run: off, on, on, off. The receiver of spans runs on the load "
    "core. A go counts only if lines and spans arrived.",
    "Series: label sets, a histogram being one. The page is what Prometheus gets; it is asked for "
    "by a connection of its own each time.",
    "p99 at the fixed rate: once with a scrape a second, once without.",
    "A refresh: 100 services on 100 hosts with 1,000 edges, from the hosts' answers as bytes to "
    "the screen of `meshctl top --by edge`, and to what the dashboard sends to the browser.",
)
