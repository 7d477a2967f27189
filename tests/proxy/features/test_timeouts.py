"""Time limits through real proxies, and the deadline that travels with a request."""

import asyncio
import time
from typing import Any

from proxy.model.policy import Route, ServicePolicy, Timeouts
from proxy.model.resilience import Retries
from proxy.model.routing import Match, PathMatch, RouteTimeouts

GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)
    await asyncio.Event().wait()


async def test_a_request_without_an_answer_ends_at_its_timeout(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.script = silent
    grid.policy["api"] = ServicePolicy(timeouts=Timeouts(request_s=0.3))
    grid.apply()
    response = await (await grid.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (504, "UT")


async def test_a_try_without_an_answer_moves_to_another_endpoint(grid: Any) -> None:
    stuck = await grid.serve("api", "stuck")
    stuck.script = silent
    await grid.serve("api", "well")
    grid.policy["api"] = ServicePolicy(
        timeouts=Timeouts(per_try_s=0.2, request_s=5),
        retries=Retries(on=("per-try-timeout",)),
    )
    grid.apply()
    client = await grid.connect()
    assert await grid.count(client, 6) == {"well": 6}
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n")
    assert (await client.response()).status in (200, 504)  # never repeated: it may have been seen


async def test_every_try_timing_out_is_said_with_the_number_of_tries(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.script = silent
    grid.policy["api"] = ServicePolicy(
        timeouts=Timeouts(per_try_s=0.2, request_s=60),
        retries=Retries(on=("per-try-timeout",), attempts=1),
    )
    grid.apply()
    response = await (await grid.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (504, "URX")
    assert b"in 2 tries" in response.body
    assert app.connections == 2


async def test_a_route_has_timeouts_of_its_own(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.script = silent
    grid.policy["api"] = ServicePolicy(
        timeouts=Timeouts(request_s=60),
        routes=(
            Route(
                name="quick",
                match=Match(path=PathMatch(exact="/quick")),
                timeouts=RouteTimeouts(request_s=0.2),
            ),
        ),
    )
    grid.apply()
    response = await (await grid.connect()).get("/quick")
    assert response.headers["x-mesh-flag"] == "UT"


async def test_a_connection_that_is_not_made_ends_at_the_connect_timeout(grid: Any) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read()  # takes the TLS hello and says nothing

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    grid.register("api", "deaf", server.sockets[0].getsockname()[1])
    grid.policy["api"] = ServicePolicy(timeouts=Timeouts(connect_s=0.2))
    grid.apply()
    started = time.monotonic()
    response = await (await grid.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UF")
    assert b"no connection within 0.2 s" in response.body
    assert time.monotonic() - started < 4
    server.close()
    for writer in writers:
        writer.close()


async def test_a_stream_that_stands_still_is_ended(grid: Any) -> None:
    app = await grid.serve("api", "a1")

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await asyncio.Event().wait()

    app.script = stall
    grid.policy["api"] = ServicePolicy(timeouts=Timeouts(stream_idle_s=0.3, request_s=0))
    grid.apply()
    client = await grid.connect()
    client.send(GET)
    await client.reader.readuntil(b"half")
    assert await client.is_closed()


async def test_an_idle_connection_is_closed(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        timeouts=Timeouts(connection_idle_s=0.3, pool_idle_s=0.3, request_s=0)
    )
    grid.apply()
    client = await grid.connect()
    assert (await client.get()).status == 200
    assert await client.is_closed()
    async with asyncio.timeout(5):
        while grid.metric("near", "mesh_upstream_connections"):
            await asyncio.sleep(0.01)


def timeout_ms(received: Any) -> int:
    (value,) = received.all("x-mesh-timeout-ms")
    return int(value)


async def test_the_deadline_reaches_the_application(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(timeouts=Timeouts(request_s=4))
    grid.apply()
    await (await grid.connect()).get()
    assert timeout_ms(app.requests[0]) == 4000


async def test_a_caller_may_have_less_time_but_never_more(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(timeouts=Timeouts(request_s=4))
    grid.apply()
    client = await grid.connect()
    await client.get(headers="x-mesh-timeout-ms: 1500\r\n")
    await client.get(headers="x-mesh-timeout-ms: 999999\r\n")
    await client.get(headers="x-mesh-timeout-ms: +15\r\n")
    assert [timeout_ms(each) for each in app.requests] == [1500, 4000, 4000]


async def test_the_called_side_gives_up_at_the_callers_deadline(grid: Any) -> None:
    """Else it would go on working for nobody."""
    app = await grid.serve("api", "a1")
    app.script = silent
    grid.policy["api"] = ServicePolicy(timeouts=Timeouts(request_s=30))
    grid.apply()
    client = await grid.connect()
    response = await client.get(headers="x-mesh-timeout-ms: 300\r\n")
    assert response.headers["x-mesh-flag"] == "UT"
    async with asyncio.timeout(5):
        while grid.planes["a1"].requests_in_flight:
            await asyncio.sleep(0.01)


async def test_a_retry_carries_what_is_left_of_the_deadline(grid: Any) -> None:
    stuck = await grid.serve("api", "a1")
    answers = iter([b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"])
    stuck.answer = lambda _: next(answers, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    grid.policy["api"] = ServicePolicy(
        timeouts=Timeouts(request_s=4),
        retries=Retries(on=("5xx",), backoff_base_s=0.2, backoff_max_s=0.2),
    )
    grid.apply()
    assert (await (await grid.connect()).get()).status == 200
    first, second = map(timeout_ms, stuck.requests)
    assert first == 4000
    assert second <= 4000
