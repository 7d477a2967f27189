"""What the mesh looks like right now, and what is wrong with it. Pure.

Enter: the inventory, each host's facts (or why there are none), what Consul has published and
registered. Leaves: ``MeshStatus``, in the order of the inventory, with every finding. A finding
that makes requests fail, or will within days, is a problem; the rest are warnings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from meshctl.errors import MeshError
from meshctl.facts.model import HostFacts
from meshctl.facts.preflight import MAX_CLOCK_OFFSET_S
from meshctl.facts.request import uses_systemd
from meshctl.finding import Finding, Severity, problem, warning
from meshctl.inventory.model import ConsulMode, Host, Inventory, Service
from meshctl.layout import CONSUL_UNIT, PROXY_UNIT
from meshctl.plan.desired import carries_proxy
from meshctl.renewing import (
    EXPIRY_PROBLEM,
    EXPIRY_SHARE,
    SignerView,
    leaf_fault,
    renewal_findings,
    renewal_of,
    signer_findings,
    signer_view,
)
from proxy.model.codec import Malformed, decode
from proxy.model.names import HostName, ServiceName, TrustDomain, spiffe_id
from proxy.model.status import ProxyStatus, WorkloadStatus

__all__ = [
    "EXPIRY_PROBLEM",
    "EXPIRY_SHARE",
    "Catalogue",
    "Finding",
    "HostStatus",
    "MeshStatus",
    "Severity",
    "UpstreamView",
    "WorkloadView",
    "build",
    "leaf_fault",
    "proxy_status",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    host: HostName
    address: str
    state: str
    """``ready``, ``starting``, ``draining``, ``stopped``, ``absent``, ``unreachable``; ``-`` for
    a host that carries no proxy."""
    release: str = ""
    config: str = ""
    generation: int | None = None
    consul: str = ""
    """``leader known``, ``no leader``, ``silent``; empty: not asked."""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamView:
    service: ServiceName
    listen: str
    """Its own address, or its caller's outbound port; empty: only a route leads there."""
    endpoints: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadView:
    service: ServiceName
    host: HostName
    version: str
    protocol: str
    health: str
    """``passing``, ``critical`` or ``unknown``, as the host's proxy sees its application."""
    registered: str
    """The worst of its checks in Consul; ``absent``: not registered; empty: not asked."""
    spiffe_id: str
    serial: str
    not_after: str
    """RFC 3339; empty: no identity."""
    renews_at: str = ""
    """When its proxy renews it next, RFC 3339; empty: it does not, or does not know yet."""
    renewal_error: str = ""
    """Why the last attempt failed; empty: it did not."""
    is_renewed: bool = False
    """Its proxy renews it by itself, and nothing has gone wrong with that."""
    upstreams: tuple[UpstreamView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshStatus:
    trust_domain: TrustDomain
    generation: int | None
    """Of the published policy; None: none is published, or Consul did not say."""
    hosts: tuple[HostStatus, ...]
    workloads: tuple[WorkloadView, ...]
    findings: tuple[Finding, ...]
    signers: tuple[SignerView, ...] = ()

    @property
    def is_well(self) -> bool:
        return not any(finding.severity is Severity.PROBLEM for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What Consul says, through the first agent that answers."""

    generation: int | None
    checks: Mapping[tuple[ServiceName, HostName], str]
    """The worst check of each registered workload."""


def build(
    inventory: Inventory,
    trust_domain: TrustDomain,
    *,
    facts: Mapping[HostName, HostFacts],
    failures: Mapping[HostName, MeshError],
    catalogue: Catalogue | MeshError,
    now: datetime,
) -> MeshStatus:
    """Total: whatever could not be found out becomes a finding."""
    known = None if isinstance(catalogue, MeshError) else catalogue
    findings: list[Finding] = []
    hosts: list[HostStatus] = []
    workloads: list[WorkloadView] = []
    if isinstance(catalogue, MeshError):
        findings.append(problem("Consul", str(catalogue), catalogue.hint or "meshctl check"))
    for host in inventory.hosts:
        seen = facts.get(host.name)
        if seen is None:
            error = failures.get(host.name)
            hosts.append(HostStatus(host=host.name, address=host.address, state="unreachable"))
            findings.append(
                problem(
                    host.name,
                    str(error) if error else "it was not asked",
                    (error.hint if error else "") or "meshctl check",
                )
            )
            workloads += (_unknown(host, service, known, trust_domain) for service in host.services)
            continue
        running = proxy_status(seen)
        if host in inventory.signer_hosts:
            findings += signer_findings(host, seen, now)
        hosts.append(_host(inventory, host, seen, running))
        findings += _host_findings(inventory, host, seen, running, known)
        for service in host.services:
            view, found = _workload(host, service, seen, running, known, trust_domain, now)
            workloads.append(view)
            findings += found
    return MeshStatus(
        trust_domain=trust_domain,
        generation=known.generation if known else None,
        hosts=tuple(hosts),
        workloads=tuple(workloads),
        findings=tuple(findings),
        signers=tuple(signer_view(host, facts.get(host.name)) for host in inventory.signer_hosts),
    )


def proxy_status(facts: HostFacts) -> ProxyStatus | None:
    """The running proxy's own words; None: it does not run, or is of another version."""
    try:
        return decode(facts.seen.proxy, ProxyStatus) if facts.seen.proxy else None
    except Malformed:
        return None


def _unknown(
    host: Host, service: Service, known: Catalogue | None, trust_domain: TrustDomain
) -> WorkloadView:
    return WorkloadView(
        service=service.name,
        host=host.name,
        version=service.version,
        protocol=service.protocol,
        health="unknown",
        registered=_registered(known, service.name, host.name),
        spiffe_id=spiffe_id(trust_domain, service.name),
        serial="",
        not_after="",
        upstreams=(),
    )


def _host(
    inventory: Inventory, host: Host, facts: HostFacts, running: ProxyStatus | None
) -> HostStatus:
    unit = facts.unit(PROXY_UNIT)
    if not carries_proxy(host):
        state = "-"
    elif running is not None:
        state = running.state
    elif not facts.seen.current:
        state = "absent"
    elif unit is not None and unit.is_active:
        state = "silent"
    else:
        state = "stopped"
    consul = facts.seen.consul
    word = "silent" if not consul.is_answering else "leader known" if consul.leader else "no leader"
    if inventory.consul.mode is ConsulMode.EMBEDDED and consul.is_answering:
        word = "embedded"
    return HostStatus(
        host=host.name,
        address=host.address,
        state=state,
        release=running.release if running else facts.release,
        config=running.config if running else facts.seen.current,
        generation=running.generation if running else None,
        consul=word,
        version=running.version if running else "",
    )


def _host_findings(
    inventory: Inventory,
    host: Host,
    facts: HostFacts,
    running: ProxyStatus | None,
    known: Catalogue | None,
) -> Iterator[Finding]:
    name = str(host.name)
    if abs(facts.clock_offset_s) > MAX_CLOCK_OFFSET_S:
        side = "ahead of" if facts.clock_offset_s > 0 else "behind"
        yield problem(
            name,
            f"its clock is {abs(facts.clock_offset_s):.0f} s {side} this machine's",
            "synchronise the clocks: certificates and checks depend on them",
        )
    managed = inventory.consul.mode is ConsulMode.MANAGED
    if not managed and not carries_proxy(host):
        pass  # a signer needs nothing of Consul
    elif not facts.seen.consul.is_answering:
        look = f"journalctl -u {CONSUL_UNIT}" if managed else "is the agent running?"
        yield problem(
            name,
            f"no Consul agent answers at {inventory.consul.address}",
            f"on {name}: {look}; the mesh goes on with what it last knew",
        )
    elif not facts.seen.consul.leader and inventory.consul.mode is not ConsulMode.EMBEDDED:
        yield problem(name, "its Consul agent knows no leader", "are the control hosts running?")
    elif facts.seen.consul.is_denied:
        where = inventory.consul.token_file or "consul.token_file is not set"
        todo = "meshctl deploy" if managed else "give it the rights that docs/consul.md lists"
        yield problem(name, f"Consul does not let its proxy read the policy ({where})", todo)
    if not carries_proxy(host):
        return
    if not facts.seen.current:
        yield problem(name, "nothing is installed on it", f"meshctl deploy --limit {name}")
        return
    if running is None:
        yield problem(
            name,
            "its proxy does not answer",
            f"on {name}: journalctl -u {PROXY_UNIT}; then meshctl deploy --limit {name}",
        )
        return
    unit = facts.unit(PROXY_UNIT)
    if uses_systemd(host) and (unit is None or unit.enabled != "enabled"):
        yield problem(
            name,
            "its proxy would not start at boot",
            f"meshctl deploy --limit {name}",
        )
    if running.state != "ready":
        yield problem(name, f"its proxy is {running.state}", "run the command again in a moment")
    if running.config != facts.seen.current:
        yield problem(
            name,
            f"its proxy runs configuration {running.config}, installed is {facts.seen.current}",
            f"meshctl deploy --limit {name}",
        )
    if running.refused:
        yield problem(
            name, f"its proxy refused the published policy: {running.refused}", "meshctl deploy"
        )
    elif known and known.generation is not None and running.generation != known.generation:
        yield problem(
            name,
            f"its proxy runs policy generation {running.generation},"
            f" published is {known.generation}",
            "wait a moment; if it stays, see whether its Consul agent answers",
        )
    if running.registry_error:
        yield warning(
            name,
            f"its proxy has trouble with Consul: {running.registry_error}",
            "it serves with what it last knew",
        )


def _workload(
    host: Host,
    service: Service,
    facts: HostFacts,
    running: ProxyStatus | None,
    known: Catalogue | None,
    trust_domain: TrustDomain,
    now: datetime,
) -> tuple[WorkloadView, Sequence[Finding]]:
    subject = f"{service.name} on {host.name}"
    own = _own(running, service.name)
    on_disk = next(
        (fact.identity for fact in facts.seen.identities if fact.service == service.name), None
    )
    identity = (own.identity if own else None) or on_disk
    registered = _registered(known, service.name, host.name)
    upstreams = tuple(
        UpstreamView(
            service=upstream.service, listen=upstream.listen, endpoints=len(upstream.endpoints)
        )
        for upstream in (running.upstreams if running else ())
        if upstream.caller == service.name
    )
    renewal = renewal_of(facts, service.name)
    is_renewed = renewal is not None and not renewal.failures and not renewal.is_revoked
    health = "unknown" if own is None else "passing" if own.is_healthy else "critical"
    view = WorkloadView(
        service=service.name,
        host=host.name,
        version=service.version,
        protocol=service.protocol,
        health=health,
        registered=registered,
        spiffe_id=identity.spiffe_id if identity else spiffe_id(trust_domain, service.name),
        serial=identity.serial if identity else "",
        not_after=identity.not_after if identity else "",
        renews_at=renewal.next_at if renewal else "",
        renewal_error=renewal.last_error if renewal else "",
        is_renewed=is_renewed,
        upstreams=upstreams,
    )
    findings: list[Finding] = []
    again = f"meshctl deploy --limit {host.name}"
    if facts.seen.current and identity is None:
        findings.append(problem(subject, "it has no usable certificate", again))
    elif identity is not None:
        expected = spiffe_id(trust_domain, service.name)
        fault = leaf_fault(identity, expected, now, is_renewed=is_renewed)
        if fault:
            fix = f"meshctl certs rotate --host {host.name} --service {service.name}"
            findings.append(problem(subject, fault, fix))
    if renewal is not None:
        findings += renewal_findings(subject, host.name, service.name, renewal)
    if running is not None and own is None:
        findings.append(problem(subject, "its proxy does not carry it", again))
    if own is not None and not own.is_healthy:
        findings.append(
            problem(
                subject,
                f"the application is not healthy: {own.health_detail or 'no detail'}",
                f"see the application's own log on {host.name}",
            )
        )
    if own is not None and own.user_problem:
        findings.append(
            problem(
                subject,
                f"no process of its host may call as it: {own.user_problem}",
                f"make the user on {host.name} and reload its proxy, or mend `user`",
            )
        )
    if own is not None and registered == "absent":
        findings.append(
            problem(subject, "it is not registered in Consul", "its proxy tries again by itself")
        )
    findings += (
        problem(
            subject,
            f"it calls {upstream.service}, which has no healthy endpoint",
            f"see {upstream.service} above",
        )
        for upstream in upstreams
        if not upstream.endpoints
    )
    return view, findings


def _own(running: ProxyStatus | None, service: ServiceName) -> WorkloadStatus | None:
    if running is None:
        return None
    return next((own for own in running.workloads if own.service == service), None)


def _registered(known: Catalogue | None, service: ServiceName, host: HostName) -> str:
    return known.checks.get((service, host), "absent") if known is not None else ""
