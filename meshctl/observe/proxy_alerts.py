"""What goes wrong with hosts: identities, proxies, Consul, and what is not told any more."""

from collections.abc import Iterator

from meshctl.observe.alerting import (
    NUMBER,
    ON_HOST,
    SERVICE_IS,
    Alert,
)
from meshctl.observe.terms import JOB


def of_identities() -> Iterator[Alert]:
    """Certificates, and keys of tokens."""
    ends, begins = "mesh_certificate_not_after_seconds", "mesh_certificate_not_before_seconds"
    yield Alert(
        name="MeshIdentityMissing",
        expression=f"{ends} == 0",
        lasts="2m",
        severity="critical",
        summary=f"{SERVICE_IS} on {ON_HOST} has no identity",
        description="Without a key and a certificate it neither calls nor is called.",
        command="meshctl certs status",
    )
    yield Alert(
        name="MeshCertificateExpired",
        expression=f"({ends} > 0) < time()",
        lasts="0m",
        severity="critical",
        summary=f"The certificate of {SERVICE_IS} on {ON_HOST} has ended",
        description="It ended at {{ $value | humanizeTimestamp }}; all peers refuse it.",
        command=f"meshctl certs rotate --host {ON_HOST}",
    )
    yield Alert(
        name="MeshCertificateExpiresSoon",
        # Renewal is due at 90 % of the life at the latest. Lives of weeks are renewed by hand.
        expression=f"({ends} - time() > 0) < 0.08 * ({ends} - {begins})"
        f" or ({ends} - time() > 0) < 7 * 86400 and {ends} - {begins} > 14 * 86400",
        lasts="5m",
        severity="warning",
        summary=f"The certificate of {SERVICE_IS} on {ON_HOST} ends soon",
        description="In {{ $value | humanizeDuration }}, and it was not renewed.",
        command=f"meshctl certs rotate --host {ON_HOST}",
    )
    yield Alert(
        name="MeshRenewalFails",
        expression="sum by (host, service, result)"
        ' (increase(mesh_certificate_renewals_total{result!~"renewed|busy"}[1h])) > 2',
        lasts="0m",
        severity="warning",
        summary=f"{SERVICE_IS} on {ON_HOST} cannot renew its certificate",
        description=f"{NUMBER} tries in an hour ended {{{{ $labels.result }}}}.",
        command="meshctl certs status",
    )
    yield Alert(
        name="MeshTokenKeysMissing",
        expression="mesh_jwks_keys == 0",
        lasts="5m",
        severity="critical",
        summary="{{ $labels.provider }} has no public key on " + ON_HOST,
        description="Every call that needs a token of this provider is refused.",
        command="meshctl status",
    )


