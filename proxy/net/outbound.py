"""The caller's side: everything that requests from one local workload share.

OutboundCaller   one workload: its identity towards each service, its clusters
OutboundService  one upstream it declares: the routes; an HTTP Handler, and the TCP relay
HostRouted       its one port for all HTTP upstreams, told apart by Host; an HTTP Handler
"""

import asyncio
import time
from time import monotonic
from typing import cast

from proxy.core.authorization import Reason
from proxy.core.deadline import parse, render, tighten
from proxy.core.fault import FaultInjector, Injection, compile_faults
from proxy.core.grpc import http_of
from proxy.core.retry import Failure, Verdict, backoff_s
from proxy.core.routing import Router, compile_match, compile_routes
from proxy.core.table import ClusterKey, HostRoutes, OutboundRoute, RouteTable, UpstreamKey
from proxy.http.downstream import DownstreamConnection
from proxy.http.exchange import Exchange
from proxy.http.grpc import set_deadline
from proxy.http.head import RequestHead
from proxy.http.ledger import Ledger
from proxy.http.trace_fields import identify
from proxy.model.authorization import UNKNOWN
from proxy.model.flags import Flag
from proxy.model.names import ServiceName, TrustDomain, server_name, spiffe_id
from proxy.model.policy import Timeouts
from proxy.model.settings import Address
from proxy.model.telemetry import AccessLog, Telemetry
from proxy.net.blame import REASON_OF, blame
from proxy.net.cluster import Cluster
from proxy.net.dataplane_metrics import DataPlaneMetrics, Reporter
from proxy.net.local_callers import LocalCallers
from proxy.net.mirror import start_mirror
from proxy.net.outbound_tcp import OutboundSession
from proxy.net.pool import EndpointPool, jitter
from proxy.net.pool_dial import MeshDialer
from proxy.net.relay import Closed
from proxy.net.rules import Rule, answer_of, redirect_to
from proxy.net.tls_identity import Identity

_NO_HEAD = RequestHead(b"", b"/", None, False)
"""A TCP session has none; its routes ask for nothing in it."""

_NO_ONE_TO_BLAME = frozenset(
    (Flag.DOWNSTREAM_RESET.value, Flag.OVERLOAD.value, Flag.FAULT_ABORT.value)
)
"""How a request can end that says nothing about its endpoint."""


