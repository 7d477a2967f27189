"""A browser and ``websockets``, through two proxies, at a web site that Hypercorn serves.

Hypercorn speaks both versions of HTTP, and so the site is there twice: as an application of
HTTP/1.1 and as one of HTTP/2, where a WebSocket is an extended CONNECT (RFC 8441). Browsers speak
HTTP/2 over TLS only, never in plaintext: to the proxy on its own host Chromium speaks HTTP/1.1,
and what is HTTP/2 here is what the other proxy and the application say to each other.
"""

import asyncio
import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from chromium import PATIENCE_MS, launched
from integration.backends import Server, Unavailable
from integration.programs.website import EVENTS, PIECE
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from proxy.model.names import ServiceName

pytestmark = pytest.mark.timeout(120)

ENDS_IN_S = 30.0
VERSIONS = {"api": "1.1", "api2": "2"}
"""The services, and what their applications speak."""
UPLOAD_BYTES = 3_000_000


class Hypercorn(Server):
    name = "hypercorn"

    @classmethod
    def require(cls) -> None:
        if importlib.util.find_spec("hypercorn") is None:
            raise Unavailable("hypercorn is not installed: pip install -e '.[dev]'")

    def command(self) -> list[str]:
        tests = str(Path(__file__).resolve().parents[1])
        program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from hypercorn.__main__ import "
        return [
            *(sys.executable, "-c", program + "main; sys.exit(main())", tests),
            *("--bind", f"127.0.0.1:{self.port}", "--graceful-timeout", "1"),
            *("--websocket-ping-interval", "1", "integration.programs.website:app"),
        ]


@pytest.fixture(autouse=True)
def no_chatter(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "websockets")


@pytest.fixture
async def grid(tmp_path: Path, make_grid: Callable[..., Any]) -> AsyncIterator[Any]:
    Hypercorn.require()
    server = Hypercorn(tmp_path / "site", tmp_path)
    await server.start()
    grid = await make_grid()
    await grid.serve("api", "a1", port=server.port)
    await grid.serve("api2", "p1", protocol="http2", port=server.port)
    grid.apply()
    yield grid
    await server.stop()


def origin(grid: Any, service: str) -> str:
    host, port = grid.planes["near"].outbound_address(ServiceName("web"), ServiceName(service))
    return f"{host}:{port}"


async def is_quiet(grid: Any) -> None:
    async with asyncio.timeout(ENDS_IN_S):
        while any(plane.requests_in_flight for plane in grid.planes.values()):
            await asyncio.sleep(0.005)


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    async with launched() as browser:
        yield browser


@pytest.fixture
async def page(browser: Any, grid: Any, service: str) -> Any:
    """What the site's first page is, when its script has run."""
    page = await browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    await page.goto(f"http://{origin(grid, service)}/")
    assert await page.title() == "loaded"
    return page


both = pytest.mark.parametrize("service", VERSIONS)

UPLOAD = """
async (size) => {
  const body = Uint8Array.from({length: size}, (_, at) => at % 251);
  const response = await fetch("/upload", {method: "POST", body});
  return await response.json();
}
"""
FETCHES = """
async (count) => {
  const fetched = async (pieces) => {
    const response = await fetch(`/data/${pieces}`);
    return [response.status, (await response.arrayBuffer()).byteLength];
  };
  return await Promise.all([...Array(count).keys()].map(fetched));
}
"""
EVENT_SOURCE = """
(count) => new Promise((resolve, reject) => {
  const seen = [];
  const source = new EventSource("/events");
  source.onerror = () => reject(new Error(`broken off after ${seen}`));
  source.onmessage = (event) => {
    seen.push(event.data);
    if (seen.length === count) { source.close(); resolve(seen); }
  };
})
"""
TALK = """
() => new Promise((resolve, reject) => {
  const seen = [];
  const socket = new WebSocket(`ws://${location.host}/chat`, ["chat.v1", "chat.v2"]);
  const saying = ["grüße", new Uint8Array(300000), "close"];
  socket.binaryType = "arraybuffer";
  socket.onerror = () => reject(new Error("the WebSocket failed"));
  socket.onopen = () => socket.send("version");
  socket.onmessage = (event) => {
    seen.push(typeof event.data === "string" ? event.data : event.data.byteLength);
    socket.send(saying.shift());
  };
  socket.onclose = (event) => resolve({
    seen, protocol: socket.protocol, code: event.code, reason: event.reason,
    wasClean: event.wasClean,
  });
})
"""
REFUSED = """
() => new Promise((resolve) => {
  const socket = new WebSocket(`ws://${location.host}/elsewhere`);
  socket.onopen = () => resolve("open");
  socket.onclose = (event) => resolve(event.code);
})
"""


