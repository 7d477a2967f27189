"""The mesh as its proxies are told of it, compiled once for all explanations.

Enters: the settings of every host, a policy and a catalogue. Leaves, when asked: the table of a
host, the routes of a service, the judge of its called side; each compiled as in a proxy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from meshctl.policy.asking import Asked
from meshctl.policy.explained import Way
from meshctl.policy.judging import Judge
from meshctl.policy.origins import Places
from proxy.core.authorization.tokens import Claims
from proxy.core.routing import Router, compile_routes
from proxy.core.table import HostRoutes, InboundRoute, OutboundRoute, RouteTable, compile_table
from proxy.model.endpoint import Catalogue
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy
from proxy.model.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the proxies of a mesh are told."""

    settings: tuple[Settings, ...]
    """Of every host."""
    policy: Policy
    catalogue: Catalogue


class Routes:
    """The routes and faults of one called service, compiled."""

    def __init__(self, service: ServiceName, policy: Policy) -> None:
        own = policy.of(service)
        self.router: Router | None = compile_routes(service, own.routes) if own.routes else None
        self.asked = tuple(Asked(each.match) for each in own.routes)
        self.faults = tuple((each, Asked(each.match)) for each in own.faults)


class CompiledWorld:
    def __init__(
        self, world: World, places: Places, now: datetime, claims: Claims | None = None
    ) -> None:
        """``now``: for faults, which end by themselves. ``claims``: of a verified token that each
        request has; None: none is known."""
        self.world, self.places, self.now = world, places, now
        self._claims = claims
        self._tables: dict[HostName, RouteTable] = {}
        self._judges: dict[ServiceName, Judge | None] = {}
        self._routes: dict[ServiceName, Routes] = {}

    @property
    def policy(self) -> Policy:
        return self.world.policy

    def ways(self, caller: ServiceName, service: ServiceName) -> Iterator[Way]:
        for host, route in self.outbound(caller, service):
            user = self._user(host, caller)
            if route.listen is not None:
                at = _address(route.listen.host, route.listen.port)
                yield Way(host=host, address=at, names=(), user=user)
            hosts = self.hosts(host, caller)
            names = tuple(
                name.decode()
                for name, key in (hosts.hosts if hosts is not None else {}).items()
                if key[1] == service
            )
            if hosts is not None and names:
                at = _address(hosts.listen.host, hosts.listen.port)
                yield Way(host=host, address=at, names=names, user=user)

    def _user(self, host: HostName, caller: ServiceName) -> str:
        settings = next(each for each in self.world.settings if each.host == host)
        return next(work.user for work in settings.workloads if work.service == caller)

    def hosts(self, host: HostName, caller: ServiceName) -> HostRoutes | None:
        return self._table(host).hosts.get(caller)

    def judge(self, service: ServiceName) -> Judge | None:
        """None: no host carries it."""
        if service not in self._judges:
            route = self.inbound(service)
            self._judges[service] = (
                None if route is None else Judge(route, self.places, self._claims)
            )
        return self._judges[service]

    def routes(self, service: ServiceName) -> "Routes":
        if service not in self._routes:
            self._routes[service] = Routes(service, self.world.policy)
        return self._routes[service]

    def outbound(
        self, caller: ServiceName, service: ServiceName
    ) -> Iterator[tuple[HostName, OutboundRoute]]:
        for settings in self.world.settings:
            if any(work.service == caller for work in settings.workloads):
                for key, route in self._table(settings.host).outbound.items():
                    if key[:2] == (caller, service):
                        yield settings.host, route

    def inbound(self, service: ServiceName) -> InboundRoute | None:
        for settings in self.world.settings:
            if any(work.service == service for work in settings.workloads):
                return self._table(settings.host).inbound[service]
        return None

    def _table(self, host: HostName) -> RouteTable:
        if host not in self._tables:
            settings = next(each for each in self.world.settings if each.host == host)
            world = self.world
            self._tables[host] = compile_table(settings, world.policy, world.catalogue)
        return self._tables[host]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
