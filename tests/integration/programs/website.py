"""A web site as an ASGI application, for a server that speaks HTTP/1.1 and HTTP/2 on one port."""

import asyncio
import hashlib
import json
from typing import Any

PAGE = b"""<!doctype html><title>loading</title><script src="/script.js"></script>"""
SCRIPT = b"""document.title = "loaded";"""
EVENTS = 3
PIECE = bytes(range(256)) * 64


async def _answer(send: Any, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _upload(scope: Any, receive: Any, send: Any) -> None:
    digest, size, is_more = hashlib.sha256(), 0, True
    while is_more:
        message = await receive()
        digest.update(message["body"])
        size += len(message["body"])
        is_more = message["more_body"]
    seen = {"bytes": size, "sha256": digest.hexdigest(), "version": scope["http_version"]}
    await _answer(send, "application/json", json.dumps(seen).encode())


async def _events(receive: Any, send: Any) -> None:
    """Each is sent by itself, and nothing ends the stream but the reader."""
    headers = [(b"content-type", b"text/event-stream")]
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(EVENTS):
        event = b"data: %d\n\n" % number
        await send({"type": "http.response.body", "body": event, "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


async def _chat(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] != "/chat":
        await send({"type": "websocket.close"})
        return
    chosen = max(scope["subprotocols"], default=None)
    await send({"type": "websocket.accept", "subprotocol": chosen})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text == "close":
            await send({"type": "websocket.close", "code": 4000, "reason": "bye"})
        elif text == "version":
            await send({"type": "websocket.send", "text": scope["http_version"]})
        elif text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await _chat(scope, receive, send)
    elif scope["path"] == "/upload":
        await _upload(scope, receive, send)
    elif scope["path"] == "/events":
        await _events(receive, send)
    elif scope["path"] == "/script.js":
        await _answer(send, "text/javascript", SCRIPT)
    elif scope["path"].startswith("/data/"):
        await asyncio.sleep(0)
        await _answer(send, "application/octet-stream", PIECE * int(scope["path"][6:]))
    else:
        await _answer(send, "text/html", PAGE)
