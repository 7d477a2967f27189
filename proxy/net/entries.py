"""From Consul's health entries to endpoints of this mesh."""

from proxy.core.discovery import Observation, order
from proxy.model import registration as reg
from proxy.model.endpoint import Endpoint
from proxy.model.names import InvalidName, ServiceName, TrustDomain, parse_host
from proxy.net.consul import Health, HealthEntry

_SERVING = frozenset({"passing", "warning"})
MAX_ADDRESS = 255


def read(
    answer: Health, service: ServiceName, trust_domain: TrustDomain, *, went_back: bool
) -> Observation:
    """Entries of other meshes are ignored, those of ours that make no sense are counted."""
    healthy: set[Endpoint] = set()
    ill: set[Endpoint] = set()
    malformed = answer.unreadable
    for entry in answer.entries:
        meta = entry.service.meta or {}
        if reg.META_MESH not in meta or meta.get(reg.META_TRUST_DOMAIN) != trust_domain:
            continue
        endpoint = _endpoint(entry, service, meta)
        if endpoint is None:
            malformed += 1
        elif all(check.status in _SERVING for check in entry.checks or ()):
            healthy.add(endpoint)
        else:
            ill.add(endpoint)
    return Observation(
        healthy=tuple(sorted(healthy, key=order)),
        ill=tuple(sorted(ill, key=order)),
        malformed=malformed,
        went_back=went_back,
    )


def _endpoint(entry: HealthEntry, service: ServiceName, meta: dict[str, str]) -> Endpoint | None:
    address = entry.service.address or entry.node.address
    if not 0 < len(address) <= MAX_ADDRESS or not all(0x21 <= ord(c) <= 0x7E for c in address):
        return None
    if not 1 <= entry.service.port <= 65535:
        return None
    try:
        host = parse_host(meta.get(reg.META_HOST, ""))
    except InvalidName:
        return None
    return Endpoint(
        service=service,
        host=host,
        address=address,
        port=entry.service.port,
        version=meta.get(reg.META_VERSION, ""),
    )
