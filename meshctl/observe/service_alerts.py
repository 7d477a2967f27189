"""What goes wrong between services: failures, latency, refusals, endpoints."""

from collections.abc import Iterator

from meshctl import durations
from meshctl.observe.alerting import (
    CALLED,
    CALLER,
    NUMBER,
    ON_HOST,
    SERVICE_IS,
    SHARE,
    Alert,
    Objectives,
)
from meshctl.observe.terms import EDGE


def of_services(objectives: Objectives) -> Iterator[Alert]:
    """As callers see them."""
    yield from _burning(objectives)
    p99 = "service:istio_request_duration_milliseconds:p99_rate5m"
    yield Alert(
        name="MeshServiceSlow",
        expression=f"{p99} > {objectives.p99_s * 1000:g} and service:istio_requests:rate5m > 0.1",
        lasts="10m",
        severity="warning",
        summary=f"{CALLED} answers slowly",
        description=f"A hundredth of its requests takes longer than {NUMBER} ms; the objective is"
        f" {durations.show(objectives.p99_s)}.",
        command=f"meshctl top {CALLED}",
    )
    yield Alert(
        name="MeshDenialsSurge",
        expression=(
            f"sum by ({EDGE}) (increase(mesh_authorization_denials_total[5m])) > 20"
            f" and sum by ({EDGE}) (rate(mesh_authorization_denials_total[5m]))"
            f" > 5 * (sum by ({EDGE}) (rate(mesh_authorization_denials_total[1h] offset 5m))"
            f" or 0 * sum by ({EDGE}) (rate(mesh_authorization_denials_total[5m])))"
        ),
        lasts="0m",
        severity="warning",
        summary=f"{CALLED} refuses many more calls of {CALLER} than before",
        description=f"{NUMBER} calls in five minutes. Either a policy is too narrow, or somebody"
        " tries what is not allowed.",
        command=f"meshctl explain {CALLER} {CALLED}",
    )
    yield Alert(
        name="MeshLocalCallersRefused",
        expression="sum by (host, source_workload)"
        " (increase(mesh_local_callers_refused_total[10m])) > 5",
        lasts="0m",
        severity="warning",
        summary=f"A process on {ON_HOST} tries to call as {CALLER}, and may not",
        description=f"{NUMBER} connections in ten minutes came from processes that do not run as"
        " the service's user.",
        command=f"meshctl logs {CALLER}",
    )


def _burning(objectives: Objectives) -> Iterator[Alert]:
    """The budget for a month burns 14.4 times (6 times) too fast, over a long window and still
    over a short one; with fewer than a hundred requests in the long one, one failure is no rate."""
    budget = 1.0 - objectives.success
    for name, factor, long, short, hours, severity in (
        ("Fast", 14.4, "1h", "5m", 1, "critical"),
        ("Slow", 6.0, "6h", "30m", 6, "warning"),
    ):
        errors = "service:istio_requests_errors:ratio_rate"
        limit = f"{factor * budget:.6g}"
        yield Alert(
            name=f"MeshServiceFails{name}",
            expression=f"{errors}{long} > {limit} and {errors}{short} > {limit}"
            f" and service:istio_requests:rate{long} * {hours * 3600} > 100",
            lasts="2m" if name == "Fast" else "15m",
            severity="critical" if severity == "critical" else "warning",
            summary=f"{CALLED} fails {SHARE} of its requests",
            description=f"Over {long} and over {short}. At this pace the error budget of a month"
            f" (objective: {objectives.success * 100:g} %) is used up in"
            f" {'two days' if name == 'Fast' else 'five days'}. Refusals by policy, by rate limits"
            " and calls that the caller gave up are not counted.",
            command=f"meshctl top {CALLED}",
        )


def of_upstreams() -> Iterator[Alert]:
    """What is left to call."""
    yield Alert(
        name="MeshNoEndpoint",
        expression="mesh_endpoints == 0",
        lasts="2m",
        severity="critical",
        summary=f"{ON_HOST} knows no endpoint of {SERVICE_IS}",
        description="Consul lists none, so every call of it fails with the flag UH.",
        command=f"meshctl endpoints {SERVICE_IS}",
    )
    yield Alert(
        name="MeshNoHealthyEndpoint",
        expression=f'sum by ({EDGE}) (rate(istio_requests_total{{response_flags="UH"}}[5m])) > 0',
        lasts="2m",
        severity="critical",
        summary=f"{CALLER} finds no healthy endpoint of {CALLED}",
        description=f"{NUMBER} requests a second are answered 503 with the flag UH.",
        command=f"meshctl endpoints {CALLED}",
    )
    yield Alert(
        name="MeshEndpointsEjected",
        expression=f'max by ({EDGE}) (mesh_endpoint_states{{state="ejected"}}) > 0',
        lasts="5m",
        severity="warning",
        summary=f"Endpoints of {CALLED} are taken out of use",
        description=f"{NUMBER} of them, as {CALLER} sees it: they failed again and again.",
        command=f"meshctl endpoints {CALLED}",
    )
    yield Alert(
        name="MeshPanic",
        expression=f"max by ({EDGE}) (mesh_panic) == 1",
        lasts="2m",
        severity="critical",
        summary=f"So few endpoints of {CALLED} are healthy that {CALLER} uses all of them",
        description="Most endpoints fail their checks or were ejected; requests go to them all the"
        " same.",
        command=f"meshctl endpoints {CALLED}",
    )
    yield Alert(
        name="MeshFailedOver",
        expression=f"max by ({EDGE}) (mesh_failover_tier) > 0",
        lasts="5m",
        severity="warning",
        summary=f"Calls of {CALLED} by {CALLER} go to its failover",
        description="The service itself has no endpoint left that can serve.",
        command=f"meshctl endpoints {CALLED}",
    )
    yield Alert(
        name="MeshRetriesMany",
        expression="edge:mesh_retries:ratio_rate5m > 0.15 and edge:istio_requests:rate5m > 0.1",
        lasts="10m",
        severity="warning",
        summary=f"{CALLER} calls {CALLED} again for {SHARE} of its requests",
        description="Retries hide failures from callers and load the service; the budget ends at"
        " 20 % by default.",
        command=f"meshctl top {CALLED}",
    )
    yield Alert(
        name="MeshRetryBudgetExhausted",
        expression=f"sum by ({EDGE}) (increase(mesh_retry_budget_exhausted_total[5m])) > 0",
        lasts="5m",
        severity="warning",
        summary=f"{CALLER} may not repeat any more of what fails at {CALLED}",
        description=f"{NUMBER} retries in five minutes were not made, as there were too many.",
        command=f"meshctl endpoints {CALLED}",
    )
    yield Alert(
        name="MeshBreakerRefuses",
        expression=f"sum by ({EDGE}, limit) (increase(mesh_breaker_refusals_total[5m])) > 0",
        lasts="5m",
        severity="warning",
        summary=f"{CALLED} is at its limit of {{{{ $labels.limit }}}} for {CALLER}",
        description=f"{NUMBER} were refused in five minutes.",
        command=f"meshctl top {CALLED}",
    )
