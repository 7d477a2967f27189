"""What a policy says of services, held against the inventory that has them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from meshctl.inventory.model import Inventory
from meshctl.inventory.shape import closest
from meshctl.policy.text import Text
from proxy.core.soundness import Finding
from proxy.model.authorization import EVERYBODY
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, Route, ServicePolicy
from proxy.model.routing import Match
from proxy.model.settings import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A service, over all of its instances."""

    protocol: Protocol
    versions: set[str] = field(default_factory=set)
    upstreams: set[ServiceName] = field(default_factory=set)
    callers: set[ServiceName] = field(default_factory=set)
    plaintext_ports: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    services: Mapping[ServiceName, Known]
    datacenter: str

    @classmethod
    def of(cls, inventory: Inventory) -> "Surroundings":
        services: dict[ServiceName, Known] = {}
        for service in (service for host in inventory.hosts for service in host.services):
            known = services.setdefault(service.name, Known(protocol=service.protocol))
            known.versions.add(service.version)
            if service.plaintext_port is not None:
                known.plaintext_ports.add(service.plaintext_port)
            known.upstreams.update(use.service for use in service.upstreams)
        for name, known in services.items():
            for upstream in known.upstreams:
                if upstream in services:
                    services[upstream].callers.add(name)
        return cls(services=services, datacenter=inventory.consul.datacenter)


def check_surroundings(
    policy: Policy, around: Surroundings, text: Text, now: datetime
) -> Iterator[Finding]:
    for name, own in policy.services.items():
        path = f"services.{name}"
        known = around.services.get(name)
        if known is None:
            yield _unknown(path, name, around)
            continue
        for subset, is_part in own.subsets.items():
            if is_part.version not in known.versions:
                yield _at(
                    f"{path}.subsets.{subset}.version",
                    f"no instance of {name} has the version {is_part.version!r}",
                    _meant(is_part.version, known.versions, "in the inventory"),
                )
        yield from _leads(path, name, own, around)
        yield from _failover(path, name, own, around)
        for each, match in _matches(path, own):
            for number, source in enumerate(match.sources):
                if source not in around.services:
                    yield _unknown(f"{each}.sources[{number}]", source, around)
        for number, fault in enumerate(own.faults):
            if fault.until.utcoffset() is not None and fault.until <= now:
                message = f"the fault {fault.name!r} is over"
                hint = "remove it, or give it a time to come"
                yield _at(f"{path}.faults[{number}].until", message, hint)
        yield from _callers(path, name, own, around)
        if own.mode == "permissive" and not known.plaintext_ports:
            yield _at(
                f"{path}.mode",
                f"no instance of {name} has a port for callers without an identity",
                "give it a plaintext_port in the inventory, or remove the mode",
            )
        if known.protocol == "tcp":
            yield from _http_only(path, own, text)
    yield from _asked_by_grpc(policy, around)


def _asked_by_grpc(policy: Policy, around: Surroundings) -> Iterator[Finding]:
    """Each service that could not answer its health check, by the defaults or its own."""
    for name, known in around.services.items():
        health = policy.of(name).health_check
        if health is None or health.kind != "grpc" or known.protocol != "http":
            continue
        written = policy.services.get(name)
        is_own = written is not None and written.health_check != policy.defaults.health_check
        path = f"services.{name}" if is_own else "defaults"
        message = f"{name} speaks http, which is HTTP/1.1, and gRPC is not asked over that"
        hint = f"use http, or give {name} 'protocol: grpc' in the inventory"
        yield _at(f"{path}.health_check.grpc", message, hint)


def _leads(
    path: str, name: ServiceName, own: ServicePolicy, around: Surroundings
) -> Iterator[Finding]:
    for number, route in enumerate(own.routes):
        here = f"{path}.routes[{number}]"
        callers = around.services[name].callers & (set(route.match.sources) or set(around.services))
        for i, place in enumerate(route.to):
            if place.service is not None:
                yield from _lead(f"{here}.to[{i}]", name, place.service, callers, around)
        if route.mirror is not None and route.mirror.service is not None:
            yield from _lead(f"{here}.mirror", name, route.mirror.service, callers, around)


def _callers(
    path: str, name: ServiceName, own: ServicePolicy, around: Surroundings
) -> Iterator[Finding]:
    for number, each in enumerate(own.intentions):
        for key in ("allow", "deny"):
            for at, caller in enumerate(getattr(each, key)):
                here = f"{path}.intentions[{number}].{key}[{at}]"
                if caller == EVERYBODY:
                    continue
                if caller not in around.services:
                    yield _unknown(here, caller, around)
                elif caller not in around.services[name].callers:
                    yield _at(
                        here,
                        f"{caller} does not declare {name}, so that its calls are refused anyway",
                        f"add {name!r} to upstreams of {caller} in the inventory, or remove it",
                    )


