"""Keeps this host's workloads in the registry, with what the proxy says of itself and of them.

Two TTL checks per workload: the proxy's, whose output is the ``Acknowledgement``, and the
application's. Both are renewed at a third of the shorter TTL, and at once when something changes.
What the agent lost (restarted, wiped) is registered again; what this host registered earlier and
no longer carries is removed.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.backoff import Backoff
from proxy.model import registration as reg
from proxy.model.codec import encode
from proxy.model.names import ServiceName
from proxy.model.registration import Acknowledgement
from proxy.model.settings import Settings, Workload
from proxy.net.consul import CheckStatus, Consul, ConsulError, Rejected, TtlCheck

APP_TTL_S = 6 * reg.PROXY_TTL_S
"""Longer than the proxy's, so that a dead proxy reads as that and not as a dead application."""

INTERVAL_S = reg.PROXY_TTL_S / 3
MESH = "meshctl"
"""Value of META_MESH; its presence is what counts."""

_UNKNOWN = frozenset({404, 500})
"""A check the agent does not know: 404 in current versions, 500 in 1.8."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is reported of one workload."""

    acknowledgement: Acknowledgement
    is_serving: bool
    """The proxy is ready and has an identity for it."""
    is_app_healthy: bool
    app_detail: str


@dataclass(slots=True)
class _Reported:
    """What the agent has been told last; None: it must be told at once."""

    proxy: tuple[CheckStatus, str] | None = None
    app: tuple[CheckStatus, str] | None = None


