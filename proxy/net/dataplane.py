"""The data plane as the rest of the proxy sees it: start, new tables, new identities, drain."""

import asyncio
from collections.abc import Callable
from time import monotonic

from proxy.core.metrics import Metrics, Value
from proxy.core.table import RouteTable, UpstreamKey, compile_table
from proxy.http.ledger import Ledger
from proxy.model.endpoint import Catalogue
from proxy.model.names import ServiceName
from proxy.model.policy import Policy
from proxy.model.settings import Address, Settings
from proxy.model.status import IdentityStatus
from proxy.net.dataplane_metrics import DataPlaneMetrics
from proxy.net.inbound import InboundListener, InboundWorkload
from proxy.net.outbound import OutboundService
from proxy.net.tls_identity import Identities

MAX_CONNECTIONS = 10_000
"""Downstream, on each side."""
_TICK_S = 0.1
_TICKS_OF_IDLE = 10
_BACKLOG = 1024
_POLL_S = 0.05
_TURNS_TO_CLOSE = 10


class ListenError(Exception):
    """An address cannot be listened on; the text names it and who wants it."""


class DataPlane:
    """Every listener, pool and connection of one proxy process. One event loop."""

    def __init__(
        self, settings: Settings, metrics: Metrics, *, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self._settings = settings
        self._metrics = families = DataPlaneMetrics(metrics)
        self._identities = Identities(settings)
        errors = families.protocol_errors
        self._outbound_ledger = Ledger(
            max_connections, lambda reason: _count(errors.labels("source", reason))
        )
        self._inbound_ledger = Ledger(
            max_connections, lambda reason: _count(errors.labels("destination", reason))
        )
        self._ledgers = (self._outbound_ledger, self._inbound_ledger)
        table = compile_table(settings, Policy(), Catalogue())
        self._outbound = {
            key: OutboundService(route, settings.trust_domain, self._outbound_ledger, self._metrics)
            for key, route in table.outbound.items()
        }
        self._inbound = {
            service: InboundWorkload(
                route, settings.trust_domain, self._inbound_ledger, self._metrics
            )
            for service, route in table.inbound.items()
        }
        self._table = table
        self._servers: dict[UpstreamKey | None, asyncio.Server] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0

    async def start(self) -> None:
        """Loads identities and binds all listeners, or binds none and raises ListenError."""
        self.reload_identities()
        try:
            listener = InboundListener(
                self._settings.trust_domain,
                self._identities,
                self._inbound,
                self._inbound_ledger,
                self._metrics,
            )
            await self._listen(
                None, self._settings.inbound, listener.accept, "the inbound side of the mesh"
            )
            for key, service in self._outbound.items():
                who = f"{service.route.caller} for its upstream {service.route.service}"
                await self._listen(key, service.route.listen, service.accept, who)
        except BaseException:
            await self._stop_listening()
            raise
        self._ticker = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    async def _listen(
        self,
        key: UpstreamKey | None,
        address: Address,
        accept: Callable[[], asyncio.Protocol],
        who: str,
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._servers[key] = await loop.create_server(
                accept, address.host, address.port, backlog=_BACKLOG
            )
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ListenError(
                f"cannot listen on {address.host}:{address.port}, wanted by {who}: {reason}"
            ) from error

    # Configuration

    def apply(self, table: RouteTable) -> None:
        """Atomic: requests that have begun keep the table they began with."""
        self._table = table
        for key, service in self._outbound.items():
            if (route := table.outbound.get(key)) is not None:
                service.apply(route)
        for name, workload in self._inbound.items():
            if (inbound := table.inbound.get(name)) is not None:
                workload.apply(inbound)

    @property
    def table(self) -> RouteTable:
        return self._table

    def reload_identities(self) -> dict[ServiceName, IdentityStatus | str]:
        """For new connections only. A reason instead of a status: the previous stays in force."""
        results = self._identities.reload()
        for service in self._outbound.values():
            service.use_identity(self._identities.get(service.route.caller))
        return results

    def identities(self) -> dict[ServiceName, IdentityStatus | None]:
        """In force for new connections; None: no usable key and chain."""
        return self._identities.statuses()

    def inbound_address(self) -> tuple[str, int]:
        """As bound: of use when the settings say port 0."""
        return _bound(self._servers[None])

    def outbound_address(self, caller: ServiceName, service: ServiceName) -> tuple[str, int]:
        for key, server in self._servers.items():
            if key is not None and key[:2] == (caller, service):
                return _bound(server)
        raise KeyError((caller, service))

    # The end

    async def drain(self, deadline_s: float) -> bool:
        """Stops gracefully; True if everything in flight was finished by the deadline.

        New requests are served until the peers have had time to notice: responses ask for their
        connection to be closed, and peers drop idle ones after ``pool_idle_s``. Only then do the
        listeners and the idle connections close.
        """
        deadline = monotonic() + deadline_s
        for ledger in self._ledgers:
            ledger.is_draining = True
        timeouts = [route.timeouts for route in self._table.outbound.values()]
        timeouts += [route.timeouts for route in self._table.inbound.values()]
        notice_s = 1.0 + max((each.pool_idle_s for each in timeouts), default=0.0)
        noticed = min(deadline, monotonic() + notice_s)
        while monotonic() < noticed and self.open_connections:  # noqa: ASYNC110  # no hot path
            await asyncio.sleep(_POLL_S)
        await self._stop_listening()
        while monotonic() < deadline:
            for ledger in self._ledgers:
                for connection in tuple(ledger.connections):
                    connection.close_if_idle()
            if not self.open_connections and not self.requests_in_flight:
                break
            await asyncio.sleep(_POLL_S)
        is_finished = self.requests_in_flight == 0
        await self.close()
        return is_finished

    async def close(self) -> None:
        """Now: aborts what is left."""
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        await self._stop_listening()
        for ledger in self._ledgers:
            for exchange in tuple(ledger.exchanges):
                exchange.abort()
            for connection in tuple(ledger.connections):
                connection.abort()
        for service in self._outbound.values():
            service.close()
        for workload in self._inbound.values():
            workload.pool.close()
        for _ in range(_TURNS_TO_CLOSE):  # the loop reports the end of an aborted connection late
            if not self.open_connections:
                break
            await asyncio.sleep(0)

    async def _stop_listening(self) -> None:
        servers = list(self._servers.values())
        self._servers.clear()
        for server in servers:
            server.close()

    @property
    def open_connections(self) -> int:
        """Downstream connections, both sides."""
        return sum(len(ledger.connections) for ledger in self._ledgers)

    @property
    def requests_in_flight(self) -> int:
        """HTTP requests and TCP sessions."""
        return sum(len(ledger.exchanges) for ledger in self._ledgers)

    # Deadlines

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        now = monotonic()
        self._ticks += 1
        for ledger in self._ledgers:
            ledger.now = now
            for exchange in tuple(ledger.exchanges):
                exchange.sweep(now)
        if self._ticks % _TICKS_OF_IDLE:
            return
        for ledger in self._ledgers:
            for connection in tuple(ledger.connections):
                connection.sweep(now)
        for service in self._outbound.values():
            service.sweep(now)
        for workload in self._inbound.values():
            workload.pool.sweep(now)


def _count(series: Value) -> None:
    series.value += 1


def _bound(server: asyncio.Server) -> tuple[str, int]:
    name = next(iter(server.sockets)).getsockname()
    return name[0], name[1]
