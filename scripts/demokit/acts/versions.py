"""Other things than HTTP/1.1, through the same proxies and to the same application."""

import asyncio
import json

from demokit import websocket
from demokit.scene import Scene
from demokit.stage import holds, quote, say
from proxy.http.head import CHUNKED, RequestHead
from proxy.net.http2_question import Answer, ask

CLAIM = "HTTP/2, a WebSocket, and a gRPC call that is denied, in gRPC's own words"

POLICY = """\
services:
  api:
    intentions:
      - {name: reads, allow: [web]}
      - {name: no-deleting, deny: [web], match: {path: /shop.v1.Orders/Delete}}
"""
_DEADLINE_S = 10.0
_MAX_BYTES = 65536
_PERMISSION_DENIED = "7"


def show(scene: Scene) -> None:
    quote(POLICY)
    scene.put_in_force(POLICY)
    port = scene.ports.web_to_api

    say("api's application speaks HTTP/1.1. web calls it over HTTP/2:")
    answer = _call(port, _head(b"GET", b"/hello"))
    document = json.loads(answer.body)
    say(f"HTTP/2 {answer.status}, from {document['service']} {document['version']}", "dim")
    holds(
        answer.status == 200 and document["service"] == "api",
        "the answer came back over HTTP/2",
    )

    spoken = websocket.say(port, "/echo", "hello through the mesh")
    say(f"\nWebSocket: {spoken.status}, and the answer to a message is {spoken.text!r}", "dim")
    holds(
        spoken.is_accepted and spoken.text == "HELLO THROUGH THE MESH",
        "a WebSocket was opened, and a message went there and back",
    )

    call = _head(b"POST", b"/shop.v1.Orders/Delete")
    call.lines += [b"content-type: application/grpc", b"te: trailers"]
    call.length, call.is_grpc = CHUNKED, True
    denied = _call(port, call, b"\0\0\0\0\0")
    fields = _fields(denied)
    say(f"\nHTTP/2 {denied.status}", "dim")
    for name in ("content-type", "grpc-status", "grpc-message", "x-mesh-policy"):
        say(f"{name}: {fields.get(name, '')}", "dim")
    holds(
        denied.status == 200
        and fields.get("grpc-status") == _PERMISSION_DENIED
        and fields.get("x-mesh-policy") == "api/no-deleting",
        "a gRPC client reads PERMISSION_DENIED and why, not an HTTP status that it does not expect",
    )


def _head(method: bytes, path: bytes) -> RequestHead:
    head = RequestHead(method, path, b"api", False)
    head.lines = [b"user-agent: demo"]
    return head


def _call(port: int, head: RequestHead, body: bytes = b"") -> Answer:
    """By the product's own HTTP/2 client, so that the demo needs no other."""

    async def asked() -> Answer:
        async with asyncio.timeout(_DEADLINE_S):
            return await ask("127.0.0.1", port, head, body, max_body_bytes=_MAX_BYTES)

    return asyncio.run(asked())


def _fields(answer: Answer) -> dict[str, str]:
    lines = (line.decode("latin-1").partition(": ") for line in answer.lines)
    return {name: value for name, _, value in lines}
