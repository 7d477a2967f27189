"""A mesh of one calling host and any number of called ones, under any policy.

Everything is real but the registry: data planes, certificates, sockets. ``near`` carries the
workload ``web``; each instance of a service is a host of its own with an application of its own.
"""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.core.metrics import Metrics
from proxy.core.table import compile_table
from proxy.model.authorization import TokenProvider
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy, ServicePolicy
from proxy.model.settings import (
    Address,
    Capacity,
    Consul,
    HealthCheck,
    Protocol,
    Settings,
    Upstream,
    Workload,
)
from proxy.model.telemetry import Telemetry
from proxy.net.dataplane import DataPlane

ANY = Address(host="127.0.0.1", port=0)
HTTP_SERVICES = ("api", "api2", "orders")
TCP_SERVICES = ("db",)


class Grid:
    """``web`` on ``near`` declares api, api2, orders (HTTP) and db (TCP), each with a port of its
    own, and has one port for all HTTP ones. ``undeclared`` is a service that it may not call.

    Typical use::

        one = await grid.serve("api", "a1", version="1")
        grid.policy["api"] = ServicePolicy(...)
        grid.apply()
        client = await grid.connect("api")
        assert (await client.get("/")).status == 200
    """

    def __init__(self, pki: Any, app_type: Any, client_type: Any) -> None:
        self.pki = pki
        self._app_type, self._client_type = app_type, client_type
        self.policy: dict[str, ServicePolicy] = {}
        self.defaults = ServicePolicy()
        self.tokens: dict[str, TokenProvider] = {}
        self.telemetry = Telemetry()
        self.zone = ""
        """Of ``near``; before ``start``."""
        self.capacity = Capacity()
        """Of ``near``; before ``start``."""
        self.log_dir = pki.state_dir.parent / "log"
        """With a folder for each host."""
        self.apps: dict[str, Any] = {}
        """By host."""
        self.planes: dict[str, DataPlane] = {}
        self.metrics: dict[str, Metrics] = {}
        self.settings: dict[str, Settings] = {}
        self._endpoints: dict[str, Endpoint] = {}
        """By host; only these are in the registry."""
        self._elsewhere: dict[str, str] = {}
        """Host to datacenter."""
        self._clients: list[Any] = []

    async def start(self) -> None:
        for service in ("web", "other", *HTTP_SERVICES, *TCP_SERVICES, "undeclared"):
            self.pki.issue(service)
        protocols: dict[str, Protocol] = dict.fromkeys(HTTP_SERVICES, "http")
        protocols |= dict.fromkeys(TCP_SERVICES, "tcp")
        callers = tuple(
            Workload(
                service=ServiceName(caller),
                protocol="http",
                version="1",
                app=Address(host="127.0.0.1", port=1),
                health=HealthCheck(),
                allow=(),
                upstreams=tuple(
                    Upstream(service=ServiceName(name), protocol=protocol, listen=ANY)
                    for name, protocol in protocols.items()
                ),
                outbound=ANY,
            )
            for caller in ("web", "other")
        )
        await self._add("near", callers, zone=self.zone, capacity=self.capacity)
        self.apply()

    async def serve(
        self,
        service: str,
        host: str,
        *,
        version: str = "1",
        zone: str = "",
        weight: int = 1,
        datacenter: str = "",
        allow: tuple[str, ...] = ("web", "other"),
        has_plaintext: bool = False,
        protocol: Protocol | None = None,
        port: int = 0,
    ) -> Any:
        """One more instance, with its ``App``, in the registry from the next ``apply`` on.

        ``port``: of an application that is there instead of the ``App``."""
        app = self.apps[host] = self._app_type()
        app.answer = lambda _: (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(host), host.encode())
        )
        await app.start()
        workload = Workload(
            service=ServiceName(service),
            protocol=protocol or ("tcp" if service in TCP_SERVICES else "http"),
            version=version,
            app=Address(host="127.0.0.1", port=port or app.port),
            health=HealthCheck(),
            allow=tuple(ServiceName(name) for name in allow),
            plaintext=ANY if has_plaintext else None,
        )
        plane = await self._add(host, (workload,))
        self.register(
            service,
            host,
            plane.inbound_address()[1],
            version=version,
            zone=zone,
            weight=weight,
            datacenter=datacenter,
        )
        return app

    def register(
        self, service: str, host: str, port: int, *, datacenter: str = "", **extra: Any
    ) -> None:
        """An endpoint, whether or not anything is there."""
        self._endpoints[host] = Endpoint(
            service=ServiceName(service),
            host=HostName(host),
            address="127.0.0.1",
            port=port,
            **extra,
        )
        if datacenter:
            self._elsewhere[host] = datacenter

    def deregister(self, host: str) -> None:
        del self._endpoints[host]

    async def _add(
        self,
        name: str,
        workloads: tuple[Workload, ...],
        *,
        zone: str = "",
        capacity: Capacity | None = None,
    ) -> DataPlane:
        settings = Settings(
            host=HostName(name),
            trust_domain=self.pki.domain,
            advertise="127.0.0.1",
            release="r",
            admin=ANY,
            inbound=ANY,
            consul=Consul(url="http://127.0.0.1:8500"),
            state_dir=str(self.pki.state_dir),
            log_dir=str(self.log_dir / name),
            trust_bundle=str(self.pki.trust_bundle),
            workloads=workloads,
            zone=zone,
            capacity=capacity or Capacity(),
        )
        self.settings[name] = settings
        self.metrics[name] = Metrics()
        plane = self.planes[name] = DataPlane(settings, self.metrics[name])
        await plane.start()
        return plane

    def apply(self) -> None:
        """Puts policy and registry in force on every host."""
        local: dict[ServiceName, list[Endpoint]] = {}
        remote: dict[str, dict[ServiceName, list[Endpoint]]] = {}
        for host, endpoint in self._endpoints.items():
            datacenter = self._elsewhere.get(host)
            home = remote.setdefault(datacenter, {}) if datacenter else local
            home.setdefault(endpoint.service, []).append(endpoint)
        catalogue = Catalogue(
            endpoints={name: tuple(each) for name, each in local.items()},
            elsewhere={
                datacenter: {name: tuple(each) for name, each in services.items()}
                for datacenter, services in remote.items()
            },
        )
        policy = Policy(
            defaults=self.defaults,
            services={ServiceName(name): each for name, each in self.policy.items()},
            tokens=self.tokens,
            telemetry=self.telemetry,
        )
        for name, plane in self.planes.items():
            plane.apply(compile_table(self.settings[name], policy, catalogue))

    async def connect(self, service: str = "api", caller: str = "web") -> Any:
        """A raw HTTP/1.1 client on the upstream's own port."""
        near = self.planes["near"]
        return await self.dial(*near.outbound_address(ServiceName(caller), ServiceName(service)))

    async def connect_hosts(self, caller: str = "web") -> Any:
        """The same on the port that is routed by Host."""
        return await self.dial(*self.planes["near"].hosts_address(ServiceName(caller)))

    async def dial(self, host: str, port: int) -> Any:
        client = self._client_type(*await asyncio.open_connection(host, port))
        self._clients.append(client)
        return client

    async def count(self, client: Any, times: int, target: str = "/", headers: str = "") -> Any:
        """How many of ``times`` requests each host answered (by body), errors by status."""
        seen: dict[Any, int] = {}
        for _ in range(times):
            response = await client.get(target, headers)
            who = response.body.decode() if response.status == 200 else response.status
            seen[who] = seen.get(who, 0) + 1
        return seen

    def cluster(self, name: str, caller: str = "web") -> Any:
        """``api`` or ``api/<subset>``, as ``caller`` sees it."""
        return next(
            each
            for each in self.planes["near"].clusters()
            if (each.caller, each.name) == (caller, name)
        )

    def metric(self, host: str, name: str, **labels: str) -> float:
        """The sum of the series of ``name`` that have ``labels``."""
        total = 0.0
        for line in self.metrics[host].render().decode().splitlines():
            if line.startswith((name + "{", name + " ")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rpartition(" ")[2])
        return total

    @staticmethod
    def in_a_minute() -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)

    async def stop(self) -> None:
        for client in self._clients:
            client.close()
        for client in self._clients:
            with contextlib.suppress(ConnectionError):
                await client.writer.wait_closed()
        for plane in self.planes.values():
            await plane.close()
        for app in self.apps.values():
            await app.stop()
        for _ in range(5):  # the loop's own closing of handles
            await asyncio.sleep(0)


@pytest.fixture
async def cold_grid(tmp_path: Path, mesh_types: Any) -> AsyncIterator[Grid]:
    """Not started: for what must be set before."""
    pki_type, app_type, client_type = mesh_types
    grid = Grid(pki_type(tmp_path / "pki"), app_type, client_type)
    yield grid
    await grid.stop()


@pytest.fixture
async def grid(cold_grid: Grid) -> Grid:
    await cold_grid.start()
    return cold_grid
