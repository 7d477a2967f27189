"""WebSockets of real clients to a real server, which nobody here wrote, through two hosts."""

import asyncio
import contextlib
import hashlib
import logging
import os
import resource
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.policy import Route, ServicePolicy, Subset
from proxy.model.routing import Destination, Match, Mirror, PathMatch
from proxy.net import inbound, pool_dial

MIB = 1024 * 1024
MANY = 1000


@pytest.fixture(autouse=True)
def no_chatter(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "websockets")


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough for both ends of a thousand connections through two proxies."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8 * MANY
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, wanted), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Echo:
    """The application: sends back what it gets, and does as the path says."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self.open: set[ServerConnection] = set()
        self.codes: list[int | None] = []
        """With which code each ended."""
        self.pongs = 0
        self._server: Server | None = None

    async def start(self) -> None:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            select_subprotocol=_choose,
            max_size=32 * MIB,
            process_request=self._request,
            close_timeout=5,
            ping_interval=None,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if request.path.startswith("/status/"):
            return connection.respond(int(request.path[8:]), "no\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        self.open.add(connection)
        try:
            if connection.request is not None and connection.request.path == "/ping":
                await (await connection.ping(b"are you there"))
                self.pongs += 1
            async for message in connection:
                if message == "close":
                    await connection.close(4001, "as you like")
                elif message == "abort":
                    connection.transport.abort()
                else:
                    await connection.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.open.discard(connection)
            self.codes.append(connection.close_code)


def _choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return max(offered, default=None)


@pytest.fixture(params=["shared", "http1"])
async def mesh(
    quiet_mesh: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    if request.param == "http1":
        monkeypatch.setattr(inbound, "ALPN", "something else")
        monkeypatch.setattr(pool_dial, "ALPN", "something else")
    quiet_mesh.api = Echo()
    await quiet_mesh.start()
    return quiet_mesh


@contextlib.asynccontextmanager
async def dial(
    mesh: Any, path: str = "/", *, caller: str = "web", **options: Any
) -> AsyncIterator[ClientConnection]:
    near = mesh.planes["near"]
    host, port = near.outbound_address(ServiceName(caller), ServiceName("api"))
    options.setdefault("ping_interval", None)
    url = f"ws://{host}:{port}{path}"
    async with connect(url, proxy=None, max_size=32 * MIB, **options) as client:
        yield client


async def is_quiet(mesh: Any) -> None:
    """Nothing is left of it anywhere."""
    for host in ("near", "far"):
        await mesh.until(lambda host=host: not mesh.planes[host].requests_in_flight)
        assert mesh.metric(host, "mesh_tunnels_open") == 0
    await mesh.until(lambda: not mesh.api.open)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_text_and_binary_of_any_size(mesh: Any, compression: str | None) -> None:
    async with dial(mesh, compression=compression) as client:
        assert client.response is not None
        assert (
            "permessage-deflate" in client.response.headers.get("Sec-WebSocket-Extensions", "")
        ) is bool(compression)
        for size in (0, 1, 125, 126, 65_535, 65_536, MIB):
            text = ("grüße " * (size // 6 + 1))[:size]
            await client.send(text)
            assert await asyncio.wait_for(client.recv(), 20) == text
            data = os.urandom(size)
            await client.send(data)
            assert await asyncio.wait_for(client.recv(), 20) == data
    await is_quiet(mesh)


async def test_a_message_of_16_mib(mesh: Any) -> None:
    data = os.urandom(MIB) * 16
    async with dial(mesh, compression=None) as client:
        await client.send(data)
        answer = await asyncio.wait_for(client.recv(), 60)
        assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()  # type: ignore[arg-type]  # bytes


async def test_a_message_in_fragments(mesh: Any) -> None:
    async with dial(mesh, compression=None) as client:
        await client.send(str(number) for number in range(500))
        assert await asyncio.wait_for(client.recv(), 20) == "".join(map(str, range(500)))


async def test_pings_are_answered_both_ways(mesh: Any) -> None:
    async with dial(mesh, "/ping") as client:
        await asyncio.wait_for(await client.ping(b"hello"), 5)
        await mesh.until(lambda: mesh.api.pongs == 1)


async def test_one_of_the_subprotocols_is_chosen(mesh: Any) -> None:
    async with dial(mesh, subprotocols=[Subprotocol("chat.v1"), Subprotocol("chat.v2")]) as client:
        assert client.subprotocol == "chat.v2"


async def test_close_codes_arrive_whoever_closes(mesh: Any) -> None:
    async with dial(mesh) as client:
        await client.send("close")
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), 5)
        assert (client.close_code, client.close_reason) == (4001, "as you like")
    async with dial(mesh) as client:
        await client.close(4002, "enough")
    await is_quiet(mesh)
    assert mesh.api.codes == [4001, 4002]
    assert mesh.metric("near", "istio_requests_total", response_code="101") == 2
    assert mesh.metric("near", "istio_requests_total", response_flags="-") == 2


async def test_an_end_without_a_close_frame_is_seen_as_one(mesh: Any) -> None:
    async with dial(mesh) as client:
        await client.send("abort")
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(client.recv(), 5)
        assert client.close_code == 1006
    async with dial(mesh) as client:
        client.transport.abort()
    await is_quiet(mesh)
    assert mesh.api.codes == [1006, 1006]


@pytest.mark.parametrize("status", [401, 404, 426, 503])
async def test_a_refusal_of_the_application_is_the_clients_answer(mesh: Any, status: int) -> None:
    with pytest.raises(InvalidStatus) as error:
        async with dial(mesh, f"/status/{status}"):
            pass
    assert error.value.response.status_code == status
    assert error.value.response.body == b"no\n"
    await is_quiet(mesh)


async def test_a_refusal_by_policy_says_so_in_words(mesh: Any) -> None:
    with pytest.raises(InvalidStatus) as error:
        async with dial(mesh, caller="mob"):
            pass
    answer = error.value.response
    assert (answer.status_code, answer.headers["x-mesh-flag"]) == (403, "UAEX")
    assert b"may not call" in (answer.body or b"")
    assert not mesh.api.requests


async def test_what_the_mesh_says_of_the_caller_is_in_the_handshake(mesh: Any) -> None:
    spoofed = {"X-Forwarded-Client-Cert": "URI=spiffe://mesh.test/svc/admin", "X-Own": "1"}
    async with dial(mesh, additional_headers=spoofed):
        pass
    (request,) = mesh.api.requests
    assert request.headers["X-Forwarded-Client-Cert"].endswith("URI=spiffe://mesh.test/svc/web")
    assert request.headers["X-Own"] == "1"
    assert request.headers["traceparent"]


@pytest.mark.usefixtures("descriptors")
async def test_a_thousand_at_a_time_and_none_afterwards(mesh: Any) -> None:
    before = resident_bytes()
    async with contextlib.AsyncExitStack() as stack:
        clients: list[ClientConnection] = []
        for _ in range(MANY // 50):
            clients += await asyncio.gather(
                *(
                    stack.enter_async_context(dial(mesh, compression=None, open_timeout=60))
                    for _ in range(50)
                )
            )
        for number, client in enumerate(clients):
            await client.send(str(number))
        for number, client in enumerate(clients):
            assert await asyncio.wait_for(client.recv(), 60) == str(number)
        for host, reporter in (("near", "source"), ("far", "destination")):
            assert mesh.metric(host, "mesh_tunnels_open", reporter=reporter) == MANY
        grown = (resident_bytes() - before) / MANY
        print(f"{grown / 1024:.1f} KiB a WebSocket, with both ends of it")
        assert grown < 400 * 1024
    await is_quiet(mesh)
    assert mesh.api.codes == [1000] * MANY
    assert mesh.metric("far", "istio_requests_total", response_code="101") == MANY
    for cluster in mesh.planes["near"].clusters():
        assert cluster.breaker.requests == 0
        assert all(not pool.inflight for pool in cluster.pools)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# Under a policy of its own


@pytest.fixture
async def sockets(grid: Any) -> AsyncIterator[Any]:
    """web, other -> api, which is an ``Echo``, on host a1."""
    grid._app_type = EchoOfGrid
    await grid.serve("api", "a1")
    grid.apply()
    return grid


class EchoOfGrid(Echo):
    answer: Any = None


async def test_who_is_shut_out_loses_what_is_open_and_the_others_do_not(sockets: Any) -> None:
    async with dial(sockets) as mine, dial(sockets, caller="other") as theirs:
        for client in (mine, theirs):
            await client.send("word")
            assert await asyncio.wait_for(client.recv(), 5) == "word"
        only_web = Intention(name="only-web", allow=("web",))
        sockets.policy["api"] = ServicePolicy(intentions=(only_web,))
        sockets.apply()
        sockets.planes["a1"].cut_denied()
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(theirs.recv(), 5)
        await mine.send("still")
        assert await asyncio.wait_for(mine.recv(), 5) == "still"
        denied = {"source_workload": "other", "policy": "api/default-deny"}
        assert sockets.metric("a1", "mesh_authorization_denials_total", **denied) == 1
        counted = {"response_code": "101", "response_flags": "UAEX"}
        assert sockets.metric("a1", "istio_requests_total", **counted) == 1


async def test_routes_decide_where_a_websocket_goes_and_nothing_of_it_is_mirrored(
    sockets: Any,
) -> None:
    await sockets.serve("api", "a2", version="2")
    to_first, to_second = (Destination(subset="v1"),), (Destination(subset="v2"),)
    chat = Match(path=PathMatch(prefix="/chat"))
    sockets.policy["api"] = ServicePolicy(
        subsets={"v1": Subset(version="1"), "v2": Subset(version="2")},
        routes=(
            Route(name="chat", match=chat, to=to_second),
            Route(name="rest", mirror=Mirror(subset="v2"), to=to_first),
        ),
    )
    sockets.apply()
    for path in ("/chat", "/"):
        async with dial(sockets, path) as client:
            await client.send("GET /smuggled HTTP/1.1\r\n\r\n")
            assert await asyncio.wait_for(client.recv(), 5)
    assert [each.path for each in sockets.apps["a2"].requests] == ["/chat"]
    assert [each.path for each in sockets.apps["a1"].requests] == ["/"]
    await is_over(sockets, "near")
    assert sockets.metric("near", "mesh_mirrored_requests_total") == 0


async def is_over(grid: Any, host: str) -> None:
    async with asyncio.timeout(5):
        while grid.planes[host].requests_in_flight:
            await asyncio.sleep(0.005)
