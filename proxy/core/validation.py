"""What the decoder cannot see in ``proxy.json``: names, ranges, addresses used twice."""

import ipaddress
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from proxy.model.endpoint import MAX_WEIGHT
from proxy.model.names import InvalidName, parse_host, parse_service, parse_trust_domain, parse_zone
from proxy.model.settings import MAX_WORKERS, Address, Capacity, HealthCheck, Settings, Workload
from proxy.model.violation import Violation

CONNECTIONS = (1, 1_000_000)
"""More than a million sockets do not fit into the memory of one host."""
MEMORY_BYTES = (64 * 1024**2, 1024**4)
"""A worker has half of the lower bound before its first request."""


def validate(settings: Settings) -> tuple[Violation, ...]:
    """Every violation, in the order of the file; empty if the proxy can start with it."""
    return tuple(_violations(settings))


def split_url(url: str) -> tuple[str, int]:
    """Host and port of ``http://host[:port]``; ValueError says what is wrong with it."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        raise ValueError("must start with http:// (the local agent; TLS is not spoken here)")
    if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must be http://host:port")
    if parts.path not in {"", "/"}:
        raise ValueError("must have no path")
    return parts.hostname, 8500 if parts.port is None else parts.port


def _violations(settings: Settings) -> Iterator[Violation]:
    yield from _name("$.host", settings.host, parse_host)
    yield from _name("$.trust_domain", settings.trust_domain, parse_trust_domain)
    if not settings.advertise or any(c.isspace() for c in settings.advertise):
        yield Violation(path="$.advertise", message=f"{settings.advertise!r} is not an address")
    yield from _address("$.admin", settings.admin)
    if not _is_loopback(settings.admin.host):
        yield Violation(
            path="$.admin.host",
            message=f"{settings.admin.host!r} is not a loopback address",
            hint="use 127.0.0.1 or ::1",
        )
    yield from _address("$.inbound", settings.inbound)
    yield from _metrics(settings)
    try:
        split_url(settings.consul.url)
    except ValueError as error:
        yield Violation(path="$.consul.url", message=f"{settings.consul.url!r} {error}")
    for path, value in (
        ("$.state_dir", settings.state_dir),
        ("$.trust_bundle", settings.trust_bundle),
    ):
        if not value.startswith("/"):
            yield Violation(path=path, message=f"{value!r} is not an absolute path")
    for path, value in (("$.policy_keys", settings.policy_keys), ("$.log_dir", settings.log_dir)):
        if value and not value.startswith("/"):
            yield Violation(path=path, message=f"{value!r} is not an absolute path")
    if not 0 <= settings.drain_s <= 3600:
        yield Violation(path="$.drain_s", message=f"{settings.drain_s} is not within 0 to 3600")
    if settings.zone:
        yield from _name("$.zone", settings.zone, parse_zone)
    if not 0 <= settings.workers <= MAX_WORKERS:
        yield Violation(
            path="$.workers",
            message=f"{settings.workers} is not within 0 to {MAX_WORKERS}",
            hint="0 is as many as there are cores",
        )
    yield from _capacity(settings.capacity)
    yield from _workloads(settings)


def _metrics(settings: Settings) -> Iterator[Violation]:
    if settings.metrics is None:
        return
    yield from _address("$.metrics.listen", settings.metrics.listen)
    for i, source in enumerate(settings.metrics.sources):
        try:
            ipaddress.ip_network(source)
        except ValueError:
            yield Violation(
                path=f"$.metrics.sources[{i}]",
                message=f"{source!r} is not a network",
                hint="use CIDR, such as 10.0.0.0/24",
            )


def _capacity(capacity: Capacity) -> Iterator[Violation]:
    for field, value, (least, most) in (
        ("connections", capacity.connections, CONNECTIONS),
        ("memory_bytes", capacity.memory_bytes, MEMORY_BYTES),
    ):
        if not least <= value <= most:
            yield Violation(
                path=f"$.capacity.{field}", message=f"{value} is not within {least} to {most}"
            )


class _Listens:
    """Which addresses are listened on. One on all addresses of the host meets every other with its
    port; with several workers the kernel would share it out between the two without a word."""

    def __init__(self) -> None:
        self._taken: dict[int, list[tuple[str, str]]] = {}

    def take(self, path: str, address: Address) -> Iterator[Violation]:
        on_port = self._taken.setdefault(address.port, [])
        for host, other in on_port:
            if host == address.host:
                yield Violation(path=path, message=f"is the same address as {other}")
                return
            if _is_unspecified(host) or _is_unspecified(address.host):
                yield Violation(path=path, message=f"is within the address of {other}")
                return
        on_port.append((address.host, path))


def _workloads(settings: Settings) -> Iterator[Violation]:
    listens = _Listens()
    yield from listens.take("$.admin", settings.admin)
    yield from listens.take("$.inbound", settings.inbound)
    if settings.metrics is not None:
        yield from listens.take("$.metrics.listen", settings.metrics.listen)
    services: dict[str, str] = {}
    for i, workload in enumerate(settings.workloads):
        at = f"$.workloads[{i}]"
        yield from _name(f"{at}.service", workload.service, parse_service)
        first = services.setdefault(workload.service, at)
        if first != at:
            yield Violation(path=f"{at}.service", message=f"is the same service as {first}")
        yield from _address(f"{at}.app", workload.app)
        yield from _health(f"{at}.health", workload.health)
        for j, caller in enumerate(workload.allow):
            yield from _name(f"{at}.allow[{j}]", caller, parse_service)
        if not 0 <= workload.weight <= MAX_WEIGHT:
            yield Violation(
                path=f"{at}.weight", message=f"{workload.weight} is not within 0 to {MAX_WEIGHT}"
            )
        yield from _ways_out(at, workload, listens)


def _ways_out(at: str, workload: Workload, listens: _Listens) -> Iterator[Violation]:
    for j, upstream in enumerate(workload.upstreams):
        here = f"{at}.upstreams[{j}]"
        yield from _name(f"{here}.service", upstream.service, parse_service)
        if upstream.listen is not None:
            yield from _address(f"{here}.listen", upstream.listen)
            yield from listens.take(f"{here}.listen", upstream.listen)
    if workload.outbound is not None:
        here = f"{at}.outbound"
        yield from _address(here, workload.outbound)
        if not _is_loopback(workload.outbound.host):
            # Whoever reaches it speaks with the workload's identity.
            yield Violation(
                path=f"{here}.host",
                message=f"{workload.outbound.host!r} is not a loopback address",
                hint="use 127.0.0.1 or ::1",
            )
        yield from listens.take(here, workload.outbound)


def _name(path: str, value: str, parse: Callable[[str], object]) -> Iterator[Violation]:
    try:
        parse(value)
    except InvalidName as error:
        yield Violation(path=path, message=str(error))


def _address(path: str, address: Address) -> Iterator[Violation]:
    if not address.host or any(c.isspace() for c in address.host):
        yield Violation(path=f"{path}.host", message=f"{address.host!r} is not an address")
    if not 1 <= address.port <= 65535:
        yield Violation(path=f"{path}.port", message=f"{address.port} is not within 1 to 65535")


def _health(path: str, check: HealthCheck) -> Iterator[Violation]:
    if not 0.05 <= check.interval_s <= 3600:
        yield Violation(
            path=f"{path}.interval_s", message=f"{check.interval_s} is not within 0.05 to 3600"
        )
    if not 0.01 <= check.timeout_s <= 300:
        yield Violation(
            path=f"{path}.timeout_s", message=f"{check.timeout_s} is not within 0.01 to 300"
        )
    if not 1 <= check.unhealthy_after <= 100:
        yield Violation(
            path=f"{path}.unhealthy_after",
            message=f"{check.unhealthy_after} is not within 1 to 100",
        )
    if not check.path.startswith("/") or any(not 0x21 <= ord(c) <= 0x7E for c in check.path):
        yield Violation(
            path=f"{path}.path",
            message=f"{check.path!r} is not a path",
            hint="start with '/', printable ASCII, no spaces",
        )


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
