"""What the proxies registered in Consul's catalogue, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from proxy.model.codec import Malformed, decode
from proxy.model.names import HostName, InvalidName, ServiceName, parse_host, parse_service
from proxy.model.registration import (
    META_HOST,
    META_MESH,
    META_PROTOCOL,
    META_TRUST_DOMAIN,
    META_VERSION,
    SERVICE_PREFIX,
    Acknowledgement,
    app_check_id,
    proxy_check_id,
)


class CheckStatus(StrEnum):
    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MISSING = "missing"
    """No such check is registered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredWorkload:
    """One instance of a service, as its proxy registered it."""

    service: ServiceName
    host: HostName
    trust_domain: str
    address: str
    port: int
    version: str
    protocol: str
    node: str
    """Of Consul's catalogue; not the inventory's host, as one agent can carry several."""
    node_status: CheckStatus
    """Consul's own opinion of the machine."""
    proxy_status: CheckStatus
    app_status: CheckStatus
    app_output: str
    acknowledgement: Acknowledgement | None
    """None: the proxy has not reported yet. Of an expired check, the last one."""

    @property
    def worst(self) -> CheckStatus:
        """Of its node's, its proxy's and its application's checks."""
        statuses = (self.node_status, self.proxy_status, self.app_status)
        return max(statuses, key=_SEVERITY.index)

    @property
    def is_healthy(self) -> bool:
        """Whether other proxies send it traffic."""
        return self.worst is CheckStatus.PASSING


def parse(name: str, entry: Mapping[str, Any]) -> RegisteredWorkload | None:
    """An element of health/service; None if no proxy of ours registered it.

    Raises AttributeError, KeyError, TypeError or ValueError for what Consul would not say.
    """
    service, node = entry["Service"], entry["Node"]
    meta = service.get("Meta") or {}
    if META_MESH not in meta:
        return None
    try:
        service_name = parse_service(name.removeprefix(SERVICE_PREFIX))
        host = parse_host(meta.get(META_HOST, ""))
    except InvalidName:
        return None
    checks = {check["CheckID"]: check for check in entry.get("Checks") or []}
    proxy = checks.get(proxy_check_id(service_name, host))
    app = checks.get(app_check_id(service_name, host))
    of_node = [_status(check) for check in checks.values() if not check.get("ServiceID")]
    return RegisteredWorkload(
        service=service_name,
        host=host,
        trust_domain=meta.get(META_TRUST_DOMAIN, ""),
        address=service.get("Address") or node.get("Address", ""),
        port=int(service["Port"]),
        version=meta.get(META_VERSION, ""),
        protocol=meta.get(META_PROTOCOL, ""),
        node=node["Node"],
        node_status=max(of_node, key=_SEVERITY.index, default=CheckStatus.PASSING),
        proxy_status=_status(proxy),
        app_status=_status(app),
        app_output=app.get("Output", "") if app is not None else "",
        acknowledgement=_acknowledgement(proxy.get("Output", "")) if proxy is not None else None,
    )


_SEVERITY = (
    CheckStatus.PASSING,
    CheckStatus.WARNING,
    CheckStatus.CRITICAL,
    CheckStatus.MISSING,
)


def _status(check: Mapping[str, Any] | None) -> CheckStatus:
    return CheckStatus(check["Status"]) if check is not None else CheckStatus.MISSING


def _acknowledgement(output: str) -> Acknowledgement | None:
    """Consul puts a sentence in front of the last output of a check whose TTL expired."""
    start = output.find("{")
    if start < 0:
        return None
    try:
        return decode(output[start:].encode(), Acknowledgement)
    except Malformed:
        return None
