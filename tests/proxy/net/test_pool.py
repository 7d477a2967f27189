"""Limits of a pool, and what it keeps and lets go."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.metrics import Value
from proxy.http.ledger import Ledger
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Timeouts
from proxy.model.resilience import Limits
from proxy.net.pool import EndpointPool, Owner, Quota
from proxy.net.pool_dial import Dialer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"


def cluster(mesh: Any, caller: str = "web") -> Any:
    return next(
        each
        for each in mesh.planes["near"].clusters()
        if (each.caller, each.name) == (caller, "api")
    )


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("mesh", ["http1"], indirect=True)
async def test_above_the_limit_of_connections_a_request_waits_for_one(mesh: Any) -> None:
    mesh.limits = Limits(connections=2)
    mesh.route("far")
    release = asyncio.Event()

    async def held(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await release.wait()
            writer.write(OK)

    mesh.api.script = held
    clients = [await mesh.connect() for _ in range(5)]
    for client in clients:
        client.send(GET)
    await mesh.until(lambda: cluster(mesh).quota.pending == 3)
    await mesh.until(lambda: mesh.planes["far"].requests_in_flight == 2)
    release.set()
    assert [(await client.response()).status for client in clients] == [200] * 5
    assert mesh.api.connections == 2
    assert cluster(mesh).quota.pending == 0
    assert cluster(mesh).breaker.requests == 0


@pytest.mark.parametrize("mesh", ["http1"], indirect=True)
async def test_above_the_limit_of_waiting_requests_one_is_refused_at_once(mesh: Any) -> None:
    mesh.limits = Limits(connections=1, pending=1)
    mesh.route("far")
    mesh.api.script = silent
    busy = await mesh.connect()
    busy.send(GET)
    await mesh.until(lambda: mesh.planes["far"].requests_in_flight == 1)
    waiting = await mesh.connect()
    waiting.send(GET)
    await mesh.until(lambda: cluster(mesh).quota.pending == 1)
    response = await (await mesh.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UO")
    assert b"(1 requests are waiting)" in response.body
    assert mesh.metric("near", "mesh_breaker_refusals_total", limit="pending") == 1


async def test_who_gave_up_waiting_does_not_hold_a_place(mesh: Any) -> None:
    mesh.limits = Limits(connections=1, pending=2)
    mesh.timeouts = Timeouts(request_s=0.2)
    mesh.route("far")
    mesh.api.script = silent
    for _ in range(3):
        clients = [await mesh.connect() for _ in range(2)]
        responses = await asyncio.gather(*(client.get() for client in clients))
        assert {response.headers["x-mesh-flag"] for response in responses} == {"UT"}
        await mesh.until(lambda: cluster(mesh).quota.pending == 0)
    await mesh.until(lambda: not cluster(mesh).quota.gauge.value)


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
    await mesh.until(lambda: cluster(mesh).quota.gauge.value == 1)
    client.writer.transport.abort()
    await mesh.until(lambda: not near.requests_in_flight)
    (pool,) = cluster(mesh).pools
    await mesh.until(lambda: pool._idle or not cluster(mesh).quota.gauge.value)
    assert (await (await mesh.connect()).get()).status == 200
    assert cluster(mesh).quota.gauge.value == 1


async def test_the_application_gets_at_most_its_limit_of_connections(mesh: Any) -> None:
    mesh.api.script = silent
    quota = mesh.planes["far"]._inbound[ServiceName("api")]._quota
    quota.limit, quota.pending_limit = 1, 1
    client = await mesh.connect()
    client.send(GET)
    await mesh.until(lambda: mesh.api.connections == 1)
    waiting = await mesh.connect()
    waiting.send(GET)
    await mesh.until(lambda: quota.pending == 1)
    response = await (await mesh.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UO")


async def test_an_idle_connection_makes_room_for_one_to_another_endpoint(mesh: Any) -> None:
    await mesh.add_far("other")
    mesh.limits = Limits(connections=1)
    mesh.route("far", "other")
    client = await mesh.connect()
    assert [(await client.get()).status for _ in range(6)] == [200] * 6
    assert cluster(mesh).quota.gauge.value == 1


class Shared:
    """A connection that takes so many requests at a time."""

    tag = None
    is_lost = False
    is_flowing = True
    idle_since = 0.0

    def __init__(self, most: int) -> None:
        self.most = most
        self.streams: list[Any] = []

    @property
    def has_room(self) -> bool:
        return len(self.streams) < self.most

    def open(self, exchange: Any) -> None:
        assert self.has_room
        self.streams.append(exchange)


@pytest.mark.parametrize(("most", "opened"), [(1, 2), (2, 3), (4, 5), (9, 5)])
def test_those_who_wait_get_as_much_room_as_there_is_now(most: int, opened: int) -> None:
    """An application may change how many requests it takes at a time, either way."""
    endpoint = Endpoint(
        service=ServiceName("api"), host=HostName("far"), address="192.0.2.1", port=1
    )
    quota = Quota(Value(), Limits(connections=1, pending=10))
    pool = EndpointPool(endpoint, Dialer(), Ledger(9, lambda _: None), quota, 60.0, Owner())
    quota.gauge.value = 1
    shared: Any = Shared(2)
    pool._shared, pool._open = (shared,), {shared}
    asked: list[Any] = [
        SimpleNamespace(target=pool, is_finished=False, queue_s=0.0, waits_since=0.0)
        for _ in range(5)
    ]
    for exchange in asked:
        pool.serve(exchange)
    assert (shared.streams, quota.pending) == (asked[:2], 3)
    shared.most = most
    first = shared.streams.pop(0)
    pool.stream_ended(shared)
    assert [first, *shared.streams] == asked[:opened]
    assert quota.pending == 5 - opened
