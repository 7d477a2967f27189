"""Retries through real proxies: conditions, methods, bodies, budget, limits."""

import asyncio
import socket
import struct
import time
from typing import Any

import pytest

from proxy.model.policy import Balancing, Route, ServicePolicy
from proxy.model.resilience import Limits, OutlierDetection, Retries

ROUND_ROBIN = Balancing(algorithm="round_robin")
NO_EJECTION = OutlierDetection(consecutive_failures=0)


def answers(*statuses: int) -> Any:
    """One after the other, then 200 for ever."""
    left = iter(statuses)
    return lambda _: b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % next(left, 200)


def reset(client: Any) -> None:
    """An orderly end would say that the client still waits for its answer."""
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


def policy(**settings: Any) -> ServicePolicy:
    return ServicePolicy(
        balancing=ROUND_ROBIN, outlier_detection=NO_EJECTION, retries=Retries(**settings)
    )


async def test_a_dead_endpoint_is_hidden_for_any_method(grid: Any, unused_tcp_port: int) -> None:
    app = await grid.serve("api", "a1")
    grid.register("api", "dead", unused_tcp_port)
    grid.policy["api"] = policy()
    grid.apply()
    client = await grid.connect()
    for _ in range(6):
        client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 4\r\n\r\nbody")
        assert (await client.response()).status == 200
    assert [each.body for each in app.requests] == [b"body"] * 6
    assert grid.metric("near", "mesh_retries_total") >= 1


@pytest.mark.parametrize(
    ("on", "statuses", "hidden", "shown"),
    [
        (("gateway-error",), (), 503, 500),
        (("5xx",), (), 500, 409),
        (("retriable-4xx",), (), 409, 503),
        (("statuses",), (418,), 418, 503),
        (("connect-failure", "refused", "reset-reused"), (), None, 503),
    ],
)
async def test_answers_are_repeated_where_the_policy_says_so(
    grid: Any, on: Any, statuses: Any, hidden: int | None, shown: int
) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = policy(on=on, statuses=statuses)
    grid.apply()
    client = await grid.connect()
    if hidden is not None:
        app.answer = answers(hidden)
        assert (await client.get()).status == 200
    app.answer = answers(shown)
    assert (await client.get()).status == shown