def _failover(
    path: str, name: ServiceName, own: ServicePolicy, around: Surroundings
) -> Iterator[Finding]:
    callers = around.services[name].callers
    for number, step in enumerate(own.failover):
        here = f"{path}.failover[{number}]"
        if step.service is not None:
            yield from _lead(here, name, step.service, callers, around)
        if step.datacenter == around.datacenter:
            message = f"{step.datacenter!r} is the mesh's own datacenter"
            yield _at(f"{here}.datacenter", message, "name another one, or remove it")


def _lead(
    path: str, name: ServiceName, target: ServiceName, callers: set[ServiceName],
    around: Surroundings,
) -> Iterator[Finding]:  # fmt: skip
    known = around.services.get(target)
    if known is None:
        yield _unknown(f"{path}.service", target, around)
        return
    own = around.services[name].protocol
    if (known.protocol == "tcp") is not (own == "tcp"):
        wanted = "tcp" if own == "tcp" else "http, http2 or grpc"
        message = f"{target} speaks {known.protocol}, {name} {own}"
        yield _at(f"{path}.service", message, f"name a service that speaks {wanted}")
    if target == name:
        return
    lacking = sorted(c for c in callers if target not in around.services[c].upstreams)
    if lacking:
        listed = ", ".join(lacking[:10]) + (", ..." if len(lacking) > 10 else "")
        yield _at(
            f"{path}.service",
            f"callers of {name} are led there, but {listed} may not call {target}",
            f"add {target!r} to upstreams of {listed} in the inventory; a port is not needed",
        )


def _matches(path: str, own: ServicePolicy) -> Iterator[tuple[str, Match]]:
    for key in ("routes", "rate_limits", "faults"):
        for number, item in enumerate(getattr(own, key)):
            yield f"{path}.{key}[{number}].match", item.match


_HTTP_ROUTE = (
    *("redirect", "respond", "rewrite", "request_headers", "response_headers", "mirror"),
    *("timeouts", "retries"),
)
_HTTP_KEYS = (
    *("timeouts.per_try", "timeouts.request", "timeouts.connection_idle", "timeouts.pool_idle"),
    "timeouts.grpc",
    *("retries.statuses", "retries.methods", "retries.body_limit", "limits.pending"),
    *("load_balancing.hash_on.header", "load_balancing.hash_on.cookie", "health_check.http"),
    "health_check.grpc",
    *("rate_limits", "faults", "tracing"),
)
_TCP_RETRIES = frozenset(("connect-failure", "refused"))


def _http_only(path: str, own: ServicePolicy, text: Text) -> Iterator[Finding]:
    """Settings that nothing would come of; those in the defaults are for other services."""
    paths = [f"{path}.{key}" for key in _HTTP_KEYS]
    if text.has(f"{path}.retries.on") and not _TCP_RETRIES.issuperset(own.retries.on):
        paths.append(f"{path}.retries.on")
    for number in range(len(own.intentions)):
        paths += (f"{path}.intentions[{number}].{key}" for key in ("match", "token"))
    for number, route in enumerate(own.routes):
        paths += _http_route(f"{path}.routes[{number}]", route)
    for each in filter(text.has, paths):
        hint = "remove it, or give the service 'protocol: http' in the inventory"
        if each.endswith(".rate_limits"):
            hint = "remove it; a limit for tcp is limits.new_connections_per_s"
        yield _at(each, "it is for http, http2 and grpc, and the service speaks tcp", hint)


def _http_route(path: str, route: Route) -> Iterator[str]:
    if _asks_more(route.match):
        yield f"{path}.match"
    for key in _HTTP_ROUTE:
        if getattr(route, key) is not None:
            yield f"{path}.{key}"
    if route.sticky is not None and not route.sticky.source:
        yield f"{path}.sticky"


def _asks_more(match: Match) -> bool:
    """Whether it asks for more than who calls."""
    return Match(sources=match.sources) != match


def _unknown(path: str, name: str, around: Surroundings) -> Finding:
    hint = _meant(name, set(around.services), "policy is for services of the inventory")
    return _at(path, f"no service {name!r} is in the inventory", hint)


def _meant(text: str, known: set[str] | set[ServiceName], rule: str) -> str:
    guess = closest(text, sorted(known))
    if guess:
        return f"did you mean {guess!r}?"
    listed = ", ".join(sorted(known)[:10]) + (f" and {len(known) - 10} more" * (len(known) > 10))
    return f"{rule}: {listed}" if known else rule


def _at(path: str, message: str, hint: str) -> Finding:
    return Finding(paths=(path,), message=message, hint=hint)
