"""The connector that commands use: each host over its own kind of transport, opened once."""

from collections.abc import Iterable
from pathlib import Path

from meshctl.errors import MeshError
from meshctl.inventory.model import Host, TransportKind
from meshctl.transport import Transport
from meshctl.transport.local import LocalTransport
from meshctl.transport.shared import SharedAttempts
from meshctl.transport.ssh import SshConnector, SshTransport
from meshctl.transport.ssh.connector import KEEPALIVE_COUNT, KEEPALIVE_S
from proxy.model.names import HostName


class Connections:
    """Tasks that ask for the same host share one connection, and the attempt to open it. One that
    broke is opened anew at the next request.
    """

    def __init__(
        self,
        hosts: Iterable[Host],
        *,
        known_hosts: Path,
        keepalive_s: float = KEEPALIVE_S,
        keepalive_count: int = KEEPALIVE_COUNT,
    ) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._ssh = SshConnector(
            self._hosts.values(),
            known_hosts=known_hosts,
            keepalive_s=keepalive_s,
            keepalive_count=keepalive_count,
        )
        self._attempts: SharedAttempts[HostName, SshTransport | LocalTransport] = SharedAttempts(
            is_usable=lambda transport: transport.is_open,
            close=lambda transport: transport.close(),
        )

    async def connect(self, host: HostName) -> Transport:
        if host not in self._hosts:
            raise MeshError(f"there is no host {host} in the inventory")
        return await self._attempts.get(host, lambda: self._open(self._hosts[host]))

    async def close(self) -> None:
        await self._attempts.close()
        await self._ssh.close()

    async def _open(self, host: Host) -> SshTransport | LocalTransport:
        match host.transport:
            case TransportKind.LOCAL:
                return LocalTransport(host.name)
            case TransportKind.SSH:
                return await self._ssh.connect(host.name)
