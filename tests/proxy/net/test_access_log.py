"""Which calls are logged, in which number, and what becomes of them on the way."""

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from proxy.core.metrics import Metrics
from proxy.http.exchange import Exchange
from proxy.http.head import RequestHead
from proxy.http.ledger import Ledger
from proxy.model.names import HostName, TrustDomain
from proxy.model.telemetry import AccessLog, Telemetry
from proxy.net import access_log
from proxy.net.access_log import AccessLogs
from proxy.net.dataplane_metrics import DataPlaneMetrics, Reporter
from proxy.net.pair_log import MAX_WAITING, MAX_WAITING_BAD

ALL = AccessLog(percent=100)


class Logs:
    """The log of one process, in a file below ``path``."""

    def __init__(self, path: Path) -> None:
        self.metrics = Metrics()
        self.logs = AccessLogs(self.metrics)
        self.path = path / "log"
        self.logs.use(HostName("vm1"), TrustDomain("mesh.test"), str(self.path))

    def pair(self, policy: AccessLog = ALL, side: str = "source") -> "Pair":
        return Pair(self, side, policy)

    async def lines(self) -> list[dict[str, Any]]:
        await self.logs.flush(20)
        file = self.path / "access.log"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def dropped(self, reason: str) -> float:
        return (
            self.metrics.counter("mesh_access_log_dropped_total", "", ("reason",))
            .labels(reason)
            .value
        )

    @property
    def written(self) -> float:
        return self.metrics.counter("mesh_access_log_lines_total", "").labels().value


class Pair:
    """One pair of services, of whose requests nothing is kept but their lines."""

    def __init__(self, logs: Logs, side: str, policy: AccessLog) -> None:
        families = self._families = DataPlaneMetrics(Metrics())
        families.is_counting = False
        self._reporter = Reporter(families, side, "web", "spiffe://mesh.test/svc/web", "api")
        log = logs.logs.logger(side, "web", "spiffe://mesh.test/svc/web", "api", policy)
        self._reporter.log = log
        self.session, self.refused = log.session, log.refused
        self.forget = partial(families.settle, is_last=True)

    def __call__(self, exchange: Exchange, now: float) -> None:
        self._reporter.answered(exchange, now)
        self._families.work_off()


@pytest.fixture
async def logs(tmp_path: Path) -> Any:
    made = Logs(tmp_path)
    yield made
    await made.logs.close()


def finished(status: int = 200, flag: str = "", request_id: str = "r-1") -> Exchange:
    head = RequestHead(b"GET", b"/", b"api", False)
    head.lines = [b"accept: */*", b"x-request-id: " + request_id.encode()]
    exchange = Exchange(None, head, None, Ledger(10, lambda _: None))  # type: ignore[arg-type]
    exchange.status, exchange.flag = status, flag
    return exchange


