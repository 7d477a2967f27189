"""Which ports are taken on each host, by whom, where two want the same, and which one is free.

A port is taken on an address: an application on 127.0.0.1 and one on 10.0.0.11 do not meet, a
listener on 0.0.0.0 meets both. Local hosts share the ports of this machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from meshctl.inventory import words
from meshctl.inventory.model import (
    Certificates,
    ConsulMode,
    MetricsPlacement,
    ProxyPlacement,
    Role,
    SignerMode,
)
from meshctl.inventory.reading import (
    is_local,
    machines_of,
    overlay,
    protocols_of,
    roles_of,
    services_of,
    upstreams_of,
)
from meshctl.inventory.shape import Entry, Findings

OUTBOUND_PORT = 15001
"""For HTTP by Host, if nothing is written."""

_LOOPBACK = "127.0.0.1"
_SIGNER_ADMIN_PORT = 15009
_CONSUL_MESH_PORTS = (8300, 8301, 8302)
"""Consul's own: server RPC and the two gossip ports."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A port that something on a host listens on."""

    address: str
    port: int
    what: str
    path: str
    line: int

    def overlaps(self, other: "_Claim") -> bool:
        mine, theirs = words.as_ip(self.address), words.as_ip(other.address)
        if self.port != other.port or mine is None or theirs is None:
            return False
        # "::" takes IPv4 along on Linux.
        return mine == theirs or mine.is_unspecified or theirs.is_unspecified


def check_ports(root: Entry, hosts: tuple[Entry, ...], findings: Findings) -> None:
    """Adds a violation for each port that is wanted a second time."""
    for machine in machines_of(hosts):
        taken = list(_consul_claims(root))
        for claim in (claim for host in machine for claim in _claims(root, host)):
            other = next((other for other in taken if claim.overlaps(other)), None)
            if other is not None:
                findings.add(
                    claim.path,
                    claim.line,
                    f"port {claim.port} ({claim.what}) is used already: {other.what}, "
                    f"{other.path} (line {other.line})",
                    "give one of the two another port",
                )
            taken.append(claim)


def outbound_ports(root: Entry) -> dict[str, int | None]:
    """By the path of each service; None: it has none.

    What is not written is ``OUTBOUND_PORT`` for the one service of a machine that calls others
    over HTTP, unless something else has that port: a guess between two would be a surprise.
    """
    hosts, protocols = root["hosts"].parts() if "hosts" in root else (), protocols_of(root)
    found: dict[str, int | None] = {}
    for machine in machines_of(hosts):
        services = [service for host in machine for service in services_of(host)]
        found |= {service.path: service.plain("outbound_port") or None for service in services}
        callers = [service for service in services if has_http_upstreams(service, protocols)]
        if len(callers) != 1 or not callers[0].lacks("outbound_port"):
            continue
        claims = [*_consul_claims(root), *(c for host in machine for c in _claims(root, host))]
        default = _Claim(_LOOPBACK, OUTBOUND_PORT, "", "", 0)
        if not any(default.overlaps(claim) for claim in claims):
            found[callers[0].path] = OUTBOUND_PORT
    return found


def has_http_upstreams(service: Entry, protocols: dict[str, str]) -> bool:
    """Of any version: whatever a Host can tell apart."""
    return any(
        protocols.get(upstream.plain("service", ""), "tcp") != "tcp"
        for upstream in upstreams_of(service)
    )


def _claims(root: Entry, host: Entry) -> Iterator[_Claim]:
    proxy = overlay(root, host, "proxy")
    inbound = proxy.plain("inbound_address", ProxyPlacement().inbound_address)
    for key, address, default, what in (
        ("inbound_port", inbound, ProxyPlacement().inbound_port, "the proxy's inbound side"),
        ("admin_port", _LOOPBACK, ProxyPlacement().admin_port, "the proxy's admin port"),
    ):
        at = proxy.get(key) or Entry(default, f"{host.path}.proxy.{key}", host.line)
        yield _Claim(address, at.value, what, at.path, at.line)
    metrics = overlay(root, host, "metrics")
    if metrics.plain("from"):
        at = metrics.get("port") or Entry(
            MetricsPlacement().port, f"{host.path}.metrics.port", host.line
        )
        yield _Claim(inbound, at.value, "the proxy's metrics port", at.path, at.line)
    if has_signer(root, host):
        certificates = root.get("certificates")
        path = f"{host.path}.roles"
        written = certificates.get("signer_port") if certificates is not None else None
        at = written or Entry(Certificates().signer_port, path, host.line)
        yield _Claim(inbound, at.value, "the signer", at.path, at.line)
        yield _Claim(_LOOPBACK, _SIGNER_ADMIN_PORT, "the signer's admin port", path, host.line)
    inherited = root["defaults"].plain("address", _LOOPBACK) if "defaults" in root else _LOOPBACK
    for service in services_of(host):
        name = service.plain("name", "?")
        port = service.get("port")
        if port is not None:
            address = service.plain("address", inherited)
            yield _Claim(address, port.value, f"the service {name}", port.path, port.line)
        port = service.get("outbound_port")
        if port is not None and port.value:
            what = f"{name}'s outbound port"
            yield _Claim(_LOOPBACK, port.value, what, port.path, port.line)
        port = service.get("plaintext_port")
        if port is not None:
            what = f"{name} in plain text"
            yield _Claim(inbound, port.value, what, port.path, port.line)
        for upstream in upstreams_of(service):
            port = upstream.get("port")
            if port is not None:
                what = f"{name}'s upstream {upstream.plain('service', '?')}"
                yield _Claim(_LOOPBACK, port.value, what, port.path, port.line)


def has_signer(root: Entry, host: Entry) -> bool:
    """As ``Inventory.signer_hosts`` says."""
    certificates = root.get("certificates")
    mode = SignerMode.AUTO
    if certificates is not None:
        mode = certificates.plain("signer", mode)
    is_control = Role.CONTROL in roles_of(host)
    return mode != SignerMode.NONE and is_control and not is_local(host)


def _consul_claims(root: Entry) -> Iterator[_Claim]:
    consul = root.get("consul")
    if consul is None or "mode" not in consul:
        return
    at = consul.get("address") or consul["mode"]
    agent, port = words.consul_host_port(consul.plain("address", "http://127.0.0.1:8500"))
    if words.is_loopback(agent):
        address = _LOOPBACK if agent == "localhost" else agent
        yield _Claim(address, port, "Consul", at.path, at.line)
    if consul.plain("mode") == ConsulMode.MANAGED:
        for number in _CONSUL_MESH_PORTS:
            yield _Claim("0.0.0.0", number, "Consul", at.path, at.line)  # noqa: S104
