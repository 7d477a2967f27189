"""Asks one local application whether it can serve, again and again."""

import asyncio
import logging
import random
from collections.abc import Callable

from proxy.core import grpc_health
from proxy.core.health import Health
from proxy.http.head import CHUNKED, RequestHead
from proxy.model.settings import Address, HealthCheck, Protocol
from proxy.net.exchange import ExchangeError, connect
from proxy.net.http2_question import ask

JITTER = 0.1
"""Of the interval, both ways, so that many workloads are not asked in one burst."""
MAX_DETAIL = 200

_USER_AGENT = b"user-agent: meshctl-health"

_log = logging.getLogger(__name__)


class HealthChecker:
    """The health of one workload; ``health`` is what is known now."""

    def __init__(
        self,
        name: str,
        app: Address,
        check: HealthCheck,
        changed: Callable[[], None],
        *,
        rng: random.Random,
        protocol: Protocol = "http",
    ) -> None:
        """``changed`` is called when the reported health changes, not at each probe."""
        self.health = Health()
        self._name, self._app, self._check = name, app, check
        self._protocol = protocol
        self._changed, self._rng = changed, rng

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            before = self.health
            failure = await probe(self._app, self._check, self._protocol)
            self.health = before.after(failure, unhealthy_after=self._check.unhealthy_after)
            if not before.says_the_same(self.health):
                _log.info(
                    "application is %s",
                    "healthy" if self.health.is_healthy else "unhealthy",
                    extra={"service": self._name, "detail": self.health.detail},
                )
                self._changed()
            jitter = self._rng.uniform(1 - JITTER, 1 + JITTER)
            await asyncio.sleep(self._check.interval_s * jitter)


async def probe(app: Address, check: HealthCheck, protocol: Protocol = "http") -> str | None:
    """None if the application answers as ``check`` wants it to, else why not, in a few words.

    ``protocol``: what it speaks, and so in which version of HTTP it is asked for a path.
    """
    try:
        async with asyncio.timeout(check.timeout_s):
            if check.kind == "grpc" or (check.kind == "http" and protocol in ("http2", "grpc")):
                return await _probe_http2(app, check)
            return await _probe(app, check)
    except TimeoutError:
        return f"no answer from {app.host}:{app.port} within {check.timeout_s:g} s"
    except ExchangeError as error:
        return f"{app.host}:{app.port}: {error}"[:MAX_DETAIL]


async def _probe_http2(app: Address, check: HealthCheck) -> str | None:
    host = f"[{app.host}]" if ":" in app.host else app.host
    authority = f"{host}:{app.port}".encode()
    is_grpc = check.kind == "grpc"
    message = grpc_health.question(check.grpc_service) if is_grpc else b""
    if is_grpc:
        head = RequestHead(b"POST", grpc_health.PATH, authority, False)
        head.lines = [_USER_AGENT, *grpc_health.LINES]
        head.length, head.is_grpc, head.has_te = CHUNKED, True, True
    else:
        head = RequestHead(b"GET", check.path.encode(), authority, False)
        head.lines = [_USER_AGENT, b"accept: */*"]
    answer = await ask(
        app.host,
        app.port,
        head,
        message,
        max_body_bytes=grpc_health.MAX_ANSWER_BYTES if is_grpc else 0,
        head_only=not is_grpc,
    )
    if is_grpc:
        return grpc_health.failure(answer.status, answer.lines, answer.body)
    return _judged(check, answer.status)


async def _probe(app: Address, check: HealthCheck) -> str | None:
    connection = await connect(app.host, app.port, max_body_bytes=0)
    try:
        if check.kind == "tcp":
            return None
        host = f"[{app.host}]" if ":" in app.host else app.host
        request = (
            f"GET {check.path} HTTP/1.1\r\nHost: {host}:{app.port}\r\n"
            "User-Agent: meshctl-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
        answer = await connection.ask(request.encode(), head_only=True)
    finally:
        connection.close()
    return _judged(check, answer.status)


def _judged(check: HealthCheck, status: int) -> str | None:
    return None if 200 <= status < 400 else f"GET {check.path} answered {status}"
