"""Spans on their way to receivers that are well, ill, slow, hostile and not there."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Decoded
from otlp_receiver import OK, OtlpReceiver, failing, partial
from ports import free_ports

from proxy.core.metrics import Metrics
from proxy.core.otlp import CLIENT, Key, span
from proxy.net import otlp, otlp_http
from proxy.net.otlp import BATCH, MAX_QUEUED, Exporter
from proxy.net.otlp_http import Receiver, parse_receiver
from proxy.net.span import Span


class Finished:
    """What an exporter wants of a span."""

    resource = Key("service.name").resource_text(b"web")

    def __init__(self, number: int) -> None:
        self._number = number

    def encode(self, since_ns: int) -> bytes:
        return span(
            trace_id=b"%032x" % self._number, span_id=b"%016x" % self._number, parent_id=b"",
            state=b"", trace_flags=1, name=b"GET", kind=CLIENT, started_ns=since_ns,
            ended_ns=since_ns, attributes=b"",
        )  # fmt: skip


class Bench:
    """An exporter and the one that it sends to."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.exporter = Exporter(self.metrics)
        self.receiver = OtlpReceiver()
        self._others: list[OtlpReceiver] = []
        self._made = 0

    async def another(self, tls: ssl.SSLContext | None = None) -> OtlpReceiver:
        """From now on in the place of the first one."""
        other = OtlpReceiver()
        self._others.append(other)
        await other.start(tls)
        self.exporter.use(other.url)
        return other

    async def stop(self) -> None:
        await self.exporter.close()
        for each in (self.receiver, *self._others):
            await each.stop()

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            self._made += 1
            self.exporter.add(cast(Span, Finished(self._made)))

    @property
    def exported(self) -> float:
        return self.metrics.counter("mesh_spans_exported_total", "").labels().value

    @property
    def dropped(self) -> dict[str, float]:
        family = self.metrics.counter("mesh_spans_dropped_total", "", ("reason",))
        return {labels[0]: figures[0] for labels, figures in family.tally().series}

    @property
    def numbers(self) -> list[int]:
        return [int(each.trace_id.hex(), 16) for _, each in self.receiver.spans]

    async def settled(self) -> None:
        """Every span has either arrived or been dropped."""
        await until(lambda: self.exported + sum(self.dropped.values()) == self._made)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "LINGER_S", 0.01)
    monkeypatch.setattr(otlp, "BACKOFF_S", 0.01)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.receiver.start()
    bench.exporter.use(bench.receiver.url)
    yield bench
    await bench.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "spans"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:4318/v1/traces", (False, "127.0.0.1", 4318, "/v1/traces")),
        ("https://otel.example", (True, "otel.example", 443, "/")),
        ("http://[::1]:4318/x", (False, "::1", 4318, "/x")),
        ("http://h/x", (False, "h", 80, "/x")),
    ],
)
def test_a_url_says_where_to_connect(url: str, expected: tuple[bool, str, int, str]) -> None:
    made = parse_receiver(url)
    assert (made.is_tls, made.host, made.port, made.target) == expected
    assert isinstance(made, Receiver)


@pytest.mark.parametrize(
    ("host", "is_far"),
    [("127.0.0.2", False), ("[::1]", False), ("localhost", False), ("10.0.0.1", True), ("o", True)],
)
def test_a_receiver_on_this_host_is_near(host: str, is_far: bool) -> None:
    assert parse_receiver(f"http://{host}:4318/v1/traces").is_far is is_far


@pytest.mark.parametrize("url", ["", "x", "ftp://h/x", "http://", "http://h:99999/x"])
def test_what_is_no_url_of_a_receiver_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_receiver(url)


async def test_spans_arrive_in_full_batches_in_their_order_on_one_connection(bench: Bench) -> None:
    bench.add(2 * BATCH + 100)
    await bench.settled()
    assert bench.receiver.batches == [BATCH, BATCH, 100]
    assert bench.numbers == list(range(1, 2 * BATCH + 101))
    assert (bench.exported, bench.dropped) == (2 * BATCH + 100, {})
    bench.add()
    await bench.settled()
    assert bench.receiver.connections == 1


@pytest.mark.parametrize(("count", "is_far"), [(1, True), (100, True), (100, False)])
async def test_a_batch_is_compressed_where_that_saves_packets(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, count: int, is_far: bool
) -> None:
    monkeypatch.setattr(otlp_http, "_is_loopback", lambda host: not is_far)
    bench.exporter.use("")
    bench.exporter.use(bench.receiver.url)
    bench.add(count)
    await bench.settled()
    assert bench.exported == count
    assert ("Content-Encoding: gzip" in bench.receiver.heads[0]) is (is_far and count > 1)


