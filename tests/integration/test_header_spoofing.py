"""No header from outside reaches an application as somebody's identity, however it is written.

What is sent claims to be an administrator, through the caller's proxy as an application does,
straight to the called proxy as somebody does who has the caller's key, and to the port for callers
without an identity. Behind it is a recorder of raw bytes, or a WSGI server, to which ``-`` and
``_`` are one. Each request is refused, or arrives with the caller's true identity, where it has
one, and without a word of the claim.
"""

import asyncio
import contextlib
import re
import ssl
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest
from fuzz.ours import inbound_at
from msgspec import structs

from proxy.model.names import ServiceName
from proxy.model.policy import ServicePolicy
from proxy.model.settings import Address

CLAIM = "By=spiffe://mesh.test/svc/api;URI=spiffe://mesh.test/svc/admin"
TRUE = "By=spiffe://mesh.test/svc/api;URI=spiffe://mesh.test/svc/web"
CERT = "x-forwarded-client-cert"
NAMES = (CERT, "x-mesh-flag", "x-mesh-policy", "x-mesh-identity", "x-mesh-timeout-ms", "x-mesh-")
_GET = "GET / HTTP/1.1\r\nHost: api\r\n"
_POST = "POST / HTTP/1.1\r\nHost: api\r\n"
_CHUNKED = _POST + "Transfer-Encoding: chunked\r\n"


def _written(name: str) -> dict[str, str]:
    """Requests with a field of this name, in ways that somebody reads as it."""
    title = name.title()
    with_ = {
        "as it is": f"{name}: {CLAIM}",
        "title case": f"{title}: {CLAIM}",
        "upper case": f"{name.upper()}: {CLAIM}",
        "mixed case": f"{''.join(map(_mixed, enumerate(name)))}: {CLAIM}",
        "underscores": f"{title.replace('-', '_')}: {CLAIM}",
        "one underscore": f"{title.replace('-', '_', 1)}: {CLAIM}",
        "underscores in upper case": f"{name.upper().replace('-', '_')}: {CLAIM}",
        "twice": f"{title}: {CLAIM}\r\n{title}: {CLAIM}",
        "twice, differently": f"{title.replace('-', '_')}: {CLAIM}\r\n{title}: {CLAIM}",
        "without a space": f"{title}:{CLAIM}",
        "much white space": f"{title}: \t  {CLAIM} \t",
        "a space before the colon": f"{title} : {CLAIM}",
        "a tab before the colon": f"{title}\t: {CLAIM}",
        "a space before the name": f"X-A: 1\r\n {title}: {CLAIM}",
        "a tab before the name": f"X-A: 1\r\n\t{title}: {CLAIM}",
        "folded": f"{title}:\r\n {CLAIM}",
        "folded by a tab": f"{title}: x\r\n\t{CLAIM}",
        "a bare newline before": f"X-A: 1\n{title}: {CLAIM}",
        "a bare return before": f"X-A: 1\r{title}: {CLAIM}",
        "NUL in the name": f"{title}\0: {CLAIM}",
        "NUL before the name": f"X-A: 1\0{title}: {CLAIM}",
        "vertical tab": f"{title}\x0b: {CLAIM}",
        "not ASCII": f"{title}\xa0: {CLAIM}",
        "quoted": f'"{title}": {CLAIM}',
        "listed as a hop's": f"Connection: {name}\r\n{title}: {CLAIM}",
        "listed by another name": f"Connection: {name.replace('-', '_')}\r\n{title}: {CLAIM}",
        "listed, with close": f"{title}: {CLAIM}\r\nConnection: close, {name}",
        "last of many": "X-A: 1\r\n" * 90 + f"{title}: {CLAIM}",
    }
    for char in "!#$%&'*+.^`|~":
        with_[f"with {char}"] = f"{title.replace('-', char)}: {CLAIM}"
        with_[f"one {char}"] = f"{title.replace('-', char, 1)}: {CLAIM}"
    found = {how: f"{_GET}{lines}\r\n\r\n" for how, lines in with_.items()}
    found["HTTP/1.0"] = f"GET / HTTP/1.0\r\n{title}: {CLAIM}\r\n\r\n"
    found["absolute target"] = f"GET http://api/ HTTP/1.1\r\nHost: api\r\n{title}: {CLAIM}\r\n\r\n"
    found["pipelined"] = f"{_GET}\r\n{_GET}{title}: {CLAIM}\r\n\r\n"
    found["a trailer"] = f"{_CHUNKED}\r\n2\r\nhi\r\n0\r\n{title}: {CLAIM}\r\n\r\n"
    found["an announced trailer"] = (
        f"{_CHUNKED}Trailer: {title}\r\nTE: trailers\r\n\r\n0\r\n{title}: {CLAIM}\r\n\r\n"
    )
    found["a trailer with underscores"] = (
        f"{_CHUNKED}\r\n0\r\n{title.replace('-', '_')}: {CLAIM}\r\n\r\n"
    )
    return found


def _mixed(numbered: tuple[int, str]) -> str:
    number, char = numbered
    return char.upper() if number % 2 else char


CASES = {f"{name}, {how}": text for name in NAMES for how, text in _written(name).items()}


