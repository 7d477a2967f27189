"""The data plane as the rest of the proxy sees it: start, new tables, new identities, drain."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from time import monotonic
from typing import Literal

from proxy.core.metrics import Metrics
from proxy.core.overload import Overload
from proxy.core.table import RouteTable, UpstreamKey, compile_table
from proxy.http.ledger import Ledger
from proxy.model.endpoint import Catalogue
from proxy.model.names import ServiceName
from proxy.model.observed import Observed
from proxy.model.policy import Policy
from proxy.model.settings import Address, Settings
from proxy.model.status import IdentityStatus
from proxy.net.cluster import Cluster
from proxy.net.cutting import cut_denied
from proxy.net.dataplane_metrics import DataPlaneMetrics
from proxy.net.inbound import InboundListener, InboundWorkload
from proxy.net.local_callers import Guards
from proxy.net.memory import keep_some_at_hand, resident_bytes, return_free_memory
from proxy.net.observation import Observation
from proxy.net.outbound import OutboundCaller, OutboundService
from proxy.net.plaintext import PlaintextListener
from proxy.net.state_gauges import StateGauges
from proxy.net.tls_identity import Identities
from proxy.net.tokens import TokenVerifier

ListenerKey = UpstreamKey | ServiceName | tuple[Literal["plaintext"], ServiceName] | None
"""An upstream's own port, a caller's port for all of them, a service's port for callers without an
identity, or the inbound side."""

_TICK_S = 0.1
_TICKS_OF_IDLE = 10
_BACKLOG = 1024
_POLL_S = 0.05
_TURNS_TO_CLOSE = 10


_log = logging.getLogger(__name__)


class ListenError(Exception):
    """An address cannot be listened on; the text names it and who wants it."""


class DataPlane:
    """Every listener, pool and connection of one proxy process. One event loop."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        share: float = 1.0,
        max_connections: int | None = None,
        sockets: Mapping[tuple[str, int], socket.socket] | None = None,
    ) -> None:
        """``share``: of capacity and rate limits, where several workers have them in common.
        ``sockets``: bound already, by host and port; closed with the listeners."""
        self._settings = settings
        self._sockets = {} if sockets is None else sockets
        self.accepts: dict[tuple[str, int], Callable[[], asyncio.Protocol]] = {}
        """By host and port: what makes the protocols of the connections accepted there."""
        if max_connections is None:
            max_connections = max(1, int(settings.capacity.connections * share))
        self._overload = Overload(settings.capacity)
        self._metrics = families = DataPlaneMetrics(metrics)
        self.recent = families.recent
        self.recent.host = settings.host
        families.telemetry.logs.use(settings.host, settings.trust_domain, settings.log_dir)
        families.telemetry.tracer.know(settings)
        self._identities = Identities(settings)
        self._outbound_ledger = Ledger(max_connections, *families.protocol_counters("source"))
        self._inbound_ledger = Ledger(max_connections, *families.protocol_counters("destination"))
        self._ledgers = (self._outbound_ledger, self._inbound_ledger)
        table = compile_table(settings, None if settings.policy_keys else Policy(), Catalogue())
        self._callers = {
            work.service: OutboundCaller(
                work.service,
                settings.trust_domain,
                settings.zone,
                self._outbound_ledger,
                self._metrics,
            )
            for work in settings.workloads
            if work.upstreams
        }
        self._guards = Guards(settings, self._outbound_ledger, families)
        for name, caller in self._callers.items():
            caller.local = self._guards.of(name)
            caller.apply(table)
        self.tokens = TokenVerifier(metrics)
        self._observation: Observation | None = None
        self._is_observing = False
        self._inbound = {
            service: InboundWorkload(
                route,
                settings.trust_domain,
                self._inbound_ledger,
                self._metrics,
                share,
                verify=self.tokens.verify,
            )
            for service, route in table.inbound.items()
        }
        self._plaintext = {
            service: PlaintextListener(workload, self._inbound_ledger, self._metrics)
            for service, workload in self._inbound.items()
        }
        StateGauges(
            metrics,
            clusters=self.clusters,
            workloads=self._inbound.values(),
            ledgers={"source": self._outbound_ledger, "destination": self._inbound_ledger},
        )
        self._table = table
        self._servers: dict[ListenerKey, asyncio.Server] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0

    async def start(self) -> None:
        """Loads identities and binds all listeners, or binds none and raises ListenError."""
        keep_some_at_hand()
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
            for key, service in self._services():
                if service.route.listen is not None:
                    who = f"{service.route.caller} for its upstream {service.route.service}"
                    await self._listen(key, service.route.listen, service.accept, who)
            for workload in self._settings.workloads:
                if workload.plaintext is not None:
                    plain = self._plaintext[workload.service]
                    who = f"{workload.service} for callers without an identity"
                    await self._listen(
                        ("plaintext", workload.service), workload.plaintext, plain.accept, who
                    )
            for name, caller in self._callers.items():
                if caller.hosts is not None and caller.hosts.listen is not None:
                    who = f"{name} for all its HTTP upstreams"
                    await self._listen(name, caller.hosts.listen, caller.hosts.accept, who)
        except BaseException:
            await self.stop_listening()
            raise
        self._ticker = asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        self.tokens.is_serving = True

    async def _listen(
        self,
        key: ListenerKey,
        address: Address,
        accept: Callable[[], asyncio.Protocol],
        who: str,
    ) -> None:
        loop = asyncio.get_running_loop()
        place = address.host, address.port
        self.accepts[place] = accept
        bound = self._sockets.get(place)
        try:
            self._servers[key] = await (
                loop.create_server(accept, *place, backlog=_BACKLOG)
                if bound is None
                else loop.create_server(accept, sock=bound, backlog=_BACKLOG)
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
        self._metrics.apply(table.telemetry)
        self.tokens.apply({k: v for each in table.inbound.values() for k, v in each.tokens.items()})
        for caller in self._callers.values():
            caller.apply(table)
        for name, workload in self._inbound.items():
            if (inbound := table.inbound.get(name)) is not None:
                workload.apply(inbound)

    def cut_denied(self) -> None:
        """Ends what lives of callers that the table in force shuts out."""
        cut_denied(self._inbound_ledger)

    def observe(self, seconds: float) -> None:
        """Looks at calls for so long, from nothing; 0: no more, and what was seen is forgotten."""
        self._observation = Observation(seconds) if seconds > 0 else None
        self._take_observation(self._observation)

    def _take_observation(self, observation: Observation | None) -> None:
        self._is_observing = observation is not None
        for workload in self._inbound.values():
            workload.observe(observation)

    def observed(self) -> Observed:
        seen = self._observation.told() if self._observation is not None else Observed()
        plaintext = (each.callers.told() for each in self._plaintext.values())
        return Observed(
            calls=seen.calls,
            left_out=seen.left_out,
            left_s=seen.left_s,
            plaintext=tuple(chain.from_iterable(plaintext)),
        )

    @property
    def table(self) -> RouteTable:
        return self._table

    def reload_identities(self) -> dict[ServiceName, IdentityStatus | str]:
        """For new connections only, with the users who may make them. A reason instead of a
        status: the previous stays in force."""
        self._guards.resolve()
        results = self._identities.reload()
        for name, caller in self._callers.items():
            caller.use_identity(self._identities.get(name))
        return results

    def client_context(self, service: ServiceName) -> ssl.SSLContext | None:
        """What a workload calls with; None: it has no identity."""
        identity = self._identities.get(service)
        return identity.client if identity is not None else None

    def identities(self) -> dict[ServiceName, IdentityStatus | None]:
        """In force for new connections; None: no usable key and chain."""
        return self._identities.statuses()

    def user_problems(self) -> Mapping[ServiceName, str]:
        """Workloads that no process of the host may call as, and why."""
        return self._guards.problems()

    def inbound_address(self) -> tuple[str, int]:
        """As bound: of use when the settings say port 0."""
        return _bound(self._servers[None])

    def outbound_address(self, caller: ServiceName, service: ServiceName) -> tuple[str, int]:
        for key, server in self._servers.items():
            if isinstance(key, tuple) and key[:2] == (caller, service):
                return _bound(server)
        raise KeyError((caller, service))

    def plaintext_address(self, service: ServiceName) -> tuple[str, int]:
        return _bound(self._servers[("plaintext", service)])

    def hosts_address(self, caller: ServiceName) -> tuple[str, int]:
        """Of the port for all HTTP upstreams."""
        return _bound(self._servers[caller])

    def _services(self) -> Iterator[tuple[UpstreamKey, OutboundService]]:
        for caller in self._callers.values():
            yield from caller.services.items()

    def clusters(self) -> Iterator[Cluster]:
        """For reports."""
        for caller in self._callers.values():
            yield from caller.clusters.values()

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
        await self.stop_listening()
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
        await self.stop_listening()
        for ledger in self._ledgers:
            for exchange in tuple(ledger.exchanges):
                exchange.abort()
            for connection in tuple(ledger.connections):
                connection.abort()
        for caller in self._callers.values():
            caller.close()
        for workload in self._inbound.values():
            workload.pool.close()
        self.tokens.close()
        await self._metrics.close()
        self._guards.close()
        for _ in range(_TURNS_TO_CLOSE):  # the loop reports the end of an aborted connection late
            if not self.open_connections:
                break
            await asyncio.sleep(0)

    async def stop_listening(self) -> None:
        """What is accepted is served on."""
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
        for caller in self._callers.values():
            caller.sweep(now)
        for workload in self._inbound.values():
            workload.sweep(now)
        self._metrics.sweep(now)
        if self._is_observing and self._observation is not None and self._observation.is_over:
            self._take_observation(None)
        if self._overload.observe_memory(resident_bytes()):
            self._shed_or_resume(self._overload.is_out_of_memory)

    def _shed_or_resume(self, is_out_of_memory: bool) -> None:
        cap = self._settings.capacity.memory_bytes
        if is_out_of_memory:
            _log.error("out of memory: new requests are refused", extra={"cap_bytes": cap})
            for ledger in self._ledgers:
                for connection in tuple(ledger.connections):
                    connection.close_if_idle()
            return_free_memory()
        else:
            _log.warning("memory is below its cap again", extra={"cap_bytes": cap})
        self._metrics.out_of_memory.value = float(is_out_of_memory)
        for ledger in self._ledgers:
            ledger.is_out_of_memory = is_out_of_memory


def _bound(server: asyncio.Server) -> tuple[str, int]:
    name = next(iter(server.sockets)).getsockname()
    return name[0], name[1]
