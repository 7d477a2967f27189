"""Active health checks: this proxy asks each endpoint of a cluster, through the mesh, by itself.

An endpoint that fails is left out of balancing until it has answered often enough again. One
timer for each endpoint, spread at random so that the endpoints of many callers are not asked in
step; a check that could not be made for a reason of our own counts for nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from proxy.core import grpc_health
from proxy.core.health import Health
from proxy.core.retry import Failure, Verdict
from proxy.http.exchange import Exchange
from proxy.http.head import CHUNKED, RequestHead, ResponseHead
from proxy.http.ledger import Ledger
from proxy.model.flags import Flag
from proxy.model.policy import Timeouts
from proxy.model.resilience import ActiveHealth
from proxy.net.pool import EndpointPool, jitter
from proxy.net.pool_dial import Dial

_OUR_OWN = frozenset((Flag.UPSTREAM_OVERFLOW.value, Flag.OVERLOAD.value))
_USER_AGENT = b"user-agent: meshctl-health"
_log = logging.getLogger(__name__)


class EndpointHealth:
    """The checks of one cluster; ``changed`` is called when an endpoint's standing changes."""

    def __init__(self, caller: str, ledger: Ledger, changed: Callable[[], None]) -> None:
        self._caller = caller
        self._ledger = ledger
        self._changed = changed
        self._checks: dict[EndpointPool, _Check] = {}
        self._policy: ActiveHealth | None = None

    def use(self, policy: ActiveHealth | None, pools: Sequence[EndpointPool]) -> None:
        """New figures start from what is known; without a policy everybody is well."""
        if policy != self._policy:
            self._policy = policy
            for check in self._checks.values():
                check.stop()
            self._checks = {}
            if policy is None:
                for pool in pools:
                    pool.is_failing = False
        if policy is None:
            return
        for pool in self._checks.keys() - set(pools):
            self._checks.pop(pool).stop()
        for pool in pools:
            if pool not in self._checks:
                self._checks[pool] = _Check(policy, pool, self._ledger, self._caller, self._changed)

    def stop(self) -> None:
        for check in self._checks.values():
            check.stop()
        self._checks = {}


