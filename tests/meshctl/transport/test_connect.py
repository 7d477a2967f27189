"""Each host over its own kind of transport, opened once."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meshctl.errors import MeshError, Unreachable
from meshctl.inventory.model import Host, TransportKind
from meshctl.transport import Connector
from meshctl.transport.connect import Connections
from meshctl.transport.local import LocalTransport
from meshctl.transport.ssh import SshTransport
from proxy.model.names import parse_host


async def test_hosts_are_reached_by_their_own_transport_once(
    sshd, accepting: Callable[..., Host], known_hosts: Path, tmp_path: Path
) -> None:
    remote = accepting("web-1", sshd.port)
    local = replace(
        remote, name=parse_host("here"), transport=TransportKind.LOCAL, root=str(tmp_path)
    )
    connections: Connector = Connections([remote, local], known_hosts=known_hosts)
    try:
        opened = await asyncio.gather(*(connections.connect(remote.name) for _ in range(4)))
        here = await connections.connect(local.name)

        assert isinstance(opened[0], SshTransport)
        assert isinstance(here, LocalTransport)
        assert len({id(transport) for transport in opened}) == 1
        assert await connections.connect(local.name) is here
    finally:
        await connections.close()
    with pytest.raises(Unreachable):
        await opened[0].run(["true"])


async def test_a_host_that_is_not_in_the_inventory_is_told(known_hosts: Path) -> None:
    connections = Connections([], known_hosts=known_hosts)

    with pytest.raises(MeshError, match="no host web-7"):
        await connections.connect(parse_host("web-7"))