def of_proxies() -> Iterator[Alert]:
    """The programs themselves."""
    yield Alert(
        name="MeshProxiesNotFound",
        expression=f'absent(up{{job="{JOB}"}})',
        lasts="5m",
        severity="critical",
        summary="Prometheus finds no proxy of the mesh",
        description="Consul does not answer it, its token may not read the services, or no host"
        " has metrics.from in the inventory.",
        command="meshctl status",
    )
    yield Alert(
        name="MeshProxyDown",
        expression=f'up{{job="{JOB}"}} == 0',
        lasts="2m",
        severity="critical",
        summary=f"The proxy of {ON_HOST} does not answer",
        description="It is stopped, cannot be reached at {{ $labels.instance }}, or does not let"
        " Prometheus' address in (metrics.from).",
        command="meshctl status",
    )
    yield Alert(
        name="MeshConfigRefused",
        expression="mesh_config_refused == 1",
        lasts="5m",
        severity="critical",
        summary=f"{ON_HOST} refuses the policy that is published",
        description="It goes on with the last good one. The reason is in the status.",
        command="meshctl status",
    )
    yield Alert(
        name="MeshGenerationsDiffer",
        expression="mesh_config_generation"
        " < on (datacenter) group_left () max by (datacenter) (mesh_config_generation)",
        lasts="5m",
        severity="warning",
        summary=f"{ON_HOST} runs an older policy than other hosts",
        description=f"It runs generation {NUMBER}: it does not hear of the newer one, or refuses"
        " it.",
        command="meshctl status",
    )
    yield Alert(
        name="MeshConsulRefuses",
        expression='sum by (host) (increase(mesh_registry_errors_total{kind="rejected"}[10m])) > 3',
        lasts="0m",
        severity="warning",
        summary=f"Consul refuses what the proxy of {ON_HOST} asks for",
        description=f"{NUMBER} times in ten minutes: its token is not known, or may not do that.",
        command="meshctl status",
    )
    yield Alert(
        name="MeshConsulAway",
        expression="sum by (host)"
        ' (increase(mesh_registry_errors_total{kind=~"unavailable|garbage"}[5m])) > 3',
        lasts="5m",
        severity="warning",
        summary=f"The proxy of {ON_HOST} does not reach Consul",
        description=f"{NUMBER} calls failed in five minutes. Traffic goes on with the endpoints"
        " and the policy that are known.",
        command="meshctl status",
    )
    yield Alert(
        name="MeshProxyBusy",
        expression="avg_over_time(mesh_event_loop_lag_seconds[5m]) > 0.05",
        lasts="10m",
        severity="warning",
        summary=f"The proxy of {ON_HOST} is at the end of its core",
        description="Its event loop is {{ $value | humanizeDuration }} late on average, and so is"
        " every request. More workers, or fewer requests.",
        command=f"meshctl top --host {ON_HOST}",
    )
    yield Alert(
        name="MeshProxySheds",
        expression="mesh_out_of_memory == 1"
        " or sum by (host) (increase(mesh_connections_shed_total[5m])) > 0",
        lasts="1m",
        severity="critical",
        summary=f"The proxy of {ON_HOST} turns callers away",
        description="It is above max_memory, or at max_connections.",
        command="meshctl status",
    )
    yield Alert(
        name="MeshWorkersDie",
        expression="sum by (host) (increase(mesh_worker_restarts_total[15m])) > 0",
        lasts="0m",
        severity="warning",
        summary=f"A worker of the proxy of {ON_HOST} died",
        description=f"{NUMBER} in 15 minutes; each is started again.",
        command=f"meshctl logs --host {ON_HOST}",
    )
    yield Alert(
        name="MeshScrapesRefused",
        expression="sum by (host) (increase(mesh_scrapes_refused_total[15m])) > 10",
        lasts="0m",
        severity="warning",
        summary=f"Somebody who may not asks {ON_HOST} for its metrics",
        description=f"{NUMBER} connections in 15 minutes from networks that are not in"
        " metrics.from.",
        command=f"meshctl logs --host {ON_HOST}",
    )
    for name, metric, what, effect in (
        (
            "MeshLogLinesDropped",
            "mesh_access_log_dropped_total",
            "lines of the access log",
            "They were more than could be written.",
        ),
        (
            "MeshSpansDropped",
            "mesh_spans_dropped_total",
            "spans",
            "The receiver of traces is away, or too slow.",
        ),
    ):
        yield Alert(
            name=name,
            expression=f"sum by (host, reason) (increase({metric}[10m])) > 0",
            lasts="10m",
            severity="warning",
            summary=f"The proxy of {ON_HOST} drops {what}",
            description=f"{NUMBER} in ten minutes ({{{{ $labels.reason }}}}). {effect} Requests are"
            " not held up by it.",
            command="meshctl status",
        )
    yield Alert(
        name="MeshSeriesOverflow",
        expression="sum by (host, family) (increase(mesh_metric_series_overflowed_total[15m])) > 0",
        lasts="0m",
        severity="warning",
        summary=f"{{{{ $labels.family }}}} has no room for more series on {ON_HOST}",
        description=f"{NUMBER} times in 15 minutes; what has no room is counted together, as"
        " overflow.",
        command="meshctl status",
    )
