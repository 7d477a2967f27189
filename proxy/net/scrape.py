"""The metrics port: ``GET /metrics`` for Prometheus on another host, and nothing else.

Plain HTTP, because that is what scrapes hosts inside an operator's own network; so what it says,
which is who calls whom and how often, goes to the networks that the operator named and to nobody
else. A connection from elsewhere is closed before a byte of it is read. The guts are the admin
port's: one request a connection, no bodies, everything bounded.
"""

import asyncio
import gzip
import ipaddress
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from proxy.core.metrics import Metrics, Value
from proxy.model.settings import Metrics as Placement
from proxy.net.admin import Answer, Connection, Route, text_answer

MAX_CONNECTIONS = 32
"""Two Prometheus, somebody's curl, and what hangs until its deadline."""
MIN_GZIP_BYTES = 1024
"""What fits into one packet is not made smaller."""
GZIP_LEVEL = 1
"""A tenth of the size for a few milliseconds; more costs several times that for little."""

Render = Callable[[str], Awaitable[Answer]]
"""The answer for an ``Accept`` header, which may be empty."""

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Scrape:
    """Start and close once."""

    def __init__(self, placement: Placement, render: Render, metrics: Metrics) -> None:
        self._listen, self._render = placement.listen, render
        self.place = f"{self._listen.host}:{self._listen.port}"
        self._sources = tuple(ipaddress.ip_network(source) for source in placement.sources)
        self._server: asyncio.Server | None = None
        self._open: set[Connection] = set()
        self._refused = metrics.counter(
            "mesh_scrapes_refused_total",
            "Connections to the metrics port from networks that may not read it.",
        ).labels()

    async def start(self) -> int:
        """The port listened on. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, self._listen.host, self._listen.port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._open):
            connection.abort()

    def _accept(self) -> Connection:
        return _Reader(self._render, self._open, self._sources, self._refused)


def is_within(address: str, networks: tuple[_Network, ...]) -> bool:
    """Of a peer. On a socket for both families an IPv4 address comes as ``::ffff:10.0.0.5``."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


class _Reader(Connection):
    def __init__(
        self,
        render: Render,
        peers: set[Connection],
        sources: tuple[_Network, ...],
        refused: Value,
    ) -> None:
        super().__init__(
            {"/metrics": Route(method="GET", handler=self._metrics)},
            peers,
            lambda transport: False,
        )
        self._render, self._sources, self._refused = render, sources, refused
        self._accept = b""
        self._encodings = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if not peer or not is_within(peer[0], self._sources):
            self._refused.value += 1
            self._is_answered = True  # what is on its way already is not read either
            transport.abort()  # type: ignore[attr-defined]  # uvloop's has it
            return
        super().connection_made(transport)
        if len(self._peers) > MAX_CONNECTIONS:
            self._send(text_answer("too many connections to the metrics port", 503))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        match name.lower():
            case b"accept":
                self._accept = value
            case b"accept-encoding":
                self._encodings = value.lower()

    def _check_host(self) -> Answer | None:
        """Any: names and addresses of this host are the operator's to choose."""
        return None if len(self._hosts) == 1 else text_answer("exactly one Host is needed", 400)

    async def _metrics(self) -> Answer:
        answer = await self._render(self._accept.decode("latin-1"))
        if len(answer.body) < MIN_GZIP_BYTES or not _takes_gzip(self._encodings):
            return answer
        # Elsewhere, as it takes milliseconds that requests would wait; zlib lets go of the lock.
        packed = await asyncio.to_thread(gzip.compress, answer.body, GZIP_LEVEL, mtime=0)
        return Answer(
            body=packed,
            content_type=answer.content_type,
            status=answer.status,
            encoding="gzip",
        )


def _takes_gzip(encodings: bytes) -> bool:
    """Of a header in lower case; who refuses it says ``gzip;q=0``."""
    for part in encodings.split(b","):
        name, _, weight = part.partition(b";")
        if name.strip() == b"gzip":
            return weight.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return False
