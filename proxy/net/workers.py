"""All workers besides the main process: kept alive, of one mind, and counted as one proxy.

With ``workers: 1`` there are none, and everything here is empty and done at once.
"""

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from time import monotonic
from typing import Any

from proxy.core.exposition import FamilyTally, Tally, lasting, merge, merging
from proxy.core.legacy import Legacy
from proxy.core.metrics import Metrics
from proxy.model.endpoint import Catalogue
from proxy.model.names import ServiceName
from proxy.model.observed import Observed, together
from proxy.model.policy import Policy
from proxy.model.recent import Ended, SeenRequest, Wanted
from proxy.model.settings import Settings
from proxy.model.status import WorkersStatus
from proxy.net.channel import Apply, Drained, Found, Listener, Noted, Reloaded, Reply, Start, frame
from proxy.net.dataplane import DataPlane
from proxy.net.recent import MAX_FOUND
from proxy.net.recent import together as all_ended
from proxy.net.seat import Seat
from proxy.net.sockets import Sockets

ASK_EVERY_S = 1.0
"""What a killed worker has counted since is lost."""
ANSWER_S = 0.04
"""How long a reader of the metrics waits for the workers; it then gets what they told last."""
RELOAD_S = 5.0
FIND_S = 2.0
AFTER_DRAIN_S = 1.0


