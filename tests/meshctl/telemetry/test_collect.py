"""The counters of several hosts, over real commands and real admin ports."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from telemetry.made import MadeMesh, Proxy
from telemetry.serving import Serving, serving

from meshctl.errors import MeshError, RemoteFailure, Unreachable
from meshctl.inventory.model import Host
from meshctl.inventory.parse import parse
from meshctl.telemetry import collect
from meshctl.telemetry.collect import Collector, Round, collect_once, collecting
from meshctl.transport.local import LocalTransport
from proxy.model.codec import encode
from proxy.model.names import HostName

EVERY_S = 0.1
DEADLINE_S = 60.0


class Local:
    """A connector of local transports; ``refused`` hosts cannot be reached."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.connected = 0

    async def connect(self, host: HostName) -> Any:
        self.connected += 1
        if host in self.refused:
            raise Unreachable(f"{host} went away")
        return LocalTransport(host)

    async def close(self) -> None: ...


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(MadeMesh(3, 3, names=("web", "api", "db")), tmp_path) as made:
        yield made


@pytest.fixture
def hosts(served: Serving, tmp_path: Path) -> Sequence[Host]:
    return parse(served.inventory, tmp_path / "inventory.yaml").hosts


async def until(collector: Collector, wanted: Any) -> Round:
    async with asyncio.timeout(DEADLINE_S):
        async for looked in collector:
            if wanted(looked):
                return looked
    raise AssertionError


async def test_one_look_has_every_host_or_why_not(served: Serving, hosts: Sequence[Host]) -> None:
    served.silent = {"host-api"}
    connector = Local()
    connector.refused = {"host-db"}
    looked = await collect_once(hosts, connector, parallel=2)
    assert set(looked.stats) == {"host-web"}
    assert isinstance(looked.faults[HostName("host-api")], RemoteFailure)
    assert isinstance(looked.faults[HostName("host-db")], Unreachable)
    assert looked.before == {}


async def test_rounds_go_on_over_one_command_a_host_and_end_with_the_context(
    served: Serving, hosts: Sequence[Host]
) -> None:
    connector = Local()
    async with collecting(hosts, connector, every_s=EVERY_S, first_s=DEADLINE_S) as collector:
        first = await until(collector, lambda looked: True)
        assert (set(first.stats), first.before) == ({host.name for host in hosts}, {})
        for _ in range(3):
            later = await until(collector, lambda looked: len(looked.before) == 3)
            for name, stats in later.stats.items():
                assert later.before[name].uptime_s <= stats.uptime_s
                assert first.stats[name].uptime_s <= later.before[name].uptime_s
        assert later.before[HostName("host-web")].uptime_s > 60.0
    assert connector.connected == 3
    looks = served.looks
    await asyncio.sleep(3 * EVERY_S)  # whoever still asked would be counted
    assert served.looks <= looks + 3


async def test_a_host_that_goes_and_comes_back_holds_up_nobody(
    served: Serving, hosts: Sequence[Host]
) -> None:
    async with collecting(hosts, Local(), every_s=EVERY_S, first_s=DEADLINE_S) as collector:
        await until(collector, lambda looked: len(looked.stats) == 3)
        served.silent = {"host-api"}
        looked = await until(collector, lambda looked: "host-api" in looked.faults)
        assert set(looked.stats) == {"host-web", "host-db"}
        assert "does not answer GET /stats" in str(looked.faults[HostName("host-api")])
        served.silent = set()
        looked = await until(collector, lambda looked: not looked.faults)
        assert len(looked.stats) == 3


