"""What is counted of calls that were really made, and how long it is told."""

import asyncio
import gc
import random
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.exposition import Exemplar
from proxy.core.metrics import SERIES_IDLE_S, Histogram, Metrics
from proxy.http.exchange import Exchange
from proxy.http.head import RequestHead
from proxy.http.ledger import Ledger
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Balancing, Route, ServicePolicy
from proxy.model.resilience import OutlierDetection, Retries
from proxy.model.routing import DirectResponse, Match, Mirror, PathMatch
from proxy.model.telemetry import Telemetry
from proxy.net.dataplane_metrics import DataPlaneMetrics, Reporter, is_failure

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad"
FAMILIES = 60
"""More than there are: a sweep looks at one of them."""


def pass_by(grid: Any, host: str, since: float, seconds: float) -> None:
    """Lets ``seconds`` pass, for the metrics of ``host``, during which nothing is counted."""
    for now in (since, since + seconds):
        for _ in range(FAMILIES):
            grid.planes[host]._metrics.sweep(now)


def count(grid: Any, name: str, **labels: str) -> float:
    return grid.metric("near", name, **labels)


async def test_bodies_are_counted_by_size_at_both_sides(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.answer = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + b"x" * 300
    grid.apply()
    client = await grid.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5000\r\n\r\n" + b"y" * 5000)
    assert (await client.response()).status == 200
    assert (await client.get()).status == 200
    for host, reporter in (("near", "source"), ("a1", "destination")):
        side = {"reporter": reporter, "source_workload": "web"}
        assert grid.metric(host, "istio_request_bytes_sum", **side) == 5000
        assert grid.metric(host, "istio_request_bytes_bucket", **side, le="0") == 1
        assert grid.metric(host, "istio_request_bytes_bucket", **side, le="4096") == 1
        assert grid.metric(host, "istio_request_bytes_bucket", **side, le="16384") == 2
        assert grid.metric(host, "istio_response_bytes_sum", **side) == 600
        assert grid.metric(host, "istio_response_bytes_bucket", **side, le="256") == 0
        assert grid.metric(host, "istio_response_bytes_count", **side) == 2


async def test_requests_are_counted_by_the_route_that_they_matched(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        routes=(
            Route(name="shop", match=Match(path=PathMatch(prefix="/shop"))),
            Route(
                name="gone",
                match=Match(path=PathMatch(prefix="/gone")),
                respond=DirectResponse(status=500),
            ),
        )
    )
    grid.apply()
    client = await grid.connect()
    for path in ("/shop/1", "/shop/2", "/gone", "/else"):
        await client.get(path)
    name = "mesh_route_request_duration_milliseconds_count"
    labels = {"source_workload": "web", "destination_service": "api"}
    assert count(grid, name, **labels, route="shop", outcome="success") == 2
    assert count(grid, name, **labels, route="gone", outcome="failure") == 1
    assert count(grid, name, **labels, route="-", outcome="success") == 1
    assert count(grid, name) == 4
    # The proxy's own answer is nobody's endpoint's.
    assert count(grid, "mesh_endpoint_request_duration_milliseconds_count") == 3
    assert grid.metric("a1", name) == 0


async def test_every_try_counts_at_its_endpoint_and_the_request_once(grid: Any) -> None:
    bad = await grid.serve("api", "a1", version="1")
    bad.answer = lambda _: BAD
    await grid.serve("api", "a2", version="2")
    grid.policy["api"] = ServicePolicy(
        retries=Retries(attempts=2, on=("5xx",)), balancing=Balancing(algorithm="round_robin")
    )
    grid.apply()
    client = await grid.connect()
    assert await grid.count(client, 4) == {"a2": 4}
    name = "mesh_endpoint_request_duration_milliseconds_count"
    tried = count(grid, name, destination_host="a1", destination_version="1", outcome="failure")
    assert tried == count(grid, "mesh_retries_total", source_workload="web") >= 1
    labels = {"destination_host": "a2", "destination_version": "2", "outcome": "success"}
    assert count(grid, name, **labels, destination_service="api") == 4
    assert count(grid, name) == 4 + tried
    assert count(grid, "istio_requests_total", reporter="source") == 4


async def test_copies_of_requests_are_not_counted_as_requests(grid: Any) -> None:
    await grid.serve("api", "a1")
    copied = await grid.serve("api2", "b1")
    mirror = Mirror(service=ServiceName("api2"), percent=100)
    grid.policy["api"] = ServicePolicy(routes=(Route(name="all", mirror=mirror),))
    grid.apply()
    assert (await (await grid.connect()).get()).status == 200
    async with asyncio.timeout(10):
        while count(grid, "mesh_mirrored_requests_total", response_code="200") < 1:
            await asyncio.sleep(0.005)
    assert len(copied.requests) == 1
    assert count(grid, "istio_requests_total") == 1
    assert count(grid, "mesh_route_request_duration_milliseconds_count") == 1
    assert count(grid, "mesh_endpoint_request_duration_milliseconds_count") == 1


async def test_policy_can_end_the_counting_and_begin_it_again(grid: Any) -> None:
    await grid.serve("api", "a1")
    await grid.serve("db", "d1")
    grid.apply()
    client = await grid.connect()

    async def use(request_id: str) -> None:
        assert (await client.get("/", f"X-Request-Id: {request_id}\r\n")).status == 200
        session = await grid.connect("db")
        session.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await session.response()).status == 200

    async def counted() -> tuple[float, ...]:
        near = grid.planes["near"]
        await asyncio.sleep(0)
        return (
            count(grid, "istio_requests_total", reporter="source"),
            count(grid, "istio_tcp_connections_opened_total", reporter="source"),
            grid.metric("a1", "istio_requests_total", reporter="destination"),
            len(near.recent.find("r-1")),
            len(near.recent.find("r-2")),
        )

    await use("r-1")
    assert await counted() == (1, 1, 1, 1, 0)
    grid.telemetry = Telemetry(metrics=False)
    grid.apply()
    await use("r-2")
    assert await counted() == (1, 1, 1, 1, 0)
    grid.telemetry = Telemetry()
    grid.apply()
    await use("r-3")
    assert await counted() == (2, 2, 2, 1, 0)