async def test_times_are_those_of_the_calendar(bench: Bench) -> None:
    bench.add()
    await bench.settled()
    ((resource, decoded),) = bench.receiver.spans
    assert isinstance(decoded, Decoded)
    assert resource == {"service.name": "web"}
    assert decoded.start_time_unix_nano > 0


async def test_a_connection_that_was_closed_meanwhile_costs_nothing(bench: Bench) -> None:
    bench.add()
    await bench.settled()
    bench.receiver.drop_connections()
    bench.add()
    await bench.settled()
    assert bench.numbers == [1, 2]
    assert bench.receiver.connections == 2


async def test_a_kept_connection_that_ends_without_an_answer_is_no_failure_of_the_receiver(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "BACKOFF_S", 5.0)
    monkeypatch.setattr(otlp, "DELIVER_S", 0.4)  # no time for a pause
    bench.receiver.answer = lambda number: b"" if number == 2 else OK
    for _ in range(2):
        bench.add()
        await bench.settled()
    assert bench.numbers == [1, 2]
    assert bench.receiver.requests == 3


@pytest.mark.parametrize("status", ["429 A", "502 B", "503 C", "504 D"])
async def test_a_receiver_that_is_busy_is_asked_again(bench: Bench, status: str) -> None:
    bench.receiver.answer = lambda number: failing(status) if number < 3 else OK
    bench.add(5)
    await bench.settled()
    assert bench.receiver.requests == 3
    assert bench.numbers == [1, 2, 3, 4, 5]
    assert (bench.exported, bench.dropped) == (5, {})


async def test_a_connection_that_ends_without_an_answer_is_tried_again(bench: Bench) -> None:
    bench.receiver.answer = lambda number: b"" if number == 1 else OK
    bench.add()
    await bench.settled()
    assert bench.numbers == [1]


@pytest.mark.parametrize(
    "answer",
    [
        failing("400 Bad"),
        failing("401 No"),
        failing("404 No"),
        failing("500 No"),
        failing("302 Found", "Location: http://127.0.0.1:1/\r\n"),
        b"garbage that is no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90000,
    ],
)
async def test_what_will_not_get_better_is_not_tried_again(bench: Bench, answer: bytes) -> None:
    bench.receiver.answer = lambda number: answer
    bench.add(3)
    await bench.settled()
    assert (bench.exported, bench.dropped) == (0, {"refused": 3})
    assert bench.receiver.requests == 1
    bench.receiver.answer = lambda number: OK
    bench.add()
    await bench.settled()
    assert bench.exported == 1


async def test_an_answer_cut_off_is_no_answer(bench: Bench) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nab"
    bench.receiver.answer = lambda number: cut if number == 1 else OK
    bench.add()
    await until(lambda: bench.receiver.requests)
    bench.receiver.drop_connections()
    await bench.settled()
    assert (bench.exported, bench.receiver.requests) == (1, 2)