class OutboundCaller:
    """One workload as a client. Clusters and dialers are made as tables ask for them."""

    def __init__(
        self,
        caller: ServiceName,
        domain: TrustDomain,
        zone: str,
        ledger: Ledger,
        metrics: DataPlaneMetrics,
    ) -> None:
        self.caller = caller
        self.principal = spiffe_id(domain, caller)
        self.identity: Identity | None = None
        self.services: dict[UpstreamKey, OutboundService] = {}
        self.hosts: HostRouted | None = None
        self.local: LocalCallers | None = None
        """Whose processes may call; None: everybody's."""
        self.ledger = ledger
        self.metrics = metrics
        self._domain = domain
        self._zone = zone
        self._dialers: dict[ServiceName, MeshDialer] = {}
        self.clusters: dict[ClusterKey, Cluster] = {}
        self._telemetry = Telemetry()

    def apply(self, table: RouteTable) -> None:
        """Requests that have begun keep what they began with."""
        routes = {key: each for key, each in table.outbound.items() if each.caller == self.caller}
        specs = next((route.clusters for route in routes.values()), {})
        is_changed = self.clusters.keys() != specs.keys() or table.telemetry != self._telemetry
        self._telemetry = table.telemetry
        for key, spec in specs.items():
            known = self.clusters.get(key)
            if known is not None:
                is_changed = is_changed or known.spec.policy != spec.policy
                known.apply(spec)
            else:
                self.clusters[key] = Cluster(
                    self.caller, spec, self._zone, self._dialer, self.ledger, self.metrics
                )
        for key in self.clusters.keys() - specs.keys():
            self.clusters.pop(key).retire()
        for upstream, route in routes.items():
            if (service := self.services.get(upstream)) is not None:
                if is_changed:  # most tables differ in endpoints only
                    service.apply(route)
            else:
                self.services[upstream] = OutboundService(self, route)
        hosts = table.hosts.get(self.caller)
        if hosts is not None:
            if self.hosts is None:
                self.hosts = HostRouted(self)
            self.hosts.apply(hosts)

    def _dialer(self, service: ServiceName) -> MeshDialer:
        dialer = self._dialers.get(service)
        if dialer is None:
            dialer = self._dialers[service] = MeshDialer(
                self._domain, server_name(self._domain, service), spiffe_id(self._domain, service)
            )
            dialer.identity = self.identity
        return dialer

    def use_identity(self, identity: Identity | None) -> None:
        """For new connections."""
        self.identity = identity
        for dialer in self._dialers.values():
            dialer.identity = identity
        for cluster in self.clusters.values():
            cluster.retire_old_identity()

    def shed(self, of: "OutboundService | HostRouted | None") -> asyncio.Protocol:
        """For a connection beyond the limit: a moment's answer for a few, nothing at all for a
        flood, or for TCP (None)."""
        self.metrics.overloads.labels("source").value += 1
        if of is None or self.ledger.is_flooded:
            return Closed()
        return DownstreamConnection(self.ledger, Shed(of))

    def sweep(self, now: float) -> None:
        for cluster in self.clusters.values():
            cluster.sweep(now)
        wall_now = time.time()
        for service in self.services.values():
            service.forget_expired(wall_now)

    def close(self) -> None:
        for cluster in self.clusters.values():
            cluster.close()


