"""The proxies themselves: configuration, load, identities."""

from meshctl.observe.panels import Dashboard, Panel, Query, Row, Variable, panel
from meshctl.observe.terms import JOB

_ON = 'host=~"$host"'

PROXIES = Dashboard(
    uid="meshctl-proxies",
    title="Mesh: hosts and proxies",
    variables=(
        Variable(
            name="host", label="Host", query="label_values(mesh_build_info, host)", is_multi=True
        ),
    ),
    rows=(
        Row(
            title="Configuration",
            panels=(
                Panel(
                    title="Proxies", about="What runs where.", kind="table", width=16, height=8,
                    queries=(
                        Query(expression=f'up{{job="{JOB}",{_ON}}}', legend="up"),
                        Query(
                            expression=f"mesh_config_generation{{{_ON}}}", legend="generation"
                        ),
                        Query(expression=f"mesh_config_refused{{{_ON}}}", legend="refused"),
                        Query(expression=f"mesh_workers{{{_ON}}}", legend="workers"),
                    ),
                ),
                panel(
                    "Versions", "How many proxies run which release.",
                    (
                        f"count by (version, release) (mesh_build_info{{{_ON}}})",
                        "{{version}} {{release}}",
                    ),
                ),
                panel(
                    "Consul", "Failed calls of it, by kind.",
                    (
                        "sum by (host, kind)"
                        f" (rate(mesh_registry_errors_total{{{_ON}}}[5m]))",
                        "{{host}} {{kind}}",
                    ),
                ),
                panel(
                    "Endpoints", "In use for each upstream; 0 is an outage of it.",
                    (f"mesh_endpoints{{{_ON}}}", "{{host}} {{service}}"),
                ),
                panel(
                    "Unconfirmed endpoints", "In use although the registry lists them no more.",
                    (f"mesh_endpoints_unconfirmed{{{_ON}}}", "{{host}} {{service}}"),
                ),
            ),
        ),
        Row(
            title="Load",
            panels=(
                panel(
                    "Event loop", "How late it is, and every request with it; above 50 ms a proxy"
                    " is at the end of its core.",
                    (f"mesh_event_loop_lag_seconds{{{_ON}}}", "{{host}}"),
                    unit="s", warn_above=0.05,
                ),
                panel(
                    "Connections", "From callers: of the host (source), of the mesh (destination).",
                    (
                        f"sum by (host, reporter) (mesh_downstream_connections{{{_ON}}})",
                        "{{host}} {{reporter}}",
                    ),
                ),
                panel(
                    "Turned away", "At the limit of connections or of memory; workers that died.",
                    (
                        f"sum by (host) (rate(mesh_connections_shed_total{{{_ON}}}[5m]))",
                        "{{host}} shed",
                    ),
                    (f"mesh_out_of_memory{{{_ON}}}", "{{host}} out of memory"),
                    (
                        f"increase(mesh_worker_restarts_total{{{_ON}}}[15m])",
                        "{{host}} workers died",
                    ),
                ),
                panel(
                    "Scrapes", "How long Prometheus waits for a proxy.",
                    (f'scrape_duration_seconds{{job="{JOB}",{_ON}}}', "{{host}}"), unit="s",
                ),
                panel(
                    "Series", "Of each proxy; they are bounded, and dropped when idle.",
                    (f"mesh_metric_series{{{_ON}}}", "{{host}}"),
                ),
            ),
        ),
        Row(
            title="Identities",
            panels=(
                panel(
                    "Certificates", "How long each is good for.",
                    (
                        f"(mesh_certificate_not_after_seconds{{{_ON}}} > 0) - time()",
                        "{{host}} {{service}}",
                    ),
                    unit="s",
                ),
                panel(
                    "Renewals", "Tries in an hour, by how they ended.",
                    (
                        "sum by (host, result)"
                        f" (increase(mesh_certificate_renewals_total{{{_ON}}}[1h]))",
                        "{{host}} {{result}}",
                    ),
                ),
                panel(
                    "Refused handshakes", "Callers without an identity of this mesh, by reason.",
                    (
                        "sum by (host, reason)"
                        f" (rate(mesh_inbound_tls_failures_total{{{_ON}}}[5m]))",
                        "{{host}} {{reason}}",
                    ),
                ),
            ),
        ),
        Row(
            title="What was refused or dropped",
            panels=(
                panel(
                    "Invalid messages", "Requests and responses that were refused, by reason.",
                    (
                        "sum by (host, reason)"
                        f" (rate(mesh_downstream_protocol_errors_total{{{_ON}}}[5m]))",
                        "{{host}} request {{reason}}",
                    ),
                    (
                        "sum by (host, reason)"
                        f" (rate(mesh_upstream_protocol_errors_total{{{_ON}}}[5m]))",
                        "{{host}} response {{reason}}",
                    ),
                ),
                panel(
                    "Dropped", "Log lines, spans and series for which there was no room.",
                    (
                        "sum by (host, reason)"
                        f" (rate(mesh_access_log_dropped_total{{{_ON}}}[5m]))",
                        "{{host}} log lines {{reason}}",
                    ),
                    (
                        f"sum by (host, reason) (rate(mesh_spans_dropped_total{{{_ON}}}[5m]))",
                        "{{host}} spans {{reason}}",
                    ),
                    (
                        "sum by (host, family)"
                        f" (rate(mesh_metric_series_overflowed_total{{{_ON}}}[5m]))",
                        "{{host}} series of {{family}}",
                    ),
                ),
                panel(
                    "Refused readers", "Connections to the metrics port from other networks.",
                    (
                        f"sum by (host) (rate(mesh_scrapes_refused_total{{{_ON}}}[5m]))",
                        "{{host}}",
                    ),
                ),
            ),
        ),
    ),
)  # fmt: skip