@both
async def test_a_browser_uploads(page: Any, service: str) -> None:
    body = bytes(at % 251 for at in range(UPLOAD_BYTES))
    seen = await page.evaluate(UPLOAD, UPLOAD_BYTES)
    assert seen == {
        "bytes": UPLOAD_BYTES,
        "sha256": hashlib.sha256(body).hexdigest(),
        "version": VERSIONS[service],
    }


@both
async def test_a_browser_fetches_much_at_a_time(page: Any) -> None:
    assert await page.evaluate(FETCHES, 40) == [[200, pieces * len(PIECE)] for pieces in range(40)]


@both
async def test_a_browser_gets_events_as_they_are_sent(grid: Any, page: Any) -> None:
    assert await page.evaluate(EVENT_SOURCE, EVENTS) == [str(number) for number in range(EVENTS)]
    await is_quiet(grid)


@both
async def test_a_browser_opens_a_websocket(grid: Any, page: Any, service: str) -> None:
    said = await page.evaluate(TALK)
    assert said == {
        "seen": [VERSIONS[service], "grüße", 300_000],
        "protocol": "chat.v2",
        "code": 4000,
        "reason": "bye",
        "wasClean": True,
    }
    await is_quiet(grid)
    assert grid.metric("near", "istio_requests_total", response_code="101") == 1


@both
async def test_a_browser_is_told_of_a_websocket_that_is_refused(page: Any) -> None:
    assert await page.evaluate(REFUSED) == 1006


@both
async def test_a_page_that_is_closed_ends_its_websockets(grid: Any, page: Any) -> None:
    opened = await page.evaluate(
        """() => new Promise((resolve) => {
          window.socket = new WebSocket(`ws://${location.host}/chat`);
          window.socket.onopen = () => resolve("open");
        })"""
    )
    assert opened == "open"
    assert grid.planes["near"].requests_in_flight == 1
    await page.close()
    await is_quiet(grid)


@both
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_websocket_of_another_client(
    grid: Any, service: str, compression: str | None
) -> None:
    url = f"ws://{origin(grid, service)}/chat"
    async with asyncio.timeout(ENDS_IN_S):
        async with connect(url, proxy=None, compression=compression) as client:
            await client.send("version")
            assert await client.recv() == VERSIONS[service]
            for size in (0, 125, 126, 65_535, 65_536, 900_000):
                message = os.urandom(size)
                await client.send(message)
                assert await client.recv() == message
            await (await client.ping())
            await client.send("close")
            with pytest.raises(ConnectionClosedError) as caught:
                await client.recv()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "bye")
    await is_quiet(grid)


@both
async def test_a_refusal_of_the_application_is_its_answer(grid: Any, service: str) -> None:
    refused = connect(f"ws://{origin(grid, service)}/elsewhere", proxy=None)
    with pytest.raises(InvalidStatus) as caught:
        await asyncio.wait_for(refused, ENDS_IN_S)
    assert caught.value.response.status_code == 403
    assert "x-mesh-flag" not in caught.value.response.headers


@both
async def test_fifty_websockets_at_a_time(grid: Any, service: str) -> None:
    """To an application of HTTP/2 they are streams of few connections."""

    async def talk(number: int) -> None:
        async with connect(f"ws://{origin(grid, service)}/chat", proxy=None) as client:
            await all_are_open.wait()
            for at in range(10):
                await client.send(f"{number} {at}")
                assert await client.recv() == f"{number} {at}"

    all_are_open = asyncio.Barrier(50)
    async with asyncio.timeout(ENDS_IN_S):
        await asyncio.gather(*(talk(number) for number in range(50)))
    await is_quiet(grid)