async def test_a_pair_that_has_been_idle_is_forgotten_and_counted_anew_when_it_is_back(
    grid: Any,
) -> None:
    await grid.serve("api", "a1")
    grid.apply()
    client = await grid.connect()
    await grid.count(client, 3)
    for host in ("near", "a1"):
        pass_by(grid, host, 1e9, SERIES_IDLE_S)
        for name in ("istio_requests_total", "istio_request_duration_milliseconds_count"):
            assert grid.metric(host, name) == 0
    assert b"mesh_route_request_duration_milliseconds_bucket" not in grid.metrics["near"].render()
    await grid.count(client, 2)
    assert grid.metric("a1", "istio_requests_total", source_workload="web") == 2
    for name in (
        "istio_requests_total",
        "istio_request_duration_milliseconds_count",
        "istio_response_bytes_count",
        "mesh_route_request_duration_milliseconds_count",
        "mesh_endpoint_request_duration_milliseconds_count",
    ):
        assert count(grid, name) == 2
    assert count(grid, "mesh_metric_series_dropped_total") > 0


async def test_what_happens_rarely_is_told_as_long_as_the_pair_may_call(grid: Any) -> None:
    """Or else its increase could not be seen."""
    grid.register("api", "nowhere", 1)
    grid.apply()
    assert (await (await grid.connect()).get()).status == 503
    labels = {"source_workload": "web", "destination_service": "api"}
    failed = count(grid, "mesh_upstream_dial_failures_total", **labels)
    pass_by(grid, "near", 1e9, SERIES_IDLE_S)
    assert count(grid, "mesh_upstream_dial_failures_total", **labels) == failed > 0
    caller = grid.planes["near"]._callers[ServiceName("web")]
    caller.clusters.pop((ServiceName("api"), "")).retire()
    pass_by(grid, "near", 2e9, SERIES_IDLE_S)
    assert count(grid, "mesh_upstream_dial_failures_total", **labels) == 0


