"""Recording and alerting rules, run by Prometheus' own promtool on made-up series.

Every alert has a case that makes it fire, and all of them are silent on a mesh that is well.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import promtool
import pytest
import yaml
from typer.main import get_command

from meshctl.cli.app import app
from meshctl.observe.alerting import Objectives
from meshctl.observe.alerts import alert_groups, alerts
from meshctl.observe.recording import groups, recordings
from meshctl.observe.yamltext import alerting_rules, recording_rules

EDGE = 'source_workload="web",destination_service="api"'
HOST = 'job="mesh",host="web-1",datacenter="dc1",instance="10.0.0.11:15090"'
OTHER = 'job="mesh",host="app-1",datacenter="dc1",instance="10.0.0.21:15090"'
SERIES = f'reporter="source",{EDGE},request_protocol="http",connection_security_policy="mutual_tls"'
MINUTES = 400
"""Long enough for windows of six hours."""
DAY = 86400
NOW_S = MINUTES * 60


def answered(code: int, flag: str, values: str) -> dict[str, str]:
    labels = f'{SERIES},response_code="{code}",response_flags="{flag}",{HOST}'
    return {f"istio_requests_total{{{labels}}}": values}


def latency(bucket_ms: str) -> dict[str, str]:
    """600 requests a minute, all of them within that bucket."""
    name = f"istio_request_duration_milliseconds_bucket{{{SERIES},{HOST}"
    edges = ("100", "500", "1000", "2500", "+Inf")
    at = edges.index(bucket_ms)
    return {
        f'{name},le="{edge}"}}': f"0+{600 if place >= at else 0}x{MINUTES}"
        for place, edge in enumerate(edges)
    }


def constant(value: float) -> str:
    return f"{value:.0f}x{MINUTES}"


def rising(a_minute: float, since: int = 0) -> str:
    """A counter that stands still until the minute ``since``."""
    return f"0x{since} 0+{a_minute:g}x{MINUTES - since}" if since else f"0+{a_minute:g}x{MINUTES}"


HEALTHY: dict[str, str] = {
    **answered(200, "-", rising(600)),
    **answered(404, "-", rising(6)),
    **answered(403, "UAEX", rising(6)),
    **latency("100"),
    f"mesh_retries_total{{{EDGE},{HOST}}}": rising(6),
    f'mesh_authorization_denials_total{{{EDGE},policy="p",{OTHER}}}': rising(6),
    f"mesh_retry_budget_exhausted_total{{{EDGE},{HOST}}}": constant(3),
    f'mesh_breaker_refusals_total{{{EDGE},limit="requests",{HOST}}}': constant(3),
    f'mesh_endpoint_states{{{EDGE},state="ejected",{HOST}}}': constant(0),
    f'mesh_endpoint_states{{{EDGE},state="available",{HOST}}}': constant(3),
    f'mesh_access_log_dropped_total{{reason="rate",{HOST}}}': constant(12),
    f'mesh_spans_dropped_total{{reason="full",{HOST}}}': constant(12),
    f'mesh_metric_series_overflowed_total{{family="istio_requests_total",{HOST}}}': constant(3),
    f"mesh_panic{{{EDGE},{HOST}}}": constant(0),
    f"mesh_failover_tier{{{EDGE},{HOST}}}": constant(0),
    f'mesh_local_callers_refused_total{{source_workload="web",{HOST}}}': constant(4),
    f'mesh_endpoints{{service="api",{HOST}}}': constant(2),
    # A leaf of a day with half of it left, one of a month with three weeks.
    f'mesh_certificate_not_before_seconds{{service="web",{HOST}}}': constant(NOW_S - DAY / 2),
    f'mesh_certificate_not_after_seconds{{service="web",{HOST}}}': constant(NOW_S + DAY / 2),
    f'mesh_certificate_not_before_seconds{{service="api",{OTHER}}}': constant(NOW_S - 9 * DAY),
    f'mesh_certificate_not_after_seconds{{service="api",{OTHER}}}': constant(NOW_S + 21 * DAY),
    f'mesh_certificate_renewals_total{{service="web",result="renewed",{HOST}}}': rising(1),
    f'mesh_certificate_renewals_total{{service="web",result="refused",{HOST}}}': constant(9),
    f'mesh_jwks_keys{{provider="idp",{HOST}}}': constant(2),
    f"up{{{HOST}}}": constant(1),
    f"up{{{OTHER}}}": constant(1),
    f"mesh_config_refused{{{HOST}}}": constant(0),
    f"mesh_config_generation{{{HOST}}}": constant(7),
    f"mesh_config_generation{{{OTHER}}}": constant(7),
    # Another datacenter has a policy of its own.
    'mesh_config_generation{job="mesh",host="far",datacenter="dc2"}': constant(3),
    f'mesh_registry_errors_total{{kind="rejected",{HOST}}}': constant(5),
    f'mesh_registry_errors_total{{kind="unavailable",{HOST}}}': constant(5),
    f"mesh_event_loop_lag_seconds{{{HOST}}}": "0.001x" + str(MINUTES),
    f"mesh_out_of_memory{{{HOST}}}": constant(0),
    f'mesh_connections_shed_total{{reporter="source",{HOST}}}': constant(2),
    f"mesh_worker_restarts_total{{{HOST}}}": constant(1),
    f"mesh_scrapes_refused_total{{{HOST}}}": constant(100),
}
"""What a mesh exposes that is well now, though not everything went well before."""

SICK: dict[str, Mapping[str, str | None]] = {
    "MeshServiceFailsFast": answered(503, "UF", rising(30, MINUTES - 90)),
    "MeshServiceFailsSlow": answered(500, "-", rising(5)),
    "MeshServiceSlow": latency("2500"),
    "MeshDenialsSurge": {
        f'mesh_authorization_denials_total{{{EDGE},policy="p",{OTHER}}}': "0+1x390 390+60x10"
    },
    "MeshLocalCallersRefused": {
        f'mesh_local_callers_refused_total{{source_workload="web",{HOST}}}': rising(2)
    },
    "MeshNoEndpoint": {f'mesh_endpoints{{service="api",{HOST}}}': constant(0)},
    "MeshNoHealthyEndpoint": answered(503, "UH", rising(1, MINUTES - 20)),
    "MeshEndpointsEjected": {f'mesh_endpoint_states{{{EDGE},state="ejected",{HOST}}}': constant(1)},
    "MeshLogLinesDropped": {f'mesh_access_log_dropped_total{{reason="rate",{HOST}}}': rising(1)},
    "MeshSpansDropped": {f'mesh_spans_dropped_total{{reason="full",{HOST}}}': rising(1)},
    "MeshSeriesOverflow": {
        f'mesh_metric_series_overflowed_total{{family="istio_requests_total",{HOST}}}': rising(1)
    },
    "MeshPanic": {f"mesh_panic{{{EDGE},{HOST}}}": constant(1)},
    "MeshFailedOver": {f"mesh_failover_tier{{{EDGE},{HOST}}}": constant(1)},
    "MeshRetriesMany": {f"mesh_retries_total{{{EDGE},{HOST}}}": rising(120)},
    "MeshRetryBudgetExhausted": {f"mesh_retry_budget_exhausted_total{{{EDGE},{HOST}}}": rising(1)},
    "MeshBreakerRefuses": {
        f'mesh_breaker_refusals_total{{{EDGE},limit="requests",{HOST}}}': rising(1)
    },
    "MeshIdentityMissing": {
        f'mesh_certificate_not_before_seconds{{service="web",{HOST}}}': constant(0),
        f'mesh_certificate_not_after_seconds{{service="web",{HOST}}}': constant(0),
    },
    "MeshCertificateExpired": {
        f'mesh_certificate_not_after_seconds{{service="web",{HOST}}}': constant(NOW_S - 60)
    },
    "MeshCertificateExpiresSoon": {
        f'mesh_certificate_not_before_seconds{{service="web",{HOST}}}': constant(
            NOW_S - DAY + 1800
        ),
        f'mesh_certificate_not_after_seconds{{service="web",{HOST}}}': constant(NOW_S + 1800),
    },
    "MeshRenewalFails": {
        f'mesh_certificate_renewals_total{{service="web",result="refused",{HOST}}}': rising(0.1)
    },
    "MeshTokenKeysMissing": {f'mesh_jwks_keys{{provider="idp",{HOST}}}': constant(0)},
    "MeshProxiesNotFound": {f"up{{{HOST}}}": None, f"up{{{OTHER}}}": None},
    "MeshProxyDown": {f"up{{{HOST}}}": constant(0)},
    "MeshConfigRefused": {f"mesh_config_refused{{{HOST}}}": constant(1)},
    "MeshGenerationsDiffer": {f"mesh_config_generation{{{HOST}}}": constant(6)},
    "MeshConsulRefuses": {f'mesh_registry_errors_total{{kind="rejected",{HOST}}}': rising(1)},
    "MeshConsulAway": {f'mesh_registry_errors_total{{kind="unavailable",{HOST}}}': rising(2)},
    "MeshProxyBusy": {f"mesh_event_loop_lag_seconds{{{HOST}}}": "0.2x" + str(MINUTES)},
    "MeshProxySheds": {f'mesh_connections_shed_total{{reporter="source",{HOST}}}': rising(1)},
    "MeshWorkersDie": {f"mesh_worker_restarts_total{{{HOST}}}": rising(0.1)},
    "MeshScrapesRefused": {f"mesh_scrapes_refused_total{{{HOST}}}": rising(2)},
}
"""By alert, the series that differ then; None: gone."""

ALSO: dict[str, set[str]] = {
    # A service that fails fast fails slowly as well, soon enough.
    "MeshServiceFailsFast": {"MeshServiceFailsSlow"},
    "MeshNoHealthyEndpoint": set(),
}
"""What else may fire in the same case, since one trouble has several signs."""

ALERTS = alerts(Objectives())


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    (folder / "recording.yml").write_text(recording_rules(groups()))
    (folder / "alerts.yml").write_text(alerting_rules(alert_groups(Objectives())))
    return folder


def series_of(changes: Mapping[str, str | None]) -> list[dict[str, str]]:
    whole = {**HEALTHY, **changes}
    return [{"series": name, "values": value} for name, value in whole.items() if value]


def run(folder: Path, tests: list[dict[str, Any]]) -> None:
    """promtool's own format, as JSON, which is YAML."""
    document = {
        "rule_files": ["recording.yml", "alerts.yml"],
        "evaluation_interval": "2m",
        "tests": tests,
    }
    path = folder / "tests.yml"
    path.write_text(json.dumps(document))
    promtool.promtool("test", "rules", path.name, cwd=folder)


