"""What the agents of a managed Consul prove to each other, as a plan has to know it. Pure.

Agents call servers; the servers have certificates of a CA that signs nothing else, all with the
one name by which Consul knows a server of a datacenter. Clients need none: tokens tell them apart,
and the gossip key who belongs to the cluster.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

from proxy.model.names import HostName


def server_name(datacenter: str) -> str:
    """What ``verify_server_hostname`` looks for."""
    return f"server.{datacenter}.consul"


class Mode(Enum):
    """How an agent talks to servers."""

    OFF = auto()
    OFFERED = auto()
    """In plain; a server takes TLS besides."""
    ENFORCED = auto()
    """TLS only, and only with a server's certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    """One that a server's agent was started with."""

    pem: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.pem).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcTls:
    ca: bytes = field(repr=False)
    """PEM."""
    servers: Mapping[HostName, ServerCertificate]
    """Those of this CA and for this datacenter."""
    is_enforced: bool
    """Every agent has been told to take nothing else than a certificate of this CA."""
