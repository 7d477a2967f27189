"""All services at a glance, and who calls whom."""

from meshctl.observe.panels import Dashboard, Panel, Query, Row, panel
from meshctl.observe.terms import JOB

_EDGE_LEGEND = "{{source_workload}} → {{destination_service}}"
_LATENCY = "istio_request_duration_milliseconds"

MESH = Dashboard(
    uid="meshctl-mesh",
    title="Mesh: all services",
    rows=(
        Row(
            title="Now",
            panels=(
                panel(
                    "Requests", "Of all services, each counted once.",
                    ("sum(service:istio_requests:rate5m)", ""),
                    kind="stat", unit="reqps", width=6, height=4,
                ),
                panel(
                    "Success", "Share of them that was answered well.",
                    (
                        "sum(service:istio_requests_success:ratio_rate5m"
                        " * service:istio_requests:rate5m) / sum(service:istio_requests:rate5m)",
                        "",
                    ),
                    kind="stat", unit="percentunit", width=6, height=4,
                ),
                panel(
                    "Proxies that answer", "Of those that Prometheus has found.",
                    (f'sum(up{{job="{JOB}"}})', "up"), (f'count(up{{job="{JOB}"}})', "found"),
                    kind="stat", width=6, height=4,
                ),
                panel(
                    "Alerts", "Of the mesh that fire.",
                    ('count(ALERTS{alertstate="firing",alertname=~"Mesh.+"}) or vector(0)', ""),
                    kind="stat", width=6, height=4, warn_above=1,
                ),
            ),
        ),
        Row(
            title="Services",
            panels=(
                panel(
                    "Requests", "By called service.",
                    ("service:istio_requests:rate5m", "{{destination_service}}"), unit="reqps",
                ),
                panel(
                    "Success", "As callers see it: no 5xx, and no answer made by a proxy.",
                    ("service:istio_requests_success:ratio_rate5m", "{{destination_service}}"),
                    unit="percentunit", most=1,
                ),
                panel(
                    "Slowest hundredth", "p99 as callers see it, retries included.",
                    (f"service:{_LATENCY}:p99_rate5m", "{{destination_service}}"), unit="ms",
                ),
            ),
        ),
        Row(
            title="Who calls whom",
            panels=(
                Panel(
                    title="Edges", about="Every caller and service that were seen.", kind="table",
                    width=24, height=10,
                    queries=(
                        Query(
                            expression="edge:istio_requests:rate5m",
                            legend="requests", unit="reqps",
                        ),
                        Query(
                            expression="edge:istio_requests_success:ratio_rate5m",
                            legend="success", unit="percentunit",
                        ),
                        Query(
                            expression=f"edge:{_LATENCY}:p50_rate5m", legend="p50", unit="ms",
                        ),
                        Query(
                            expression=f"edge:{_LATENCY}:p99_rate5m", legend="p99", unit="ms",
                        ),
                        Query(
                            expression="edge:mesh_retries:ratio_rate5m",
                            legend="retries", unit="percentunit",
                        ),
                    ),
                ),
                panel(
                    "Secured", "By security of the connection, as the called side sees it.",
                    (
                        "sum by (connection_security_policy)"
                        ' (rate(istio_requests_total{reporter="destination"}[5m]))',
                        "{{connection_security_policy}}",
                    ),
                    unit="reqps",
                ),
                panel(
                    "Denied", "Calls refused by the called side; meshctl explain says why.",
                    (
                        "sum by (source_workload, destination_service, policy)"
                        " (rate(mesh_authorization_denials_total[5m]))",
                        f"{_EDGE_LEGEND} ({{{{policy}}}})",
                    ),
                    unit="reqps",
                ),
                panel(
                    "TCP", "Bytes of TCP sessions, to and from callers.",
                    ("edge:istio_tcp_sent_bytes:rate5m", f"{_EDGE_LEGEND} sent"),
                    ("edge:istio_tcp_received_bytes:rate5m", f"{_EDGE_LEGEND} received"),
                    unit="Bps",
                ),
            ),
        ),
    ),
)  # fmt: skip