def firing(expression: str) -> dict[str, Any]:
    return {"expr": expression, "eval_time": f"{MINUTES}m", "exp_samples": []}


def names_of(allowed: set[str]) -> str:
    return "|".join(sorted(allowed))


def test_they_are_yaml_and_say_what_they_are_made_from() -> None:
    recorded = yaml.safe_load(recording_rules(groups()))
    flat = [rule for group in recorded["groups"] for rule in group["rules"]]
    assert [(rule["record"], rule["expr"]) for rule in flat] == [
        (rule.name, rule.expression) for rule in recordings()
    ]
    written = yaml.safe_load(alerting_rules(alert_groups(Objectives())))
    by_name = {rule["alert"]: rule for group in written["groups"] for rule in group["rules"]}
    assert len(by_name) == len(ALERTS)
    for alert in ALERTS:
        assert by_name[alert.name] == {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.lasts,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "command": alert.command,
            },
        }


def test_promtool_finds_no_fault_in_them(rules: Path) -> None:
    said = promtool.promtool(
        "check",
        "rules",
        rules / "recording.yml",
        rules / "alerts.yml",
    )
    assert f"{len(recordings())} rules found" in said
    assert f"{len(ALERTS)} rules found" in said


def test_every_alert_has_a_case() -> None:
    assert set(SICK) == {alert.name for alert in ALERTS}


