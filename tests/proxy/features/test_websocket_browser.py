"""A browser that opens a WebSocket through two hosts, from a page that came the same way."""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest
from chromium import PATIENCE_MS, launched
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from proxy.model.names import ServiceName

PAGE = b"<!doctype html><title>chat</title>"
TALK = """
() => new Promise((resolve, reject) => {
  const seen = [];
  const socket = new WebSocket(`ws://${location.host}/chat`, ["chat.v1", "chat.v2"]);
  socket.binaryType = "arraybuffer";
  socket.onerror = () => reject(new Error("the WebSocket failed"));
  socket.onopen = () => { socket.send("grüße"); };
  socket.onmessage = (event) => {
    seen.push(typeof event.data === "string" ? event.data : event.data.byteLength);
    if (seen.length === 1) socket.send(new Uint8Array(300000));
    else socket.send("close");
  };
  socket.onclose = (event) => resolve({
    seen, protocol: socket.protocol, extensions: socket.extensions,
    code: event.code, reason: event.reason, wasClean: event.wasClean,
  });
})
"""


class Chat:
    """The application: a page, and a WebSocket beside it."""

    port = 0
    _server: Server

    async def start(self) -> None:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            process_request=self._page,
            select_subprotocol=lambda _, offered: max(offered, default=None),
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    def _page(self, _: ServerConnection, request: Request) -> Response | None:
        if request.path == "/chat":
            return None
        headers = Headers({"Content-Type": "text/html", "Content-Length": str(len(PAGE))})
        return Response(HTTPStatus.OK, "OK", headers, PAGE)

    async def _serve(self, connection: ServerConnection) -> None:
        async for message in connection:
            if message == "close":
                await connection.close(4000, "bye")
            else:
                await connection.send(message)


@pytest.fixture
async def chat(quiet_mesh: Any) -> Any:
    quiet_mesh.api = Chat()
    await quiet_mesh.start()
    return quiet_mesh


@pytest.fixture
async def page() -> AsyncIterator[Any]:
    async with launched() as browser:
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        yield page


async def test_a_browser_talks_through_two_proxies(chat: Any, page: Any) -> None:
    near = chat.planes["near"]
    host, port = near.outbound_address(ServiceName("web"), ServiceName("api"))
    await page.goto(f"http://{host}:{port}/")
    said = await page.evaluate(TALK)
    assert said["seen"] == ["grüße", 300_000]
    assert said["protocol"] == "chat.v2"
    assert "permessage-deflate" in said["extensions"]
    assert (said["code"], said["reason"], said["wasClean"]) == (4000, "bye", True)
    for name in ("near", "far"):
        await chat.until(lambda name=name: not chat.planes[name].requests_in_flight)
        assert chat.metric(name, "istio_requests_total", response_code="101") == 1
