"""A worker's seat: what the main process does about one that does not start, or hangs."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.core.exposition import Tally
from proxy.core.metrics import SERIES_IDLE_S, Metrics
from proxy.model.endpoint import Catalogue
from proxy.model.policy import Policy
from proxy.net import seat as module
from proxy.net import workers as workers_module
from proxy.net.channel import Told
from proxy.net.dataplane import DataPlane
from proxy.net.sockets import Sockets
from proxy.net.tasks import Tasks
from proxy.net.workers import Workers


class Main:
    """The parts of a main process that a worker has to do with."""

    def __init__(self, settings: Any) -> None:
        self.metrics = Metrics()
        self.sockets = Sockets(settings, settings.workers)
        self.plane = DataPlane(settings, self.metrics, share=0.5, sockets=self.sockets.of(0))
        self.settled = 0
        self.workers = Workers(
            settings,
            self.sockets,
            self.plane,
            self.metrics,
            rng=random.Random(1),
            settled=self._settle,
        )
        self.tasks = Tasks()

    def _settle(self) -> None:
        self.settled += 1

    async def start(self) -> None:
        self.sockets.bind()
        await self.plane.start()
        self.workers.apply(Policy(), Catalogue())
        for name, work in self.workers.tasks():
            self.tasks.start(name, work)

    async def stop(self) -> None:
        await self.tasks.stop()
        await asyncio.gather(self.plane.close(), self.workers.close())
        await asyncio.sleep(0.01)


@pytest.fixture
async def main(quiet_mesh: Any, free_ports: Any) -> AsyncIterator[Main]:
    """With one worker besides; not started."""
    await quiet_mesh.start()
    inbound = free_ports(1)[0]
    settings = msgspec.structs.replace(quiet_mesh.settings["far"], workers=2)
    address = msgspec.structs.replace(settings.inbound, port=inbound)
    made = Main(msgspec.structs.replace(settings, inbound=address))
    yield made
    await made.stop()


@contextlib.asynccontextmanager
async def connections(main: Main, count: int) -> AsyncIterator[None]:
    """So many to the inbound side, silent."""
    port = main.plane.inbound_address()[1]
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    yield
    for _, writer in opened:
        writer.transport.abort()
    async with asyncio.timeout(5):
        while main.plane.open_connections:
            await asyncio.sleep(0.005)


async def test_a_worker_that_hangs_is_killed_and_replaced(
    main: Main,
    until: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "HUNG_AFTER_ASKS", 20)
    await main.start()
    await until(lambda: main.workers.status.alive == 2, deadline_s=15)
    _, pid = main.workers.status.pids
    monkeypatch.setattr(workers_module, "ASK_EVERY_S", 0.1)
    (seat,) = main.workers._seats
    await until(lambda: seat._asks > 25, deadline_s=15)  # it answers
    assert main.workers.status.pids[1] == pid
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: pid not in main.workers.status.pids, deadline_s=15)
    monkeypatch.setattr(workers_module, "ASK_EVERY_S", 1.0)  # a start may take long
    await until(lambda: main.workers.status.alive == 2, deadline_s=15)
    assert main.workers.status.restarts == 1
    assert "hangs and is killed" in caplog.text
    assert not Path(f"/proc/{pid}").exists()  # reaped


async def test_while_no_worker_can_be_started_the_main_process_serves_everybody(
    main: Main,
    until: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "EXECUTABLE", "/nowhere/python")
    await main.start()
    await until(lambda: main.workers.status.restarts >= 2)
    assert "a worker cannot be started" in caplog.text
    assert (main.workers.status.desired, main.workers.status.alive) == (2, 1)
    assert main.workers.is_settled
    async with connections(main, 20):
        await until(lambda: main.plane.open_connections == 20)
    monkeypatch.undo()
    await until(lambda: main.workers.status.alive == 2, deadline_s=20)
    await until(lambda: main.workers.is_settled)
    async with connections(main, 40):  # the other has its share back, and to itself
        async with asyncio.timeout(5):
            while main.plane.open_connections + main.workers.connections < 40:
                await main.workers.tallies(())
        assert main.workers.connections > 0
    assert not main.workers._seats[0]._adopted


async def test_a_worker_gets_the_newest_configuration_and_not_each_of_many(
    main: Main, until: Callable[..., Any]
) -> None:
    await main.start()
    await until(lambda: main.workers.status.alive == 2, deadline_s=15)
    await until(lambda: main.workers.is_settled)
    (seat,) = main.workers._seats
    offered = []
    offer = seat._channel.send_frame
    seat._channel.send_frame = lambda data: (offered.append(data), offer(data))
    for _ in range(50):
        main.workers.apply(Policy(), Catalogue())
    assert not main.workers.is_settled
    await until(lambda: main.workers.is_settled)
    assert seat.applied == 51
    assert len(offered) == 2


def counted(number: int, tally: Tally, dropped: Tally = ()) -> Told:
    return Told(number=number, connections=0, tally=tally, dropped=dropped)


async def test_what_a_worker_drops_or_leaves_behind_stays_in_the_sum(main: Main) -> None:
    (seat,) = main.workers._seats

    async def total() -> float:
        merged = await main.workers.tallies(main.metrics.tally())
        assert merged is not None
        (family,) = (each for each in merged if each.name == "x_total")
        return family.series[0][1][0]

    def of(count: int) -> Tally:
        metrics = Metrics()
        metrics.counter("x_total", "", ("who",), fades=True).labels("a").value = count
        return metrics.tally()

    main.metrics.counter("x_total", "", ("who",), fades=True).labels("a").value = 1
    seat._received(counted(1, of(10)))
    assert await total() == 11
    seat._received(counted(2, (), of(10)))
    assert await total() == 11
    seat._received(counted(3, of(5)))
    assert await total() == 16
    main.workers._died(seat)
    assert await total() == 16
    for now in (0.0, SERIES_IDLE_S):
        for _ in range(60):
            main.metrics.sweep(now)
    assert await total() == 16
