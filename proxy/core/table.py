"""The route table: settings, policy and catalogue compiled into what a request needs.

Immutable. A request takes one table at its arrival and keeps it, so that no request ever sees
half of an old configuration and half of a new one. Everything that can be computed before the
first request is computed here, and nothing of it is text that would be formatted later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import ServiceName, SpiffeId, server_name, spiffe_id
from proxy.model.policy import Policy, Timeouts
from proxy.model.settings import Address, Protocol, Settings, Upstream

UpstreamKey = tuple[ServiceName, ServiceName, str, int]
"""Caller, service, and the address listened on: one listener."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRoute:
    """From one local workload to one service, by the loopback port that the workload dials."""

    caller: ServiceName
    service: ServiceName
    protocol: Protocol
    listen: Address
    server_name: str
    caller_identity: SpiffeId
    expected_identity: SpiffeId
    """What the certificate of every endpoint must say before a byte is sent to it."""
    timeouts: Timeouts
    endpoints: tuple[Endpoint, ...]
    """Sorted, so that equal catalogues make equal tables."""
    subject: str
    """``web -> api``: in front of every sentence about a request of this route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundRoute:
    """From whoever is allowed to one local workload."""

    service: ServiceName
    version: str
    protocol: Protocol
    app: Address
    server_name: str
    identity: SpiffeId
    allow: frozenset[ServiceName]
    timeouts: Timeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    outbound: Mapping[UpstreamKey, OutboundRoute]
    inbound: Mapping[ServiceName, InboundRoute]


def compile_table(settings: Settings, policy: Policy, catalogue: Catalogue) -> RouteTable:
    """Total: a service that the catalogue does not know has no endpoints."""
    domain = settings.trust_domain
    outbound: dict[UpstreamKey, OutboundRoute] = {}
    inbound: dict[ServiceName, InboundRoute] = {}
    for workload in settings.workloads:
        inbound[workload.service] = InboundRoute(
            service=workload.service,
            version=workload.version,
            protocol=workload.protocol,
            app=workload.app,
            server_name=server_name(domain, workload.service),
            identity=spiffe_id(domain, workload.service),
            allow=frozenset(workload.allow),
            timeouts=policy.of(workload.service).timeouts,
        )
        for upstream in workload.upstreams:
            known = catalogue.endpoints.get(upstream.service, ())
            outbound[upstream_key(workload.service, upstream)] = OutboundRoute(
                caller=workload.service,
                service=upstream.service,
                protocol=upstream.protocol,
                listen=upstream.listen,
                server_name=server_name(domain, upstream.service),
                caller_identity=spiffe_id(domain, workload.service),
                expected_identity=spiffe_id(domain, upstream.service),
                timeouts=policy.of(upstream.service).timeouts,
                endpoints=tuple(sorted(set(known), key=_order)),
                subject=f"{workload.service} -> {upstream.service}",
            )
    return RouteTable(outbound=MappingProxyType(outbound), inbound=MappingProxyType(inbound))


def upstream_key(caller: ServiceName, upstream: Upstream) -> UpstreamKey:
    return (caller, upstream.service, upstream.listen.host, upstream.listen.port)


def _order(endpoint: Endpoint) -> tuple[str, str, int]:
    return (endpoint.host, endpoint.address, endpoint.port)
