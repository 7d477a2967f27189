"""Requests through two real data planes on loopback."""

import asyncio
from typing import Any

import msgspec
import pytest

from proxy.core.metrics import Metrics
from proxy.model.names import ServiceName
from proxy.model.policy import Timeouts
from proxy.model.settings import Address
from proxy.net.dataplane import DataPlane, ListenError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_request_crosses_both_proxies_and_carries_both_identities(mesh: Any) -> None:
    client = await mesh.connect()
    response = await client.get("/path?q=1")
    assert (response.status, response.body) == (200, b"ok")
    assert response.headers["x-from"] == "app"
    (received,) = mesh.api.requests
    assert received.target == "/path?q=1"
    assert received.all("x-forwarded-client-cert") == [
        "By=spiffe://mesh.test/svc/api;URI=spiffe://mesh.test/svc/web"
    ]
    assert len(received.all("x-request-id")) == 1
    assert received.all("host") == ["api"]


async def test_connections_are_kept_alive_on_every_leg(mesh: Any) -> None:
    client = await mesh.connect()
    for _ in range(5):
        assert (await client.get()).status == 200
    assert mesh.api.connections == 1
    assert mesh.metric("near", "mesh_upstream_connections", destination_service="api") == 1


async def test_a_request_id_and_a_traceparent_pass_unchanged(mesh: Any) -> None:
    client = await mesh.connect()
    await client.get(headers="X-Request-Id: mine\r\ntraceparent: 00-ab-cd-01\r\n")
    (received,) = mesh.api.requests
    assert received.all("x-request-id") == ["mine"]
    assert received.all("traceparent") == ["00-ab-cd-01"]


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-Client-Cert: URI=spiffe://mesh.test/svc/admin",
        "x_forwarded_client_cert: URI=spiffe://mesh.test/svc/admin",
        "X-Mesh-Caller: admin",
        "x_mesh-flag: UF",
    ],
)
async def test_an_identity_header_from_outside_reaches_no_application(
    mesh: Any, header: str
) -> None:
    client = await mesh.connect()
    await client.get(headers=header + "\r\nConnection: x-forwarded-client-cert\r\n")
    (received,) = mesh.api.requests
    assert received.all("x-forwarded-client-cert") == [
        "By=spiffe://mesh.test/svc/api;URI=spiffe://mesh.test/svc/web"
    ]
    assert not any("admin" in value for _, value in received.headers)
    assert not any("flag" in name for name, _ in received.headers)


async def test_a_flag_from_an_application_is_dropped(mesh: Any) -> None:
    mesh.api.answer = lambda _: b"HTTP/1.1 503 Busy\r\nX-Mesh-Flag: UF\r\nContent-Length: 0\r\n\r\n"
    client = await mesh.connect()
    response = await client.get()
    assert response.status == 503
    assert "x-mesh-flag" not in response.headers
    assert len(mesh.api.requests) == 1


async def test_a_denied_caller_is_told_who_it_is_and_what_it_may_not_call(mesh: Any) -> None:
    client = await mesh.connect(caller="mob")
    for _ in range(2):
        response = await client.get()
        assert response.status == 403
        assert response.headers["x-mesh-flag"] == "UAEX"
        assert response.body == (
            b"mob -> api: the caller's identity is not allowed to call this service: "
            b"spiffe://mesh.test/svc/mob may not call spiffe://mesh.test/svc/api: "
            b"the inventory declares no call of api by mob (policy api/undeclared)\n"
        )
    assert mesh.api.requests == []


async def test_no_endpoint_is_a_503_that_says_so(mesh: Any) -> None:
    mesh.route()
    client = await mesh.connect()
    response = await client.get()
    assert response.status == 503
    assert response.headers["x-mesh-flag"] == "UH"
    assert response.headers["content-type"].startswith("text/plain")
    assert response.body == (
        b"web -> api: no healthy endpoint is known for this service (0 in the registry)\n"
    )


async def test_a_dead_application_is_a_503_from_its_own_proxy(mesh: Any) -> None:
    await mesh.api.stop()
    client = await mesh.connect()
    response = await client.get()
    assert response.status == 503
    assert response.headers["x-mesh-flag"] == "UF"
    assert response.body == (
        b"web -> api: the connection to the service could not be made: connection refused\n"
    )


