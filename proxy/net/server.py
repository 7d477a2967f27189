"""One proxy process: wires everything, starts it in order, and ends it in order.

Start: last good state from disk, listeners, admin; ready once the registry has answered, or the
disk had the answers, or it has been waited for long enough; only then does the host show up in
the registry. Stop: unready in the registry first, so that callers turn away, then drain, then
close. The services stay registered, critical, so that a restart is not a change of membership.
"""

import asyncio
import logging
import os
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from proxy.core.metrics import Metrics
from proxy.core.table import compile_table
from proxy.model.endpoint import Catalogue
from proxy.model.names import ServiceName
from proxy.model.policy import Policy
from proxy.model.registration import Acknowledgement
from proxy.model.settings import Settings
from proxy.model.status import IdentityStatus, State
from proxy.net.admin import Admin
from proxy.net.channel import Reply
from proxy.net.consul import Consul
from proxy.net.dataplane import DataPlane
from proxy.net.health import HealthChecker
from proxy.net.memory import settle_in
from proxy.net.observing import Observing
from proxy.net.pulse import PULSE_S, pulse
from proxy.net.registrar import Registrar, Standing
from proxy.net.renewal import Renewals
from proxy.net.report import Gauges, Report, not_after
from proxy.net.scrape import Scrape
from proxy.net.sockets import Sockets, worker_count
from proxy.net.store import Store
from proxy.net.tasks import Tasks
from proxy.net.watcher import Watcher
from proxy.net.workers import Workers
from proxy.notify import Notifier

