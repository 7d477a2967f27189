"""From what the registry says of a service to the endpoints that are used.

The registry is believed when it says that an instance is ill, and not when it says that
everything is gone: a wiped or restored Consul must never take down traffic that works
(static stability). So an instance leaves when it is reported critical, or when it is absent while
others are there; the last good set stays for a while when nothing at all is registered any more,
and the absent ones stay for a shorter while after the registry has lost its history.
"""

from dataclasses import dataclass, replace

from proxy.model.endpoint import Endpoint
from proxy.model.names import ServiceName
from proxy.model.status import PolicySource

KEEP_EMPTY_S = 600.0
"""How long the last good endpoints outlive a registry in which nothing is registered."""

KEEP_ABSENT_S = 30.0
"""After the index went back: long enough for every agent and proxy to register again (their
period is a third of PROXY_TTL_S, their back-off below 10 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One answer of the registry about one service."""

    healthy: tuple[Endpoint, ...]
    ill: tuple[Endpoint, ...]
    """Registered for this mesh, with at least one critical check."""
    malformed: int = 0
    """Entries of this mesh that could not be read, and are skipped, or only in part: then zone and
    weight are as if not given."""
    went_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """The endpoints in use for one service, and how far they are to be trusted."""

    service: ServiceName
    datacenter: str = ""
    """Empty: the proxy's own."""
    endpoints: tuple[Endpoint, ...] = ()
    """In a fixed order, so that equal answers make equal views."""
    source: PolicySource = "none"
    kept: int = 0
    """How many of the endpoints the registry no longer confirms."""
    keep_until_s: float = 0.0
    """Monotonic; when the unconfirmed ones leave. 0: none are kept."""
    malformed: int = 0

    def after(self, seen: Observation, now_s: float) -> "ServiceView":
        """The next view. ``now_s`` is monotonic."""
        registered = {_instance(endpoint) for endpoint in (*seen.healthy, *seen.ill)}
        absent = tuple(e for e in self.endpoints if _instance(e) not in registered)
        until_s = self.keep_until_s
        if not registered:
            until_s = until_s if self.kept == len(self.endpoints) else now_s + KEEP_EMPTY_S
        elif seen.went_back:
            until_s = now_s + KEEP_ABSENT_S
        elif self.kept and absent:
            # Some came back: the rest is about to, and need not have the long time any more.
            until_s = min(until_s, now_s + KEEP_ABSENT_S)
        else:
            until_s = 0.0
        if now_s >= until_s:
            absent = ()
        return replace(
            self,
            endpoints=tuple(sorted({*seen.healthy, *absent}, key=order)),
            source="consul",
            kept=len(absent),
            keep_until_s=until_s if absent else 0.0,
            malformed=seen.malformed,
        )

    @property
    def subject(self) -> str:
        """In messages."""
        return f"{self.service} in {self.datacenter}" if self.datacenter else self.service

    @property
    def doubt(self) -> str:
        """Why endpoints are used that the registry does not confirm; empty if there are none."""
        if not self.kept:
            return ""
        if self.kept == len(self.endpoints):
            return (
                f"{self.subject}: nothing is registered any more; "
                f"the last {self.kept} known endpoint(s) stay in use for now"
            )
        return (
            f"{self.subject}: the registry lost its history; "
            f"{self.kept} endpoint(s) that it does not list stay in use for now"
        )


def order(endpoint: Endpoint) -> tuple[str, str, int, str, str, int]:
    return (
        endpoint.host,
        endpoint.address,
        endpoint.port,
        endpoint.version,
        endpoint.zone,
        endpoint.weight,
    )


def _instance(endpoint: Endpoint) -> tuple[str, str]:
    return (endpoint.service, endpoint.host)
