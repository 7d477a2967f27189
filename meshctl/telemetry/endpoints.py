"""Endpoints as each calling proxy sees them: what it thinks of one, and what it measured there."""

from collections.abc import Iterable

from meshctl.telemetry.counting import Requests
from meshctl.telemetry.difference import Difference
from meshctl.telemetry.view import EndpointRow
from proxy.model.names import HostName
from proxy.model.status import ClusterState, EndpointState

_DURATIONS = "mesh_endpoint_request_duration_milliseconds"
_LABELS = (
    *("source_workload", "destination_service", "destination_host", "destination_version"),
    "outcome",
)
_Key = tuple[str, str, str, str]
"""Caller, service, host and version."""

_WORST_FIRST = ("failing", "ejected", "probing", "avoided", "available")
"""Of one endpoint in several clusters of one caller: what needs looking at counts."""


def endpoint_rows(host: Difference) -> Iterable[EndpointRow]:
    """Of one caller's host. An endpoint that is no longer known has a row while it was used."""
    measured = _measured(host)
    seen: dict[_Key, list[EndpointState]] = {}
    for cluster in host.after.clusters:
        for state in cluster.endpoints:
            seen.setdefault(_key(cluster, state), []).append(state)
    caller_host = host.after.host
    for key, states in seen.items():
        yield _row(caller_host, key, states, measured.pop(key, None))
    for key, requests in measured.items():
        caller, service, where, version = key
        yield EndpointRow(
            caller=caller,
            caller_host=caller_host,
            service=service,
            host=HostName(where),
            address="",
            version=version,
            zone="",
            state="gone",
            why="",
            ejected_for_s=0.0,
            in_flight=0,
            connections=0,
            ewma_ms=0.0,
            signals=requests.signals(),
        )


def _measured(host: Difference) -> dict[_Key, Requests]:
    bounds = host.bounds(_DURATIONS)
    found: dict[_Key, Requests] = {}
    for labels, added, _ in host.moved(_DURATIONS, _LABELS):
        if added is None:
            continue
        caller, service, where, version, outcome = labels
        key = (caller, service, where, version)
        requests = found.get(key)
        if requests is None:
            requests = found[key] = Requests()
        requests.count(sum(added[:-1]), host.window_s, is_failure=outcome != "success")
        requests.observe(bounds, added)
    return found


def _key(cluster: ClusterState, state: EndpointState) -> _Key:
    service = state.service or cluster.name.partition("/")[0]
    return cluster.caller, service, state.host, state.version


def _row(
    caller_host: HostName, key: _Key, states: list[EndpointState], requests: Requests | None
) -> EndpointRow:
    worst = min(states, key=lambda state: _WORST_FIRST.index(state.state))
    address = f"[{worst.address}]" if ":" in worst.address else worst.address
    return EndpointRow(
        caller=key[0],
        caller_host=caller_host,
        service=key[1],
        host=worst.host,
        address=f"{address}:{worst.port}",
        version=worst.version,
        zone=worst.zone,
        state=worst.state,
        why=_why(worst),
        ejected_for_s=worst.ejected_for_s,
        in_flight=sum(state.in_flight for state in states),
        connections=sum(state.connections for state in states),
        ewma_ms=max(state.latency_ms for state in states),
        signals=requests.signals() if requests is not None else None,
    )


def _why(state: EndpointState) -> str:
    said = state.why
    if state.state in ("ejected", "probing"):
        said = said or "too many failures"
        return f"{said} ({state.ejections} times in a row)" if state.ejections > 1 else said
    if state.state == "failing":
        return said or "its health check fails"
    return "a connect failed lately" if state.state == "avoided" else ""
