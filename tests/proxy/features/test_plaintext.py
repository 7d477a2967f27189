"""Callers without an identity, in both modes, over HTTP and TCP."""

import asyncio
import contextlib
import itertools
from typing import Any

from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.policy import ServicePolicy
from proxy.model.resilience import RateLimit
from proxy.model.routing import Match, PathMatch
from proxy.net import plaintext

API, DB = ServiceName("api"), ServiceName("db")
PERMISSIVE = ServicePolicy(mode="permissive")


async def dial(grid: Any, host: str, service: ServiceName = API) -> Any:
    return await grid.dial(*grid.planes[host].plaintext_address(service))


async def test_a_strict_service_refuses_them_and_says_what_to_do(grid: Any) -> None:
    app = await grid.serve("api", "a1", has_plaintext=True)
    grid.apply()
    refused = await (await dial(grid, "a1")).get("/x")
    assert (refused.status, refused.headers["x-mesh-flag"]) == (403, "UAEX")
    assert b"call it through the mesh" in refused.body
    assert b"(policy api/strict)" in refused.body
    assert app.requests == []
    assert grid.metric("a1", "mesh_authorization_denials_total", policy="api/strict") == 1


async def test_a_permissive_one_serves_them_without_an_identity(grid: Any) -> None:
    app = await grid.serve("api", "a1", has_plaintext=True)
    grid.policy["api"] = PERMISSIVE
    grid.apply()
    client = await dial(grid, "a1")
    claims = (
        "X-Forwarded-Client-Cert: URI=spiffe://mesh.test/svc/web\r\n"
        "X_Forwarded_Client_Cert: URI=spiffe://mesh.test/svc/web\r\n"
        "X-Mesh-Caller: web\r\nX-Mesh-Timeout-Ms: 1\r\n"
    )
    assert (await client.get("/x", claims)).status == 200
    (request,) = app.requests
    assert [name for name, _ in request.headers if "mesh" in name or "cert" in name] == []
    labels = {"connection_security_policy": "none", "source_workload": "unknown"}
    assert grid.metric("a1", "istio_requests_total", response_code="200", **labels) == 1
    through_mesh = await grid.connect()
    assert (await through_mesh.get("/x")).status == 200
    assert app.requests[-1].all("x-forwarded-client-cert")
    assert grid.metric("a1", "istio_requests_total", connection_security_policy="mutual_tls") == 1


async def test_the_mode_holds_from_the_next_request_on_while_there_is_load(grid: Any) -> None:
    await grid.serve("api", "a1", has_plaintext=True)
    grid.policy["api"] = PERMISSIVE
    grid.apply()
    statuses: list[list[int]] = [[] for _ in range(4)]
    is_over = asyncio.Event()

    async def load(seen: list[int]) -> None:
        client = await dial(grid, "a1")
        while not is_over.is_set():
            seen.append((await client.get("/")).status)

    async def until_all_end_in(status: int) -> None:
        async with asyncio.timeout(30):
            while not all(seen[-1:] == [status] for seen in statuses):
                await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(load(seen)) for seen in statuses]
    await until_all_end_in(200)
    grid.policy["api"] = ServicePolicy()
    grid.apply()
    await until_all_end_in(403)
    grid.policy["api"] = PERMISSIVE
    grid.apply()
    await until_all_end_in(200)
    is_over.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks)
    for seen in statuses:
        changes = [b for a, b in itertools.pairwise(seen) if a != b]
        assert changes == [403, 200], "each connection lives on and changes once each time"