FIRST_ANSWERS_S = 5.0
"""How long the start waits for the registry before it goes on without."""
FIRST_HEALTH_S = 2.5
"""How long the registration waits for the first word on the applications."""
ANNOUNCE_S = 2.0
"""How long a stop waits for the registry to be told of it."""
ANNOUNCE_AGAIN_S = 0.3
"""The same for a registry that has just failed."""
LAME_DUCK_S = 1.0
"""After that, how long callers have to be told by the registry, while we still serve."""
DRAIN_AFTER_FAILURE_S = 5.0
FIRST_WORKERS_S = 5.0
"""How long the start waits for the other workers before it goes on without."""

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The process cannot start; one sentence that says what is in the way."""


class Server:
    """``run`` is the whole life of it; ``stop`` and ``reload`` may be called meanwhile."""

    def __init__(
        self,
        settings: Settings,
        *,
        token: str | None = None,
        notifier: Notifier | None = None,
        rng: random.Random | None = None,
        make_dataplane: Callable[..., DataPlane] = DataPlane,
    ) -> None:
        """Within a running event loop. ``token`` is for Consul."""
        self.state: State = "starting"
        self._settings = settings
        self._notifier = notifier or Notifier(os.environ)
        rng = rng or random.SystemRandom()
        metrics = Metrics()
        count = worker_count(settings)
        self._sockets = Sockets(settings, count)
        self._dataplane = (
            make_dataplane(settings, metrics)
            if count == 1
            else make_dataplane(settings, metrics, share=1 / count, sockets=self._sockets.of(0))
        )
        self._workers = Workers(
            settings, self._sockets, self._dataplane, metrics, rng=rng, settled=self._settled
        )
        self._identities: dict[ServiceName, IdentityStatus | None] = {}
        self._consul = Consul(
            settings.consul.url,
            token=token,
            token_file=settings.consul.token_file,
            datacenter=settings.consul.datacenter,
        )
        self._store = Store(Path(settings.state_dir), settings.trust_domain)
        self._watcher = Watcher(
            settings, self._consul, self._changed, last_good=self._store.load(), rng=rng
        )
        self._registrar = Registrar(settings, self._consul, self._standing, rng=rng)
        self._checkers = {
            work.service: HealthChecker(
                work.service,
                work.app,
                work.health,
                self._health_changed,
                rng=rng,
                protocol=work.protocol,
            )
            for work in settings.workloads
        }
        self._gauges = Gauges(settings, metrics)
        self._renewals = Renewals(
            settings,
            metrics,
            context_of=self._dataplane.client_context,
            reload=self._reload_everywhere,
            rng=rng,
        )
        self._watcher.on_error = self._registrar.on_error = self._gauges.registry_error
        self.report = Report(
            settings,
            metrics=metrics,
            watcher=self._watcher,
            registrar=self._registrar,
            checkers=self._checkers,
            workers=self._workers,
            recent=self._dataplane.recent,
            clusters=self._dataplane.clusters,
            state=lambda: self.state,
            generation=lambda: self._generation,
            identities=lambda: self._identities,
            user_problems=self._dataplane.user_problems,
            reload=self._reload_everywhere,
            renewal=self._renewals.status if settings.signers else None,
        )
        self._admin = Admin(
            self.report.routes() | Observing(self._dataplane, self._workers).routes()
        )
        self._scrape = (
            Scrape(settings.metrics, self.report.scraped, metrics) if settings.metrics else None
        )
        self._tasks = Tasks()
        self._applied: tuple[Policy | None, Catalogue] | None = None
        self._cuts = 0
        """Policies in force that ended what they would not let in."""
        self._generation = 0
        """Of the policy that every worker runs."""
        self._reloading: list[asyncio.Future[Reply]] = []
        self._acknowledged: Acknowledgement | None = None
        self._serving: frozenset[ServiceName] = frozenset()
        self._is_compile_due = self._is_registering = False
        self._health_known = asyncio.Event()
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """Until stopped: exit code 0, or 1 if a task died. Raises StartError, ListenError."""
        try:
            await self._start()
            died = await self._until_stopped()
            await self._drain(DRAIN_AFTER_FAILURE_S if died else self._settings.drain_s)
        finally:
            await self._close()
        return 1 if died else 0

    def stop(self) -> None:
        """Gracefully; called again: now."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    def reload(self) -> dict[ServiceName, IdentityStatus | str]:
        """Identities and trust bundle anew, for new connections; reasons where that failed. The
        policy keys as well, which say for themselves what was wrong with them."""
        is_ready = self.state == "ready"
        if is_ready:
            self._notifier.reloading()
        self._reloading = self._workers.reload()
        self._watcher.reload_keys()
        found = self._dataplane.reload_identities()
        for name, what in found.items():
            if isinstance(what, str):
                _log.error("identity not reloaded: %s", what, extra={"service": name})
            else:
                _log.info("identity in force", extra={"service": name, "serial": what.serial})
        self._take_identities()
        if is_ready:  # else this would tell systemd of a start that is not over
            self._notifier.ready(self._summary())
        return found

    async def _reload_everywhere(self) -> dict[ServiceName, IdentityStatus | str]:
        found = self.reload()
        return found | await self._workers.reloaded(self._reloading)

    # Start, service, stop.

    async def _start(self) -> None:
        admin = self._settings.admin
        self._apply()
        self._sockets.bind()
        await self._dataplane.start()
        self._take_identities()
        try:
            await self._admin.start(admin.host, admin.port)
        except OSError as error:
            raise StartError(
                f"cannot listen on {admin.host}:{admin.port} for the admin port: "
                f"{os.strerror(error.errno) if error.errno else error}"
            ) from error
        if self._scrape is not None:
            await self._start_scrape(self._scrape)
        self._tasks.start("pulse", self._pulse())
        if self._settings.signers:
            self._tasks.start("renewal", self._renewals.run())
        self._tasks.start("store", self._store.run())
        for name, work in (*self._workers.tasks(), *self._watcher.tasks()):
            self._tasks.start(name, work)
        for service, checker in self._checkers.items():
            self._tasks.start(f"health-{service}", checker.run())
        self._tasks.start("registrar", self._become_ready())

    async def _start_scrape(self, scrape: Scrape) -> None:
        try:
            await scrape.start()
        except OSError as error:
            raise StartError(
                f"cannot listen on {scrape.place} for metrics: "
                f"{os.strerror(error.errno) if error.errno else error}"
            ) from error

    async def _become_ready(self) -> None:
        if not self._watcher.is_warm:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_ANSWERS_S):
                    await self._watcher.first_answers.wait()
            self._apply()
        await self._workers.all_listen(FIRST_WORKERS_S)
        self.state = "ready"
        _log.info("ready", extra={"registry_error": self._watcher.error})
        self._notifier.ready(self._summary())
        settle_in()
        if self._checkers:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_HEALTH_S):
                    await self._health_known.wait()
        self._is_registering = True
        await self._registrar.run()

    async def _until_stopped(self) -> bool:
        """True if a task died."""
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((stop, self._tasks.failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        return not self._stop.is_set()

    async def _drain(self, drain_s: float) -> None:
        self.state = "draining"
        connections = self._dataplane.open_connections + self._workers.connections
        _log.info("draining", extra={"connections": connections})
        self._notifier.stopping("draining")
        now = asyncio.ensure_future(self._stop_now.wait())
        graceful = asyncio.ensure_future(self._drain_gracefully(drain_s))
        try:
            await asyncio.wait((now, graceful), return_when=asyncio.FIRST_COMPLETED)
            if graceful.done():
                _log.info("drained", extra={"is_complete": graceful.result()})
            else:
                _log.warning("stopped at once, by a second signal")
        finally:
            now.cancel()
            graceful.cancel()
            await asyncio.gather(now, graceful, return_exceptions=True)

    async def _drain_gracefully(self, drain_s: float) -> bool:
        announce_s = ANNOUNCE_AGAIN_S if self._registrar.error else ANNOUNCE_S
        if self._is_registering and await self._registrar.flush(min(announce_s, drain_s)):
            await asyncio.sleep(min(LAME_DUCK_S, drain_s / 4))
        return all(
            await asyncio.gather(self._dataplane.drain(drain_s), self._workers.drain(drain_s))
        )

    async def _close(self) -> None:
        await self._tasks.stop()
        await self._store.flush()
        await self._admin.close()
        if self._scrape is not None:
            await self._scrape.close()
        await asyncio.gather(self._dataplane.close(), self._workers.close())
        await self._consul.close()

    # What changes while it runs.

    def _changed(self) -> None:
        """The watcher's state has changed; many changes in one turn make one table."""
        if not self._is_compile_due:
            self._is_compile_due = True
            asyncio.get_running_loop().call_soon(self._apply)

    def _apply(self) -> None:
        self._is_compile_due = False
        wanted = (self._watcher.policy, self._watcher.catalogue)
        cuts = self._watcher.cuts
        if wanted != self._applied or cuts != self._cuts:
            self._dataplane.apply(compile_table(self._settings, *wanted))
            self._workers.apply(*wanted, cuts)
            if cuts != self._cuts:
                self._dataplane.cut_denied()
            self._applied, self._cuts = wanted, cuts
        self._store.changed(lambda: self._watcher.last_good)
        self._settled()

    def _settled(self) -> None:
        """Something is in force that was not, or is now in force in every worker."""
        if self._workers.is_settled and not self._is_compile_due:
            self._generation = self._watcher.generation
        self._gauges.observe(self._watcher, self._generation)
        acknowledged = self._acknowledgement()
        if acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            self._registrar.poke()

    def _health_changed(self) -> None:
        if all(checker.health.is_known for checker in self._checkers.values()):
            self._health_known.set()
        self._registrar.poke()

    def _take_identities(self) -> None:
        self._identities = dict(self._dataplane.identities())
        self._gauges.certificates(self._identities)
        self._renewals.observe(self._identities)
        self._serving = self._with_valid_identity()
        self._registrar.poke()

    async def _pulse(self) -> None:
        """Watches the event loop, the watchdog's time, and the expiry of identities."""
        watchdog_s = self._notifier.watchdog_s
        period_s = min(PULSE_S, watchdog_s / 3) if watchdog_s else PULSE_S
        await pulse(self._gauges.loop_lag, self._beat, period_s)

    def _beat(self) -> None:
        if self._notifier.watchdog_s:
            self._notifier.alive()
        serving = self._with_valid_identity()
        if serving != self._serving:
            expired = sorted(self._serving - serving)
            _log.error("identity expired", extra={"services": expired})
            self._serving = serving
            self._registrar.poke()

    # What is said to others.

    def _with_valid_identity(self) -> frozenset[ServiceName]:
        now = datetime.now(UTC)
        return frozenset(
            name
            for name, identity in self._identities.items()
            if (moment := not_after(identity)) is not None and now < moment
        )

    def _standing(self, service: ServiceName) -> Standing:
        health = self._checkers[service].health
        return Standing(
            acknowledgement=self._acknowledgement(),
            is_serving=self.state == "ready" and service in self._serving,
            is_app_healthy=health.is_healthy,
            app_detail=health.detail,
        )

    def _acknowledgement(self) -> Acknowledgement:
        return Acknowledgement(
            generation=self._generation,
            release=self._settings.release,
            config=self._settings.config,
            state=self.state,
            refused=self._watcher.refused,
        )

    def _summary(self) -> str:
        return (
            f"{self.state}: {len(self._settings.workloads)} workload(s), "
            f"policy generation {self._generation}"
        )