async def test_a_dead_endpoint_is_passed_over_and_avoided(mesh: Any, unused_tcp_port: int) -> None:
    mesh.route("far", extra=(("dead", unused_tcp_port),))
    client = await mesh.connect()
    for _ in range(10):
        assert (await client.get()).status == 200
    assert mesh.metric("near", "mesh_retries_total") == 1


async def test_the_peer_saying_it_never_reached_the_application_moves_the_request(
    mesh: Any,
) -> None:
    """A POST too: the far proxy proves that nobody saw it."""
    await mesh.add_far("other")
    mesh.route("far", "other")
    far = mesh.planes["far"]
    far._inbound[ServiceName("api")].pool.endpoint = _elsewhere(
        far._inbound[ServiceName("api")].pool.endpoint
    )
    client = await mesh.connect()
    for _ in range(4):
        client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 4\r\n\r\nbody")
        assert (await client.response()).status == 200
    assert [each.body for each in mesh.api.requests] == [b"body"] * 4
    assert mesh.metric("near", "mesh_retries_total") >= 1


def _elsewhere(endpoint: Any) -> Any:
    return type(endpoint)(service=endpoint.service, host=endpoint.host, address="127.0.0.1", port=1)


async def test_an_applications_keep_alive_race_is_not_seen_by_the_caller(mesh: Any) -> None:
    """The application closes a kept connection just as the next request arrives on it."""
    answered = 0

    async def once_then_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        answered += 1
        await reader.readuntil(b"\r\n\r\n")  # the second request is read, and not answered

    mesh.api.script = once_then_hang_up
    client = await mesh.connect()
    for _ in range(4):
        assert (await client.get()).status == 200
    assert answered == 4
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 1\r\n\r\nx")
    response = await client.response()
    assert (response.status, response.headers["x-mesh-flag"]) == (502, "UC")


async def test_an_application_that_does_not_answer_is_a_504(mesh: Any) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    mesh.api.script = silent
    mesh.timeouts = Timeouts(request_s=0.3)
    mesh.route("far")
    client = await mesh.connect()
    response = await client.get()
    assert (response.status, response.headers["x-mesh-flag"]) == (504, "UT")


async def test_an_endpoint_that_never_finishes_its_handshake_is_a_connect_failure(
    mesh: Any,
) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    mesh.api.script = silent
    mesh.timeouts = Timeouts(connect_s=0.2)
    mesh.route(extra=(("hole", mesh.api.port),))
    client = await mesh.connect()
    response = await client.get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UF")
    assert b"no connection within 0.2 s" in response.body


async def test_requests_are_counted_by_who_called_what(mesh: Any) -> None:
    client = await mesh.connect()
    await client.get()
    denied = await mesh.connect(caller="mob")
    await denied.get()
    for host, reporter in (("near", "source"), ("far", "destination")):
        common = {"reporter": reporter, "destination_service": "api"}
        assert (
            mesh.metric(
                host,
                "istio_requests_total",
                **common,
                source_workload="web",
                source_principal="spiffe://mesh.test/svc/web",
                response_code="200",
                response_flags="-",
            )
            == 1
        )
        assert (
            mesh.metric(
                host,
                "istio_requests_total",
                **common,
                source_workload="mob",
                response_code="403",
                response_flags="UAEX",
            )
            == 1
        )
        assert mesh.metric(host, "istio_request_duration_milliseconds_count", **common) == 2


async def test_an_endpoint_that_left_is_used_no_more_and_its_connections_close(mesh: Any) -> None:
    await mesh.add_far("other")
    client = await mesh.connect()
    await client.get()
    far_ledger = mesh.planes["far"]
    assert far_ledger.open_connections == 1
    mesh.route("other")
    assert (await client.get()).status == 200
    await mesh.until(lambda: not (far_ledger.open_connections))


async def test_idle_upstream_connections_close_after_their_time(mesh: Any) -> None:
    mesh.timeouts = Timeouts(pool_idle_s=0.1)
    mesh.route("far")
    client = await mesh.connect()
    await client.get()
    await mesh.until(lambda: not (mesh.metric("near", "mesh_upstream_connections")))
    assert (await client.get()).status == 200


async def test_over_the_limit_of_connections_a_caller_gets_503(quiet_mesh: Any) -> None:
    mesh = quiet_mesh
    mesh.max_connections = 2
    await mesh.start()
    kept = [await mesh.connect() for _ in range(2)]
    for client in kept:
        assert (await client.get()).status == 200
    last = await mesh.connect()
    response = await last.get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "OM")