class Registrar:
    """``standing`` is asked at each report; ``poke`` says that its answer has changed."""

    def __init__(
        self,
        settings: Settings,
        consul: Consul,
        standing: Callable[[ServiceName], Standing],
        *,
        rng: random.Random,
    ) -> None:
        self.error = ""
        """The last failure; empty while it works."""
        self.is_announced = False
        """The agent has been told of every workload at least once."""
        self.on_error: Callable[[ConsulError], None] = lambda error: None
        self._settings, self._consul, self._standing = settings, consul, standing
        self._rng = rng
        self._known: dict[ServiceName, _Reported] = {}
        self._is_tidy = False
        self._is_withdrawn = False
        self._poked = asyncio.Event()
        self._rounds = asyncio.Condition()
        self._asked = self._done = 0
        self._busy = asyncio.Lock()

    def poke(self) -> None:
        """Report now, not at the next tick."""
        self._asked += 1
        self._poked.set()

    async def flush(self, deadline_s: float) -> bool:
        """Reports now; True if the agent has been told everything by the deadline."""
        self.poke()
        wanted = self._asked
        try:
            async with asyncio.timeout(deadline_s), self._rounds:
                await self._rounds.wait_for(lambda: self._done >= wanted)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Until cancelled; the services stay registered then."""
        # No longer than the TTL: a recovered agent must hear of us before the checks expire.
        backoff = Backoff(base_s=0.1, cap_s=reg.PROXY_TTL_S / 2)
        while True:
            asked = self._asked
            self._poked.clear()
            try:
                async with self._busy:
                    await self._report()
            except ConsulError as error:
                self._note(error)
                pause_s = backoff.next_s(self._rng)
            else:
                if self.error:
                    _log.info("the registry works again")
                self.error = ""
                self.is_announced = True
                backoff.reset()
                pause_s = INTERVAL_S
                async with self._rounds:
                    self._done = asked
                    self._rounds.notify_all()
            try:
                async with asyncio.timeout(pause_s):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def withdraw(self) -> tuple[str, ...]:
        """Removes every service of this host, for good; their ids. Raises ConsulError."""
        self._is_withdrawn = True
        async with self._busy:
            self._known.clear()
            return await self._remove_all_but(frozenset())

    async def _report(self) -> None:
        if self._is_withdrawn:
            return
        refused: Rejected | None = None
        for workload in self._settings.workloads:
            try:
                await self._report_or_register(workload)
            except Rejected as error:
                refused = refused or error  # about this workload only; the others go on
        if refused is not None:
            raise refused
        if not self._is_tidy:
            own = {reg.service_id(w.service, self._settings.host) for w in self._settings.workloads}
            await self._remove_all_but(frozenset(own))
            self._is_tidy = True

    async def _report_or_register(self, workload: Workload) -> None:
        was_known = workload.service in self._known
        try:
            await self._report_workload(workload)
        except Rejected as error:
            self._known.pop(workload.service, None)
            if error.status not in _UNKNOWN or not was_known:
                raise
            _log.info("registering anew", extra={"service": workload.service})
            self._is_tidy = False
            await self._report_workload(workload)

    async def _report_workload(self, workload: Workload) -> None:
        service, host = workload.service, self._settings.host
        standing = self._standing(service)
        proxy: tuple[CheckStatus, str] = (
            "passing" if standing.is_serving else "critical",
            encode(standing.acknowledgement).decode(),
        )
        app: tuple[CheckStatus, str] = (
            "passing" if standing.is_app_healthy else "critical",
            standing.app_detail,
        )
        reported = self._known.get(service)
        if reported is None:
            await self._register(workload, proxy[0], app[0])
            # The initial status counts as told, its empty output does not.
            reported = self._known[service] = _Reported(proxy=(proxy[0], ""), app=app)
        if proxy[0] == "passing" and reported.proxy != proxy:
            # An agent writes a new output with an old status to the catalogue only after
            # minutes (check_update_interval, 5 min), a new status at once. A warning is still
            # an endpoint to every proxy of this mesh.
            await self._consul.update_check(reg.proxy_check_id(service, host), "warning", proxy[1])
        reported.proxy = None
        await self._consul.update_check(reg.proxy_check_id(service, host), *proxy)
        reported.proxy = proxy
        await self._consul.update_check(reg.app_check_id(service, host), *app)
        reported.app = app

    async def _register(self, workload: Workload, proxy: CheckStatus, app: CheckStatus) -> None:
        service, host = workload.service, self._settings.host
        await self._consul.register(
            service_id=reg.service_id(service, host),
            name=reg.catalogue_name(service),
            address=self._settings.advertise,
            port=self._settings.inbound.port,
            meta={
                reg.META_MESH: MESH,
                reg.META_TRUST_DOMAIN: self._settings.trust_domain,
                reg.META_HOST: host,
                reg.META_VERSION: workload.version,
                reg.META_PROTOCOL: workload.protocol,
                reg.META_WEIGHT: str(workload.weight),
                **({reg.META_ZONE: self._settings.zone} if self._settings.zone else {}),
                **self._scraped_at(),
            },
            checks=(
                TtlCheck(
                    check_id=reg.proxy_check_id(service, host),
                    name="mesh proxy",
                    ttl_s=reg.PROXY_TTL_S,
                    status=proxy,
                    deregister_after_s=reg.DEREGISTER_AFTER_S,
                ),
                TtlCheck(
                    check_id=reg.app_check_id(service, host),
                    name="application",
                    ttl_s=APP_TTL_S,
                    status=app,
                ),
            ),
        )

    def _scraped_at(self) -> dict[str, str]:
        metrics, host = self._settings.metrics, self._settings.advertise
        if metrics is None:
            return {}
        return {reg.META_METRICS: f"{f'[{host}]' if ':' in host else host}:{metrics.listen.port}"}

    async def _remove_all_but(self, wanted: frozenset[str]) -> tuple[str, ...]:
        removed = []
        for service_id, service in sorted((await self._consul.services()).items()):
            meta = service.meta or {}
            is_ours = (
                reg.META_MESH in meta
                and meta.get(reg.META_TRUST_DOMAIN) == self._settings.trust_domain
                and meta.get(reg.META_HOST) == self._settings.host
            )
            if is_ours and service_id not in wanted:
                _log.info("deregistering", extra={"id": service_id})
                await self._consul.deregister(service_id)
                removed.append(service_id)
        return tuple(removed)

    def _note(self, error: ConsulError) -> None:
        before, self.error = self.error, f"registration with {self._consul.url}: {error}"
        self.on_error(error)
        if self.error != before:
            _log.warning("the registry cannot be told: %s", error, extra={"kind": error.kind})
