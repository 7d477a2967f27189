"""Limits of a pool, and what it keeps and lets go."""

import asyncio
from typing import Any

from proxy.model.names import ServiceName
from proxy.model.policy import Timeouts

GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"


def quota(mesh: Any, caller: str = "web") -> Any:
    (service,) = (
        each for key, each in mesh.planes["near"]._outbound.items() if key[:2] == (caller, "api")
    )
    return service._quota


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_above_the_limit_of_connections_a_request_is_refused_at_once(mesh: Any) -> None:
    mesh.api.script = silent
    quota(mesh).limit = 2
    busy = [await mesh.connect() for _ in range(2)]
    for client in busy:
        client.send(GET)
    await mesh.until(lambda: mesh.planes["far"].requests_in_flight == 2)
    client = await mesh.connect()
    response = await client.get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UO")
    assert b"(2 connections are open)" in response.body


async def test_what_was_counted_is_given_back_however_it_ended(
    mesh: Any, unused_tcp_port: int
) -> None:
    """Connections that failed, that were reset, that were closed in order, that went idle."""
    mesh.timeouts = Timeouts(connect_s=0.1, pool_idle_s=0.1, request_s=0.2)
    for script, extra in (
        (None, ()),
        (silent, ()),
        (None, (("dead", unused_tcp_port),)),
        (None, (("hole", mesh.api.port),)),
    ):
        mesh.api.script = script
        mesh.route(*(() if extra else ("far",)), extra=extra)
        clients = [await mesh.connect() for _ in range(3)]
        await asyncio.gather(*(client.get() for client in clients))
        gone = await mesh.connect()
        gone.send(GET)
        gone.writer.transport.abort()
    for host in ("near", "far"):
        await mesh.until(lambda host=host: not mesh.metric(host, "mesh_upstream_connections"))


async def test_a_caller_that_left_during_the_dial_leaves_a_connection_to_the_next(
    mesh: Any,
) -> None:
    client = await mesh.connect()
    client.send(GET)
    near = mesh.planes["near"]
    await mesh.until(lambda: quota(mesh).gauge.value == 1)
    client.writer.transport.abort()
    await mesh.until(lambda: not near.requests_in_flight)
    pool = near._outbound[next(key for key in near._outbound if key[:2] == ("web", "api"))]._pools[
        0
    ]
    await mesh.until(lambda: pool._idle or not quota(mesh).gauge.value)
    assert (await (await mesh.connect()).get()).status == 200
    assert quota(mesh).gauge.value == 1


async def test_the_application_gets_at_most_its_limit_of_connections(mesh: Any) -> None:
    mesh.api.script = silent
    mesh.planes["far"]._inbound[ServiceName("api")]._quota.limit = 1
    client = await mesh.connect()
    client.send(GET)
    await mesh.until(lambda: mesh.api.connections == 1)
    response = await (await mesh.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UO")
