"""One worker as the main process sees it: its process, its channel, what it has said last.

The seat outlives the processes that sit in it. It holds the listening sockets' queues, and while
nobody sits in it the main process serves them, so that a worker's death costs the connections
that it had and no others.
"""

import asyncio
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from socket import socketpair
from typing import assert_never

from proxy.core.backoff import Backoff
from proxy.core.exposition import Tally
from proxy.model.recent import Wanted
from proxy.net.channel import (
    Applied,
    Ask,
    Channel,
    Drain,
    Drained,
    Find,
    Found,
    Listener,
    Listening,
    Noted,
    Observe,
    Reload,
    Reloaded,
    Reply,
    Start,
    Stop,
    Told,
    ToMain,
    to_main,
)
from proxy.net.dataplane import DataPlane
from proxy.net.sockets import BACKLOG, Sockets

HUNG_AFTER_ASKS = 10
"""Without a word from a worker, though asked every second; a loaded machine may take seconds to
start one. Asks and not seconds: when the main process itself has slept, nobody is to blame."""
STEADY_S = 30.0
"""A worker that has lived so long and dies is started again without delay."""
BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 10.0
STOP_S = 1.0
_POLL_S = 0.01

EXECUTABLE = str(Path(sys.executable).parent.resolve() / Path(sys.executable).name)
"""Resolved at the start: a deployment moves the link that it was started through."""
_NOT_FOR_WORKERS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})

_log = logging.getLogger(__name__)