async def test_only_the_listed_methods_repeat_what_an_application_has_seen(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = policy(on=("5xx",))
    grid.apply()
    client = await grid.connect()
    app.answer = answers(503)
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n")
    assert (await client.response()).status == 503
    assert len(app.requests) == 1


async def test_the_last_answer_is_given_when_the_tries_are_used_up(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = policy(on=("5xx",), attempts=2)
    grid.apply()
    client = await grid.connect()
    app.answer = answers(500, 502, 503, 504)
    response = await client.get()
    assert response.status == 503
    assert len(app.requests) == 3
    assert grid.metric("near", "istio_requests_total", response_flags="URX") == 1


async def test_a_failed_endpoint_is_not_tried_again_while_there_are_others(grid: Any) -> None:
    for host in ("a1", "a2", "a3"):
        app = await grid.serve("api", host)
        app.answer = answers(503)
    grid.policy["api"] = policy(on=("5xx",), attempts=2)
    grid.apply()
    assert (await (await grid.connect()).get()).status == 503
    assert [len(grid.apps[host].requests) for host in ("a1", "a2", "a3")] == [1, 1, 1]


async def test_a_reset_before_the_answer_is_repeated_only_on_request(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    seen = 0

    async def reset_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        await reader.readuntil(b"\r\n\r\n")
        seen += 1
        if seen == 1:
            writer.transport.abort()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    app.script = reset_once
    grid.policy["api"] = policy(on=("gateway-error", "reset"))
    grid.apply()
    assert (await (await grid.connect()).get()).status == 200
    assert seen == 2
    seen = 0
    grid.policy["api"] = policy()
    grid.apply()
    assert (await (await grid.connect()).get()).status == 502


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (3000, 503)])
async def test_a_body_is_kept_for_another_try_up_to_its_limit(
    grid: Any, size: int, status: int
) -> None:
    app = await grid.serve("api", "a1")
    app.answer = answers(503)
    grid.policy["api"] = policy(on=("5xx",), body_limit_bytes=2000)
    grid.apply()
    client = await grid.connect()
    body = b"b" * size
    client.send(b"PUT / HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n%b" % (size, body))
    assert (await client.response()).status == status
    assert {each.body for each in app.requests} == {body}


async def test_a_big_body_that_waited_for_a_connection_goes_through(grid: Any) -> None:
    """More than is kept: sent once, and then it cannot be repeated."""
    app = await grid.serve("api", "a1")
    grid.policy["api"] = policy()
    grid.apply()
    client = await grid.connect()
    body = b"b" * 500_000
    for _ in range(2):  # without a connection, and with one
        client.send(b"PUT / HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.send(body)
        assert (await client.response()).status == 200
    assert [each.body for each in app.requests] == [body] * 2


async def test_a_pause_lies_between_tries(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.answer = answers(503, 503)
    grid.policy["api"] = policy(on=("5xx",), backoff_base_s=0.3, backoff_max_s=0.3)
    grid.apply()
    client = await grid.connect()
    started = time.monotonic()
    assert (await client.get()).status == 200
    assert time.monotonic() - started < 2
    assert len(app.requests) == 3


async def test_a_client_that_leaves_during_the_pause_ends_it(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.answer = answers(*[503] * 50)
    grid.policy["api"] = policy(on=("5xx",), attempts=9, backoff_base_s=0.1, backoff_max_s=0.1)
    grid.apply()
    client = await grid.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    async with asyncio.timeout(5):
        while not app.requests:
            await asyncio.sleep(0.001)
    reset(client)
    async with asyncio.timeout(5):
        while grid.planes["near"].requests_in_flight:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    assert len(app.requests) < 10
    assert grid.cluster("api").breaker.requests == 0
    assert grid.cluster("api").breaker.retries == 0


async def test_the_budget_bounds_retries(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.answer = answers(*[503] * 1000)
    grid.policy["api"] = policy(
        on=("5xx",), attempts=1, budget_percent=10, budget_min_per_s=0.5, backoff_base_s=0.001
    )
    grid.apply()
    client = await grid.connect()
    for _ in range(100):
        await client.get()
    retries = len(app.requests) - 100
    # 10 % of a hundred, and half a retry a second for the ten seconds of the window.
    assert 5 <= retries <= 15
    assert grid.metric("near", "mesh_retry_budget_exhausted_total") == 100 - retries


async def test_retries_in_flight_are_limited(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.answer = answers(*[503] * 1000)
    grid.policy["api"] = ServicePolicy(
        outlier_detection=NO_EJECTION,
        limits=Limits(retries=1),
        retries=Retries(on=("5xx",), attempts=1, backoff_base_s=0.2, backoff_max_s=0.2),
    )
    grid.apply()
    clients = [await grid.connect() for _ in range(10)]
    await asyncio.gather(*(client.get() for client in clients))
    assert grid.metric("near", "mesh_breaker_refusals_total", limit="retries") >= 1
    assert grid.cluster("api").breaker.retries == 0


async def test_a_route_has_retries_of_its_own(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        outlier_detection=NO_EJECTION,
        routes=(Route(name="r", retries=Retries(on=("5xx",))),),
    )
    grid.apply()
    app.answer = answers(500)
    assert (await (await grid.connect()).get()).status == 200


async def test_the_flag_of_an_answer_that_was_thrown_away_is_not_that_of_the_next(
    grid: Any,
) -> None:
    app = await grid.serve("api", "a1")
    asked = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while await reader.readuntil(b"\r\n\r\n"):
            asked += 1
            if asked == 1:
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    app.script = script
    grid.policy["api"] = ServicePolicy(retries=Retries(attempts=1, on=("5xx",)))
    grid.apply()
    response = await (await grid.connect()).get()
    assert (response.status, asked) == (200, 2)
    counted = {"reporter": "source", "response_code": "200"}
    assert grid.metric("near", "istio_requests_total", **counted, response_flags="-") == 1
    assert grid.metric("near", "istio_requests_total", **counted) == 1
