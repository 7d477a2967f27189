"""A worker process: a data plane on a loop of its own, told by the main process what to do.

It asks nobody for anything: no registry, no admin port, no health checks. When the main process
is gone it takes no new connections, so that a successor can have the addresses, finishes what it
has, and ends.
"""

import asyncio
import logging
import signal
import socket
from typing import assert_never

from proxy.core.metrics import Metrics
from proxy.core.table import compile_table
from proxy.net.channel import (
    Applied,
    Apply,
    Ask,
    Channel,
    Drain,
    Drained,
    Find,
    Found,
    Listening,
    Noted,
    Observe,
    Reload,
    Reloaded,
    Start,
    Stop,
    Told,
    ToWorker,
    to_worker,
)
from proxy.net.dataplane import DataPlane
from proxy.net.memory import settle_in
from proxy.net.pulse import lag_gauge, pulse
from proxy.net.tasks import Tasks

HUNG_S = 30
"""A loop that does not turn for so long ends its process, as systemd ends the main one."""

_log = logging.getLogger(__name__)


class Worker:
    """Made within a running event loop; ``run`` is the whole life of it."""

    def __init__(self) -> None:
        self._metrics = Metrics()
        self._metrics.is_one_of_many = True
        self._start: Start | None = None
        self._plane: DataPlane | None = None
        self._has_begun = self._is_draining = False
        self._cuts = 0
        self._tasks = Tasks()
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._channel = Channel(to_worker, self._received, self._orphaned)

    async def run(self, channel: socket.socket) -> int:
        """The exit code: 0 as told, 1 if a task died."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._channel, sock=channel)
        self._tasks.start("pulse", pulse(lag_gauge(self._metrics), lambda: _watch(HUNG_S)))
        try:
            await asyncio.wait((self._end, self._tasks.failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._tasks.stop()
            if self._plane is not None:
                await self._plane.close()
            self._channel.close()
            await asyncio.sleep(0)  # the loop sends what is left
        return self._end.result() if self._end.done() else 1

    def _finish(self) -> None:
        if not self._end.done():
            self._end.set_result(0)

    def _received(self, message: ToWorker) -> None:
        match message:
            case Start():
                self._start = message
                sockets = {
                    (each.host, each.port): socket.socket(fileno=each.fd)
                    for each in message.listeners
                }
                self._plane = DataPlane(
                    message.settings, self._metrics, share=message.share, sockets=sockets
                )
            case Stop():
                self._finish()
            case Apply():
                start, plane = self._known()
                plane.apply(compile_table(start.settings, message.policy, message.catalogue))
                if message.cuts != self._cuts:
                    self._cuts = message.cuts
                    plane.cut_denied()
                self._channel.send(Applied(revision=message.revision))
                if not self._has_begun:
                    self._has_begun = True
                    self._tasks.start("begin", self._begin(plane))
            case Reload():
                found = self._known()[1].reload_identities()
                self._channel.send(Reloaded(number=message.number, found=found))
            case Ask():
                self._channel.send(
                    Told(
                        number=message.number,
                        connections=self._plane.open_connections if self._plane else 0,
                        tally=self._metrics.tally(),
                        dropped=self._metrics.take_dropped(),
                    )
                )
            case Find():
                recent, wanted = self._known()[1].recent, message.wanted
                self._channel.send(
                    Found(
                        number=message.number,
                        requests=recent.find(message.request_id) if wanted is None else (),
                        ended=recent.ended(wanted) if wanted is not None else None,
                    )
                )
            case Observe():
                plane = self._known()[1]
                if message.seconds is not None:
                    plane.observe(message.seconds)
                self._channel.send(Noted(number=message.number, observed=plane.observed()))
            case Drain():
                self._tasks.start("drain", self._drain(message))
            case _:
                assert_never(message)

    def _known(self) -> tuple[Start, DataPlane]:
        if self._start is None or self._plane is None:
            raise RuntimeError("the first message must be Start")
        return self._start, self._plane

    async def _begin(self, plane: DataPlane) -> None:
        await plane.start()
        self._channel.send(Listening())
        settle_in()
        await _for_ever()

    async def _drain(self, drain: Drain) -> None:
        self._is_draining = True
        is_finished = await self._known()[1].drain(drain.deadline_s)
        self._channel.send(
            Drained(number=drain.number, is_finished=is_finished, tally=self._metrics.tally())
        )
        self._finish()
        await _for_ever()

    def _orphaned(self) -> None:
        """The channel has ended: the main process has, or it takes this one for dead."""
        if self._end.done() or self._is_draining:
            return
        if self._start is None or self._plane is None:
            self._finish()
            return
        _log.error("the main process is gone; draining")
        self._tasks.start("drain", self._drain_alone(self._start, self._plane))

    async def _drain_alone(self, start: Start, plane: DataPlane) -> None:
        self._is_draining = True
        await plane.stop_listening()
        await plane.drain(start.settings.drain_s)
        self._finish()
        await _for_ever()


def _watch(seconds: int) -> None:
    # The default action of SIGALRM needs nothing of the interpreter that hangs.
    signal.alarm(seconds)


async def _for_ever() -> None:
    """A task that ends by itself is a dead one to its supervisor."""
    await asyncio.get_running_loop().create_future()