class Seat:
    """``changed`` is called when somebody has sat down, listens, or has applied something;
    ``died`` when nobody sits here any more, against our will."""

    def __init__(
        self,
        number: int,
        start: Callable[[tuple[Listener, ...]], Start],
        sockets: Sockets,
        plane: DataPlane,
        rng: random.Random,
        changed: Callable[["Seat"], None],
        died: Callable[["Seat"], None],
    ) -> None:
        self.number = number
        self.is_taken = False
        """There is a process; it may be starting still."""
        self.is_listening = False
        self.applied = 0
        """The revision that the process runs; 0: none yet."""
        self.tally: Tally = ()
        """What the process had counted when it was asked last."""
        self.dropped: list[Tally] = []
        """What it has counted and no longer tells, since somebody took it from here."""
        self.connections = 0
        self.is_ending = False
        """No successor is wanted."""
        self._start, self._sockets, self._plane = start, sockets, plane
        self._rng, self._changed, self._died = rng, changed, died
        self._offered = 0
        self._asks = self._unanswered = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[ToMain] | None = None
        self._gone = asyncio.Event()
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._adopted: list[asyncio.Server] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """For the supervisor: one process after the other, until cancelled."""
        backoff = Backoff(base_s=BACKOFF_BASE_S, cap_s=BACKOFF_CAP_S)
        while True:
            began_s = time.monotonic()
            try:
                await self._sit_down()
                await self._gone.wait()
            except OSError as error:
                _log.error("a worker cannot be started: %s", error, extra={"worker": self.number})
            status = await self._leave()
            if self.is_ending:
                await asyncio.get_running_loop().create_future()
            _log.error("a worker has died", extra={"worker": self.number, "status": status})
            self._died(self)
            await self._adopt()
            if time.monotonic() - began_s > STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s(self._rng))

    def offer(self, revision: int, data: Callable[[], bytes]) -> None:
        """The frame of an ``Apply``, if it is news; one at a time, then the newest."""
        if self._channel is not None and self._offered == self.applied < revision:
            self._offered = revision
            self._channel.send_frame(data())

    def ask(self) -> "asyncio.Future[Reply] | None":
        """Each of these: what will be the answer, cancelled if the process dies first; None:
        there is no process."""
        return self._call(lambda number: Ask(number=number))

    def find(self, request_id: str, wanted: Wanted | None = None) -> "asyncio.Future[Reply] | None":
        return self._call(lambda number: Find(number=number, request_id=request_id, wanted=wanted))

    def observe(self, seconds: float | None) -> "asyncio.Future[Reply] | None":
        return self._call(lambda number: Observe(number=number, seconds=seconds))

    def reload(self) -> "asyncio.Future[Reply] | None":
        return self._call(lambda number: Reload(number=number))

    def drain(self, deadline_s: float) -> "asyncio.Future[Reply] | None":
        self.is_ending = True
        self._release()
        return self._call(lambda number: Drain(number=number, deadline_s=deadline_s))

    def look_after(self) -> None:
        """Once a second."""
        if self._unanswered < HUNG_AFTER_ASKS:
            self._unanswered += 1
            self.ask()
        elif self._process is not None:
            _log.error("a worker hangs and is killed", extra={"worker": self.number})
            self._process.kill()

    async def close(self) -> None:
        """Ends the process, gently if that is quick."""
        self.is_ending = True
        self._release()
        if self._channel is not None:
            self._channel.send(Stop())
            try:
                async with asyncio.timeout(STOP_S):
                    await self._gone.wait()
            except TimeoutError:
                _log.warning("a worker does not stop and is killed", extra={"worker": self.number})
        await self._leave()

    # The process.

    async def _sit_down(self) -> None:
        listeners = tuple(
            Listener(host=place[0], port=place[1], fd=each.fileno())
            for place, each in self._sockets.of(self.number).items()
        )
        ours, theirs = socketpair()
        with theirs:
            try:
                self._process = _spawn(
                    self.number, theirs.fileno(), tuple(each.fd for each in listeners)
                )
            except OSError:
                ours.close()
                raise
        self._gone = asyncio.Event()
        channel = Channel(to_main, self._received, self._gone.set)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        self._channel = channel
        self.applied = self._offered = self._unanswered = 0
        self.is_taken = True
        channel.send(self._start(listeners))
        self._changed(self)

    async def _leave(self) -> int | None:
        """The exit status of the process that sat here, if there was one."""
        if self._channel is not None:
            self._channel.abort()
            self._channel = None
        self.is_taken = self.is_listening = False
        self.applied = self.connections = 0
        for reply in self._replies.values():
            reply.cancel()
        self._replies.clear()
        process = self._process
        if process is None:
            return None
        ends_s = time.monotonic() + STOP_S
        while process.poll() is None:
            if time.monotonic() > ends_s:
                process.kill()
            await asyncio.sleep(_POLL_S)
        self._process = None
        return process.returncode

    async def _adopt(self) -> None:
        loop = asyncio.get_running_loop()
        for place, copy in self._sockets.copies(self.number).items():
            accept = self._plane.accepts.get(place)
            if accept is None:
                copy.close()
                continue
            self._adopted.append(await loop.create_server(accept, sock=copy, backlog=BACKLOG))

    def _release(self) -> None:
        for server in self._adopted:
            server.close()
        self._adopted.clear()

    # What it says.

    def _call(
        self, message: Callable[[int], Ask | Find | Observe | Reload | Drain]
    ) -> "asyncio.Future[Reply] | None":
        if self._channel is None:
            return None
        self._asks += 1
        reply = asyncio.get_running_loop().create_future()
        self._replies[self._asks] = reply
        self._channel.send(message(self._asks))
        return reply

    def _received(self, message: ToMain) -> None:
        self._unanswered = 0
        match message:
            case Applied():
                self.applied = message.revision
                self._changed(self)
            case Listening():
                self.is_listening = True
                self._release()
                self._changed(self)
            case Told() | Found() | Noted() | Drained() | Reloaded():
                if not isinstance(message, Reloaded | Found | Noted):
                    self.tally = message.tally
                if isinstance(message, Told):
                    self.connections = message.connections
                    if message.dropped:
                        self.dropped.append(message.dropped)
                reply = self._replies.pop(message.number, None)
                if reply is not None and not reply.done():
                    reply.set_result(message)
            case _:
                assert_never(message)


def _spawn(number: int, channel: int, listeners: tuple[int, ...]) -> "subprocess.Popen[bytes]":
    flags = ["-I"] if sys.flags.isolated else []
    argv = ("-m", "proxy.worker", "--channel", str(channel), "--number", str(number))
    return subprocess.Popen(
        [EXECUTABLE, *flags, *argv],
        stdin=subprocess.DEVNULL,
        pass_fds=(channel, *listeners),
        env={key: value for key, value in os.environ.items() if key not in _NOT_FOR_WORKERS},
    )
