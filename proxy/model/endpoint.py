"""Where a service can be reached right now, according to the registry."""

from proxy.model.codec import Value
from proxy.model.names import HostName, ServiceName

MAX_WEIGHT = 1000
"""Of one endpoint: shares of a per mille are as fine as anybody sets by hand."""


class Endpoint(Value, frozen=True, kw_only=True):
    """One healthy workload of a service: the inbound side of the proxy on its host."""

    service: ServiceName
    host: HostName
    address: str
    port: int
    version: str = ""
    zone: str = ""
    weight: int = 1
    """Its share among its equals; 0: only when nothing else is there."""


class Catalogue(Value, frozen=True, kw_only=True):
    """The last good set of endpoints of each watched service; kept on disk for a cold start."""

    endpoints: dict[ServiceName, tuple[Endpoint, ...]] = {}
    elsewhere: dict[str, dict[ServiceName, tuple[Endpoint, ...]]] = {}
    """By datacenter: where a failover may go."""
