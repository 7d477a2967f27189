"""What the decoder cannot see in ``proxy.json``: names, ranges, addresses used twice."""

import ipaddress
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from proxy.model.names import InvalidName, parse_host, parse_service, parse_trust_domain
from proxy.model.settings import Address, HealthCheck, Settings
from proxy.model.violation import Violation


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
    if not 0 <= settings.drain_s <= 3600:
        yield Violation(path="$.drain_s", message=f"{settings.drain_s} is not within 0 to 3600")
    yield from _workloads(settings)


def _workloads(settings: Settings) -> Iterator[Violation]:
    listens = {
        (settings.admin.host, settings.admin.port): "$.admin",
        (settings.inbound.host, settings.inbound.port): "$.inbound",
    }
    if len(listens) == 1:
        yield Violation(path="$.inbound", message="is the same address as $.admin")
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
        for j, upstream in enumerate(workload.upstreams):
            here = f"{at}.upstreams[{j}]"
            yield from _name(f"{here}.service", upstream.service, parse_service)
            yield from _address(f"{here}.listen", upstream.listen)
            key = (upstream.listen.host, upstream.listen.port)
            taken = listens.setdefault(key, f"{here}.listen")
            if taken != f"{here}.listen":
                yield Violation(path=f"{here}.listen", message=f"is the same address as {taken}")


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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