class Refusing:
    """A sink that takes nothing, then all."""

    max_bytes = 4096
    is_bounded = True

    def __init__(self, told: Any) -> None:
        self.told = told
        self.is_open = False
        self.taken = b""

    def offer(self, batch: Sequence[bytes], count: int) -> bool:
        if self.is_open:
            self.taken += b"".join(batch)
            self.told.wrote(count)
        return self.is_open

    async def settle(self, within_s: float) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def refusing(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """In place of stdout."""
    sink = Refusing(logs.logs)
    logs.logs.use(HostName("vm1"), TrustDomain("mesh.test"), "")
    monkeypatch.setattr(access_log, "open_stdout", lambda _told: sink)
    return sink


@pytest.mark.parametrize(
    ("status", "flag", "is_logged"),
    [
        (200, "", False),
        (404, "", False),
        (200, "DI", False),
        (500, "", True),
        (0, "", True),
        (0, "DC", True),
        (403, "UAEX", True),
        (503, "DI", True),
    ],
)
async def test_what_failed_is_logged_and_what_went_well_is_not(
    logs: Logs, status: int, flag: str, is_logged: bool
) -> None:
    logs.pair(AccessLog())(finished(status, flag), monotonic())
    assert len(await logs.lines()) == is_logged


async def test_a_share_is_of_the_requests_ids_and_each_side_takes_the_same(logs: Logs) -> None:
    ids = [f"order-{number}" for number in range(2000)]
    chosen = {}
    for side in ("source", "destination"):
        pair = logs.pair(AccessLog(percent=10), side)
        for each in ids:
            pair(finished(request_id=each), monotonic())
        lines = await logs.lines()
        chosen[side] = [line["request_id"] for line in lines if line["side"] == side]
    assert chosen["source"] == chosen["destination"]
    assert 130 < len(chosen["source"]) < 280


async def test_the_ids_are_found_wherever_they_are(logs: Logs) -> None:
    trace = b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    pair = logs.pair()
    own = b"x-request-id: r-9"
    for lines in (
        [own, trace],
        [b"a: b", own, trace, b"x-forwarded-client-cert: By=a"],
        [trace, b"a: b", own],
        [own],
        [b"a: b", own],
        [own, b"a: b"],
        [trace],
        [],
        [b"a: b", own, trace],
    ):
        exchange = finished(503)
        exchange.head.lines = list(lines)
        pair(exchange, monotonic())
        line = (await logs.lines())[-1]
        assert line["request_id"] == ("r-9" if own in lines else None)
        assert line["trace_id"] == (trace[16:48].decode() if trace in lines else None)


async def test_a_request_without_an_id_is_of_the_share_by_chance(logs: Logs) -> None:
    pair = logs.pair(AccessLog(percent=50))
    for _ in range(400):
        exchange = finished()
        exchange.head.lines = []
        pair(exchange, monotonic())
    assert 100 < len(await logs.lines()) < 300


async def test_nothing_of_a_request_is_held_on_to(logs: Logs) -> None:
    class Target:
        endpoint = None

    exchange = finished(503)
    exchange.target = target = Target()
    exchange._body = [b"secret"]
    left = weakref.ref(target)
    pair = logs.pair()
    pair(exchange, monotonic())
    pair.forget()
    del exchange, target
    gc.collect()
    assert left() is None
    (entry,) = logs.logs.waiting
    assert not any(isinstance(each, list | Exchange | RequestHead) for each in entry)


async def test_no_caller_decides_how_much_is_kept(logs: Logs) -> None:
    exchange = finished(503, request_id="i" * 50_000)
    exchange.head.target = b"/" + b"p" * 50_000
    exchange.head.authority = b"a" * 50_000
    logs.pair()(exchange, monotonic())
    (entry,) = logs.logs.waiting
    assert sum(len(each) for each in entry if isinstance(each, bytes | str)) < 2000


async def test_lines_are_written_without_being_asked_for(logs: Logs) -> None:
    logs.pair()(finished(), monotonic())
    async with asyncio.timeout(20):
        while not logs.written:
            await asyncio.sleep(0.01)
    assert not logs.logs.waiting


async def test_many_lines_are_written_in_order_and_some_at_a_time(logs: Logs) -> None:
    pair = logs.pair()
    for number in range(3000):
        pair(finished(request_id=str(number)), monotonic())
    found = [int(line["request_id"]) for line in await logs.lines()]
    assert found == list(range(3000))
    assert logs.written == 3000


async def test_of_too_many_that_wait_the_failed_have_a_share_of_their_own(
    logs: Logs, refusing: Refusing
) -> None:
    pair = logs.pair()
    for _ in range(MAX_WAITING + 10):
        pair(finished(), monotonic())
    assert (len(logs.logs.waiting), logs.dropped("buffer")) == (MAX_WAITING, 10)
    for _ in range(MAX_WAITING_BAD):
        pair(finished(503, "UF"), monotonic())
    assert len(logs.logs.waiting) == MAX_WAITING_BAD
    assert logs.dropped("buffer") == 10 + MAX_WAITING
    logs.logs.waiting.clear()


async def test_nothing_is_lost_while_the_reader_does_not_take_it(
    logs: Logs, refusing: Refusing
) -> None:
    pair = logs.pair()
    for number in range(50):
        pair(finished(request_id=str(number)), monotonic())
    await logs.logs.flush(0.05)
    assert logs.written == 0
    refusing.is_open = True
    await logs.logs.flush(20)
    found = [int(json.loads(line)["request_id"]) for line in refusing.taken.splitlines()]
    assert found == list(range(50))
    assert logs.written == 50


async def test_the_journal_gets_so_many_a_second_and_failures_have_their_own_rate(
    logs: Logs, refusing: Refusing
) -> None:
    refusing.is_open = True
    logs.logs._good = access_log._Allowance(5)
    pair = logs.pair()
    for _ in range(3000):
        pair(finished(), monotonic())
    await logs.logs.flush(20)
    lost = logs.dropped("rate")
    assert logs.written >= 10
    assert lost > 0
    assert lost + logs.written == 3000
    for _ in range(100):
        pair(finished(503, "UF"), monotonic())
    await logs.logs.flush(20)
    assert logs.dropped("rate") == lost
    assert refusing.taken.count(b'"flag":"UF"') == 100


async def test_a_disk_that_refuses_is_warned_of_once_and_when_it_is_over(
    logs: Logs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logs.path.write_text("in the way")
    pair = logs.pair()
    for _ in range(3):
        pair(finished(), monotonic())
        await logs.logs.flush(20)
    assert logs.dropped("write") == 3
    logs.path.unlink()
    pair(finished(), monotonic())
    assert len(await logs.lines()) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "access.log" in str(caplog.records[0].__dict__["to"])


async def test_another_size_is_in_force_from_the_next_line_on(logs: Logs) -> None:
    pair = logs.pair()
    pair(finished(), monotonic())
    assert len(await logs.lines()) == 1
    logs.logs.apply(Telemetry(log_file_bytes=1, log_files=1))
    pair(finished(), monotonic())
    assert len(await logs.lines()) == 1
    assert (logs.path / "access.log.1").exists()


async def test_what_waits_is_written_at_the_end(logs: Logs) -> None:
    logs.pair()(finished(), monotonic())
    await logs.logs.close()
    assert len((logs.path / "access.log").read_text().splitlines()) == 1


async def test_what_cannot_be_written_at_the_end_is_counted(
    logs: Logs, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "CLOSE_S", 0.05)
    logs.pair()(finished(), monotonic())
    await logs.logs.close()
    assert logs.dropped("write") == 1


async def test_a_format_of_another_version_gives_json(
    logs: Logs, caplog: pytest.LogCaptureFixture
) -> None:
    logs.pair(AccessLog(percent=100, format="%no_such_field%"))(finished(), monotonic())
    assert len(await logs.lines()) == 1
    assert "not understood" in caplog.text
