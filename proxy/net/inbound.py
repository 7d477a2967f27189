"""The service's side: one mTLS listener for all workloads of the host.

The server name selects the workload, the peer's certificate says who calls; both are settled
before a byte of the request is read. A caller that is known but not allowed gets an answer that
says so, because a reset explains nothing.
"""

import asyncio
from time import monotonic
from typing import Protocol

from proxy.core.authorization import Authorizer, CallerRules, Decision, Verify
from proxy.core.deadline import parse, render_grpc
from proxy.core.metrics import Value
from proxy.core.peer import identify
from proxy.core.ratelimit import RateLimiter, compile_limits
from proxy.core.retry import Failure, Verdict, compile_retries
from proxy.core.routing import compile_match
from proxy.core.table import InboundRoute
from proxy.http.downstream import DownstreamConnection
from proxy.http.exchange import Exchange
from proxy.http.frames import ALPN
from proxy.http.grpc import set_deadline
from proxy.http.h2.frames import ALPN as HTTP2
from proxy.http.h2.server import Http2Server
from proxy.http.head import RequestHead
from proxy.http.ledger import Ledger
from proxy.http.streams_server import StreamsServer
from proxy.model.authorization import UNKNOWN
from proxy.model.endpoint import Endpoint
from proxy.model.flags import Flag
from proxy.model.names import HostName, InvalidName, ServiceName, TrustDomain, spiffe_id
from proxy.model.policy import Timeouts
from proxy.model.resilience import Retries
from proxy.net.dataplane_metrics import DataPlaneMetrics, Reporter
from proxy.net.denials import Denials
from proxy.net.observation import Observation
from proxy.net.pool import EndpointPool, Owner, Quota
from proxy.net.pool_dial import Dialer, Http2Dialer
from proxy.net.relay import Closed, Relay
from proxy.net.telemetry import Log
from proxy.net.tls import PeerRefused, TlsTransport
from proxy.net.tls_identity import Identities
from proxy.net.tracing import Sampler

_REPORTERS = 1000
_RETRIES = compile_retries(Retries(attempts=1, on=("reset-reused", "refused")))
"""Towards the application: all else is for the caller's side to decide."""


