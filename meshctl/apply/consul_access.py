"""The operator's way to Consul: through the agent of one of the hosts, over its transport."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from meshctl.consul import ConsulEdge
from meshctl.errors import RemoteFailure
from meshctl.inventory.model import Inventory
from meshctl.transport import Connector
from proxy.model.names import HostName
from proxy.model.settings import Address


@asynccontextmanager
async def open_consul(
    inventory: Inventory, connector: Connector, through: HostName
) -> AsyncIterator[ConsulEdge]:
    """Raises Unreachable when ``through`` cannot be reached; the edge raises for Consul itself."""
    settings = inventory.consul
    url = urlsplit(settings.address)
    transport = await connector.connect(through)
    token = None
    if settings.token_file is not None:
        done = await transport.run(["cat", "--", settings.token_file], timeout_s=15.0)
        if done.exit_status != 0:
            raise RemoteFailure(
                f"the token file of Consul cannot be read on {through}",
                output=done.stderr.decode("utf-8", "replace"),
                hint=f"put it there, or correct consul.token_file ({settings.token_file})",
            )
        token = done.stdout.decode("utf-8", "replace").strip()
    target = Address(host=url.hostname or "127.0.0.1", port=url.port or 8500)
    async with transport.tunnel(target) as near:
        host = f"[{near.host}]" if ":" in near.host else near.host
        async with ConsulEdge(
            f"{url.scheme}://{host}:{near.port}", token, datacenter=settings.datacenter
        ) as edge:
            yield edge
