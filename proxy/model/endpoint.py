"""Where a service can be reached right now, according to the registry."""

from proxy.model.codec import Value
from proxy.model.names import HostName, ServiceName


class Endpoint(Value, frozen=True, kw_only=True):
    """One healthy workload of a service: the inbound side of the proxy on its host."""

    service: ServiceName
    host: HostName
    address: str
    port: int
    version: str = ""


class Catalogue(Value, frozen=True, kw_only=True):
    """The last good set of endpoints of each watched service; kept on disk for a cold start."""

    endpoints: dict[ServiceName, tuple[Endpoint, ...]] = {}
