"""One service: its callers, routes and endpoints."""

from meshctl.observe.panels import Dashboard, Row, Variable, panel
from meshctl.observe.terms import SOURCE

_ENDPOINT_LEGEND = "{{destination_host}} {{destination_version}}"
_LATENCY = "istio_request_duration_milliseconds"
_ROUTES = "route:mesh_route_request_duration_milliseconds"
_ENDPOINTS = "endpoint:mesh_endpoint_request_duration_milliseconds"
_OF = 'destination_service="$service"'

SERVICE = Dashboard(
    uid="meshctl-service",
    title="Mesh: one service",
    variables=(
        Variable(
            name="service",
            label="Service",
            query="label_values(istio_requests_total, destination_service)",
        ),
    ),
    rows=(
        Row(
            title="Callers",
            panels=(
                panel(
                    "Requests", "By caller.",
                    (f"edge:istio_requests:rate5m{{{_OF}}}", "{{source_workload}}"), unit="reqps",
                ),
                panel(
                    "Success", "By caller.",
                    (f"edge:istio_requests_success:ratio_rate5m{{{_OF}}}", "{{source_workload}}"),
                    unit="percentunit", most=1,
                ),
                panel(
                    "Latency", "Of all callers, retries included.",
                    *((f"service:{_LATENCY}:{each}_rate5m{{{_OF}}}", each)
                      for each in ("p50", "p95", "p99")),
                    unit="ms",
                ),
                panel(
                    "Answers", "By status and flag; the flag says which proxy answered and why.",
                    (
                        "sum by (response_code, response_flags)"
                        f" (rate(istio_requests_total{{{SOURCE},{_OF}}}[5m]))",
                        "{{response_code}} {{response_flags}}",
                    ),
                    unit="reqps",
                ),
                panel(
                    "Denied and limited", "Refused by policy, or over a rate limit, by caller.",
                    (
                        "sum by (source_workload, policy)"
                        f" (rate(mesh_authorization_denials_total{{{_OF}}}[5m]))",
                        "{{source_workload}} denied by {{policy}}",
                    ),
                    (
                        "sum by (source_workload, rate_limit)"
                        f" (rate(mesh_rate_limited_total{{{_OF}}}[5m]))",
                        "{{source_workload}} limited by {{rate_limit}}",
                    ),
                    unit="reqps",
                ),
                panel(
                    "Mean size", "Of bodies, both ways.",
                    *(
                        (
                            f"sum(rate(istio_{what}_bytes_sum{{{SOURCE},{_OF}}}[5m]))"
                            f" / sum(rate(istio_{what}_bytes_count{{{SOURCE},{_OF}}}[5m]))",
                            what,
                        )
                        for what in ("request", "response")
                    ),
                    unit="bytes",
                ),
            ),
        ),
        Row(
            title="Routes",
            panels=(
                panel(
                    "Requests", "By caller and route; - is none of the routes.",
                    (f"{_ROUTES}:rate5m{{{_OF}}}", "{{source_workload}} {{route}}"),
                    unit="reqps",
                ),
                panel(
                    "Success", "By caller and route.",
                    (
                        f"{_ROUTES}_success:ratio_rate5m{{{_OF}}}",
                        "{{source_workload}} {{route}}",
                    ),
                    unit="percentunit", most=1,
                ),
                panel(
                    "Slowest hundredth", "p99 by caller and route.",
                    (f"{_ROUTES}:p99_rate5m{{{_OF}}}", "{{source_workload}} {{route}}"),
                    unit="ms",
                ),
            ),
        ),
        Row(
            title="Endpoints",
            panels=(
                panel(
                    "Actual requests", "By endpoint; every try counts, so retries show as load.",
                    (f"{_ENDPOINTS}:rate5m{{{_OF}}}", _ENDPOINT_LEGEND), unit="reqps",
                ),
                panel(
                    "Success", "By endpoint.",
                    (f"{_ENDPOINTS}_success:ratio_rate5m{{{_OF}}}", _ENDPOINT_LEGEND),
                    unit="percentunit", most=1,
                ),
                panel(
                    "Slowest hundredth", "p99 by endpoint.",
                    (f"{_ENDPOINTS}:p99_rate5m{{{_OF}}}", _ENDPOINT_LEGEND), unit="ms",
                ),
            ),
        ),
        Row(
            title="Resilience",
            panels=(
                panel(
                    "Retries", "Share of requests that were tried again.",
                    (f"edge:mesh_retries:ratio_rate5m{{{_OF}}}", "{{source_workload}}"),
                    unit="percentunit",
                ),
                panel(
                    "Endpoints by state",
                    "What callers' proxies think of them, as the one says that counts most.",
                    (
                        f"max by (state) (mesh_endpoint_states{{{_OF}}})",
                        "{{state}}",
                    ),
                ),
                panel(
                    "In flight", "Requests under way, those that wait for a connection, and the"
                    " connections.",
                    (f"sum(mesh_upstream_requests{{{_OF}}})", "requests"),
                    (f"sum(mesh_upstream_pending_requests{{{_OF}}})", "waiting"),
                    (
                        f"sum(mesh_upstream_connections{{{SOURCE},{_OF}}})",
                        "connections",
                    ),
                ),
                panel(
                    "Ejections and refusals",
                    "Endpoints taken out of use; requests beyond a limit; retries not made.",
                    (
                        f"sum by (source_workload) (rate(mesh_ejections_total{{{_OF}}}[5m]))",
                        "{{source_workload}} ejected",
                    ),
                    (
                        "sum by (source_workload, limit)"
                        f" (rate(mesh_breaker_refusals_total{{{_OF}}}[5m]))",
                        "{{source_workload}} over {{limit}}",
                    ),
                    (
                        "sum by (source_workload)"
                        f" (rate(mesh_retry_budget_exhausted_total{{{_OF}}}[5m]))",
                        "{{source_workload}} no budget",
                    ),
                ),
                panel(
                    "Where it goes", "Above 0: panic (all endpoints are used), or a failover.",
                    (
                        f"max by (source_workload) (mesh_panic{{{_OF}}})",
                        "{{source_workload}} panic",
                    ),
                    (
                        f"max by (source_workload) (mesh_failover_tier{{{_OF}}})",
                        "{{source_workload}} failover",
                    ),
                ),
            ),
        ),
    ),
)  # fmt: skip
