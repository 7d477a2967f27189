"""The route table: settings, policy and catalogue compiled into what a request needs.

Immutable. A request takes one table at its arrival and keeps it, so that no request ever sees
half of an old configuration and half of a new one. Everything that can be computed before the
first request is computed here, and nothing of it is text that would be formatted later.

A *cluster* is a set of endpoints that requests are balanced over: one service, or one subset of
it, as seen by one caller, with what it fails over to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from proxy.model.authorization import Intention, Mode, TokenProvider
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import ServiceName, SpiffeId, TrustDomain, server_name, spiffe_id
from proxy.model.policy import Policy, ServicePolicy, Timeouts
from proxy.model.resilience import RateLimit
from proxy.model.settings import Address, Protocol, Settings, Upstream, Workload
from proxy.model.telemetry import AccessLog, Telemetry, Tracing

UpstreamKey = tuple[ServiceName, ServiceName, str, int]
"""Caller, service, and the address listened on (empty and 0: none): one upstream."""

ClusterKey = tuple[ServiceName, str]
"""Service and subset (empty: the whole service); within one caller."""

HOST_SUFFIX = ".mesh"
"""``http://api.mesh/`` on the outbound port is the service ``api``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """Where requests for one destination may go."""

    service: ServiceName
    subset: str
    policy: ServicePolicy
    """The destination's own: balancing, limits, outlier detection, health check."""
    tiers: tuple[tuple[Endpoint, ...], ...]
    """Endpoints in the order of failover, each tier sorted; the first is the destination."""

    @property
    def name(self) -> str:
        return f"{self.service}/{self.subset}" if self.subset else self.service


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRoute:
    """From one local workload to one service it declares."""

    caller: ServiceName
    service: ServiceName
    protocol: Protocol
    listen: Address | None
    server_name: str
    caller_identity: SpiffeId
    expected_identity: SpiffeId
    """What the certificate of every endpoint must say before a byte is sent to it."""
    policy: ServicePolicy
    clusters: Mapping[ClusterKey, ClusterSpec]
    """Of the caller: shared by all of its routes. A destination that is not in here is one that
    the caller does not declare."""
    endpoints: tuple[Endpoint, ...]
    """Of the service itself. Sorted, so that equal catalogues make equal tables."""
    subject: str
    """``web -> api``: in front of every sentence about a request of this route."""

    @property
    def timeouts(self) -> Timeouts:
        return self.policy.timeouts


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
    rate_limits: tuple[RateLimit, ...]
    intentions: tuple[Intention, ...] | None
    """None: no policy that could be verified has arrived yet, and nobody may call."""
    tokens: Mapping[str, TokenProvider]
    """Those that the intentions ask for."""
    mode: Mode
    access_log: AccessLog
    tracing: Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRoutes:
    """One caller's outbound port: who is meant by which Host."""

    caller: ServiceName
    listen: Address
    access_log: AccessLog
    """Of requests that are no upstream's: the mesh's defaults."""
    hosts: Mapping[bytes, UpstreamKey]
    """Lower case, without port: ``api``, ``api.mesh`` and ``api.<trust domain>``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    outbound: Mapping[UpstreamKey, OutboundRoute]
    inbound: Mapping[ServiceName, InboundRoute]
    hosts: Mapping[ServiceName, HostRoutes]
    """By caller; only those with an outbound port."""
    telemetry: Telemetry


def compile_table(settings: Settings, policy: Policy | None, catalogue: Catalogue) -> RouteTable:
    """Total: a service that the catalogue does not know has no endpoints.

    ``policy`` None: unknown. Calls go out by the built-in defaults, which grant nothing: it is the
    other end that decides. Nobody is let in.
    """
    domain = settings.trust_domain
    is_known = policy is not None
    policy = policy or Policy()
    outbound: dict[UpstreamKey, OutboundRoute] = {}
    inbound: dict[ServiceName, InboundRoute] = {}
    hosts: dict[ServiceName, HostRoutes] = {}
    for workload in settings.workloads:
        own = policy.of(workload.service)
        inbound[workload.service] = InboundRoute(
            service=workload.service,
            version=workload.version,
            protocol=workload.protocol,
            app=workload.app,
            server_name=server_name(domain, workload.service),
            identity=spiffe_id(domain, workload.service),
            allow=frozenset(workload.allow),
            timeouts=own.timeouts,
            rate_limits=own.rate_limits,
            intentions=own.intentions if is_known else None,
            tokens=_tokens(own, policy),
            mode=own.mode,
            access_log=own.access_log,
            tracing=own.tracing,
        )
        clusters = MappingProxyType(
            {(c.service, c.subset): c for c in _clusters(workload, policy, catalogue)}
        )
        for upstream in workload.upstreams:
            outbound[upstream_key(workload.service, upstream)] = OutboundRoute(
                caller=workload.service,
                service=upstream.service,
                protocol=upstream.protocol,
                listen=upstream.listen,
                server_name=server_name(domain, upstream.service),
                caller_identity=spiffe_id(domain, workload.service),
                expected_identity=spiffe_id(domain, upstream.service),
                policy=policy.of(upstream.service),
                clusters=clusters,
                endpoints=clusters[(upstream.service, "")].tiers[0],
                subject=f"{workload.service} -> {upstream.service}",
            )
        if workload.outbound is not None:
            hosts[workload.service] = HostRoutes(
                caller=workload.service,
                listen=workload.outbound,
                access_log=policy.defaults.access_log,
                hosts=MappingProxyType(dict(_hosts(workload, domain))),
            )
    return RouteTable(
        outbound=MappingProxyType(outbound),
        inbound=MappingProxyType(inbound),
        hosts=MappingProxyType(hosts),
        telemetry=policy.telemetry,
    )


def _tokens(own: ServicePolicy, policy: Policy) -> Mapping[str, TokenProvider]:
    asked = {each.token.provider for each in own.intentions if each.token is not None}
    return {name: policy.tokens[name] for name in sorted(asked & policy.tokens.keys())}


def upstream_key(caller: ServiceName, upstream: Upstream) -> UpstreamKey:
    if upstream.listen is None:
        return (caller, upstream.service, "", 0)
    return (caller, upstream.service, upstream.listen.host, upstream.listen.port)


def _clusters(workload: Workload, policy: Policy, catalogue: Catalogue) -> Iterator[ClusterSpec]:
    declared = {upstream.service for upstream in workload.upstreams}
    for service in sorted(declared):
        own = policy.of(service)
        for subset in ("", *own.subsets):
            tiers = [_endpoints(service, subset, policy, catalogue)]
            for fallback in own.failover:
                target = fallback.service or service
                is_itself = (target, fallback.subset) == (service, subset)
                if target not in declared or (is_itself and not fallback.datacenter):
                    continue  # an undeclared one would refuse this caller
                tiers.append(
                    _endpoints(target, fallback.subset, policy, catalogue, fallback.datacenter)
                )
            yield ClusterSpec(service=service, subset=subset, policy=own, tiers=tuple(tiers))


def _endpoints(
    service: ServiceName,
    subset: str,
    policy: Policy,
    catalogue: Catalogue,
    datacenter: str = "",
) -> tuple[Endpoint, ...]:
    known = catalogue.elsewhere.get(datacenter, {}) if datacenter else catalogue.endpoints
    found = set(known.get(service, ()))
    if subset:
        declared = policy.of(service).subsets.get(subset)
        found = {each for each in found if declared and each.version == declared.version}
    return tuple(sorted(found, key=_order))


def _hosts(workload: Workload, domain: TrustDomain) -> Iterator[tuple[bytes, UpstreamKey]]:
    for upstream in workload.upstreams:
        if upstream.protocol != "tcp":
            key = upstream_key(workload.service, upstream)
            yield upstream.service.encode(), key
            yield f"{upstream.service}{HOST_SUFFIX}".encode(), key
            yield server_name(domain, upstream.service).encode(), key


def _order(endpoint: Endpoint) -> tuple[str, str, int]:
    return (endpoint.host, endpoint.address, endpoint.port)
