"""Requests are told of some at once, and nothing is lost or held on to by that."""

import asyncio
import gc
import weakref
from time import monotonic

from proxy.core.exposition import FamilyTally
from proxy.core.grpc import Status
from proxy.core.metrics import Metrics
from proxy.http.exchange import Exchange
from proxy.http.grpc import Call
from proxy.http.head import RequestHead
from proxy.http.ledger import Ledger
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.telemetry import AccessLog, Telemetry
from proxy.net.dataplane_metrics import AT_ONCE, DataPlaneMetrics, Reporter


class Pool:
    endpoint = Endpoint(service=ServiceName("api"), host=HostName("b"), address="10.0.0.1", port=1)


class Counting:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.families = DataPlaneMetrics(self.metrics)
        self.pool = Pool()
        self.reporter = Reporter(self.families, "source", "web", "spiffe://web", "api")

    def answer(self, status: int = 200, *, tries: int = 1, grpc: Status | None = None) -> None:
        head = RequestHead(b"GET", b"/", b"api", False)
        head.lines = [b"x-request-id: r", b"traceparent: 00-" + b"a" * 32]
        exchange = Exchange(None, head, None, Ledger(10, lambda _: None))  # type: ignore[arg-type]
        exchange.status, exchange.tries, exchange.target = status, tries, self.pool
        if grpc is not None:
            exchange.grpc = Call()
            exchange.grpc.status = grpc
        self.reporter.answered(exchange, monotonic())

    def family(self, name: str) -> FamilyTally:
        return next(each for each in self.metrics.tally() if each.name == name)

    def counted(self, name: str, **labels: str) -> float:
        """Of a counter the sum, of a histogram the observations."""
        family = self.family(name)
        wanted = {family.label_names.index(name): value for name, value in labels.items()}
        found = (
            sum(figures[:-1]) if family.kind == "histogram" else figures[0]
            for values, figures in family.series
            if all(values[at] == value for at, value in wanted.items())
        )
        return sum(found)


async def test_whoever_reads_sees_what_has_just_ended() -> None:
    counting = Counting()
    for number in range(1, AT_ONCE * 2 + 5):
        counting.answer()
        assert len(counting.families.recent.find("r")) == min(number, 100)
    for more in range(1, AT_ONCE):
        counting.answer()
        assert counting.counted("istio_requests_total") == number + more


async def test_what_nobody_reads_is_told_after_a_moment_and_let_go_of() -> None:
    counting = Counting()
    counting.answer()
    assert len(counting.families.finished) == 1
    async with asyncio.timeout(20):
        while counting.families.finished:
            await asyncio.sleep(0.005)
    assert counting.families.recent.source.goods == 1


async def test_no_more_wait_than_are_told_at_once() -> None:
    counting = Counting()
    for _ in range(AT_ONCE * 3 - 1):
        counting.answer()
        assert len(counting.families.finished) < AT_ONCE


async def test_an_outcome_that_is_idle_holds_on_to_nothing() -> None:
    counting = Counting()
    counting.answer()
    counting.families.settle()
    assert counting.reporter._outcomes
    pool = weakref.ref(counting.pool)
    counting.pool = Pool()
    counting.families.settle()
    gc.collect()
    assert counting.reporter._outcomes == {}
    assert pool() is None
    counting.answer()
    assert counting.counted("istio_requests_total") == 2


async def test_what_ended_before_counting_was_turned_off_is_counted_and_nothing_after() -> None:
    counting = Counting()
    logs = counting.families.telemetry.logs
    counting.reporter.log = logs.logger("source", "web", "", "api", AccessLog(percent=100))
    counting.answer()
    counting.families.apply(Telemetry(metrics=False))
    counting.answer()
    counting.families.apply(Telemetry(metrics=True))
    assert counting.counted("istio_requests_total") == 1
    counting.answer()
    assert counting.counted("istio_requests_total") == 2


async def test_random_statuses_and_names_are_counted_though_not_remembered() -> None:
    counting = Counting()
    for number in range(450):
        counting.answer(200 + number)
    assert counting.counted("istio_requests_total") == 450
    assert len(counting.reporter._outcomes) <= 200


async def test_of_a_repeated_request_the_last_try_is_timed_by_itself() -> None:
    counting = Counting()
    counting.answer(tries=2)
    counting.answer(tries=1)
    assert counting.counted("istio_requests_total") == 2
    assert counting.counted("mesh_endpoint_request_duration_milliseconds", outcome="success") == 2


async def test_a_grpc_call_is_judged_by_its_status() -> None:
    counting = Counting()
    counting.answer(grpc=Status.OK)
    counting.answer(grpc=Status.NOT_FOUND)
    counting.answer(grpc=Status.UNAVAILABLE)
    counting.answer()
    for status, number in (("0", 1), ("5", 1), ("14", 1), ("", 0)):
        labels = {"request_protocol": "grpc", "grpc_response_status": status}
        assert counting.counted("istio_requests_total", **labels) == number
    name = "mesh_endpoint_request_duration_milliseconds"
    assert counting.counted(name, outcome="failure") == 1
    assert counting.counted(name, outcome="success") == 3
    found = counting.families.recent.find("r")
    assert [each.grpc_status for each in found] == ["", "14", "5", "0"]
    assert counting.families.recent.source.bads == 1
