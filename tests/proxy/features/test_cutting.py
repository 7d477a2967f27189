"""A policy that cuts ends what lives of callers that it shuts out, and nothing else."""

import asyncio
import contextlib
import logging
from typing import Any

import pytest
from fuzz.ours import inbound_at

from proxy.model.authorization import Intention
from proxy.model.policy import ServicePolicy
from proxy.model.routing import Match, PathMatch
from proxy.net import inbound, pool_dial

ONLY_WEB = ServicePolicy(intentions=(Intention(name="web", allow=("web",)),))
CALLERS = ("web", "other")
_BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"


@pytest.fixture(params=["shared", "http1"])
def between(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the two proxies speak."""
    if request.param == "http1":
        monkeypatch.setattr(inbound, "ALPN", "something else")
        monkeypatch.setattr(pool_dial, "ALPN", "something else")


class Gate:
    """An application that begins its answers, or not, and completes them when told to."""

    def __init__(self, first: bytes) -> None:
        self.waiting = 0
        self.opened = asyncio.Event()
        self._first = first

    async def script(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(self._first)
            self.waiting += 1
            await self.opened.wait()
            writer.write((_BEGUN + b"world")[len(self._first) :])


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def sessions(grid: Any) -> dict[str, Any]:
    """An echoing TCP session of each caller, on which a word went both ways."""
    app = await grid.serve("db", "d1")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)

    app.script = echo
    grid.apply()
    found = {caller: await grid.connect("db", caller=caller) for caller in CALLERS}
    for client in found.values():
        await say(client)
    return found


async def say(client: Any) -> None:
    client.send(b"word")
    assert await asyncio.wait_for(client.reader.readexactly(4), 5) == b"word"


async def test_tcp_sessions_of_callers_that_are_shut_out_are_reset(
    grid: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clients = await sessions(grid)
    grid.policy["db"] = ONLY_WEB
    grid.apply()
    for client in clients.values():  # nothing was said of cutting
        await say(client)
    with caplog.at_level(logging.WARNING):
        grid.planes["d1"].cut_denied()
    assert await clients["other"].is_closed()
    await say(clients["web"])
    denied = {"source_workload": "other", "policy": "db/default-deny"}
    assert grid.metric("d1", "mesh_authorization_denials_total", **denied) == 1
    closed = {"source_workload": "other", "response_flags": "UAEX"}
    assert grid.metric("d1", "istio_tcp_connections_closed_total", **closed) == 1
    assert grid.metric("d1", "istio_tcp_connections_closed_total", source_workload="web") == 0
    (line,) = [each for each in caplog.records if each.getMessage() == "call denied and cut"]
    assert (line.caller, line.policy) == ("other", "db/default-deny")  # type: ignore[attr-defined]


@pytest.mark.usefixtures("between")
async def test_a_request_without_an_answer_gets_one_that_says_why(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    gate = Gate(b"")
    app.script = gate.script
    grid.apply()
    clients = {caller: await grid.connect(caller=caller) for caller in CALLERS}
    asked = {name: asyncio.ensure_future(client.get()) for name, client in clients.items()}
    await until(lambda: gate.waiting == 2)
    grid.policy["api"] = ONLY_WEB
    grid.apply()
    grid.planes["a1"].cut_denied()
    refused = await asked["other"]
    assert (refused.status, refused.headers["x-mesh-policy"]) == (403, "api/default-deny")
    gate.opened.set()
    assert (await asked["web"]).status == 200
    denied = {"source_workload": "other", "policy": "api/default-deny"}
    assert grid.metric("a1", "mesh_authorization_denials_total", **denied) == 1


@pytest.mark.usefixtures("between")
async def test_an_answer_that_has_begun_is_cut_off_where_everybody_notices(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    gate = Gate(_BEGUN)
    app.script = gate.script
    grid.apply()
    client = await grid.connect(caller="other")
    client.send(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 200 OK")
    grid.policy["api"] = ONLY_WEB
    grid.apply()
    grid.planes["a1"].cut_denied()
    body = b""
    with contextlib.suppress(ConnectionResetError):
        body = await asyncio.wait_for(client.reader.read(), 5)
    assert len(body) < 10
    counted = {"reporter": "destination", "response_flags": "UAEX"}
    assert grid.metric("a1", "istio_requests_total", **counted) == 1


@pytest.mark.usefixtures("between")
async def test_connections_of_callers_that_are_shut_out_are_closed(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.apply()
    for caller in CALLERS:
        assert (await (await grid.connect(caller=caller)).get()).status == 200
    plane = grid.planes["a1"]
    assert plane.open_connections == 2
    grid.policy["api"] = ONLY_WEB
    grid.apply()
    plane.cut_denied()
    await until(lambda: plane.open_connections == 1)
    assert (await (await grid.connect()).get()).status == 200
    assert (await (await grid.connect(caller="other")).get()).status == 403


@pytest.mark.usefixtures("between")
async def test_who_may_still_ask_for_something_keeps_what_has_begun(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    gate = Gate(b"")
    app.script = gate.script
    grid.apply()
    client = await grid.connect()
    asked = asyncio.ensure_future(client.get("/closed"))
    await until(lambda: gate.waiting == 1)
    open_ = Intention(name="open", allow=("web",), match=Match(path=PathMatch(prefix="/open")))
    grid.policy["api"] = ServicePolicy(intentions=(open_,))
    grid.apply()
    grid.planes["a1"].cut_denied()
    gate.opened.set()
    assert (await asked).status == 200
    assert (await client.get("/closed")).status == 403
    assert (await client.get("/open")).status == 200
    assert grid.planes["a1"].open_connections == 1


@pytest.mark.usefixtures("between")
async def test_a_request_whose_body_is_under_way_is_answered(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.apply()
    client = await grid.connect(caller="other")
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 200000\r\n\r\nhalf")
    await until(lambda: grid.planes["a1"].requests_in_flight == 1)
    grid.policy["api"] = ONLY_WEB
    grid.apply()
    grid.planes["a1"].cut_denied()
    refused = await client.response()
    assert (refused.status, refused.headers["x-mesh-policy"]) == (403, "api/default-deny")
    await until(lambda: grid.planes["a1"].open_connections == 0)


async def test_a_connection_with_half_a_head_is_closed(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.apply()
    plane = grid.planes["a1"]
    host, port, context, name = inbound_at(grid.pki, plane.inbound_address()[1])
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\nGET / HT")
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\na1"), 5)
    grid.policy["api"] = ServicePolicy(intentions=(Intention(name="no", deny=("web",)),))
    grid.apply()
    plane.cut_denied()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await until(lambda: plane.open_connections == 0)
