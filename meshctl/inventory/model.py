"""The inventory as values: already valid, defaults filled in, overrides applied."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from proxy.model.names import HostName, ServiceName
from proxy.model.settings import Capacity, HealthCheck, Protocol


class SignerMode(StrEnum):
    AUTO = "auto"
    """On each control host that is reached over ssh."""
    NONE = "none"


class Role(StrEnum):
    CONTROL = "control"
    WORKLOAD = "workload"


class TransportKind(StrEnum):
    SSH = "ssh"
    LOCAL = "local"
    """This machine, without root or systemd; everything below ``Host.root``."""


class Become(StrEnum):
    SUDO = "sudo"
    NONE = "none"


class HostKeyPolicy(StrEnum):
    STRICT = "strict"
    """Only keys in the known-hosts file."""
    ACCEPT_NEW = "accept-new"
    """An unknown host's key is recorded on first contact; a changed one is still refused."""


class ConsulMode(StrEnum):
    EMBEDDED = "embedded"
    EXISTING = "existing"
    MANAGED = "managed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    user: str = "root"
    port: int = 22
    key: Path | None = None
    """Private key file; None: the agent and the usual files."""
    jump: str | None = None
    """``[user@]host[:port]``"""
    become: Become = Become.SUDO
    """Ignored when ``user`` is root."""
    host_keys: HostKeyPolicy = HostKeyPolicy.STRICT
    known_hosts: Path | None = None
    """None: ``known_hosts`` in the state directory."""
    connect_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPlacement:
    inbound_address: str = "0.0.0.0"  # noqa: S104 - the inbound side is there to be reached
    inbound_port: int = 15006
    admin_port: int = 15000
    drain_s: float = 60.0
    workers: int = 1
    """0: as many as the host has cores."""
    max_connections: int = Capacity().connections
    max_memory_bytes: int = Capacity().memory_bytes
    """Of each worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPlacement:
    """Who reads a proxy's figures over the network; on loopback they are there anyhow."""

    port: int = 15090
    sources: tuple[str, ...] = ()
    """Networks (CIDR) of those that scrape; empty: there is no such port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamUse:
    service: ServiceName
    port: int | None
    """Loopback port on which the calling application reaches it; None: by Host through the
    caller's ``outbound_port``, or as where a route leads."""
    protocol: Protocol
    """Taken from the upstream's own definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: ServiceName
    port: int
    address: str = "127.0.0.1"
    """Where the application listens on its host."""
    protocol: Protocol = "tcp"
    version: str = "v1"
    user: str | None = None
    """Unix user the application runs as."""
    health: HealthCheck
    upstreams: tuple[UpstreamUse, ...] = ()
    outbound_port: int | None = None
    """Loopback port for all HTTP upstreams, told apart by Host; None: there is none."""
    weight: int = 1
    plaintext_port: int | None = None
    """Where callers outside the mesh are served while the service's mode is permissive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    name: HostName
    address: str
    """Dialled by meshctl over SSH and by other hosts' proxies."""
    roles: frozenset[Role]
    zone: str
    """Empty: not said."""
    labels: Mapping[str, str]
    transport: TransportKind
    root: str
    """Empty for a real host; an absolute directory for a local one."""
    ssh: Ssh
    proxy: ProxyPlacement
    metrics: MetricsPlacement = MetricsPlacement()
    services: tuple[Service, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulBinary:
    """What ``managed`` installs: exactly one of ``binary`` and ``archive``."""

    binary: Path | None = None
    archive: Path | None = None
    sha256: str | None = None
    """Lower-case hex of the archive; required with ``archive``."""


MANAGED_TOKEN_FILE = "/etc/meshctl/consul.token"  # noqa: S105 - where it is, not what it says
"""``layout.consul_token`` of every host with a managed Consul, which has no other root than "/"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consul:
    mode: ConsulMode
    address: str = "http://127.0.0.1:8500"
    """The agent's HTTP API as seen from each host."""
    datacenter: str = "dc1"
    token_file: str | None = None
    """On the hosts, for their proxies; with ``managed`` a deploy writes it."""
    operator_token_file: Path | None = None
    """On this machine, for meshctl itself; None: the one of the host that is asked."""
    package: ConsulBinary | None = None
    """``managed`` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    signer: SignerMode = SignerMode.AUTO
    signer_port: int = 15008
    leaf_life_s: float | None = None
    """None: as long as befits who renews them (``Inventory.leaf_life_s``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    source: Path
    """Absolute path of the file; relative paths in it were resolved against its folder."""
    consul: Consul
    hosts: tuple[Host, ...]
    certificates: Certificates = Certificates()

    @property
    def signer_hosts(self) -> tuple[Host, ...]:
        """Where identities are renewed while nobody watches; may be empty."""
        if self.certificates.signer is SignerMode.NONE:
            return ()
        return tuple(
            host
            for host in self.hosts
            if Role.CONTROL in host.roles and host.transport is TransportKind.SSH
        )

    @property
    def leaf_life_s(self) -> float:
        """24 h where signers renew leaves (Istio), 30 days where an operator does."""
        if self.certificates.leaf_life_s is not None:
            return self.certificates.leaf_life_s
        return 86400.0 if self.signer_hosts else 30 * 86400.0

    def callers_of(self, service: ServiceName) -> tuple[ServiceName, ...]:
        """Services that declare ``service`` as an upstream, sorted: who may call it."""
        return tuple(
            sorted(
                {
                    caller.name
                    for host in self.hosts
                    for caller in host.services
                    if any(use.service == service for use in caller.upstreams)
                }
            )
        )
