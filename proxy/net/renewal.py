"""Renews the identities of this host's workloads while nobody watches.

One task for all of them, one renewal at a time: a new key and a request for it (a short-lived
process), the signers in random order until one answers, the chain into place (the same process),
and a reload so that new connections use it. Until then, and if nothing of this works, what is in
force goes on being used; connections that exist are never touched.
"""

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from proxy.core.metrics import Metrics
from proxy.core.renewal import Life, Schedule, begin, failed, revoked
from proxy.model.names import ServiceName
from proxy.model.settings import Settings
from proxy.model.status import IdentityStatus, RenewalStatus
from proxy.net import key_command
from proxy.net.key_command import KeyCommandError
from proxy.net.signer_client import SignerClient, SignerError

IDLE_S = 60.0
"""How long it sleeps at most: the wall clock may be set meanwhile."""

Identities = Mapping[ServiceName, IdentityStatus | None]
Reload = Callable[[], Awaitable[Mapping[ServiceName, IdentityStatus | str]]]
ContextOf = Callable[[ServiceName], ssl.SSLContext | None]
Result = Literal["renewed", "unreachable", "busy", "refused", "revoked", "failed"]
RESULTS: tuple[Result, ...] = ("renewed", "unreachable", "busy", "refused", "revoked", "failed")
"""``failed``: on this host, by the key command or at the reload."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _State:
    """Of one workload."""

    serial: str
    schedule: Schedule
    error: str = ""


class _NotRenewed(Exception):
    def __init__(self, result: Result, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.result: Result = result
        self.retry_after_s = retry_after_s


class Renewals:
    """``run`` is a task of the process; ``observe`` says what is in force, whoever put it there."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        context_of: ContextOf,
        reload: Reload,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``context_of``: the client side of the identity in force. ``clock``: Unix seconds."""
        self._settings, self._rng, self._now = settings, rng, clock
        self._context_of, self._reload = context_of, reload
        self._client = SignerClient(trust_domain=settings.trust_domain)
        self._states: dict[ServiceName, _State] = {}
        self._changed = asyncio.Event()
        renewals = metrics.counter(
            "mesh_certificate_renewals_total",
            "Tries to renew an identity, by what came of them.",
            ("service", "result"),
        )
        self._counts = {
            (workload.service, result): renewals.labels(workload.service, result)
            for workload in settings.workloads
            for result in RESULTS
        }
        self._next_at = metrics.gauge(
            "mesh_certificate_next_renewal_seconds",
            "Unix time of the next renewal of the leaf in force; 0 without one.",
            ("service",),
        )

    def observe(self, identities: Identities) -> None:
        """The identities in force; a new leaf begins a new schedule."""
        for service, identity in identities.items():
            if identity is None:
                self._states.pop(service, None)
            elif service not in self._states or self._states[service].serial != identity.serial:
                life = Life(
                    not_before=_unix(identity.not_before), not_after=_unix(identity.not_after)
                )
                self._states[service] = _State(identity.serial, begin(life, self._now(), self._rng))
            self._show(service)
        self._changed.set()

    def status(self, service: ServiceName) -> RenewalStatus:
        state = self._states.get(service)
        if state is None:
            return RenewalStatus(next_at="", last_error="", failures=0, is_revoked=False)
        at = datetime.fromtimestamp(state.schedule.at, UTC)
        return RenewalStatus(
            next_at=f"{at:%Y-%m-%dT%H:%M:%SZ}",
            last_error=state.error,
            failures=state.schedule.failures,
            is_revoked=state.schedule.is_revoked,
        )

    async def run(self) -> None:
        while True:
            self._changed.clear()
            service = min(
                self._states, key=lambda each: self._states[each].schedule.at, default=None
            )
            wait_s = IDLE_S
            if service is not None:
                wait_s = min(wait_s, self._states[service].schedule.at - self._now())
            if service is None or wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                continue
            await self._attempt(service)

    async def _attempt(self, service: ServiceName) -> None:
        """One renewal and what follows from it; never raises but for bugs."""
        try:
            await self._renew(service)
        except _NotRenewed as error:
            self._count(service, error.result)
            self._put_off(service, error)
        else:
            self._count(service, "renewed")
        self._show(service)

    def _put_off(self, service: ServiceName, error: _NotRenewed) -> None:
        state = self._states.get(service)
        if state is None:
            return
        now = self._now()
        state.error = str(error)
        if error.result == "revoked":
            state.schedule = revoked(state.schedule, now, self._rng)
        else:
            state.schedule = failed(
                state.schedule, now, self._rng, retry_after_s=error.retry_after_s
            )
        # A first failure is no news: there is a third of the life for the next tries.
        level = logging.ERROR if error.result in ("revoked", "failed") else logging.WARNING
        _log.log(
            level,
            "identity not renewed: %s",
            error,
            extra={
                "service": service,
                "result": error.result,
                "failures": state.schedule.failures,
                "again_in_s": round(state.schedule.at - now, 1),
                "ends_in_s": round(state.schedule.life.not_after - now),
            },
        )

    async def _renew(self, service: ServiceName) -> None:
        """Raises _NotRenewed."""
        before = self._states[service].serial
        try:
            csr_pem = await key_command.request(self._settings, service)
            chain = await self._ask(service, csr_pem)
            await key_command.install(self._settings, service, chain)
        except KeyCommandError as error:
            raise _NotRenewed("failed", str(error)) from error
        found = (await self._reload()).get(service)
        if isinstance(found, str):
            raise _NotRenewed("failed", found)
        state = self._states.get(service)
        if state is not None and state.serial == before:
            raise _NotRenewed("failed", "the new certificate did not come into force")

    async def _ask(self, service: ServiceName, csr_pem: bytes) -> bytes:
        """The chain from the first signer that gives one. Raises _NotRenewed: what the most
        telling of them said."""
        context = self._context_of(service)
        if context is None:
            raise _NotRenewed("failed", f"{service} has no identity in force to ask with")
        signers = list(self._settings.signers)
        self._rng.shuffle(signers)
        failures: list[SignerError] = []
        for signer in signers:
            try:
                return await self._client.renew(signer, context, csr_pem)
            except SignerError as error:
                failures.append(error)
        worst = max(failures, key=lambda error: _TELLING.index(error.kind))
        raise _NotRenewed(
            worst.kind,
            "; ".join(str(error) for error in failures),
            max(error.retry_after_s for error in failures),
        )

    def _count(self, service: ServiceName, result: Result) -> None:
        self._counts[service, result].value += 1

    def _show(self, service: ServiceName) -> None:
        state = self._states.get(service)
        self._next_at.labels(service).value = state.schedule.at if state else 0


_TELLING = ("unreachable", "busy", "refused", "revoked")
"""Of several signers' refusals the last in this order decides what is done next."""


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