class InboundWorkload:
    """Everything that connections to one workload share."""

    def __init__(
        self,
        route: InboundRoute,
        domain: TrustDomain,
        ledger: Ledger,
        metrics: DataPlaneMetrics,
        share: float = 1.0,
        *,
        verify: Verify,
    ) -> None:
        """``share``: of the rate limits, which several workers have in common."""
        self._verify = verify
        self.route = route
        self.ledger = ledger
        self.metrics = metrics
        self._domain = domain
        self._quota = Quota(Value())
        is_http2 = route.protocol in ("http2", "grpc")
        self.dialer = Http2Dialer() if is_http2 else Dialer()
        # An empty host: the application has no name of its own in what the proxy says.
        app = Endpoint(
            service=route.service,
            host=HostName(""),
            address=route.app.host,
            port=route.app.port,
        )
        self.pool = EndpointPool(
            app, self.dialer, ledger, self._quota, route.timeouts.pool_idle_s, Owner()
        )
        self._reporters: dict[ServiceName, Reporter] = {}
        self._samplers: dict[ServiceName, Sampler | None] = {}
        self.limiter: RateLimiter[RequestHead] | None = None
        self._share = share
        self._limit(route)
        self.authorizer = self._authorizer(route)
        """Another one as soon as somebody else may call."""
        self.denials = Denials(route.service, metrics)
        self.anonymous: Reporter | None = None
        self.observation: Observation | None = None
        """Only while somebody wants to know who calls."""

    def apply(self, route: InboundRoute) -> None:
        if route.rate_limits != self.route.rate_limits:  # most tables differ in endpoints only
            self._limit(route)
        if _judged_by(route) != _judged_by(self.route):
            self.authorizer = self._authorizer(route)
        is_logged_alike = route.access_log == self.route.access_log
        self.route = route
        self.pool.idle_s = route.timeouts.pool_idle_s
        # Whether anything is sampled depends on the whole mesh's policy as well.
        self._samplers.clear()
        if is_logged_alike:
            return
        for caller, reporter in self._reporters.items():
            reporter.log = self._logger(caller)
        if self.anonymous is not None:
            self.anonymous.log = self._logger(UNKNOWN)

    def _limit(self, route: InboundRoute) -> None:
        self.limiter = compile_limits(route.rate_limits, compile_match, self.limiter, self._share)

    def _authorizer(self, route: InboundRoute) -> Authorizer:
        return Authorizer(
            route.service,
            route.allow,
            route.intentions,
            providers=route.tokens,
            verify=self._verify,
            mode=route.mode,
        )

    def observe(self, observation: Observation | None) -> None:
        self.observation = observation
        # Sessions take their rules anew, and with them whether there is anything to be noted.
        self.authorizer = self._authorizer(self.route)

    def sweep(self, now: float) -> None:
        """About once a second."""
        self.pool.sweep(now)
        self._quota.forget_finished()

    def reporter(self, caller: ServiceName) -> Reporter:
        found = self._reporters.get(caller)
        if found is None:
            if len(self._reporters) >= _REPORTERS:
                self._reporters.clear()
            found = self._reporters[caller] = Reporter(
                self.metrics,
                "destination",
                caller,
                spiffe_id(self._domain, caller),
                self.route.service,
            )
            found.log = self._logger(caller)
        return found

    def use_anonymous(self, reporter: Reporter) -> None:
        """For callers without an identity."""
        self.anonymous = reporter
        reporter.log = self._logger(UNKNOWN)

    def sampler(self, caller: ServiceName) -> Sampler | None:
        try:
            return self._samplers[caller]
        except KeyError:
            if len(self._samplers) >= _REPORTERS:
                self._samplers.clear()
            made = self._samplers[caller] = self.metrics.telemetry.tracer.sampler(
                "destination", caller, self.route.service, self.route.tracing
            )
            return made

    def _logger(self, caller: ServiceName) -> Log | None:
        principal = spiffe_id(self._domain, caller) if caller != UNKNOWN else UNKNOWN
        return self.metrics.telemetry.logs.logger(
            "destination", caller, principal, self.route.service, self.route.access_log
        )


