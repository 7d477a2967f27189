"""``mesh.yaml`` as the proxies see it: an immutable snapshot with a generation number."""

from proxy.model.codec import Value
from proxy.model.names import ServiceName, TrustDomain


class Timeouts(Value, frozen=True, kw_only=True):
    """All in seconds. Defaults: Linkerd for connect, Envoy for the rest."""

    connect_s: float = 1.0
    """TCP and TLS together."""
    request_s: float = 15.0
    """From the last byte of the request to the last of the response; 0: none."""
    stream_idle_s: float = 300.0
    """No byte in either direction within a request or TCP session."""
    connection_idle_s: float = 3600.0
    """A downstream connection without a request."""
    pool_idle_s: float = 3.0
    """An unused upstream connection: below the usual keep-alive of applications."""


class ServicePolicy(Value, frozen=True, kw_only=True):
    """What is in force when a service is called."""

    timeouts: Timeouts = Timeouts()


class Policy(Value, frozen=True, kw_only=True):
    """The mesh's traffic policy; a service not named gets ``defaults``."""

    defaults: ServicePolicy = ServicePolicy()
    services: dict[ServiceName, ServicePolicy] = {}

    def of(self, service: ServiceName) -> ServicePolicy:
        return self.services.get(service, self.defaults)


class Snapshot(Value, frozen=True, kw_only=True):
    """One published policy. Published by check-and-set under ``registration.SNAPSHOT_KEY``."""

    generation: int
    """Starts at 1, goes up by one with each publication that changes anything."""
    trust_domain: TrustDomain
    policy: Policy
