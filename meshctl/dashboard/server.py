"""The HTTP side of the dashboard: the page's files, the stream of news, and what a panel asks."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

from meshctl.dashboard.feed import Feed, TooManyTabs
from meshctl.dashboard.guard import HEADERS, Guard
from meshctl.dashboard.past import Past
from meshctl.dashboard.sources import Source
from meshctl.errors import MeshError, Refused

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_STUCK_S = 20.0
"""A tab that has read nothing for so long is gone: it comes back by itself if it is not."""
_MAX_WORD = 300
_CLOSE_S = 1.0

Ask = Callable[[Mapping[str, str]], Any]
"""A question of the page, by the query: a document. Raises MeshError."""


@asynccontextmanager
async def serving(
    sources: Iterable[Source], *, port: int, past: Past, asks: Mapping[str, Ask] | None = None
) -> AsyncIterator[Guard]:
    """The dashboard on loopback until the context is left; ``port`` 0: any that is free.

    ``asks``: further questions, by their name under ``/ask/``. Raises Refused for a port that is
    taken.
    """
    listening = _listen(port)
    guard = Guard(listening.getsockname()[1])
    feed = Feed()
    app = _app(feed, guard, {"past": lambda query: _past(past, query), **(asks or {})})
    # The address has a token in it, so no request is ever logged.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_S)
    await runner.setup()
    following = asyncio.create_task(feed.run(sources), name="dashboard sources")
    try:
        await web.SockSite(runner, listening).start()
        yield guard
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await runner.cleanup()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise Refused(
            f"port {port} of 127.0.0.1 cannot be listened on: {error.strerror}",
            hint="meshctl dashboard --port 0 takes a free one",
        ) from error


def _app(feed: Feed, guard: Guard, asks: Mapping[str, Ask]) -> web.Application:
    page = {each.name: each.read_bytes() for each in (files(__package__) / "page").iterdir()}

    async def index(_request: web.Request) -> web.Response:
        return _file(page, "index.html")

    async def part(request: web.Request) -> web.Response:
        return _file(page, request.match_info["name"])

    async def icon(_request: web.Request) -> web.Response:
        return _file(page, "icon.svg")

    async def live(request: web.Request) -> web.StreamResponse:
        return await _live(request, feed)

    async def ask(request: web.Request) -> web.Response:
        asked = asks.get(request.match_info["name"])
        if asked is None:
            raise web.HTTPNotFound
        query = {key: value[:_MAX_WORD] for key, value in request.query.items()}
        try:
            found = asked(query)
        except MeshError as error:
            problem = {"message": str(error), "hint": error.hint}
            return _json({"error": problem}, HTTPStatus.BAD_REQUEST)
        return _json(found, HTTPStatus.OK)

    app = web.Application(middlewares=[guard.middleware()])
    app.router.add_get("/", index)
    app.router.add_get("/favicon.ico", icon)  # asked for by the step before the page
    app.router.add_get("/page/{name}", part)
    app.router.add_get("/live", live)
    app.router.add_get("/ask/{name}", ask)
    return app


def _file(page: Mapping[str, bytes], name: str) -> web.Response:
    kind = _TYPES.get(name.rpartition(".")[2])
    if kind is None or name not in page:
        raise web.HTTPNotFound
    return web.Response(body=page[name], content_type=kind, charset="utf-8")


async def _live(request: web.Request, feed: Feed) -> web.StreamResponse:
    answer = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
    events = feed.events()
    is_begun = False
    try:
        async for event in events:
            async with asyncio.timeout(_STUCK_S):
                if not is_begun:
                    await answer.prepare(request)
                    is_begun = True
                await answer.write(event)
    except TooManyTabs:
        text = "too many tabs show this dashboard; close some\n"
        return web.Response(status=HTTPStatus.TOO_MANY_REQUESTS, text=text)
    except (ConnectionError, TimeoutError):
        pass  # the tab is gone
    finally:
        await events.aclose()
    return answer


def _past(past: Past, query: Mapping[str, str]) -> dict[str, Any]:
    return past.of((query.get("caller", ""), query.get("service", "")))


def _json(document: object, status: HTTPStatus) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json"
    )