async def test_what_a_receiver_took_in_part_is_counted_in_part(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.receiver.answer = lambda number: partial(2, "too old")
    with caplog.at_level(logging.WARNING):
        bench.add(5)
        await bench.settled()
        bench.add(5)
        await bench.settled()
    assert (bench.exported, bench.dropped) == (6, {"rejected": 4})
    (record,) = [each for each in caplog.records if each.name == "proxy.net.otlp"]
    assert record.__dict__["error"] == "2 spans were rejected: too old"


async def test_a_receiver_cannot_reject_more_than_it_got(bench: Bench) -> None:
    bench.receiver.answer = lambda number: partial(10**9, "")
    bench.add(5)
    await bench.settled()
    assert (bench.exported, bench.dropped) == (0, {"rejected": 5})


@pytest.mark.parametrize("after", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
async def test_a_receiver_that_wants_to_be_left_alone_is(bench: Bench, after: str) -> None:
    answer = failing("503 Later", f"Retry-After: {after}\r\n")
    bench.receiver.answer = lambda number: answer
    bench.add()
    await bench.settled()
    bench.add(2)
    await bench.settled()
    assert bench.dropped == {"refused": 3}
    assert bench.receiver.requests == 1


@pytest.mark.parametrize("after", ["0", "soon", "Fri, 01 Jan 2016 00:00:00 GMT", "-1"])
async def test_a_pause_that_says_nothing_is_ours_to_choose(bench: Bench, after: str) -> None:
    answer = failing("503 Later", f"Retry-After: {after}\r\n")
    bench.receiver.answer = lambda number: answer if number == 1 else OK
    bench.add()
    await bench.settled()
    assert bench.exported == 1


async def test_nobody_there_is_tried_for_a_while_and_said_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otlp, "DELIVER_S", 0.1)
    (port,) = free_ports(1)
    bench.exporter.use(f"http://127.0.0.1:{port}/v1/traces")
    with caplog.at_level(logging.INFO):
        bench.add(2)
        await bench.settled()
        bench.exporter.use(bench.receiver.url)
        bench.add()
        await bench.settled()
    assert (bench.exported, bench.dropped) == (1, {"unreachable": 2})
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1


async def test_a_receiver_that_hangs_holds_a_bounded_number_of_spans(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_http, "SEND_S", 0.05)
    monkeypatch.setattr(otlp, "DELIVER_S", 0.1)
    bench.receiver.answer = lambda number: None
    bench.add(BATCH)
    await until(lambda: bench.receiver.requests)
    bench.add(MAX_QUEUED + 700)
    assert bench.dropped["queue-full"] == 700
    assert len(bench.exporter._queue) == MAX_QUEUED
    await bench.settled()
    assert bench.dropped == {"queue-full": 700, "unreachable": BATCH + MAX_QUEUED}


async def test_a_server_that_never_accepts_holds_nothing_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_http, "SEND_S", 0.05)
    monkeypatch.setattr(otlp, "DELIVER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bench.exporter.use(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        bench.add()
        await bench.settled()
    assert bench.dropped == {"unreachable": 1}


async def test_what_waits_is_sent_at_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "LINGER_S", 600)
    bench.add(3)
    await asyncio.sleep(0)
    await bench.exporter.close()
    assert bench.numbers == [1, 2, 3]
    bench.add()
    assert bench.dropped == {"stopping": 1}


@pytest.mark.parametrize("is_waiting_for_a_retry", [False, True])
async def test_the_end_does_not_wait_for_a_receiver_that_is_ill(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, is_waiting_for_a_retry: bool
) -> None:
    monkeypatch.setattr(otlp, "FLUSH_S", 0.1)
    monkeypatch.setattr(otlp, "BACKOFF_S", 5.0)
    busy = failing("503 Later")
    bench.receiver.answer = lambda number: busy if is_waiting_for_a_retry else None
    bench.add(BATCH + 3)
    await until(lambda: bench.receiver.requests)
    await asyncio.wait_for(bench.exporter.close(), 10)
    assert sum(bench.dropped.values()) == BATCH + 3


async def test_another_receiver_gets_at_once_what_the_first_did_not_take(bench: Bench) -> None:
    first = await bench.another()
    first.answer = lambda number: failing("503 Later", "Retry-After: 25\r\n")
    bench.add(4)
    await until(lambda: first.requests)
    bench.exporter.use(bench.receiver.url)
    await bench.settled()
    assert bench.numbers == [1, 2, 3, 4]


async def test_a_receiver_that_was_left_gets_nothing_more(bench: Bench) -> None:
    bench.add()
    await bench.settled()
    bench.receiver.answer = lambda number: None
    bench.add()
    await until(lambda: bench.receiver.requests == 2)  # on the connection that was kept
    other = await bench.another()
    await bench.settled()
    assert (bench.receiver.requests, len(other.spans)) == (2, 1)


async def test_without_a_receiver_what_waits_is_dropped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "LINGER_S", 600)
    bench.add(2)
    assert bench.exporter.is_wanted
    bench.exporter.use("")
    bench.add()
    assert not bench.exporter.is_wanted
    assert bench.dropped == {"off": 3}


async def test_a_span_that_cannot_be_written_does_not_end_the_export(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Finished):
        def encode(self, since_ns: int) -> bytes:
            raise RuntimeError("a defect")

    bench.exporter.add(cast(Any, Broken(1)))
    await until(lambda: bench.dropped)
    assert bench.dropped == {"failed": 1}
    bench.add()
    await until(lambda: bench.exported)


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_over_tls_the_system_says_who_is_believed(
    bench: Bench, mesh_pki: Any, monkeypatch: pytest.MonkeyPatch, is_trusted: bool
) -> None:
    monkeypatch.setattr(otlp, "DELIVER_S", 1.0)
    directory = mesh_pki.issue("otel", uris=(), dns=("localhost",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(mesh_pki.trust_bundle))
    receiver = await bench.another(context)
    bench.add()
    await bench.settled()
    assert len(receiver.spans) == int(is_trusted)
    assert bench.dropped == ({} if is_trusted else {"unreachable": 1})