async def test_only_what_denies_everybody_is_for_them(grid: Any) -> None:
    await grid.serve("api", "a1", has_plaintext=True)
    grid.policy["api"] = ServicePolicy(
        mode="permissive",
        intentions=(
            Intention(name="closed", deny=("*",), match=Match(path=PathMatch(prefix="/admin"))),
            Intention(name="not-web", deny=("web",)),
            Intention(name="other", allow=("other",), match=Match(methods=("PUT",))),
        ),
    )
    grid.apply()
    client = await dial(grid, "a1")
    assert (await client.get("/x")).status == 200
    refused = await client.get("/x/../%61dmin")
    assert refused.status == 403
    assert b"(policy api/closed)" in refused.body
    assert (await (await grid.connect()).get("/x")).status == 403
    grid.policy["api"] = ServicePolicy(
        mode="permissive", intentions=(Intention(name="all", deny=("*",)),)
    )
    grid.apply()
    assert b"(policy api/all)" in (await client.get("/x")).body


async def test_rate_limits_are_for_them_too(grid: Any) -> None:
    await grid.serve("api", "a1", has_plaintext=True)
    grid.policy["api"] = ServicePolicy(
        mode="permissive", rate_limits=(RateLimit(name="one", requests=1, per_s=600.0),)
    )
    grid.apply()
    client = await dial(grid, "a1")
    assert (await client.get("/")).status == 200
    assert (await client.get("/")).status == 429


async def greeting_db(grid: Any) -> tuple[Any, asyncio.Event]:
    app = await grid.serve("db", "d1", has_plaintext=True)
    reached = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.write(b"hello")
        await reader.read()

    app.script = greet
    return app, reached


async def is_reset(client: Any) -> bool:
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            return await client.reader.read() == b""
    return True


async def test_tcp_sessions_are_closed_or_carried(grid: Any) -> None:
    _, reached = await greeting_db(grid)
    grid.apply()
    assert await is_reset(await dial(grid, "d1", DB))
    assert not reached.is_set()
    assert grid.metric("d1", "mesh_authorization_denials_total", policy="db/strict") == 1
    grid.policy["db"] = PERMISSIVE
    grid.apply()
    session = await dial(grid, "d1", DB)
    assert await session.reader.readexactly(5) == b"hello"
    labels = {"connection_security_policy": "none", "source_workload": "unknown"}
    assert grid.metric("d1", "istio_tcp_connections_opened_total", **labels) >= 1
    grid.policy["db"] = ServicePolicy()
    grid.apply()
    assert await is_reset(await dial(grid, "d1", DB))
    grid.planes["d1"].cut_denied()
    assert await is_reset(session), "a policy that cuts ends what it would not let in"


async def test_who_comes_is_remembered_in_either_mode(grid: Any, monkeypatch: Any) -> None:
    await grid.serve("api", "a1", has_plaintext=True)
    grid.apply()
    plane = grid.planes["a1"]
    assert plane.observed().plaintext == ()
    client = await dial(grid, "a1")
    for mode in (ServicePolicy(), PERMISSIVE):
        grid.policy["api"] = mode
        grid.apply()
        await client.get("/")
    (found,) = plane.observed().plaintext
    assert (found.service, found.source, found.count) == ("api", "127.0.0.1", 2)
    assert 0 < found.first_at <= found.last_at


def test_there_is_room_for_so_many_and_the_longest_away_is_forgotten(monkeypatch: Any) -> None:
    monkeypatch.setattr(plaintext, "MAX_CALLERS", 2)
    callers = plaintext.PlaintextCallers(API)
    for source in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"):
        callers.saw(source)
    assert [(each.source, each.count) for each in callers.told()] == [
        ("10.0.0.1", 2),
        ("10.0.0.3", 1),
    ]


async def test_they_are_not_learned_from(grid: Any) -> None:
    await grid.serve("api", "a1", has_plaintext=True)
    grid.policy["api"] = PERMISSIVE
    grid.apply()
    grid.planes["a1"].observe(60)
    assert (await (await dial(grid, "a1")).get("/")).status == 200
    assert grid.planes["a1"].observed().calls == ()


async def test_what_is_not_http_is_answered_and_closed(grid: Any) -> None:
    await grid.serve("api", "a1", has_plaintext=True)
    grid.policy["api"] = PERMISSIVE
    grid.apply()
    client = await dial(grid, "a1")
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client\r\n\r\n")
    assert (await client.response()).status == 400
    assert await client.is_closed()
