"""Follows the registry: the endpoints of every upstream, and the published policy.

What is in force is always whole and sound: an error, a refused snapshot or an emptied registry
leaves the last good state where it is (``core.discovery``, ``core.adoption``), and says so.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from proxy.core.adoption import judge
from proxy.core.backoff import Backoff, TokenBucket
from proxy.core.blocking import Cursor
from proxy.core.discovery import ServiceView
from proxy.model import registration as reg
from proxy.model.endpoint import Catalogue
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, Snapshot
from proxy.model.settings import Settings
from proxy.model.status import PolicySource
from proxy.net import entries
from proxy.net.consul import Consul, ConsulError
from proxy.net.store import LastGood

WAIT_S = 60.0
"""How long the registry may hold a blocking query."""
BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 8.0
"""Below 10 s, in which the mesh is to converge once a lost leader is replaced; the questions go
to the local agent, so that a higher cap would spare nobody."""
QUERIES_PER_S = 4.0
QUERIES_AT_ONCE = 10.0
"""Per watch: for a registry that answers at once, whatever the reason."""

_SNAPSHOT = "policy"

_log = logging.getLogger(__name__)

Ask = Callable[[Cursor], Awaitable[Cursor]]


class Watcher:
    """Current state in attributes; ``changed`` is called after each change of them."""

    def __init__(
        self,
        settings: Settings,
        consul: Consul,
        changed: Callable[[], None],
        *,
        last_good: LastGood | None,
        rng: random.Random,
    ) -> None:
        self.snapshot: Snapshot | None = last_good.snapshot if last_good else None
        self.policy_source: PolicySource = "disk" if self.snapshot else "none"
        self.refused = ""
        self.on_error: Callable[[ConsulError], None] = lambda error: None
        self.first_answers = asyncio.Event()
        """The registry has answered every question at least once."""
        self._settings, self._consul, self._changed, self._rng = settings, consul, changed, rng
        services = {up.service for work in settings.workloads for up in work.upstreams}
        known = last_good.catalogue.endpoints if last_good else {}
        self.views: dict[ServiceName, ServiceView] = {
            service: ServiceView(
                service=service,
                endpoints=known.get(service, ()),
                source="disk" if known.get(service) else "none",
            )
            for service in sorted(services)
        }
        self._is_restored = last_good is not None
        self._unanswered: set[str] = {_SNAPSHOT, *self.views}
        self._errors: dict[str, str] = {}

    @property
    def is_warm(self) -> bool:
        """Every answer needed to serve was on disk or has come since."""
        return self._is_restored and all(view.source != "none" for view in self.views.values())

    @property
    def policy(self) -> Policy:
        return self.snapshot.policy if self.snapshot else Policy()

    @property
    def generation(self) -> int:
        return self.snapshot.generation if self.snapshot else 0

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(endpoints={name: view.endpoints for name, view in self.views.items()})

    @property
    def last_good(self) -> LastGood:
        return LastGood(
            trust_domain=self._settings.trust_domain,
            snapshot=self.snapshot,
            catalogue=self.catalogue,
        )

    @property
    def error(self) -> str:
        """Failures to ask, and answers that are not believed; empty while all is well."""
        doubts = [view.doubt for view in self.views.values() if view.doubt]
        return "; ".join([*sorted(set(self._errors.values())), *doubts])

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Name and work of each watch, for the supervisor."""
        yield "watch-policy", self._watch(_SNAPSHOT, self._ask_snapshot)
        for service in self.views:
            yield f"watch-{service}", self._watch(service, self._asker(service))

    async def _watch(self, subject: str, ask: Ask) -> None:
        cursor = Cursor()
        backoff = Backoff(base_s=BACKOFF_BASE_S, cap_s=BACKOFF_CAP_S)
        bucket = TokenBucket(rate=QUERIES_PER_S, burst=QUERIES_AT_ONCE)
        while True:
            await asyncio.sleep(bucket.take_s(time.monotonic()))
            try:
                cursor = await ask(cursor)
            except ConsulError as error:
                cursor = cursor.after_failure()
                self._failed(subject, error)
                await asyncio.sleep(backoff.next_s(self._rng))
                continue
            backoff.reset()
            self._worked(subject)

    def _asker(self, service: ServiceName) -> Ask:
        name = reg.catalogue_name(service)

        async def ask(cursor: Cursor) -> Cursor:
            view = self.views[service]
            wait_s = WAIT_S
            if view.kept:
                wait_s = min(WAIT_S, max(1.0, view.keep_until_s - time.monotonic()))
            answer = await self._consul.health(name, index=cursor.index, wait_s=wait_s)
            after = cursor.after(answer.index)
            seen = entries.read(
                answer, service, self._settings.trust_domain, went_back=after.went_back
            )
            self._see(view, view.after(seen, time.monotonic()))
            return after

        return ask

    def _see(self, before: ServiceView, now: ServiceView) -> None:
        self.views[now.service] = now
        if now.doubt and now.doubt != before.doubt:
            _log.warning("%s", now.doubt, extra={"service": now.service})
        if now.malformed and now.malformed != before.malformed:
            _log.warning(
                "the registry has malformed entries",
                extra={"service": now.service, "count": now.malformed},
            )
        if now.endpoints != before.endpoints:
            _log.info(
                "endpoints changed",
                extra={"service": now.service, "endpoints": len(now.endpoints), "kept": now.kept},
            )
        if now != before:
            self._changed()

    async def _ask_snapshot(self, cursor: Cursor) -> Cursor:
        answer = await self._consul.key(reg.SNAPSHOT_KEY, index=cursor.index, wait_s=WAIT_S)
        verdict = judge(self.snapshot, answer.value, self._settings.trust_domain)
        before = (self.snapshot, self.refused, self.policy_source)
        if verdict.refused and verdict.refused != self.refused:
            _log.error("the published policy is refused: %s", verdict.refused)
        if verdict.snapshot != self.snapshot and verdict.snapshot is not None:
            _log.info("policy in force", extra={"generation": verdict.snapshot.generation})
        if answer.value is not None and not verdict.refused:
            self.policy_source = "consul"
        self.snapshot, self.refused = verdict.snapshot, verdict.refused
        if (self.snapshot, self.refused, self.policy_source) != before:
            self._changed()
        return cursor.after(answer.index)

    def _failed(self, subject: str, error: ConsulError) -> None:
        if subject not in self._errors:
            _log.warning(
                "the registry does not answer: %s",
                error,
                extra={"subject": subject, "kind": error.kind},
            )
        self._errors[subject] = f"{self._consul.url}: {error}"
        self.on_error(error)

    def _worked(self, subject: str) -> None:
        if self._errors.pop(subject, None) is not None:
            _log.info("the registry answers again", extra={"subject": subject})
        self._unanswered.discard(subject)
        if not self._unanswered:
            self.first_answers.set()
