"""From Consul's health entries to endpoints of this mesh."""

from proxy.core.discovery import Observation, order
from proxy.model import registration as reg
from proxy.model.endpoint import MAX_WEIGHT, Endpoint
from proxy.model.names import InvalidName, ServiceName, TrustDomain, parse_host, parse_zone
from proxy.net.consul import Health, HealthEntry

_SERVING = frozenset({"passing", "warning"})
MAX_ADDRESS = 255


def read(
    answer: Health, service: ServiceName, trust_domain: TrustDomain, *, went_back: bool
) -> Observation:
    """Entries of other meshes are ignored, those of ours that make no sense are counted; one whose
    zone or weight alone makes none is counted and used without it.

    Consul's opinion of a node takes an instance out, but never the last one: after a partition
    the servers may take hosts for failed whose proxies and applications say that they are well.
    A connection will tell.
    """
    healthy: set[Endpoint] = set()
    doubted: set[Endpoint] = set()
    """Only the node is called ill."""
    ill: set[Endpoint] = set()
    malformed = answer.unreadable
    for entry in answer.entries:
        meta = entry.service.meta or {}
        if reg.META_MESH not in meta or meta.get(reg.META_TRUST_DOMAIN) != trust_domain:
            continue
        endpoint = _endpoint(entry, service, meta)
        if endpoint is None or _zone(meta) is None or _weight(meta) is None:
            malformed += 1
        if endpoint is not None:
            bad = [check for check in entry.checks or () if check.status not in _SERVING]
            of_service = any(check.service_id for check in bad)
            (ill if of_service else doubted if bad else healthy).add(endpoint)
    if healthy:
        ill |= doubted
    else:
        healthy = doubted
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
        zone=_zone(meta) or "",
        weight=1 if (weight := _weight(meta)) is None else weight,
    )


def _zone(meta: dict[str, str]) -> str | None:
    """None: there is something that is not the name of a zone."""
    text = meta.get(reg.META_ZONE, "")
    try:
        return parse_zone(text) if text else ""
    except InvalidName:
        return None


def _weight(meta: dict[str, str]) -> int | None:
    """None: there is something that is not a weight; digits only, as ``int`` accepts far more."""
    text = meta.get(reg.META_WEIGHT, "1")
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_WEIGHT))):
        return None
    return int(text) if int(text) <= MAX_WEIGHT else None
