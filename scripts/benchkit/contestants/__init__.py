"""Those who are compared. Each writes its configuration for the same work and starts two proxies.

The work: a client sidecar of the service ``web`` with two plaintext loopback listeners, one for
``api`` (HTTP/1.1) and one for ``blob`` (TCP); a server sidecar that carries both, over TLS 1.3
with certificates on both sides, each side checking whom it talks to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchkit.processes import Group, Process

CALLER, HTTP_SERVICE, TCP_SERVICE = "web", "api", "blob"
STRANGER = "stranger"
"""Has a valid certificate of the same mesh, and may call nothing."""
TRUST_DOMAIN = "bench.mesh"


def spiffe_id(service: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/svc/{service}"


def server_name(service: str) -> str:
    return f"{service}.{TRUST_DOMAIN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """All on 127.0.0.1, free a moment ago."""

    http_out: int
    """Where the client sidecar takes requests for ``api``."""
    tcp_out: int
    """Where it takes connections for ``blob``."""
    http_in: int
    """mTLS, on the server sidecar, for ``api``."""
    tcp_in: int
    """mTLS, for ``blob``; a contestant with one inbound port leaves it unused."""
    client_admin: int
    server_admin: int
    client_inbound: int
    registry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a contestant is given for one go."""

    directory: Path
    """Empty, its own, removed afterwards."""
    identities: Path
    """``trust.pem`` and ``<service>/{key,chain,both}.pem``."""
    backend_port: int
    ports: Ports
    proxy_core: int
    load_core: int
    """For helpers that are not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two proxies that are measured."""

    client: Process
    server: Process

    @property
    def both(self) -> tuple[Process, Process]:
        return self.client, self.server


class Contestant(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """As the program itself says."""
        ...

    @property
    def features(self) -> Sequence[str]:
        """What it was configured to do, in words, for the report."""
        ...

    def start(self, site: Site, group: Group) -> Pair:
        """Adds every process that it starts to ``group``, which stops them. Does not wait."""
        ...


Factory = Callable[[], Contestant]
