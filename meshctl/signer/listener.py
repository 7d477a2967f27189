"""Accepts connections to the signer: at most so many, each with one deadline for all of its life.

aiohttp's own server has no deadline for a connection that never sends a request, and counts none
that is still in its handshake; a signer that anybody can reach needs both. A connection carries
one request, so one deadline covers handshake, head, body and answer.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from meshctl.signer.measures import Measures
from proxy.model.settings import Address

MAX_CONNECTIONS = 256
MAX_PER_ADDRESS = 32
"""A host renews one identity at a time; one address cannot take all connections."""
CONNECTION_S = 15.0
"""More than the 10 s that a proxy waits for."""
HANDSHAKE_S = 5.0
MAX_HEAD_BYTES = 8 * 1024
ACCEPT_AGAIN_S = 1.0
"""After the system has had no descriptor or no memory for another connection."""
_BACKLOG = 512

_log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Server(web.Server):
    """Says when a connection has ended."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(
            handler,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            lingering_time=0.0,
        )
        self.ended: dict[object, asyncio.Event] = {}

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        event = self.ended.get(handler)
        if event is not None:
            event.set()


class Listener:
    """``start`` and ``close`` once. ``context`` gives what the next handshake is done with."""

    def __init__(
        self, handler: Handler, context: Callable[[], ssl.SSLContext], measures: Measures
    ) -> None:
        self._server = _Server(handler)
        self._context, self._measures = context, measures
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._open: dict[asyncio.Task[None], str] = {}
        """With the peer's address."""

    def start(self, address: Address) -> int:
        """The port listened on (port 0: any). Raises OSError."""
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, where = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind(where)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        self._socket = listening
        self._accepting = asyncio.create_task(self._accept(listening), name="accept")
        port: int = listening.getsockname()[1]
        return port

    @property
    def accepting(self) -> "asyncio.Task[None]":
        """Ends only by a bug, or by ``close``."""
        assert self._accepting is not None
        return self._accepting

    async def close(self, grace_s: float) -> None:
        """Accepts no more; what is under way has ``grace_s`` to end."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
        left = tuple(self._open)
        if left:
            await asyncio.wait(left, timeout=grace_s)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._server.shutdown(0)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except OSError as error:
                _log.error("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            if not self._has_room(peer[0]):
                self._measures.turned_away.value += 1
                accepted.close()
                continue
            task = asyncio.create_task(self._carry(accepted), name="connection")
            self._open[task] = peer[0]
            self._measures.connections.value = len(self._open)
            task.add_done_callback(self._ended)

    def _has_room(self, address: str) -> bool:
        taken = self._open.values()
        return (
            len(taken) < MAX_CONNECTIONS
            and sum(each == address for each in taken) < MAX_PER_ADDRESS
        )

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._open.pop(task, None)
        self._measures.connections.value = len(self._open)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a connection failed", exc_info=task.exception())

    async def _carry(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        handler = self._server()
        ended = self._server.ended[handler] = asyncio.Event()
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(CONNECTION_S):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: handler,
                    accepted,
                    ssl=self._context(),
                    ssl_handshake_timeout=HANDSHAKE_S,
                    ssl_shutdown_timeout=1.0,
                )
                await ended.wait()
        except (OSError, TimeoutError) as error:
            if transport is None:
                self._measures.handshakes_failed.value += 1
                _log.debug("a handshake failed: %s", error)
                accepted.close()
        finally:
            del self._server.ended[handler]
            if isinstance(transport, asyncio.Transport):
                transport.abort()