async def test_an_address_in_use_is_named_with_who_wants_it(quiet_mesh: Any) -> None:
    mesh = quiet_mesh
    await mesh.start()
    port = mesh.planes["far"].inbound_address()[1]
    taken = mesh.settings["near"].workloads[0].upstreams[0]
    (workload, other) = mesh.settings["near"].workloads
    upstream = type(taken)(
        service=taken.service, protocol="http", listen=Address(host="127.0.0.1", port=port)
    )
    settings = msgspec.structs.replace(
        mesh.settings["near"],
        workloads=(msgspec.structs.replace(workload, upstreams=(upstream,)), other),
    )
    plane = DataPlane(settings, Metrics())
    with pytest.raises(ListenError) as caught:
        await plane.start()
    assert f"127.0.0.1:{port}, wanted by web for its upstream api" in str(caught.value)
    with pytest.raises(KeyError):
        plane.inbound_address()  # what was bound before is unbound again


async def test_a_drain_fails_no_request(mesh: Any) -> None:
    """Callers that go on all the while, to a proxy that stops and to one that stays."""
    await mesh.add_far("other")
    mesh.timeouts = Timeouts(pool_idle_s=0.3)
    mesh.route("far", "other")
    is_over = False
    statuses: list[int] = []

    async def call() -> None:
        client = await mesh.connect()
        while not is_over:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
            statuses.append((await client.response()).status)

    callers = [asyncio.create_task(call()) for _ in range(8)]
    await mesh.until(lambda: len(statuses) > 100)
    drain = asyncio.create_task(mesh.planes["far"].drain(10))
    await asyncio.sleep(0)
    mesh.route("other")  # what the registry says of a proxy that drains
    assert await drain
    seen = len(statuses)
    await mesh.until(lambda: len(statuses) > seen + 50)
    is_over = True
    await asyncio.gather(*callers)
    assert set(statuses) == {200}


async def test_a_drain_asks_callers_to_close_and_ends_when_they_have(mesh: Any) -> None:
    client = await mesh.connect()
    assert "connection" not in (await client.get()).headers
    drain = asyncio.create_task(mesh.planes["near"].drain(10))
    await asyncio.sleep(0)
    response = await client.get()
    assert (response.status, response.headers["connection"]) == (200, "close")
    assert await client.is_closed()
    client.close()
    assert await drain


async def test_a_drain_waits_for_a_request_in_flight(mesh: Any) -> None:
    may_answer = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await may_answer.wait()
        writer.write(OK)
        await reader.read()

    mesh.api.script = slow
    mesh.timeouts = Timeouts(pool_idle_s=0.1)
    mesh.route("far")
    client = await mesh.connect()
    answer = asyncio.create_task(client.get())
    near = mesh.planes["near"]
    await mesh.until(lambda: near.requests_in_flight)
    drain = asyncio.create_task(near.drain(20))
    await mesh.until(lambda: not near._servers)
    assert not drain.done()
    may_answer.set()
    assert (await answer).status == 200
    client.close()
    assert await drain


async def test_a_drain_ends_at_its_deadline(mesh: Any) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    mesh.api.script = mesh.db.script = silent
    client, session = await mesh.connect(), await mesh.connect("db")
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    session.send(b"x")
    near = mesh.planes["near"]
    await mesh.until(lambda: near.requests_in_flight == 2)
    assert not await near.drain(0.3)
    assert near.requests_in_flight == near.open_connections == 0
    for each in (client, session):
        assert await each.is_closed()


async def test_a_body_is_sent_again_to_another_endpoint(mesh: Any, unused_tcp_port: int) -> None:
    """While the first connection is tried the body goes on arriving."""
    mesh.route("far", extra=(("dead", unused_tcp_port), ("dead2", 1)))
    client = await mesh.connect()
    body = bytes(range(256)) * 1000
    for _ in range(3):
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 8192):
            client.send(body[at : at + 8192])
            await asyncio.sleep(0)
        assert (await client.response()).status == 200
    assert [each.body == body for each in mesh.api.requests] == [True] * 3


async def test_a_hundred_callers_at_once(mesh: Any) -> None:
    mesh.api.answer = lambda request: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
        % (len(request.target), request.target.encode())
    )

    async def call(number: int) -> None:
        client = await mesh.connect()
        for turn in range(5):
            assert (await client.get(f"/{number}/{turn}")).body == b"/%d/%d" % (number, turn)

    await asyncio.gather(*(call(number) for number in range(100)))