class OutboundService:
    """One upstream of one workload. An HTTP Handler."""

    trusts_flag = True

    def __init__(self, owner: OutboundCaller, route: OutboundRoute) -> None:
        self._owner = owner
        self._ledger = owner.ledger
        self._metrics = owner.metrics
        self.subject = route.subject
        self.authority = route.service.encode()
        self._reporter = Reporter(
            owner.metrics, "source", route.caller, route.caller_identity, route.service
        )
        self._faulted = owner.metrics.faults
        self._router: Router | None = None
        self._rules: tuple[Rule, ...] = ()
        self._injector: FaultInjector[RequestHead] | None = None
        self.apply(route)

    def apply(self, route: OutboundRoute) -> None:
        self.route = route
        self.timeouts: Timeouts = route.policy.timeouts
        clusters = self._owner.clusters
        self._default = Rule(route, clusters, None)
        self._router = None
        self._rules = ()
        if route.policy.routes:
            self._router = compile_routes(route.service, route.policy.routes)
            self._rules = tuple(Rule(route, clusters, each) for each in self._router.routes)
        self._injector = compile_faults(route.policy.faults, compile_match, time.time())
        telemetry = self._metrics.telemetry
        caller, service = route.caller, route.service
        self._reporter.log = telemetry.logs.logger(
            "source", caller, route.caller_identity, service, route.policy.access_log
        )
        self._sampler = telemetry.tracer.sampler("source", caller, service, route.policy.tracing)

    def accept(self) -> asyncio.Protocol:
        """The protocol of one more connection from this host."""
        local = self._owner.local
        return self.admit() if local is None else local.accept(self)

    @property
    def is_http(self) -> bool:
        return self.route.protocol != "tcp"

    def admit(self) -> asyncio.Protocol:
        """The protocol of one more connection from the workload."""
        ledger = self._ledger
        is_http = self.is_http
        if ledger.is_full:
            return self._owner.shed(self if is_http else None)
        if is_http:
            return DownstreamConnection(ledger, self)
        return OutboundSession(ledger, self._reporter, self.timeouts, self._choose).near

    # TCP

    def _choose(self, client: bytes) -> tuple[Cluster | None, int]:
        """Where a session goes, and its hash. What routes of TCP services may match is who calls;
        a destination that is not declared is None."""
        rule, at = self._default, 0
        if self._router is not None:
            found = self._router.find(_NO_HEAD, self._owner.caller)
            if found is not None:
                rule = self._rules[found.index]
                at, _ = found.choose(_NO_HEAD, client, jitter())
        hasher = rule.hashers[at]
        return rule.clusters[at], hasher(_NO_HEAD, client, jitter())[0] if hasher else 0

    # HTTP

    def dispatch(self, exchange: Exchange) -> None:
        head = exchange.head
        rule = self._default
        if self._router is not None:
            found = self._router.find(head, self._owner.caller)
            if found is not None:
                rule = self._rules[found.index]
        exchange.rule = rule
        timeouts = exchange.timeouts = rule.timeouts
        exchange.retries = rule.retries
        exchange.request_s = timeouts.request_s
        if exchange.grpc is not None:
            if allowed_s := set_deadline(exchange, exchange.grpc):
                # Last, with what is different in each call: the peer knows the rest.
                head.lines.append(render(allowed_s))
                head.fleeting += 1
        elif head.timeout_ms:
            self._tighten(exchange)
        elif rule.deadline_line:
            head.lines.insert(0, rule.deadline_line)
        if self._sampler is not None:
            self._sampler.begin(exchange)
        if not (head.has_request_id and head.has_trace):
            identify(head)
        if self._ledger.is_out_of_memory:
            exchange.refuse(Flag.OVERLOAD, "out of memory")
            return
        if not rule.is_plain or self._injector is not None:
            self._dispatch_otherwise(exchange, rule)
        elif self._owner.identity is None:
            exchange.refuse(Flag.UPSTREAM_CONNECT_FAILURE, self._no_identity())
        else:
            rule.cluster.begin(exchange)  # type: ignore[union-attr]  # it has one, being plain

    def _tighten(self, exchange: Exchange) -> None:
        """The application has less time left itself."""
        head = exchange.head
        exchange.request_s = tighten(exchange.request_s, parse(head.timeout_ms))
        if exchange.request_s:
            head.lines.insert(0, render(exchange.request_s))

    def _dispatch_otherwise(self, exchange: Exchange, rule: Rule) -> None:
        """Whatever is not straight on to one cluster."""
        injector = self._injector
        if injector is not None:
            injection = injector.decide(exchange.head, self._owner.caller, jitter(), time.time())
            if injection is not None:
                self._inject(exchange, rule, injection)
                return
        self._follow(exchange, rule)

    def _inject(self, exchange: Exchange, rule: Rule, injection: Injection) -> None:
        said = injection.grpc_status if exchange.grpc is not None else None
        if said is None and not (injection.abort_status or injection.delay_s):
            self._follow(exchange, rule)  # it is for gRPC
            return
        self._faulted.labels(self._owner.caller, self.route.service, injection.name).value += 1

        def go_on() -> None:
            if exchange.is_finished:
                return
            if said is not None:
                lines = (b"grpc-status: %d" % said,)
                exchange.refuse(Flag.FAULT_ABORT, f"({injection.name})", http_of(said), lines)
            elif injection.abort_status:
                detail = f"({injection.name})"
                exchange.refuse(Flag.FAULT_ABORT, detail, injection.abort_status)
            else:
                self._follow(exchange, rule)

        if injection.delay_s:
            exchange.flag = Flag.FAULT_DELAY.value
            asyncio.get_running_loop().call_later(injection.delay_s, go_on)
        else:
            go_on()

    def _follow(self, exchange: Exchange, rule: Rule) -> None:
        head = exchange.head
        route = rule.route
        cluster = rule.cluster
        hasher = rule.hashers[0]
        added: list[bytes] = []
        if route is not None:
            declared = route.route
            if route.has_response_changes:
                exchange.change_response = route.change_response
            if declared.respond is not None:
                exchange.answer(*answer_of(declared.respond))
                return
            if declared.redirect is not None:
                location = route.location(head, b"http")
                exchange.answer(redirect_to(declared.redirect.status, location), b"")
                return
            if len(rule.clusters) > 1:
                at, cookie = route.choose(
                    head, exchange.client() if declared.sticky else b"", jitter()
                )
                if cookie is not None:
                    added.append(cookie)
                cluster = rule.clusters[at]
                hasher = rule.hashers[at]
        if cluster is None:
            exchange.refuse(
                Flag.DENIED,
                f"route {rule.name!r} leads to a service that {self._owner.caller} "
                "does not declare as an upstream",
                policy=f"{self.route.service}/{Reason.UNDECLARED}",
            )
            return
        if self._owner.identity is None:
            exchange.refuse(Flag.UPSTREAM_CONNECT_FAILURE, self._no_identity())
            return
        if hasher is not None:
            exchange.key, cookie = hasher(head, exchange.client(), jitter())
            # The split may have just set one of the same name: that one is the client's.
            if cookie is not None and cookie.partition(b"=")[0] not in {
                line.partition(b"=")[0] for line in added
            }:
                added.append(cookie)
        if added:
            change = exchange.change_response
            exchange.change_response = (
                (lambda lines: [*lines, *added])
                if change is None
                else (lambda lines: [*change(lines), *added])
            )
        if route is not None and route.has_request_changes:
            route.change_request(head)
        if rule.mirror is not None and jitter().random() < rule.mirror_share:
            start_mirror(exchange, rule.mirror, rule.timeouts)
        cluster.begin(exchange)

    def retry(self, exchange: Exchange, failure: Failure | None, verdict: Verdict) -> bool:
        last = cast(EndpointPool | None, exchange.target)
        if last is None or self._owner.identity is None:
            return False
        cluster = cast(Cluster, last.owner)
        rule = cast(Rule, exchange.rule)
        started = exchange.tried_at
        tries = exchange.tries
        pool = cluster.again(exchange, last, may_be_same=verdict is not Verdict.OTHER_ENDPOINT)
        if pool is None:
            return False
        if exchange.span is not None:
            exchange.span.retried(last.endpoint, failure)
        now = self._ledger.now
        cluster.balancer.observe(last, max(0.0, now - started), True, now)
        is_failure = failure is not None or exchange.judged_status >= 500
        if failure is not None:
            cluster.judge(last, True, REASON_OF[failure])
        elif exchange.grpc is None or is_failure:
            cluster.judge(last, True, *blame(exchange))
        self._reporter.tried(last, now - started, is_failure=is_failure)
        exchange.tried_at = now
        is_fresh = verdict is Verdict.FRESH_CONNECTION
        wait_s = backoff_s(rule.retries, tries, jitter(), failure)
        if exchange.grpc is not None and exchange.grpc.pushback_s >= 0.0:
            wait_s, exchange.grpc.pushback_s = exchange.grpc.pushback_s, -1.0
        left_s = exchange.left_s()
        if left_s:
            lines = exchange.head.lines
            for at, line in enumerate(lines):
                if line.startswith(b"x-mesh-timeout-ms:"):
                    lines[at] = render(left_s - wait_s)
                    break
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, _serve, exchange, pool, is_fresh)
        else:
            pool.serve(exchange, is_fresh=is_fresh)
        return True

    def finished(self, exchange: Exchange) -> None:
        now = monotonic()
        pool: EndpointPool | None = exchange.target
        if pool is not None:
            cluster: Cluster = pool.owner  # type: ignore[assignment]  # of our own making
            pool.inflight -= 1
            breaker = cluster.breaker
            breaker.requests -= 1
            if exchange.tries > 1:
                breaker.retries -= 1
            status = exchange.status if exchange.grpc is None else exchange.judged_status
            if status < 500:
                if exchange.flag not in _NO_ONE_TO_BLAME:
                    cluster.balancer.observe(
                        pool, (exchange.headed or now) - exchange.tried_at, status == 429, now
                    )
                    if pool.consecutive_failures or pool.is_probing:
                        cluster.judge(pool, False)
            elif exchange.flag not in _NO_ONE_TO_BLAME:
                cluster.balancer.observe(pool, now - exchange.tried_at, True, now)
                cluster.judge(pool, True, *blame(exchange))
        self._reporter.answered(exchange, now)

    def _no_identity(self) -> str:
        return f"this proxy has no usable identity for {self._owner.caller}"

    def forget_expired(self, wall_now: float) -> None:
        """Faults end by themselves, without a new policy."""
        if self._injector is not None and not self._injector.has_any(wall_now):
            self._injector = None


