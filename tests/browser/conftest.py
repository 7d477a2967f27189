"""Headless Chromium (Debian's) and the dashboard's server; each test has a page of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from browser import made
from chromium import PATIENCE_MS, driver, launch

from meshctl.dashboard.guard import Guard
from meshctl.dashboard.past import Past
from meshctl.dashboard.server import serving
from meshctl.errors import MeshError

SERVER_S = 30.0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with driver("sync_api").sync_playwright() as started:
        browser = launch(started)
        yield browser
        browser.close()


class Server:
    """A dashboard over sources without a mesh, in a thread: the driver of the browser has this
    one's event loop."""

    def __init__(self, make: Callable[[Past], tuple[Any, ...]], port: int = 0) -> None:
        self._make, self._port = make, port
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="dashboard")
        self.guard: Guard

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(SERVER_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SERVER_S)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return self.guard.url

    @property
    def port(self) -> int:
        return int(self.guard.address.rstrip("/").rpartition(":")[2])

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        past = Past()
        asks = {"difference": _difference}
        async with serving(self._make(past), port=self._port, past=past, asks=asks) as self.guard:
            self._ready.set()
            await self._stop.wait()


def _difference(query: Mapping[str, str]) -> dict[str, Any]:
    if query.get("from") == query.get("to"):
        raise MeshError("these are the same")
    change = {"path": "services.orders.timeouts.request", "before": "15s", "after": "5s"}
    return {"changes": [change], "services": ["orders"], "hosts": []}


@contextmanager
def shop(**options: Any) -> Iterator[Server]:
    def sources(past: Past) -> tuple[Any, ...]:
        slow = made.slow_ones(markup=options.get("markup", False))
        return (made.Live(past, **options), *slow)

    with Server(sources) as server:
        yield server


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Server]:
    with shop() as server:
        yield server


class Seen:
    """A page, and what went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def enter(self, url: str) -> Any:
        self.page.goto(url)
        self.page.wait_for_selector(".node, .empty h2:not(:text('Asking'))")
        return self.page


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Seen]]:
    contexts = []

    def open_page(**options: Any) -> Seen:
        options.setdefault("viewport", {"width": 1280, "height": 800})
        context = chromium.new_context(**options)
        contexts.append(context)
        return Seen(context.new_page())

    yield open_page
    for context in contexts:
        context.close()