def test_all_are_silent_while_the_mesh_is_well(rules: Path) -> None:
    run(
        rules,
        [
            {
                "interval": "1m",
                "input_series": series_of({}),
                "promql_expr_test": [firing('ALERTS{alertstate=~"firing|pending"}')],
            }
        ],
    )


@pytest.mark.parametrize("name", sorted(SICK))
def test_each_fires_for_its_own_trouble_and_for_no_other(rules: Path, name: str) -> None:
    allowed = {name} | ALSO.get(name, set())
    others = f'ALERTS{{alertstate="firing",alertname!~"{names_of(allowed)}"}}'
    fires = f'count(ALERTS{{alertstate="firing",alertname="{name}"}}) > bool 0'
    run(
        rules,
        [
            {
                "interval": "1m",
                "input_series": series_of(SICK[name]),
                "promql_expr_test": [
                    {
                        "expr": fires,
                        "eval_time": f"{MINUTES}m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    },
                    firing(others),
                ],
            }
        ],
    )


def test_shares_are_what_they_say(rules: Path) -> None:
    """1 of 10 requests is answered by a proxy, 1 by the application with an error."""
    series = [
        {"series": name, "values": value}
        for name, value in {
            **answered(200, "-", rising(420)),
            **answered(404, "-", rising(60)),
            **answered(500, "-", rising(60)),
            **answered(403, "UAEX", rising(60)),
            f"mesh_retries_total{{{EDGE},{HOST}}}": rising(120),
        }.items()
    ]
    edge = f"{{{EDGE}}}"
    expected = {
        "edge:istio_requests:rate5m": (edge, 10),
        "edge:istio_requests_success:ratio_rate5m": (edge, 0.8),
        "edge:mesh_retries:ratio_rate5m": (edge, 0.2),
        "service:istio_requests_errors:ratio_rate1h": ('{destination_service="api"}', 0.1),
    }
    run(
        rules,
        [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        # Rounded: rates extrapolate.
                        "expr": f"round({name}, 0.0001)",
                        "eval_time": "100m",
                        "exp_samples": [{"labels": labels, "value": value}],
                    }
                    for name, (labels, value) in expected.items()
                ],
            }
        ],
    )


def test_a_service_that_only_fails_has_a_success_of_0_and_not_of_nothing(rules: Path) -> None:
    series = [
        {"series": name, "values": value} for name, value in answered(503, "UH", rising(60)).items()
    ]
    run(
        rules,
        [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": "service:istio_requests_success:ratio_rate5m * 1",
                        "eval_time": "100m",
                        "exp_samples": [{"labels": '{destination_service="api"}', "value": 0}],
                    }
                ],
            }
        ],
    )


def test_objectives_are_those_that_were_asked_for() -> None:
    fast = next(a for a in alerts(Objectives(success=0.99)) if a.name == "MeshServiceFailsFast")
    assert "> 0.144 " in fast.expression
    slow = next(a for a in alerts(Objectives(p99_s=0.25)) if a.name == "MeshServiceSlow")
    assert "> 250 " in slow.expression
    assert "250ms" in slow.description


@pytest.mark.parametrize("command", sorted({alert.command for alert in ALERTS}))
def test_the_next_command_is_one_that_meshctl_has(command: str) -> None:
    found: Any = get_command(app)
    program, *words = shlex.split(re.sub(r"\{\{[^}]*\}\}", "web", command))
    assert program == "meshctl"
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    found.make_context(program, words)