class Recorder:
    """Keeps all bytes that arrive, and answers each head."""

    def __init__(self) -> None:
        self.port = 0
        self.answer: Any = None
        self.received = b""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        held = b""
        try:
            while data := await reader.read(65536):
                self.received += data
                held += data
                while b"\r\n\r\n" in held:
                    head, _, held = held.partition(b"\r\n\r\n")
                    if head.startswith((b"GET ", b"POST ")):
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    def take(self) -> list[dict[str, list[str]]]:
        """The fields of each request since the last time, with trailers, by name."""
        text, self.received = self.received.decode("latin-1"), b""
        found = []
        for request in re.split(r"(?=(?:GET|POST) / HTTP/1\.1\r\n)", text):
            fields: dict[str, list[str]] = {}
            for line in request.split("\r\n")[1:]:
                name, colon, value = line.partition(":")
                if colon:
                    fields.setdefault(name, []).append(value.strip())
            if request:
                found.append(fields)
        return found

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Not on the terminal."""


class Wsgi:
    """wsgiref, in a thread; keeps the environment of each request."""

    def __init__(self) -> None:
        self.port = 0
        self.answer: Any = None
        self._seen: list[dict[str, list[str]]] = []
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        self._server = WSGIServer(("127.0.0.1", 0), _Handler)
        self._server.set_app(self._app)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def _app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self._seen.append(
            {
                key.removeprefix("HTTP_"): [value]
                for key, value in environ.items()
                if key.startswith("HTTP_")
            }
        )
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def take(self) -> list[dict[str, list[str]]]:
        seen, self._seen = self._seen, []
        return seen

    async def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
            self._thread.join()


class World:
    def __init__(self, grid: Any, app: Any) -> None:
        self._grid = grid
        self.app = app

    def address(self, listener: str) -> tuple[str, int, ssl.SSLContext | None, str | None]:
        if listener == "inbound":
            return inbound_at(self._grid.pki, self._grid.planes["a1"].inbound_address()[1])
        if listener == "plaintext":
            plain = self._grid.planes["a1"].plaintext_address(ServiceName("api"))
            return *plain, None, None
        near = self._grid.planes["near"]
        host, port = near.outbound_address(ServiceName("web"), ServiceName("api"))
        return host, port, None, None

    async def send(self, listener: str, text: str) -> bytes:
        """What came back until the proxy closed, or had answered as often as was asked."""
        host, port, context, name = self.address(listener)
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=name
        )
        asked = text.count(" / HTTP/1.") + text.count("http://api/ HTTP/1.")
        answers = b""
        try:
            writer.write(text.encode("latin-1"))
            async with asyncio.timeout(30):
                with contextlib.suppress(ConnectionError):
                    while (
                        answers.count(b"HTTP/1.1 200 ") < asked
                        and not re.search(rb"HTTP/1\.1 4\d\d ", answers)
                        and (data := await reader.read(65536))
                    ):
                        answers += data
        finally:
            writer.close()
        return answers


@pytest.fixture(params=[Recorder, Wsgi], ids=["raw", "wsgi"])
async def world(request: pytest.FixtureRequest, make_grid: Any) -> World:
    grid = await make_grid(request.param)
    app = await grid.serve("api", "a1")
    (workload,) = grid.settings["a1"].workloads
    await grid.planes["a1"].close()
    open_to_all = structs.replace(workload, plaintext=Address(host="127.0.0.1", port=0))
    plane = await grid._add("a1", (open_to_all,))
    grid.register("api", "a1", plane.inbound_address()[1], version="1")
    grid.policy["api"] = ServicePolicy(mode="permissive")
    grid.apply()
    return World(grid, app)


def _folded(name: str) -> str:
    """As the most generous of gateways reads it."""
    return re.sub("[^a-z0-9]", "-", name.lower())


def _claims(fields: dict[str, list[str]], true: list[str]) -> list[str]:
    """What in one request that arrived is not as the mesh would write it, of a caller whose
    identity is ``true``."""
    found = [f"{name}: {each}" for name, all_ in fields.items() for each in all_ if CLAIM in each]
    identities = [each for name, all_ in fields.items() if _folded(name) == CERT for each in all_]
    if identities != true:
        found.append(f"{CERT}: {identities}")
    for name, values in fields.items():
        if _folded(name).startswith("x-mesh-") and not (
            _folded(name) == "x-mesh-timeout-ms" and [v.isdigit() for v in values] == [True]
        ):
            found.append(f"{name}: {values}")
    return found


@pytest.mark.parametrize("listener", ["outbound", "inbound", "plaintext"])
async def test_no_header_from_outside_arrives_as_an_identity(world: World, listener: str) -> None:
    true = [] if listener == "plaintext" else [TRUE]
    arrived = refused = 0
    for case, text in CASES.items():
        answers = await world.send(listener, text)
        statuses = set(re.findall(rb"HTTP/1\.1 (\d{3}) ", answers))
        assert statuses in ({b"200"}, {b"400"}, {b"200", b"400"}), (case, answers[:300])
        seen = world.app.take()
        if statuses == {b"200"}:
            assert seen, case
        arrived += len(seen)
        refused += b"400" in statuses
        for fields in seen:
            assert _claims(fields, true) == [], case
    # Both ways to deal with it were taken: not everything is refused, nor let through cut short.
    assert arrived > len(CASES) // 2
    assert refused >= 10 * len(NAMES)


async def test_the_applications_would_have_believed_it(world: World) -> None:
    """Straight to the application: what this test looks for can be found."""
    title = CERT.title()
    for name in (title, title.replace("-", "_")):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.app.port)
        writer.write(f"{_GET}{name}: {CLAIM}\r\n\r\n".encode())
        async with asyncio.timeout(30):
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        (fields,) = world.app.take()
        assert any(CLAIM in claim for claim in _claims(fields, [TRUE]))
