"""Circuit breaking, outlier detection, health checks, rate limits, faults and overload."""

import asyncio
import datetime
import socket
import struct
import time
from typing import Any

import pytest

from proxy.model.policy import Balancing, ServicePolicy, Timeouts
from proxy.model.resilience import (
    ActiveHealth,
    Failover,
    Fault,
    Limits,
    OutlierDetection,
    RateLimit,
    Retries,
)
from proxy.model.routing import Match, PathMatch, TextMatch
from proxy.model.settings import Capacity

ROUND_ROBIN = Balancing(algorithm="round_robin")
NO_RETRY = Retries(attempts=0)
GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
FAIL = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)
    await asyncio.Event().wait()


def reset(client: Any) -> None:
    """An orderly end would say that the client still waits for its answer."""
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


async def until(condition: Any, deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


# Circuit breaking; connections and pending requests are in tests/proxy/net/test_pool.py


async def test_requests_in_flight_are_limited_by_the_breaker(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.script = silent
    grid.policy["api"] = ServicePolicy(limits=Limits(requests=2))
    grid.apply()
    for _ in range(2):
        (await grid.connect()).send(GET)
    await until(lambda: grid.cluster("api").breaker.requests == 2)
    response = await (await grid.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UO")
    assert b"(2 requests are in flight)" in response.body
    assert grid.metric("near", "mesh_breaker_refusals_total", limit="requests") == 1


async def test_one_service_at_its_limit_leaves_others_alone(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.script = silent
    await grid.serve("orders", "o1")
    grid.policy["api"] = ServicePolicy(limits=Limits(requests=1))
    grid.apply()
    (await grid.connect()).send(GET)
    await until(lambda: grid.cluster("api").breaker.requests == 1)
    assert (await (await grid.connect("orders")).get()).status == 200


# Outlier detection


@pytest.mark.parametrize("failure", ["500", "reset", "timeout"])
async def test_an_outlier_is_ejected_and_returns_after_a_probe(grid: Any, failure: str) -> None:
    bad = await grid.serve("api", "bad")
    await grid.serve("api", "a1")
    await grid.serve("api", "a2")
    bad.answer = lambda _: FAIL
    if failure == "timeout":
        bad.script = silent
    elif failure == "reset":

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()

        bad.script = hang_up
    grid.policy["api"] = ServicePolicy(
        balancing=ROUND_ROBIN,
        retries=NO_RETRY,
        timeouts=Timeouts(request_s=0.15),
        outlier_detection=OutlierDetection(consecutive_failures=3, ejection_s=1.0),
    )
    grid.apply()
    client = await grid.connect()
    seen = await grid.count(client, 30)
    assert sum(seen.values()) - seen["a1"] - seen["a2"] == 3
    assert grid.metric("near", "mesh_ejections_total", destination_service="api") == 1
    described = {each.host: each for each in grid.cluster("api").describe().endpoints}
    assert described["bad"].state == "ejected"
    assert 0 < described["bad"].ejected_for_s <= 1.3
    assert described["a1"].state == "available"
    bad.script = None
    bad.answer = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"

    async def is_back() -> bool:
        return "bad" in await grid.count(client, 3)

    async with asyncio.timeout(6):
        while not await is_back():
            await asyncio.sleep(0.1)
    assert (await grid.count(client, 9)) == {"bad": 3, "a1": 3, "a2": 3}
    assert grid.metric("near", "mesh_ejection_returns_total", destination_service="api") == 1


async def test_a_failed_probe_ejects_for_longer(grid: Any) -> None:
    bad = await grid.serve("api", "bad")
    await grid.serve("api", "a1")
    bad.answer = lambda _: FAIL
    grid.policy["api"] = ServicePolicy(
        balancing=ROUND_ROBIN,
        retries=NO_RETRY,
        outlier_detection=OutlierDetection(consecutive_failures=2, ejection_s=0.2, panic_percent=0),
    )
    grid.apply()
    client = await grid.connect()
    pool = next(p for p in grid.cluster("api").pools if p.endpoint.host == "bad")
    async with asyncio.timeout(8):
        while pool.ejections < 2:
            await client.get()
            await asyncio.sleep(0.02)
    assert len(bad.requests) == 3  # two, and one probe


async def test_with_too_few_available_all_are_used(grid: Any) -> None:
    for host in ("b1", "b2", "b3", "b4"):
        app = await grid.serve("api", host)
        app.answer = lambda _: FAIL
    grid.policy["api"] = ServicePolicy(
        balancing=ROUND_ROBIN,
        retries=NO_RETRY,
        outlier_detection=OutlierDetection(
            consecutive_failures=1, max_ejected_percent=100, panic_percent=50
        ),
    )
    grid.apply()
    client = await grid.connect()
    await grid.count(client, 12)
    before = {host: len(app.requests) for host, app in grid.apps.items()}
    await grid.count(client, 8)
    grew = {host: len(app.requests) - before[host] for host, app in grid.apps.items()}
    assert set(grew.values()) == {2}
    grid.cluster("api").sweep(grid.cluster("api")._ledger.now)
    assert grid.metric("near", "mesh_panic", destination_service="api") == 1


async def test_no_outlier_detection_ejects_nobody(grid: Any) -> None:
    bad = await grid.serve("api", "bad")
    bad.answer = lambda _: FAIL
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        balancing=ROUND_ROBIN,
        retries=NO_RETRY,
        outlier_detection=OutlierDetection(consecutive_failures=0),
    )
    grid.apply()
    assert await grid.count(await grid.connect(), 30) == {500: 15, "a1": 15}


async def test_an_outlier_without_equals_fails_over(grid: Any) -> None:
    bad = await grid.serve("api", "bad")
    bad.answer = lambda _: FAIL
    await grid.serve("api2", "b1")
    grid.policy["api"] = ServicePolicy(
        retries=NO_RETRY,
        failover=(Failover(service="api2"),),  # type: ignore[arg-type]
        outlier_detection=OutlierDetection(consecutive_failures=2),
    )
    grid.apply()
    assert await grid.count(await grid.connect(), 10) == {500: 2, "b1": 8}


# Active health checks


async def test_an_endpoint_that_fails_its_http_check_gets_no_requests(grid: Any) -> None:
    ill = await grid.serve("api", "ill")
    await grid.serve("api", "well")
    is_ill = True

    def answer(received: Any) -> bytes:
        if received.target == "/healthz" and is_ill:
            return FAIL
        return b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nill"

    ill.answer = answer
    grid.policy["api"] = ServicePolicy(
        balancing=ROUND_ROBIN,
        outlier_detection=OutlierDetection(consecutive_failures=0),
        health_check=ActiveHealth(
            path="/healthz", interval_s=0.05, unhealthy_after=2, healthy_after=2
        ),
    )
    grid.apply()
    pool = next(p for p in grid.cluster("api").pools if p.endpoint.host == "ill")
    await until(lambda: pool.is_failing)
    client = await grid.connect()
    assert await grid.count(client, 10) == {"well": 10}
    is_ill = False
    await until(lambda: not pool.is_failing)
    assert await grid.count(client, 10) == {"well": 5, "ill": 5}


async def test_an_endpoint_that_fails_its_tcp_check_gets_no_sessions(
    grid: Any, unused_tcp_port: int
) -> None:
    await grid.serve("db", "d1")
    grid.register("db", "dead", unused_tcp_port)
    grid.policy["db"] = ServicePolicy(
        health_check=ActiveHealth(kind="tcp", interval_s=0.05, unhealthy_after=2)
    )
    grid.apply()
    pools = {p.endpoint.host: p for p in grid.cluster("db").pools}
    await until(lambda: pools["dead"].is_failing)
    assert not pools["d1"].is_failing


async def test_taking_the_check_out_of_the_policy_forgives(grid: Any) -> None:
    ill = await grid.serve("api", "ill")
    ill.answer = lambda _: FAIL
    grid.policy["api"] = ServicePolicy(
        health_check=ActiveHealth(interval_s=0.05, unhealthy_after=1)
    )
    grid.apply()
    (pool,) = grid.cluster("api").pools
    await until(lambda: pool.is_failing)
    grid.policy["api"] = ServicePolicy()
    grid.apply()
    assert not pool.is_failing
    asked = len(ill.requests)
    await asyncio.sleep(0.4)
    # The check that was on its way as the policy changed may still arrive; at this interval
    # there would be eight.
    assert len(ill.requests) <= asked + 1


# Rate limits


async def test_a_rate_limit_refuses_with_headers_and_a_name(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(rate_limits=(RateLimit(name="all", requests=3, per_s=60),))
    grid.apply()
    client = await grid.connect()
    answers = [await client.get() for _ in range(5)]
    assert [each.status for each in answers] == [200, 200, 200, 429, 429]
    assert [each.headers.get("ratelimit-remaining") for each in answers] == [
        "2",
        "1",
        "0",
        "0",
        "0",
    ]
    assert answers[0].headers["ratelimit-limit"].startswith("3")
    refused = answers[3]
    assert refused.headers["x-mesh-flag"] == "RL"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert b"(all)" in refused.body
    assert grid.metric("a1", "mesh_rate_limited_total", rate_limit="all") == 2


async def test_a_rate_limit_by_caller_gives_each_its_own(grid: Any) -> None:
    await grid.serve("api", "a1")
    limit = RateLimit(name="each", requests=2, per_s=60, by="caller")
    grid.policy["api"] = ServicePolicy(rate_limits=(limit,))
    grid.apply()
    for caller in ("web", "other"):
        client = await grid.connect(caller=caller)
        assert await grid.count(client, 4) == {"a1": 2, 429: 2}


async def test_a_rate_limit_for_a_route_counts_only_what_matches(grid: Any) -> None:
    await grid.serve("api", "a1")
    match = Match(path=PathMatch(prefix="/costly"), methods=("GET",))
    limit = RateLimit(name="costly", requests=1, per_s=60, match=match)
    grid.policy["api"] = ServicePolicy(rate_limits=(limit,))
    grid.apply()
    client = await grid.connect()
    assert await grid.count(client, 5, "/cheap") == {"a1": 5}
    assert await grid.count(client, 3, "/costly/x") == {"a1": 1, 429: 2}
    assert await grid.count(client, 2, "/cheap") == {"a1": 2}


async def test_a_rate_limit_keeps_its_count_over_a_new_table(grid: Any) -> None:
    await grid.serve("api", "a1")
    limit = RateLimit(name="all", requests=2, per_s=60)
    grid.policy["api"] = ServicePolicy(rate_limits=(limit,))
    grid.apply()
    client = await grid.connect()
    assert await grid.count(client, 2) == {"a1": 2}
    await grid.serve("orders", "o1")
    grid.apply()
    assert await grid.count(client, 1) == {429: 1}


# Faults


def fault(**settings: Any) -> Any:
    until_ = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
    return ServicePolicy(faults=(Fault(**{"name": "test", "until": until_, **settings}),))


async def test_a_fault_aborts_without_reaching_the_service(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = fault(abort_status=418)
    grid.apply()
    response = await (await grid.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (418, "FI")
    assert b"(test)" in response.body
    assert not app.requests
    assert grid.metric("near", "mesh_faults_injected_total", fault="test") == 1


async def test_a_fault_delays_and_goes_on(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = fault(delay_s=0.3)
    grid.apply()
    started = time.monotonic()
    assert (await (await grid.connect()).get()).body == b"a1"
    assert time.monotonic() - started >= 0.3
    assert grid.metric("near", "istio_requests_total", response_flags="DI") == 1


async def test_a_fault_hits_its_percentage_and_only_what_matches(grid: Any) -> None:
    await grid.serve("api", "a1")
    match = Match(headers={"x-test": TextMatch(exact="1")})
    grid.policy["api"] = fault(abort_status=503, percent=50, match=match)
    grid.apply()
    client = await grid.connect()
    assert await grid.count(client, 20) == {"a1": 20}
    seen = await grid.count(client, 200, headers="x-test: 1\r\n")
    assert 50 <= seen[503] <= 150


async def test_a_fault_ends_by_itself(grid: Any) -> None:
    await grid.serve("api", "a1")
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.5)
    grid.policy["api"] = fault(abort_status=503, until=soon)
    grid.apply()
    client = await grid.connect()
    assert (await client.get()).status == 503
    async with asyncio.timeout(5):
        while (await client.get()).status == 503:
            await asyncio.sleep(0.02)
    assert datetime.datetime.now(datetime.UTC) >= soon


async def test_a_client_that_leaves_during_a_delay_is_forgotten(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = fault(delay_s=0.2)
    grid.apply()
    client = await grid.connect()
    client.send(GET)
    await until(lambda: grid.planes["near"].requests_in_flight)
    reset(client)
    await until(lambda: not grid.planes["near"].requests_in_flight)
    await asyncio.sleep(0.3)
    assert not app.requests


# Overload


async def test_above_the_memory_cap_requests_are_refused_and_nothing_dies(cold_grid: Any) -> None:
    grid = cold_grid
    grid.capacity = Capacity(memory_bytes=1)
    await grid.start()
    await grid.serve("api", "a1")
    grid.apply()
    client = await grid.connect()
    await until(lambda: grid.metric("near", "mesh_out_of_memory") == 1)
    client = await grid.connect()
    response = await client.get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "OM")


async def test_above_the_cap_of_connections_new_ones_are_told_so(cold_grid: Any) -> None:
    grid = cold_grid
    grid.capacity = Capacity(connections=2)
    await grid.start()
    await grid.serve("api", "a1")
    grid.apply()
    held = [await grid.connect() for _ in range(2)]
    assert [(await client.get()).status for client in held] == [200, 200]
    response = await (await grid.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "OM")
    assert [(await client.get()).status for client in held] == [200, 200]


@pytest.mark.parametrize("is_by_host", [False, True])
async def test_far_above_the_cap_a_connection_is_closed_without_an_answer(
    cold_grid: Any, is_by_host: bool
) -> None:
    grid = cold_grid
    grid.capacity = Capacity(connections=2)
    await grid.start()
    await grid.serve("api", "a1")
    grid.apply()
    connect = grid.connect_hosts if is_by_host else grid.connect
    held = [await connect() for _ in range(2)]
    assert [(await client.get()).status for client in held] == [200, 200]
    told = await connect()
    assert (await told.get()).headers["x-mesh-flag"] == "OM"
    assert await (await connect()).is_closed()


# TCP


async def exchange(client: Any) -> bytes:
    client.send(b"ping")
    async with asyncio.timeout(5):
        data: bytes = await client.reader.read(100)
    return data


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)


async def test_tcp_sessions_are_limited(grid: Any) -> None:
    app = await grid.serve("db", "d1")
    app.script = echo
    grid.policy["db"] = ServicePolicy(limits=Limits(requests=2))
    grid.apply()
    held = [await grid.connect("db") for _ in range(2)]
    assert [await exchange(client) for client in held] == [b"ping"] * 2
    assert await (await grid.connect("db")).is_closed()
    held[0].close()
    await until(lambda: grid.cluster("db").breaker.requests == 1)
    assert await exchange(await grid.connect("db")) == b"ping"


async def test_the_rate_of_new_tcp_sessions_is_limited(grid: Any) -> None:
    app = await grid.serve("db", "d1")
    app.script = echo
    grid.policy["db"] = ServicePolicy(limits=Limits(new_connections_per_s=2))
    grid.apply()
    clients = [await grid.connect("db") for _ in range(8)]
    results = await asyncio.gather(
        *(exchange(client) for client in clients), return_exceptions=True
    )
    served = [each for each in results if each == b"ping"]
    assert 2 <= len(served) <= 4
    assert grid.metric("near", "mesh_breaker_refusals_total", limit="new_connections") >= 4


async def test_failed_connects_eject_a_tcp_endpoint(grid: Any, unused_tcp_port: int) -> None:
    app = await grid.serve("db", "d1")
    app.script = echo
    grid.register("db", "dead", unused_tcp_port)
    grid.policy["db"] = ServicePolicy(
        balancing=ROUND_ROBIN, outlier_detection=OutlierDetection(consecutive_failures=1)
    )
    grid.apply()
    for _ in range(4):
        assert await exchange(await grid.connect("db")) == b"ping"
    assert grid.metric("near", "mesh_ejections_total", destination_service="db") == 1


async def test_an_idle_tcp_session_is_ended(grid: Any) -> None:
    app = await grid.serve("db", "d1")
    app.script = echo
    timeouts = Timeouts(stream_idle_s=0.3)
    grid.policy["db"] = ServicePolicy(timeouts=timeouts)
    grid.apply()
    client = await grid.connect("db")
    assert await exchange(client) == b"ping"
    assert await client.is_closed()