class HostRouted:
    """One port for every HTTP upstream of a workload; also what ``http_proxy`` may name."""

    trusts_flag = False
    is_http = True

    def __init__(self, owner: OutboundCaller) -> None:
        self._owner = owner
        self.listen: Address | None = None
        self._hosts: dict[bytes, OutboundService] = {}
        self.timeouts = Timeouts()
        self.subject = f"{owner.caller} -> ?"
        self.authority = b""
        self._reporter = Reporter(owner.metrics, "source", owner.caller, owner.principal, UNKNOWN)
        self._access_log: AccessLog | None = None

    def apply(self, routes: HostRoutes) -> None:
        services = self._owner.services
        self.listen = routes.listen
        if self._access_log != routes.access_log:
            self._access_log, owner = routes.access_log, self._owner
            self._reporter.log = owner.metrics.telemetry.logs.logger(
                "source", owner.caller, owner.principal, UNKNOWN, routes.access_log
            )
        self._hosts = {host: services[key] for host, key in routes.hosts.items()}

    def accept(self) -> asyncio.Protocol:
        local = self._owner.local
        return self.admit() if local is None else local.accept(self)

    def admit(self) -> asyncio.Protocol:
        ledger = self._owner.ledger
        if ledger.is_full:
            return self._owner.shed(self)
        return DownstreamConnection(ledger, self)

    def dispatch(self, exchange: Exchange) -> None:
        authority = exchange.head.authority or b""
        service = self._hosts.get(authority)
        if service is None:
            # "[::1]:80" has no name in it: what is left of it is nobody's either.
            service = self._hosts.get(authority.rpartition(b":")[0].lower() or authority.lower())
        if service is None:
            service = self._hosts.get(authority.lower())
        if service is None:
            name = authority.decode("latin-1")[:100]
            exchange.refuse(
                Flag.NO_ROUTE,
                f"{name or 'a request without Host'} is no upstream of {self._owner.caller}; "
                f"use http://<service>.mesh/ with a service that it declares",
            )
            return
        exchange.handler = service
        service.dispatch(exchange)

    def retry(self, exchange: Exchange, failure: Failure | None, verdict: Verdict) -> bool:
        return False

    def finished(self, exchange: Exchange) -> None:
        self._reporter.answered(exchange, monotonic())


class Shed:
    """A Handler that refuses: the proxy has too many connections."""

    trusts_flag = False

    def __init__(self, of: OutboundService | HostRouted) -> None:
        self.subject = of.subject
        self.authority = of.authority
        self.timeouts = of.timeouts
        self.finished = of.finished

    def dispatch(self, exchange: Exchange) -> None:
        exchange.refuse(Flag.OVERLOAD, "too many connections")

    def retry(self, exchange: Exchange, failure: Failure | None, verdict: Verdict) -> bool:
        return False


def _serve(exchange: Exchange, pool: EndpointPool, is_fresh: bool) -> None:
    if not exchange.is_finished:
        pool.serve(exchange, is_fresh=is_fresh)