async def test_a_session_that_was_silent_for_long_counts_on(grid: Any) -> None:
    app = await grid.serve("db", "d1")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)

    app.script = echo
    grid.apply()
    session = await grid.connect("db")
    session.send(b"12345")
    assert await asyncio.wait_for(session.reader.readexactly(5), 10) == b"12345"
    for host in ("near", "d1"):
        assert grid.metric(host, "istio_tcp_sent_bytes_total") == 5
        pass_by(grid, host, 1e9, SERIES_IDLE_S)
        assert grid.metric(host, "istio_tcp_sent_bytes_total") == 0
    session.send(b"abc")
    assert await asyncio.wait_for(session.reader.readexactly(3), 10) == b"abc"
    for host in ("near", "d1"):
        assert grid.metric(host, "istio_tcp_sent_bytes_total") == 3
        assert grid.metric(host, "istio_tcp_received_bytes_total") == 3


async def test_an_ejected_endpoint_is_shown_with_the_reason(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.answer = lambda _: BAD
    grid.policy["api"] = ServicePolicy(
        outlier_detection=OutlierDetection(consecutive_failures=2), retries=Retries(attempts=0)
    )
    grid.apply()
    client = await grid.connect()
    await grid.count(client, 2)
    labels = {"source_workload": "web", "destination_service": "api"}
    assert count(grid, "mesh_ejections_total", **labels, reason="status") == 1
    assert count(grid, "mesh_endpoint_states", **labels, state="ejected") == 1
    assert count(grid, "mesh_endpoint_states", **labels, state="available") == 0
    (state,) = grid.cluster("api").describe().endpoints
    assert (state.state, state.why) == ("ejected", "answered 503")


async def test_an_endpoint_that_cannot_be_reached_is_shown_with_the_reason(grid: Any) -> None:
    grid.register("api", "nowhere", 1)
    grid.apply()
    assert (await (await grid.connect()).get()).status == 503
    (state,) = grid.cluster("api").describe().endpoints
    assert state.state == "avoided"
    assert state.why.startswith("the connection to the service could not be made: ")
    labels = {"source_workload": "web", "destination_service": "api"}
    assert count(grid, "mesh_endpoint_states", **labels, state="avoided") == 1
    dials = count(grid, "mesh_upstream_dials_total", **labels)
    assert dials == count(grid, "mesh_upstream_dial_failures_total", **labels) >= 1


async def test_gauges_say_what_is_under_way_and_end_with_what_they_speak_of(grid: Any) -> None:
    gate = asyncio.Event()
    app = await grid.serve("api", "a1")

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await gate.wait()
        writer.write(OK)

    app.script = slow
    grid.apply()
    client = await grid.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    labels = {"source_workload": "web", "destination_service": "api"}
    async with asyncio.timeout(10):
        while grid.metric("a1", "mesh_downstream_requests", reporter="destination") < 1:
            await asyncio.sleep(0.005)
    assert count(grid, "mesh_upstream_requests", **labels) == 1
    assert count(grid, "mesh_downstream_requests", reporter="source") == 1
    assert count(grid, "mesh_downstream_connections", reporter="source") == 1
    assert count(grid, "mesh_upstream_connections", **labels) == 1
    assert count(grid, "mesh_upstream_connections_idle", **labels) == 0
    gate.set()
    assert (await client.response()).status == 200
    assert count(grid, "mesh_upstream_requests", **labels) == 0
    assert count(grid, "mesh_upstream_connections_idle", **labels) == 1
    assert count(grid, "mesh_retry_budget_left", **labels) > 0
    assert count(grid, "mesh_breaker_open", **labels) == 0
    caller = grid.planes["near"]._callers[ServiceName("web")]
    caller.clusters.pop((ServiceName("api"), "")).retire()
    text = grid.metrics["near"].render().decode()
    assert 'mesh_upstream_requests{source_workload="web",destination_service="api"}' not in text
    assert 'mesh_upstream_requests{source_workload="other",destination_service="api"}' in text


async def test_a_request_that_is_traced_is_the_example_of_its_bucket(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.telemetry = Telemetry(otlp="http://127.0.0.1:1/v1/traces")
    grid.apply()
    client = await grid.connect()
    await client.get()
    assert not examples(grid, "near")
    for last in "12":
        trace = "4bf92f3577b34da6a3ce929d0e0e473" + last
        await client.get("/", f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n")
        for host in ("near", "a1"):
            found = examples(grid, host)
            assert found[-1].trace_id == trace
            assert {each.labels[1] for each in found} == {"web"}
            assert all(each.value >= 0 and each.at > 1.7e9 for each in found)
    assert 1 <= len(examples(grid, "near")) <= 2
    pass_by(grid, "near", 1e9, SERIES_IDLE_S)
    assert not examples(grid, "near")


def examples(grid: Any, host: str) -> list[Exemplar]:
    """By age, of all buckets."""
    (family,) = (
        each
        for each in grid.metrics[host].tally()
        if each.name == "istio_request_duration_milliseconds"
    )
    return sorted(family.exemplars, key=lambda each: each.at)


@pytest.mark.parametrize(
    ("status", "flag", "is_bad"),
    [
        (200, "", False),
        (404, "", False),
        (200, "DI", False),
        (500, "", True),
        (500, "DI", True),
        (0, "DC", True),
        (403, "UAEX", True),
        (429, "RL", True),
    ],
)
def test_what_a_failure_is(status: int, flag: str, is_bad: bool) -> None:
    assert is_failure(status, flag) is is_bad


class Named(SimpleNamespace):
    """With an identity, as a route and a pool have one."""

    __hash__ = object.__hash__


def test_random_callers_and_statuses_do_not_grow_the_process_and_are_gone_after_a_while() -> None:
    metrics = Metrics()
    families = DataPlaneMetrics(metrics)
    rng = random.Random(5)
    reporters: dict[str, Reporter] = {}
    nobody: Any = None
    ledger = Ledger(10, lambda _: None)
    head = RequestHead(b"GET", b"/", b"api", False)
    head.lines = [b"x-request-id: 1"]
    for number in range(100_000):
        caller = f"c{number % 5000}"
        if caller not in reporters:
            if len(reporters) >= 1000:
                reporters.clear()
            reporters[caller] = Reporter(families, "source", caller, f"spiffe://{caller}", "api")
        exchange = Exchange(nobody, head, nobody, ledger)
        exchange.status = rng.randrange(200, 600)
        exchange.flag = rng.choice(("", "", "UF", "UT"))
        exchange.body_bytes = rng.randrange(10_000_000)
        exchange.response_bytes = rng.randrange(10_000_000)
        exchange.tries = 1
        exchange.rule = Named(name=f"r{number}")
        exchange.target = Named(
            endpoint=Endpoint(
                service=ServiceName("api"),
                host=HostName(f"h{number}"),
                address="10.0.0.1",
                port=1,
                version=f"v{number}",
            ),
        )
        reporters[caller].answered(exchange, exchange.started + rng.random() * 1000)
    tally = metrics.tally()
    assert sum(len(family.series) for family in tally) < 7 * 1001 + 50
    by_name = {family.name: family for family in tally}
    assert sum(figures[0] for _, figures in by_name["istio_requests_total"].series) == 100_000
    overflowed = dict(by_name["mesh_metric_series_overflowed_total"].series)
    assert overflowed[("istio_requests_total",)][0] > 0
    assert sum(isinstance(each, Histogram) for each in gc.get_objects()) < 5 * 1001 + 500
    for now in (0.0, SERIES_IDLE_S):
        for _ in range(FAMILIES):
            families.sweep(now)
    left = {family.name for family in metrics.tally() if family.series}
    assert not any(name.startswith("istio_") for name in left)
    assert "mesh_endpoint_request_duration_milliseconds" not in left
    del exchange
    gc.collect()
    assert not any(family._faded for family in metrics._families.values())