class _Check:
    """Of one endpoint. An HTTP Handler and the downstream half of its own requests."""

    trusts_flag = True

    def __init__(
        self,
        policy: ActiveHealth,
        pool: EndpointPool,
        ledger: Ledger,
        caller: str,
        changed: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._pool = pool
        self._ledger = ledger
        self._changed = changed
        self.subject = f"{caller} -> {pool.endpoint.service} (health check)"
        self.authority = pool.endpoint.service.encode()
        self.timeouts = Timeouts(connect_s=policy.timeout_s, request_s=policy.timeout_s)
        self._health = Health(is_known=True, is_healthy=not pool.is_failing)
        self._dial: Dial | None = None
        self._answer: _Answer | None = None
        """What has come of the one that is being waited for; None: not asked by gRPC."""
        self._is_stopped = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(
            jitter().random() * min(policy.interval_s, 1.0), self._ask
        )

    def stop(self) -> None:
        self._is_stopped = True
        self._timer.cancel()
        if self._dial is not None:
            self._dial.cancel()

    def _ask(self) -> None:
        if self._pool.dialer.identity is None:
            self._again()
        elif self._policy.kind == "tcp":
            endpoint = self._pool.endpoint
            self._dial = self._pool.dialer.dial(
                endpoint.address,
                endpoint.port,
                self._policy.timeout_s,
                _Connected(self._connected),
                self._learn,
            )
        elif self._policy.kind == "grpc":
            self._ask_by_grpc()
        else:
            head = RequestHead(b"GET", self._policy.path.encode(), self.authority, False)
            head.lines = [_USER_AGENT]
            Exchange(self, head, self, self._ledger).begin(b"", True, [])

    def _ask_by_grpc(self) -> None:
        message = grpc_health.question(self._policy.grpc_service)
        head = RequestHead(b"POST", grpc_health.PATH, self.authority, False)
        head.lines = [_USER_AGENT, *grpc_health.LINES]
        head.length, head.is_grpc, head.has_te = CHUNKED, True, True
        exchange = Exchange(self, head, self, self._ledger)
        self._answer = _Answer(exchange)
        exchange.begin(message, True, [])

    def _connected(self) -> None:
        if self._dial is not None:
            self._dial.succeeded()
            self._dial = None
        self._learn(None)

    def _learn(self, failure: str | None) -> None:
        self._dial = None
        if self._is_stopped:
            return
        policy = self._policy
        before = self._health
        self._health = before.after(
            failure, unhealthy_after=policy.unhealthy_after, healthy_after=policy.healthy_after
        )
        is_failing = not self._health.is_healthy
        if is_failing is not self._pool.is_failing:
            self._pool.is_failing = is_failing
            self._pool.why = f"health check: {failure}" if is_failing else ""
            endpoint = self._pool.endpoint
            _log.warning(
                "endpoint %s its health check",
                "fails" if is_failing else "passes",
                extra={
                    "service": endpoint.service,
                    "endpoint": f"{endpoint.host} {endpoint.address}:{endpoint.port}",
                    "detail": failure or "",
                },
            )
            self._changed()
        self._again()

    def _again(self) -> None:
        spread = 0.9 + 0.2 * jitter().random()
        self._timer = self._loop.call_later(self._policy.interval_s * spread, self._ask)

    # As a Handler

    def dispatch(self, exchange: Exchange) -> None:
        exchange.timeouts = self.timeouts
        exchange.request_s = self.timeouts.request_s
        self._pool.serve(exchange)

    def retry(self, exchange: Exchange, failure: Failure | None, verdict: Verdict) -> bool:
        return False

    def finished(self, exchange: Exchange) -> None:
        if self._is_stopped:
            return
        status = exchange.status
        wanted = self._policy.statuses
        if self._answer is not None:
            if not exchange.flag:
                return  # The last of the answer follows, and with it what it says.
            self._answer = None
            status = status if status >= 400 else 0
        if exchange.flag in _OUR_OWN:
            self._again()
        elif status in wanted if wanted else 200 <= status < 400:
            self._learn(None)
        elif exchange.flag == Flag.DOWNSTREAM_RESET:
            self._learn(f"its answer is longer than {grpc_health.MAX_ANSWER_BYTES} bytes")
        else:
            said = f"status {status}" if status else "no whole answer"
            self._learn(said + (f" {exchange.flag}" if exchange.flag else ""))

    # As a downstream half, which wants what gRPC says behind the head, and nothing of HTTP

    def respond(self, head: ResponseHead, data: bytes, is_end: bool) -> None:
        if (answer := self._answer) is not None:
            answer.status = head.status
            self._received(answer, head.lines, data, is_end)

    def respond_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        if (answer := self._answer) is not None:
            self._received(answer, trailers, data, is_end)

    def respond_whole(self, head: ResponseHead, data: bytes, trailers: list[bytes]) -> None:
        self.respond(head, data, False)
        self.respond_data(b"", True, trailers)

    def _received(self, answer: "_Answer", lines: list[bytes], data: bytes, is_end: bool) -> None:
        answer.lines += lines
        answer.body += data
        if len(answer.body) > grpc_health.MAX_ANSWER_BYTES:
            answer.exchange.downstream_gone()
        elif is_end:
            self._answer = None
            self._learn(grpc_health.failure(answer.status, answer.lines, answer.body))

    def inform(self, head: ResponseHead) -> None: ...
    def abandon(self) -> None: ...
    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
    def client(self) -> bytes:
        return b""


class _Answer:
    """To a call of gRPC's health service, as far as it has come."""

    __slots__ = ("body", "exchange", "lines", "status")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.status = 0
        self.lines: list[bytes] = []
        """Of the head and of the trailers."""
        self.body = b""


class _Connected(asyncio.Protocol):
    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def connection_made(self, transport: Any) -> None:
        self._then()
        transport.close()
