"""The words that rules and dashboards are made of: labels, selectors, and what counts as failed."""

from proxy.core import grpc

JOB = "mesh"
"""Of the scrape job; what ``up`` and every alert is told apart by."""

TARGET_LABELS = ("host", "datacenter", "zone")
"""Put on every series of a proxy by the scrape job."""

EDGE = "source_workload, destination_service"
SERVICE = "destination_service"

SOURCE = 'reporter="source"'
"""The caller's word: it includes what never reached the called side."""
OUTSIDE = 'reporter="destination",connection_security_policy="none"'
"""Callers outside of the mesh, whom only the called side sees."""

FAILED_CALLS = "|".join(str(int(each)) for each in grpc.Status if grpc.is_failure(each))
ANSWERED = f'response_code!~"5..|0",response_flags=~"-|DI",grpc_response_status!~"{FAILED_CALLS}"'
"""As `meshctl top` counts success: no 5xx, an answer at all, not one that a proxy made, and of gRPC
no status that says that the service has failed."""
FAILED = 'response_code=~"5..|0"', f'grpc_response_status=~"{FAILED_CALLS}"'
"""One of these."""
BLAMELESS = "UAEX|RL|DC"
"""Refused by policy, over a rate limit, given up by the caller: of the caller's own doing. They
are not successes, and no reason to wake the owner of the service."""


def requests(window: str, *more: str) -> str:
    """Rates of every request, each counted once. Series of both kinds, so for use under ``sum``."""
    inside, outside = (",".join((side, *more)) for side in (SOURCE, OUTSIDE))
    return (
        f"(rate(istio_requests_total{{{inside}}}[{window}])"
        f" or rate(istio_requests_total{{{outside}}}[{window}]))"
    )


def share(part: str, whole: str, by: str) -> str:
    """Of ``part`` in ``whole``, a recorded rate with the labels ``by``: 0 to 1, nothing where there
    is no traffic. 0 where ``part`` has no series at all, which is what a total failure looks like.
    """
    return f"(sum by ({by}) ({part}) or 0 * {whole}) / ({whole} > 0)"
