"""The embedded registry as a server: sockets, waiting, the clock and the data file.

For one machine and nothing else: it listens on loopback only and answers only requests addressed
to loopback, so that a web page cannot reach it through a name of its own that resolves here. All
decisions are in ``api``; this waits where a query has to, lets time pass for TTLs, and writes the
file before a change is acknowledged.
"""

import asyncio
import contextlib
import ipaddress
import logging
import random
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from meshctl.errors import MeshError, Refused
from meshctl.registry import persistence
from meshctl.registry.api import Api
from meshctl.registry.calls import MAX_BODY_BYTES, Answer, Call, Query, plain, too_large
from meshctl.registry.state import CHECK_UPDATE_INTERVAL_S, Node, State
from proxy import __version__

MAX_WAITING = 1024
"""Blocking queries at once; each is a connection and a task."""
_STOP_S = 2.0
_RETRY_SAVE_S = 5.0
_UPKEEP_S = 60.0
"""Longest sleep of the upkeep task; what it waits for wakes it."""

_log = logging.getLogger("meshctl.registry")


class Registry:
    """``async with Registry(port=8500) as registry`` or ``start`` and ``stop``."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        data: Path | None = None,
        node: Node | None = None,
        check_update_interval_s: float = CHECK_UPDATE_INTERVAL_S,
    ) -> None:
        """Port 0: any free one. Raises Refused unless ``host`` is a loopback address."""
        if not _is_loopback(host):
            raise Refused(
                f"the embedded registry does not listen on {host}: it is for one machine",
                hint="use 127.0.0.1; for several hosts set consul.mode to existing or managed",
            )
        self.host, self.port = host, port
        self._data = data
        self._node = node if node is not None else Node()
        self._check_update_interval_s = check_update_interval_s
        self._state = State(self._node)
        self._api = Api(self._state, version="")
        self._runner: web.ServerRunner | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._touched = asyncio.Event()
        self._saving = asyncio.Lock()
        self._saved_index = 0
        self._waiting = 0
        self._is_stopping = False

    @property
    def url(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{self.port}"

    async def __aenter__(self) -> "Registry":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Raises StateCorrupt for an unreadable data file, MeshError if it cannot listen."""
        interval_s = self._check_update_interval_s
        if self._data is None:
            self._state = State(self._node, check_update_interval_s=interval_s)
        else:
            self._state = persistence.read(
                self._data,
                self._node,
                check_update_interval_s=interval_s,
                now=time.monotonic(),
            )
        self._saved_index = self._state.index
        self._is_stopping = False
        self._api = Api(self._state, version=f"1.8.0-meshctl-{__version__}")
        runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True, access_log=None),
            shutdown_timeout=_STOP_S,
        )
        await runner.setup()
        site = web.TCPSite(runner, self.host, self.port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise MeshError(
                f"the embedded registry cannot listen on {self.url}: {error.strerror}",
                hint="choose another port, or stop what listens there",
            ) from error
        self._runner = runner
        self.port = runner.addresses[0][1]
        self._upkeep = asyncio.create_task(self._keep_up(), name="registry upkeep")

    async def stop(self) -> None:
        """Answers what waits, closes, saves. Harmless if it does not run."""
        self._is_stopping = True
        self._announce()
        if self._upkeep is not None:
            self._upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._upkeep
            self._upkeep = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            await self._save()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not _is_for_loopback(request.headers.get("Host", "")):
            return _response(
                plain(403, "The embedded registry answers only requests addressed to loopback.")
            )
        call = await _call(request)
        if isinstance(call, Answer):
            return _response(call)
        before = self._state.index
        outcome = self._api.answer(call, now=time.monotonic())
        if isinstance(outcome, Query):
            return await self._answer(outcome)
        self._touched.set()
        if self._state.index != before:
            self._announce()
            if not await self._try_save():
                return _response(plain(500, "The change is in force, but could not be saved."))
        return _response(outcome)

    async def _answer(self, query: Query) -> web.StreamResponse:
        if query.min_index > 0 and query.index() <= query.min_index:
            if self._waiting >= MAX_WAITING:
                return _response(plain(429, "Too many blocking queries wait already."))
            # Consul spreads the ends of waits by up to a sixteenth, against herds.
            wait_s = query.wait_s * (1 + random.random() / 16)  # noqa: S311 - not a secret
            self._waiting += 1
            try:
                async with asyncio.timeout(wait_s):
                    await self._until_due(query)
            except TimeoutError:
                pass
            finally:
                self._waiting -= 1
        index = max(query.index(), 1)
        return _response(
            query.render(),
            ("X-Consul-Index", str(index)),
            ("X-Consul-Knownleader", "true"),
            ("X-Consul-Lastcontact", "0"),
        )

    async def _until_due(self, query: Query) -> None:
        touched = query.touched()
        while not self._is_stopping:
            changed = self._changed
            if query.touched() != touched and query.index() > query.min_index:
                return
            await changed.wait()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._touched.set()

    async def _keep_up(self) -> None:
        """Lets time pass, and saves what could not be saved."""
        while True:
            self._touched.clear()
            now = time.monotonic()
            before = self._state.index
            self._state.expire(now=now)
            if self._state.index != before:
                self._announce()
                self._touched.clear()
            due = self._state.catalogue.next_deadline()
            pause_s = _UPKEEP_S if due is None else min(max(due - now, 0.0), _UPKEEP_S)
            if self._saved_index != self._state.index and not await self._try_save():
                pause_s = min(pause_s, _RETRY_SAVE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._touched.wait()

    async def _try_save(self) -> bool:
        try:
            await asyncio.shield(self._save())
        except OSError as error:
            _log.error("cannot save %s: %s", self._data, error)
            return False
        return True

    async def _save(self) -> None:
        """Returns when everything up to now is on disk, by this call or by another."""
        if self._data is None:
            self._saved_index = self._state.index
            return
        wanted = self._state.index
        async with self._saving:
            if self._saved_index >= wanted:
                return
            index, data = self._state.index, persistence.dump(self._state)
            await asyncio.to_thread(persistence.write, self._data, data)
            self._saved_index = index


async def _call(request: web.BaseRequest) -> Call | Answer:
    path, _, query = request.raw_path.partition("?")
    try:
        decoded = unquote(path, errors="strict")
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError:
        return plain(400, "The path or the query is not UTF-8, or too long.")
    parameters: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        parameters[name] = (*parameters.get(name, ()), value)
    body = b""
    if request.method in ("PUT", "POST"):
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return too_large(request.content_length or 0)
        parts: list[bytes] = []
        size = 0
        async for part in request.content.iter_any():
            size += len(part)
            if size > MAX_BODY_BYTES:
                return too_large(size)
            parts.append(part)
        body = b"".join(parts)
    return Call(method=request.method, path=decoded, query=parameters, body=body)


def _response(answer: Answer, *headers: tuple[str, str]) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body)
    if answer.body or answer.status == 200:
        response.headers["Content-Type"] = answer.content_type
    for name, value in (*answer.headers, *headers):
        response.headers[name] = value
    return response


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_for_loopback(header: str) -> bool:
    name = header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name)