class Workers:
    """``settled`` is called when all that are alive run what was last put in force."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sockets,
        plane: DataPlane,
        metrics: Metrics,
        *,
        rng: random.Random,
        settled: Callable[[], None],
    ) -> None:
        self.desired = sockets.workers
        self._settings, self._sockets, self._settled = settings, sockets, settled
        share = 1 / self.desired

        def start(listeners: tuple[Listener, ...]) -> Start:
            return Start(settings=settings, share=share, listeners=listeners)

        self._seats = tuple(
            Seat(number, start, sockets, plane, rng, self._changed, self._died)
            for number in range(1, self.desired)
        )
        self._wanted: tuple[Policy | None, Catalogue, int] = (Policy(), Catalogue(), 0)
        self._revision = 0
        self._frame: bytes | None = None
        self._metrics = metrics
        metrics.is_one_of_many = bool(self._seats)
        self._left = Legacy()
        """What those counted that are no more."""
        self._all_listen = asyncio.Event()
        self._restarts = metrics.counter(
            "mesh_worker_restarts_total", "Workers that died and were started again."
        ).labels()
        self._alive = metrics.gauge("mesh_workers", "Worker processes that serve.").labels()
        self._alive.value = 1
        if not self._seats:
            self._all_listen.set()

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Name and work of each, for the supervisor; the data plane must have started."""
        for seat in self._seats:
            yield f"worker-{seat.number}", seat.run()
        if self._seats:
            yield "workers", self._look_after()

    async def all_listen(self, within_s: float) -> None:
        """Waits until it is so, at most this long."""
        try:
            async with asyncio.timeout(within_s):
                await self._all_listen.wait()
        except TimeoutError:
            return

    @property
    def status(self) -> WorkersStatus:
        return WorkersStatus(
            desired=self.desired,
            alive=self._alive_now,
            restarts=int(self._restarts.value),
            pids=(os.getpid(), *(seat.pid for seat in self._seats if seat.pid is not None)),
        )

    @property
    def _alive_now(self) -> int:
        return 1 + sum(seat.is_listening for seat in self._seats)

    @property
    def connections(self) -> int:
        """Downstream, when last asked."""
        return sum(seat.connections for seat in self._seats)

    @property
    def is_settled(self) -> bool:
        return all(seat.applied == self._revision for seat in self._seats if seat.is_taken)

    def apply(self, policy: Policy | None, catalogue: Catalogue, cuts: int = 0) -> None:
        """Settled once every worker has compiled it. A slow one gets the newest, not each."""
        self._revision += 1
        self._wanted, self._frame = (policy, catalogue, cuts), None
        for seat in self._seats:
            seat.offer(self._revision, self._encoded)

    def reload(self) -> "list[asyncio.Future[Reply]]":
        """Identities anew, in all of them; for ``reloaded``."""
        return [reply for seat in self._seats if (reply := seat.reload()) is not None]

    async def reloaded(self, replies: "list[asyncio.Future[Reply]]") -> dict[ServiceName, str]:
        """The reasons of those that could not, or did not say in time."""
        errors: dict[ServiceName, str] = {}
        if not replies:
            return errors
        await asyncio.wait(replies, timeout=RELOAD_S)
        for reply in replies:
            if reply.cancelled():
                continue  # its successor reads the files afresh
            if not reply.done():
                silent = "a worker does not say whether it has it"
                errors.update({work.service: silent for work in self._settings.workloads})
                continue
            answer = reply.result()
            if isinstance(answer, Reloaded):
                errors.update(
                    {name: what for name, what in answer.found.items() if isinstance(what, str)}
                )
        return errors

    async def tallies(self, own: Tally) -> Iterator[FamilyTally] | None:
        """With ``own``, what the whole proxy has counted; None: ``own`` is all."""
        replies = [reply for seat in self._seats if (reply := seat.ask()) is not None]
        if replies:
            await asyncio.wait(replies, timeout=ANSWER_S)
        if not self._seats:
            return None
        self._take_dropped()
        return merging([own, self._left.tally, *(seat.tally for seat in self._seats)])

    def _told(self) -> Iterator[Tally]:
        yield self._metrics.tally()
        yield from (seat.tally for seat in self._seats)

    def _take_dropped(self) -> None:
        """What a process no longer counts in goes on being a part of the sum, until nobody does."""
        self._left.add(self._metrics.take_dropped())
        for seat in self._seats:
            dropped, seat.dropped = seat.dropped, []
            self._left.add(merge(dropped))

    async def find(self, request_id: str, own: tuple[SeenRequest, ...]) -> tuple[SeenRequest, ...]:
        """With ``own``, what the whole proxy remembers of a request, the newest first; of those
        workers that answer in time."""
        replies = [reply for seat in self._seats if (reply := seat.find(request_id)) is not None]
        if not replies:
            return own
        await asyncio.wait(replies, timeout=FIND_S)
        found = list(own)
        for reply in replies:
            answer = reply.result() if reply.done() and not reply.cancelled() else None
            if isinstance(answer, Found):
                found += answer.requests
        return tuple(sorted(found, key=lambda each: each.ended_at, reverse=True)[:MAX_FOUND])

    async def ended(self, wanted: Wanted, own: Ended) -> Ended:
        """With ``own``, what ended in the whole proxy; what a worker does not tell in time comes
        with the next answer, for its part of the cursor stays."""
        replies = [reply for seat in self._seats if (reply := seat.find("", wanted)) is not None]
        if not replies:
            return own
        await asyncio.wait(replies, timeout=FIND_S)
        answers = [each.result() for each in replies if each.done() and not each.cancelled()]
        told = tuple(
            each.ended for each in answers if isinstance(each, Found) and each.ended is not None
        )
        return all_ended((own, *told), wanted.cursor)

    async def observed(self, own: Observed, seconds: float | None = None) -> Observed:
        """With ``own``, what the whole proxy has seen; ``seconds`` as in ``channel.Observe``."""
        replies = [each for seat in self._seats if (each := seat.observe(seconds)) is not None]
        if not replies:
            return own
        await asyncio.wait(replies, timeout=FIND_S)
        answers = [each.result() for each in replies if each.done() and not each.cancelled()]
        return together((own, *(each.observed for each in answers if isinstance(each, Noted))))

    async def drain(self, deadline_s: float) -> bool:
        """As ``DataPlane.drain``, of all at once."""
        replies = [reply for seat in self._seats if (reply := seat.drain(deadline_s)) is not None]
        # Held open for successors until here; now a queue is to end with the worker that serves it.
        self._sockets.close()
        if not replies:
            return True
        await asyncio.wait(replies, timeout=deadline_s + AFTER_DRAIN_S)
        return all(
            isinstance(answer, Drained) and answer.is_finished
            for reply in replies
            for answer in [reply.result() if reply.done() and not reply.cancelled() else None]
        )

    async def close(self) -> None:
        """After the tasks are stopped."""
        await asyncio.gather(*(seat.close() for seat in self._seats))
        self._sockets.close()

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            for seat in self._seats:
                seat.look_after()
            self._take_dropped()
            self._left.sweep(self._told(), monotonic())

    def _changed(self, seat: Seat) -> None:
        self._alive.value = self._alive_now
        if self._alive_now == self.desired:
            self._all_listen.set()
        seat.offer(self._revision, self._encoded)
        if self.is_settled:
            self._frame = None
            self._settled()

    def _died(self, seat: Seat) -> None:
        self._restarts.value += 1
        self._take_dropped()
        self._left.add(lasting(seat.tally))
        seat.tally = ()
        self._changed(seat)

    def _encoded(self) -> bytes:
        if self._frame is None:
            policy, catalogue, cuts = self._wanted
            self._frame = frame(
                Apply(revision=self._revision, policy=policy, catalogue=catalogue, cuts=cuts)
            )
        return self._frame
