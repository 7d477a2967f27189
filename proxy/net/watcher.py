"""Follows the registry: the endpoints of every service in reach, and the published policy.

Which services are in reach depends on the policy (``core.reach``): a failover to another
datacenter is watched there from the moment that a policy with it is in force.

What is in force is always whole and sound: an error, a refused snapshot or an emptied registry
leaves the last good state where it is (``core.discovery``, ``core.adoption``), and says so. The
registry is not trusted: policy is believed by its signature, and an endpoint by its certificate.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeAlias

from proxy.core.adoption import Verdict, judging
from proxy.core.backoff import Backoff, TokenBucket
from proxy.core.blocking import Cursor
from proxy.core.discovery import ServiceView
from proxy.core.reach import Reach, concerned, needed
from proxy.model import registration as reg
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, Snapshot
from proxy.model.policy_keys import PolicyTrust
from proxy.model.settings import Settings
from proxy.model.status import PolicySource
from proxy.net import entries
from proxy.net.consul import Consul, ConsulError
from proxy.net.policy_trust import PolicyKeysUnusable, load
from proxy.net.store import LastGood
from proxy.net.tasks import Tasks

WAIT_S = 60.0
"""How long the registry may hold a blocking query."""
BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 8.0
"""Below 10 s, in which the mesh is to converge once a lost leader is replaced; the questions go
to the local agent, so that a higher cap would spare nobody."""
QUERIES_PER_S = 4.0
QUERIES_AT_ONCE = 10.0
"""Per watch: for a registry that answers at once, whatever the reason."""
JUDGED_AT_ONCE_S = 0.0002
JUDGED_APART_S = 0.002
"""A large policy is judged in some 60 ms, of which it needs 6: in one go, or with nothing but the
requests that wait between two pieces, those of a moment would all be late."""

_SNAPSHOT = "the policy"
"""Not the name of any service."""

_log = logging.getLogger(__name__)

Ask = Callable[[Cursor], Awaitable[Cursor]]
Place: TypeAlias = tuple[str, ServiceName]
"""Datacenter and service; an empty datacenter is the proxy's own."""


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
        self.cuts = 0
        """Policies that end what they would not let in, put in force since the start."""
        self.on_error: Callable[[ConsulError], None] = lambda error: None
        self.first_answers = asyncio.Event()
        """The registry has answered every question at least once."""
        self._settings, self._consul, self._changed, self._rng = settings, consul, changed, rng
        self._trust = PolicyTrust(keys={}) if settings.policy_keys else None
        self._keys_changed = asyncio.Event()
        self.reload_keys()
        self._concerned = concerned(settings)
        known = last_good.catalogue if last_good else Catalogue()
        self._views: dict[Place, ServiceView] = {
            place: _from_disk(place, known) for place in _places(self._reach)
        }
        self._is_restored = last_good is not None
        self._unanswered: set[str] = {_SNAPSHOT, *map(_subject, self._views)}
        self._errors: dict[str, str] = {}
        self._tasks: Tasks | None = None

    @property
    def views(self) -> dict[ServiceName, ServiceView]:
        """Of the proxy's own datacenter."""
        return {service: view for (where, service), view in self._views.items() if not where}

    @property
    def elsewhere(self) -> dict[Place, ServiceView]:
        """Of other datacenters."""
        return {place: view for place, view in self._views.items() if place[0]}

    @property
    def is_warm(self) -> bool:
        """Every answer needed to serve was on disk or has come since."""
        return self._is_restored and all(view.source != "none" for view in self._views.values())

    @property
    def policy(self) -> Policy | None:
        """None: it has to be signed, and none that is has ever arrived."""
        if self.snapshot is not None:
            return self.snapshot.policy
        return Policy() if self._trust is None else None

    @property
    def policy_keys(self) -> tuple[str, ...]:
        """Their ids, sorted."""
        return tuple(sorted(self._trust.keys)) if self._trust is not None else ()

    @property
    def _reach(self) -> Reach:
        return needed(self._settings, self.policy or Policy())

    @property
    def generation(self) -> int:
        return self.snapshot.generation if self.snapshot else 0

    @property
    def catalogue(self) -> Catalogue:
        elsewhere: dict[str, dict[ServiceName, tuple[Endpoint, ...]]] = {}
        for (datacenter, service), view in self.elsewhere.items():
            elsewhere.setdefault(datacenter, {})[service] = view.endpoints
        return Catalogue(
            endpoints={name: view.endpoints for name, view in self.views.items()},
            elsewhere=elsewhere,
        )

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
        doubts = [view.doubt for view in self._views.values() if view.doubt]
        return "; ".join([*sorted(set(self._errors.values())), *doubts])

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Name and work, for the supervisor."""
        yield "watcher", self.run()

    def reload_keys(self) -> None:
        """Reads the policy keys again; what is published is judged again by new ones. Keys that
        cannot be read change nothing, which is logged: the deploy that wrote them looks at
        ``policy_keys``."""
        settings = self._settings
        if not settings.policy_keys:
            return
        try:
            trust = load(settings.policy_keys, settings.trust_domain)
        except PolicyKeysUnusable as error:
            _log.error("the policy keys are not usable: %s", error)
            return
        if trust != self._trust:
            self._trust = trust
            self._keys_changed.set()
            _log.info("policy keys in force", extra={"keys": self.policy_keys})

    async def run(self) -> None:
        """Watches until cancelled. Raises when a watch dies, which is a bug of it."""
        tasks = self._tasks = Tasks()
        try:
            self._keys_changed.clear()
            self._watch_snapshot(tasks)
            tasks.start("follow the policy keys", self._follow_keys(tasks))
            for place in self._views:
                self._start_watch(tasks, place)
            died = await tasks.failed
        finally:
            self._tasks = None
            await tasks.stop()
        raise RuntimeError(f"{died} died")

    def _watch_snapshot(self, tasks: Tasks) -> None:
        tasks.start(f"watch {_SNAPSHOT}", self._watch(_SNAPSHOT, self._ask_snapshot))

    async def _follow_keys(self, tasks: Tasks) -> None:
        """Asks for the policy anew under new keys: the answer may be one that was refused."""
        while True:
            await self._keys_changed.wait()
            self._keys_changed.clear()
            await tasks.stop(f"watch {_SNAPSHOT}")
            self._watch_snapshot(tasks)

    def _start_watch(self, tasks: Tasks, place: Place) -> None:
        subject = _subject(place)
        tasks.start(f"watch {subject}", self._watch(subject, self._asker(place), place[0]))

    async def _follow(self, reach: Reach) -> None:
        """Begins and ends watches, so that they are those of the policy in force."""
        wanted = _places(reach)
        gone = [place for place in self._views if place not in wanted]
        new = [place for place in wanted if place not in self._views]
        for place in gone:
            del self._views[place]
            self._errors.pop(_subject(place), None)
            self._unanswered.discard(_subject(place))
        for place in new:
            self._views[place] = _from_disk(place, Catalogue())
            self._unanswered.add(_subject(place))
        if self._tasks is not None:
            for place in new:
                self._start_watch(self._tasks, place)
            if gone:
                await self._tasks.stop(*(f"watch {_subject(place)}" for place in gone))

    async def _watch(self, subject: str, ask: Ask, datacenter: str = "") -> None:
        cursor = Cursor()
        backoff = Backoff(base_s=BACKOFF_BASE_S, cap_s=BACKOFF_CAP_S)
        bucket = TokenBucket(rate=QUERIES_PER_S, burst=QUERIES_AT_ONCE)
        while True:
            await asyncio.sleep(bucket.take_s(time.monotonic()))
            try:
                cursor = await ask(cursor)
            except ConsulError as error:
                cursor = cursor.after_failure()
                self._failed(subject, error, datacenter)
                await asyncio.sleep(backoff.next_s(self._rng))
                continue
            backoff.reset()
            self._worked(subject)

    def _asker(self, place: Place) -> Ask:
        datacenter, service = place
        name = reg.catalogue_name(service)

        async def ask(cursor: Cursor) -> Cursor:
            view = self._views[place]
            wait_s = WAIT_S
            if view.kept:
                wait_s = min(WAIT_S, max(1.0, view.keep_until_s - time.monotonic()))
            answer = await self._consul.health(
                name, index=cursor.index, wait_s=wait_s, datacenter=datacenter
            )
            after = cursor.after(answer.index)
            seen = entries.read(
                answer, service, self._settings.trust_domain, went_back=after.went_back
            )
            self._see(view, view.after(seen, time.monotonic()))
            return after

        return ask

    def _see(self, before: ServiceView, now: ServiceView) -> None:
        self._views[now.datacenter, now.service] = now
        if now.doubt and now.doubt != before.doubt:
            _log.warning("%s", now.doubt, extra={"service": now.subject})
        if now.malformed and now.malformed != before.malformed:
            _log.warning(
                "the registry has malformed entries",
                extra={"service": now.subject, "count": now.malformed},
            )
        if now.endpoints != before.endpoints:
            _log.info(
                "endpoints changed",
                extra={"service": now.subject, "endpoints": len(now.endpoints), "kept": now.kept},
            )
        if now != before:
            self._changed()

    async def _ask_snapshot(self, cursor: Cursor) -> Cursor:
        answer = await self._consul.key(reg.SNAPSHOT_KEY, index=cursor.index, wait_s=WAIT_S)
        verdict = await self._judge(answer.value)
        before = (self.snapshot, self.refused, self.policy_source)
        if verdict.refused and verdict.refused != self.refused:
            _log.error("the published policy is refused: %s", verdict.refused)
        if verdict.snapshot != self.snapshot and verdict.snapshot is not None:
            _log.info("policy in force", extra={"generation": verdict.snapshot.generation})
            if verdict.snapshot.generation != self.generation:
                self.cuts += verdict.snapshot.cut_denied
        if answer.value is not None and not verdict.refused:
            self.policy_source = "consul"
        self.snapshot, self.refused = verdict.snapshot, verdict.refused
        if (self.snapshot, self.refused, self.policy_source) != before:
            self._changed()
            await self._follow(self._reach)
        return cursor.after(answer.index)

    async def _judge(self, published: bytes | None) -> Verdict:
        """In pieces, between which requests have their turn. It is awaited before the next question
        is asked, so that policies are judged in the order of their publication."""
        work = judging(
            self.snapshot, published, self._settings.trust_domain, self._concerned, self._trust
        )
        until = time.monotonic() + JUDGED_AT_ONCE_S
        while True:
            try:
                next(work)
            except StopIteration as done:
                verdict: Verdict = done.value
                return verdict
            if time.monotonic() >= until:
                await asyncio.sleep(JUDGED_APART_S)
                until = time.monotonic() + JUDGED_AT_ONCE_S

    def _failed(self, subject: str, error: ConsulError, datacenter: str) -> None:
        if subject not in self._errors:
            _log.warning(
                "the registry does not answer: %s",
                error,
                extra={"subject": subject, "kind": error.kind},
            )
        where = f"{self._consul.url}, datacenter {datacenter}" if datacenter else self._consul.url
        self._errors[subject] = f"{where}: {error}"
        self.on_error(error)
        if datacenter:
            # Only a failover needs it: a datacenter that is gone, or that there never was, must
            # not hold up the start.
            self._answered(subject)

    def _worked(self, subject: str) -> None:
        if self._errors.pop(subject, None) is not None:
            _log.info("the registry answers again", extra={"subject": subject})
        self._answered(subject)

    def _answered(self, subject: str) -> None:
        self._unanswered.discard(subject)
        if not self._unanswered:
            self.first_answers.set()


def _places(reach: Reach) -> list[Place]:
    """In a fixed order."""
    return sorted({*(("", service) for service in reach.services), *reach.elsewhere})


def _subject(place: Place) -> str:
    datacenter, service = place
    return f"{service} in {datacenter}" if datacenter else service


def _from_disk(place: Place, known: Catalogue) -> ServiceView:
    datacenter, service = place
    if datacenter:
        found = known.elsewhere.get(datacenter, {}).get(service)
        # That nothing is there is knowledge as well: the start waits for no failover's sake.
        is_known = found is not None
    else:
        found = known.endpoints.get(service)
        is_known = bool(found)
    return ServiceView(
        service=service,
        datacenter=datacenter,
        endpoints=found or (),
        source="disk" if is_known else "none",
    )
