"""What the proxies and ``meshctl`` agree on in Consul: names, keys, metadata, check outputs.

A workload is registered as ``mesh-<service>``, never under the service's own name: an operator
may already have that in the catalogue with the application's plaintext port, for callers
outside the mesh.
"""

from proxy.model.codec import Value
from proxy.model.names import HostName, ServiceName

SNAPSHOT_KEY = "meshctl/snapshot"
"""KV key of the current ``policy.Snapshot``, as ``snapshot.pack`` makes it."""

SERVICE_PREFIX = "mesh-"

PROXY_TTL_S = 10.0
"""TTL of the check by which a proxy says that it lives; it renews at a third of it."""

DEREGISTER_AFTER_S = 72 * 3600.0
"""A host that has been gone this long leaves the catalogue; long, because an ended partition
must not find its services gone."""

META_MESH = "mesh"
META_TRUST_DOMAIN = "mesh-trust-domain"
META_HOST = "mesh-host"
META_VERSION = "mesh-version"
META_PROTOCOL = "mesh-protocol"
META_ZONE = "mesh-zone"
META_WEIGHT = "mesh-weight"
META_METRICS = "mesh-metrics"
"""``host:port`` at which the host's proxy answers Prometheus; absent: nowhere but on loopback. The
same on each service of a host, so that whoever finds several finds one proxy."""


def catalogue_name(service: ServiceName) -> str:
    return f"{SERVICE_PREFIX}{service}"


def service_id(service: ServiceName, host: HostName) -> str:
    """Unique in the whole cluster, so that one agent can carry several hosts (the demo)."""
    return f"{SERVICE_PREFIX}{service}-{host}"


def proxy_check_id(service: ServiceName, host: HostName) -> str:
    return f"{service_id(service, host)}:proxy"


def app_check_id(service: ServiceName, host: HostName) -> str:
    return f"{service_id(service, host)}:app"


class Acknowledgement(Value, frozen=True, kw_only=True):
    """The output of the proxy's TTL check: what it runs, so that drift shows without a visit.

    A Consul agent holds an output back for minutes (``check_update_interval``, 5m) while the
    status stays the same. An acknowledgement that differs is therefore sent twice, first with the
    status ``warning``, which every proxy counts as serving.
    """

    generation: int
    """Of the policy in force; 0 before the first."""
    release: str
    config: str
    state: str
    """``ready``, ``draining`` or ``starting``."""
    refused: str = ""
    """Why the newest published snapshot was refused, if it was."""