class InboundSession:
    """One caller on one connection. An HTTP Handler."""

    trusts_flag = False
    is_anonymous = False
    """Whether the caller has no identity."""

    def __init__(self, workload: InboundWorkload, caller: ServiceName, principal: str) -> None:
        self._workload = workload
        self._caller = caller
        self._principal = principal
        self._is_shed = workload.ledger.is_full
        service = workload.route.service
        self.subject = f"{caller} -> {service}"
        self.authority = service.encode()
        self._reporter = workload.reporter(caller)
        self._xfcc = (
            f"x-forwarded-client-cert: By={workload.route.identity};URI={principal}".encode()
        )
        self._ask(b"")
        """A caller asks for the same time again and again."""
        self._take_rules(workload.authorizer)

    def _take_rules(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self._rules = self._rules_of(authorizer)
        constant = self._rules.constant
        self._is_free = (
            constant is not None
            and constant.is_allowed
            and not constant.audited
            and self._workload.observation is None
        )
        """Whatever it asks for, nothing is to be decided or noted."""

    def _rules_of(self, authorizer: Authorizer) -> CallerRules:
        return authorizer.of(self._caller)

    @property
    def timeouts(self) -> Timeouts:
        return self._workload.route.timeouts

    def dispatch(self, exchange: Exchange) -> None:
        workload = self._workload
        timeouts = exchange.timeouts = workload.route.timeouts
        exchange.request_s = timeouts.request_s
        sampler = workload.sampler(self._caller)
        if sampler is not None:
            sampler.begin(exchange)
        if workload.authorizer is not self._authorizer:
            self._take_rules(workload.authorizer)
        if not self._is_free and not self._is_allowed(exchange):
            return
        if self._is_shed and workload.ledger.is_full:
            exchange.refuse(Flag.OVERLOAD, "too many connections")
        elif workload.ledger.is_out_of_memory:
            exchange.refuse(Flag.OVERLOAD, "out of memory")
        elif workload.limiter is None or self._is_within_limits(exchange, workload.limiter):
            head = exchange.head
            if self._xfcc:
                head.lines.append(self._xfcc)
            if exchange.grpc is not None:
                if allowed_s := set_deadline(exchange, exchange.grpc):
                    head.lines.append(render_grpc(allowed_s))
            elif head.timeout_ms:
                if head.timeout_ms != self._asked_ms:
                    self._ask(head.timeout_ms)
                if self._asked_s:  # what is no deadline goes no further
                    if not 0.0 < exchange.request_s < self._asked_s:
                        exchange.request_s = self._asked_s
                    head.lines.append(self._asked_line)
            exchange.retries = _RETRIES
            exchange.tries = 1
            exchange.target = workload.pool
            workload.pool.serve(exchange)

    def _is_allowed(self, exchange: Exchange) -> bool:
        """If not, it is refused."""
        workload = self._workload
        head, now = exchange.head, workload.ledger.now
        decision = self._rules.decide(head)
        if workload.observation is not None and not self.is_anonymous:
            workload.observation.saw(workload.route.service, self._caller, decision, head)
        if decision.audited:
            workload.denials.audited(self._caller, decision, now, head)
        if decision.is_allowed:
            return True
        workload.denials.denied(self._caller, decision, now, head)
        self._refuse(exchange, decision)
        return False

    def _refuse(self, exchange: Exchange, decision: Decision) -> None:
        denial = _denial(self._principal, self._workload.route, decision)
        exchange.refuse(Flag.DENIED, denial, policy=decision.policy)

    @property
    def is_shut_out(self) -> bool:
        """Whether nothing that the caller can ask for is allowed."""
        return self._rules_of(self._workload.authorizer).shut_out is not None

    def cut_if_denied(self, exchange: Exchange) -> None:
        """Ends a request that was let in before the caller was shut out."""
        workload = self._workload
        decision = self._rules_of(workload.authorizer).shut_out
        if decision is not None:
            now = workload.ledger.now
            workload.denials.denied(self._caller, decision, now, exchange.head, is_cut=True)
            self._refuse(exchange, decision)

    def _ask(self, timeout_ms: bytes) -> None:
        self._asked_ms = timeout_ms
        self._asked_s = parse(timeout_ms) or 0.0
        self._asked_line = b"x-mesh-timeout-ms: " + timeout_ms

    def _is_within_limits(self, exchange: Exchange, limiter: RateLimiter[RequestHead]) -> bool:
        head = exchange.head
        workload = self._workload
        now = workload.ledger.now
        refusal = limiter.check(head, self._caller, now)
        if refusal is None:
            added = limiter.lines(head, self._caller, now)
            if added:
                exchange.change_response = lambda lines: [*lines, *added]
            return True
        workload.metrics.rate_limited.labels(
            self._caller, workload.route.service, refusal.name
        ).value += 1
        exchange.refuse(Flag.RATE_LIMITED, f"({refusal.name})", lines=refusal.lines)
        return False

    def finished(self, exchange: Exchange) -> None:
        self._reporter.answered(exchange, monotonic())

    def retry(self, exchange: Exchange, failure: Failure | None, verdict: Verdict) -> bool:
        """There is one application: a fresh connection is all that can be tried."""
        if verdict is not Verdict.FRESH_CONNECTION:
            return False
        exchange.tries += 1
        self._workload.pool.serve(exchange, is_fresh=True)
        return True


def _judged_by(route: InboundRoute) -> tuple[object, ...]:
    return route.allow, route.intentions, route.tokens, route.mode


def _denial(principal: str, route: InboundRoute, decision: Decision) -> str:
    return f"{principal} may not call {route.identity}: {decision.why} (policy {decision.policy})"


class _Workloads(Protocol):
    def get(self, service: ServiceName) -> InboundWorkload | None: ...


class InboundListener:
    """Makes the protocols of accepted connections."""

    def __init__(
        self,
        domain: TrustDomain,
        identities: Identities,
        workloads: _Workloads,
        ledger: Ledger,
        metrics: DataPlaneMetrics,
    ) -> None:
        self._domain = domain
        self._identities = identities
        self._workloads = workloads
        self._ledger = ledger
        self._metrics = metrics

    def accept(self) -> asyncio.Protocol:
        ledger = self._ledger
        if ledger.is_flooded:
            # Above the limit callers are told so, over TLS; far above it even that is too much.
            self._metrics.overloads.labels("destination").value += 1
            return Closed()
        return TlsTransport(self._identities.inbound, self._identified, self._failed, ledger=ledger)

    def _failed(self, reason: str, _detail: str) -> None:
        self._metrics.tls_failures.labels(reason).value += 1

    def _identified(self, transport: TlsTransport) -> asyncio.Protocol:
        connection = transport.ssl_object
        service = self._identities.service_of(connection)
        workload = self._workloads.get(service) if service is not None else None
        if workload is None:
            raise PeerRefused("server_name", "no workload was selected")
        try:
            caller = identify(connection.getpeercert(True) or b"", self._domain, is_server=False)
        except InvalidName as error:
            raise PeerRefused("identity", str(error)) from error
        ledger = self._ledger
        route = workload.route
        if route.protocol != "tcp":
            session = InboundSession(workload, caller, spiffe_id(self._domain, caller))
            spoken = connection.selected_alpn_protocol()
            if spoken == ALPN:
                return StreamsServer(ledger, session)
            if spoken == HTTP2:
                return Http2Server(ledger, session)
            return DownstreamConnection(ledger, session)
        reporter = workload.reporter(caller)
        decision = workload.authorizer.of(caller).session
        if workload.observation is not None:
            workload.observation.saw(route.service, caller, decision)
        if decision.audited:
            workload.denials.audited(caller, decision, ledger.now)
        if not decision.is_allowed:
            workload.denials.denied(caller, decision, ledger.now)
            reporter.tcp(Flag.DENIED.value).closed.value += 1
            if reporter.log is not None:
                reporter.log.refused(Flag.DENIED.value, decision.policy, decision.why)
            raise PeerRefused("denied", f"{caller} may not call {route.service}")
        if ledger.is_full:
            self._metrics.overloads.labels("destination").value += 1
            if reporter.log is not None:
                reporter.log.refused(Flag.OVERLOAD.value, "", "too many connections")
            raise PeerRefused("overload", "too many connections")

        return InboundRelay(ledger, reporter, workload, caller).near


class InboundRelay(Relay):
    """A TCP session with the local application."""

    __slots__ = ("_caller", "_workload")

    def __init__(
        self, ledger: Ledger, reporter: Reporter, workload: InboundWorkload, caller: ServiceName
    ) -> None:
        super().__init__(ledger, reporter, workload.route.timeouts.stream_idle_s)
        self._workload = workload
        self._caller = caller

    def _rules_of(self, authorizer: Authorizer) -> CallerRules:
        return authorizer.of(self._caller)

    @property
    def endpoint(self) -> Endpoint | None:
        return self._workload.pool.endpoint

    def cut_if_denied(self) -> None:
        """Ends a session that would not be let in now."""
        workload = self._workload
        decision = self._rules_of(workload.authorizer).session
        if not decision.is_allowed:
            workload.denials.denied(self._caller, decision, self._ledger.now, is_cut=True)
            self.detail, self.policy = decision.why, decision.policy
            self.end(Flag.DENIED.value, is_reset=True)

    def start(self) -> None:
        route = self._workload.route
        self.dial(
            self._workload.dialer,
            route.app.host,
            route.app.port,
            route.timeouts.connect_s,
            lambda detail: self.refuse(Flag.UPSTREAM_CONNECT_FAILURE, detail),
        )