async def test_a_host_that_cannot_be_reached_is_tried_again(
    hosts: Sequence[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "_RETRY_FIRST_S", 0.05)
    connector = Local()
    connector.refused = {"host-db"}
    async with collecting(hosts, connector, every_s=EVERY_S, first_s=DEADLINE_S) as collector:
        first = await until(collector, lambda looked: True)
        assert str(first.faults[HostName("host-db")]) == "host-db went away"
        connector.refused = set()
        await until(collector, lambda looked: len(looked.stats) == 3)


class Scripted:
    """Hosts whose lines come from queues, for what time does to rounds."""

    def __init__(self, *hosts: str) -> None:
        self.queues: dict[str, asyncio.Queue[bytes | MeshError]] = {
            host: asyncio.Queue() for host in hosts
        }

    def say(self, host: str, uptime_s: float) -> None:
        self.queues[host].put_nowait(encode(Proxy(host).stats(uptime_s)))

    async def connect(self, host: HostName) -> Any:
        queue = self.queues[host]

        class Transport:
            @asynccontextmanager
            async def lines(self, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[bytes]]:
                async def said() -> AsyncIterator[bytes]:
                    while True:
                        line = await queue.get()
                        if isinstance(line, MeshError):
                            raise line
                        yield line

                yield said()

        return Transport()

    async def close(self) -> None: ...


@pytest.fixture
def pair(hosts: Sequence[Host]) -> tuple[Sequence[Host], Scripted]:
    return hosts[:2], Scripted("host-web", "host-api")


async def test_a_host_that_is_late_at_first_is_shown_as_soon_as_it_answers(
    pair: tuple[Sequence[Host], Scripted],
) -> None:
    hosts, script = pair
    script.say("host-web", 10.0)
    async with collecting(hosts, script, every_s=0.05, first_s=0.05) as collector:
        first = await until(collector, lambda looked: True)
        assert set(first.stats) == {"host-web"}
        assert "has not answered" in str(first.faults[HostName("host-api")])
        script.say("host-api", 10.0)
        await until(collector, lambda looked: len(looked.stats) == 2)


async def test_a_host_that_falls_silent_is_said_to(
    pair: tuple[Sequence[Host], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "_STALE_AT_LEAST_S", 0.1)
    hosts, script = pair
    script.say("host-web", 10.0)
    script.say("host-api", 10.0)
    async with collecting(hosts, script, every_s=0.02) as collector:
        await until(collector, lambda looked: len(looked.stats) == 2)
        looked = await until(collector, lambda looked: len(looked.faults) == 2)
        assert looked.stats == {}


async def test_a_window_is_kept_and_not_more(pair: tuple[Sequence[Host], Scripted]) -> None:
    hosts, script = pair
    for uptime_s in range(10, 40):
        script.say("host-web", uptime_s)
    async with collecting(hosts[:1], script, every_s=0.05, window_s=8.0) as collector:
        looked = await until(collector, lambda looked: bool(looked.before))
        name = HostName("host-web")
        assert (looked.stats[name].uptime_s, looked.before[name].uptime_s) == (39.0, 31.0)
        assert len(collector._looks[name].kept) == 9


async def test_a_restart_is_compared_with_what_was_before_it(
    pair: tuple[Sequence[Host], Scripted],
) -> None:
    hosts, script = pair
    for uptime_s in (98, 99, 100, 3):
        script.say("host-web", uptime_s)
    async with collecting(hosts[:1], script, every_s=0.05, window_s=8.0) as collector:
        looked = await until(collector, lambda looked: bool(looked.before))
        name = HostName("host-web")
        assert (looked.stats[name].uptime_s, looked.before[name].uptime_s) == (3.0, 100.0)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"error": "503 draining"}', "does not answer GET /stats"),
        (b"<html>", "does not answer as this meshctl expects"),
        (encode(Proxy("host-evil").stats(1.0)), "says that it is 'host-evil'"),
    ],
)
async def test_what_is_no_answer_of_this_host_is_a_fault(
    pair: tuple[Sequence[Host], Scripted], line: bytes, sentence: str
) -> None:
    hosts, script = pair
    script.queues["host-web"].put_nowait(line)
    async with collecting(hosts[:1], script, every_s=0.05) as collector:
        looked = await until(collector, lambda looked: True)
    assert sentence in str(looked.faults[HostName("host-web")])
