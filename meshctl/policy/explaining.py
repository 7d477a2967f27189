"""What becomes of a call, told in advance: pure, and decided by the very code of the proxies.

Enters: the settings of every host, a policy and a catalogue, as a proxy gets them. Leaves: an
``Explanation``. The table is compiled, the route found, the request changed, written, read again
and judged as on the way; what is added here is only where it was written and what failed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from random import Random

from meshctl import durations
from meshctl.policy import requests
from meshctl.policy.explained import (
    Answer,
    Branch,
    Explanation,
    FaultSeen,
    Judgement,
    MirrorSeen,
    Outcome,
    PassedOver,
    Setting,
    Way,
)
from meshctl.policy.leading import destinations, led_to
from meshctl.policy.origins import in_force
from meshctl.policy.requests import InvalidRequest, RequestHead
from meshctl.policy.routing import ROUTE
from meshctl.policy.verdict import grpc_status, of_branches, refused
from meshctl.policy.world import CompiledWorld
from proxy.core.deadline import HEADER, tighten
from proxy.core.deadline import parse as parse_deadline
from proxy.core.routing import CompiledRoute
from proxy.core.table import OutboundRoute
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Route

_CHANGES = ("rewrite", "request_headers", "response_headers")
_OF_HTTP = ("timeouts", "retries", "access_log", "tracing")
_NOT_OF_TCP = tuple(
    f"timeouts.{key}" for key in ("per_try", "request", "grpc", "connection_idle", "pool_idle")
)
_DEADLINES = {"timeouts.request": "request_s", "timeouts.grpc": "grpc_s"}
_HEADER = HEADER.decode()
_NO_CLIENT = b"127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    target: str
    """Path, and query if there is one."""
    fields: tuple[tuple[str, str], ...] = ()
    """Names and values of headers, ``Host`` among them if it matters."""


def explain(
    world: CompiledWorld,
    caller: ServiceName,
    service: ServiceName,
    request: Request | None = None,
) -> Explanation:
    """``caller`` and ``service`` are of the world; ``request`` None: what holds for all.

    The caller's instances may differ in what they declare: the first that declares the service is
    the one explained.
    """
    for host, route in world.outbound(caller, service):
        return _Call(world, host, route, request).explanation()
    judge = world.judge(service)
    why = f"{caller} does not declare {service} as an upstream: no address leads there"
    if judge is not None:
        policy = judge.judge(caller, None).policy
        why += f", and the called side would refuse it (policy {policy})"
    carried = world.inbound(service)
    return Explanation(
        caller=caller,
        service=service,
        protocol=carried.protocol if carried else "http",
        request=_shown(request),
        outcome=Outcome.DENIED,
        why=why,
        ways=(),
        faults=(),
        passed_over=(),
        branches=(),
    )


class _Call:
    """One explanation in the making."""

    def __init__(
        self, of: CompiledWorld, host: HostName, route: OutboundRoute, request: Request | None
    ) -> None:
        self._of, self._host, self._route, self._request = of, host, route, request
        self._caller, self._service = route.caller, route.service
        self._routes = of.routes(route.service)
        self._is_tcp = route.protocol == "tcp"
        self._head: RequestHead | None = None

    @cached_property
    def _ways(self) -> tuple[Way, ...]:
        return tuple(self._of.ways(self._caller, self._service))

    def explanation(self) -> Explanation:
        why = self._read()
        if why:
            return self._made(refused(why), (), (), ())
        passed_over: tuple[PassedOver, ...] = ()
        if self._is_tcp or self._head is not None:
            found, passed_over = self._found(self._head or requests.NO_REQUEST)
            if self._head is not None:
                requests.identify(self._head)
            faults = tuple(self._faults())
            try:
                branches: tuple[Branch, ...] = (self._branch(found),)
            except InvalidRequest as error:
                return self._made(refused(str(error)), faults, passed_over, ())
        else:
            faults = tuple(self._faults())
            branches = tuple(map(self._branch, self._possible()))
        verdict = of_branches(
            self._service,
            branches,
            faults,
            has_request=self._head is not None,
            is_grpc=self._is_grpc,
        )
        return self._made(verdict, faults, passed_over, branches)

    @property
    def _is_grpc(self) -> bool:
        return self._head is not None and self._head.is_grpc

    def _made(
        self,
        verdict: tuple[Outcome, str],
        faults: tuple[FaultSeen, ...],
        passed_over: tuple[PassedOver, ...],
        branches: tuple[Branch, ...],
    ) -> Explanation:
        return Explanation(
            caller=self._caller,
            service=self._service,
            protocol=self._route.protocol,
            request=_shown(self._request),
            outcome=verdict[0],
            why=verdict[1],
            grpc_status=grpc_status(verdict[0], branches, faults) if self._is_grpc else "",
            ways=self._ways,
            faults=faults,
            passed_over=passed_over,
            branches=branches,
        )

    def _read(self) -> str:
        """The request becomes a head; or the reason why there is none, or no way for it."""
        if not self._ways:
            return (
                f"no address leads to {self._service}: {self._caller} reaches it only where a "
                "route or a failover of another service leads there"
            )
        request = self._request
        if request is None or self._is_tcp:
            return ""
        own = next((way for way in self._ways if not way.names), None)
        authority = own.address if own is not None else f"{self._service}.mesh"
        try:
            self._head = requests.sent(request.method, request.target, authority, request.fields)
        except InvalidRequest as error:
            return f"it is not a request that a proxy takes: {error}"
        return "" if own is not None else self._by_host(self._head)

    def _by_host(self, head: RequestHead) -> str:
        """Whether the Host leads to the service, where its one address is shared."""
        hosts = self._of.hosts(self._host, self._caller)
        assert hosts is not None, "there is a way, and it is not the service's own"
        authority = head.authority or b""
        for name in (authority, authority.rpartition(b":")[0].lower(), authority.lower()):
            if name and (key := hosts.hosts.get(name)) is not None:
                if key[1] == self._service:
                    return ""
                return f"this Host leads to {key[1]}, not to {self._service}"
        shown = authority.decode("latin-1") or "a request without Host"
        return f"{shown} is no upstream of {self._caller}"

    def _found(self, head: RequestHead) -> tuple[CompiledRoute | None, tuple[PassedOver, ...]]:
        router = self._routes.router
        if router is None:
            return None, ()
        found = router.find(head, self._caller)
        before = router.routes[: len(router.routes) if found is None else found.index]
        return found, tuple(
            PassedOver(
                name=each.route.name,
                at=self._at(each.index),
                unmet=self._routes.asked[each.index].unmet(head, self._caller),
            )
            for each in before
        )

    def _possible(self) -> Iterator[CompiledRoute | None]:
        """Routes that some request of this caller may take, in their order."""
        router = self._routes.router
        for each in router.routes if router is not None else ():
            asked = self._routes.asked[each.index]
            if asked.excludes(self._caller):
                continue
            yield each
            if asked.open_for(self._caller):
                return
        yield None

    def _faults(self) -> Iterator[FaultSeen]:
        if self._is_tcp:
            return
        for number, (fault, asked) in enumerate(self._routes.faults):
            until = fault.until if fault.until.tzinfo else fault.until.replace(tzinfo=UTC)
            if until <= self._of.now or fault.percent <= 0:
                continue
            head = self._head
            if asked.unmet(head, self._caller) if head else asked.excludes(self._caller):
                continue
            yield FaultSeen(
                name=fault.name,
                at=self._of.places.at(f"services.{self._service}.faults[{number}]"),
                percent=fault.percent,
                delay_s=fault.delay_s,
                abort_status=fault.abort_status,
                grpc_status=fault.grpc_status or "",
                until=until.isoformat().replace("+00:00", "Z"),
                depends_on="" if head else asked.text,
            )

    def _branch(self, compiled: CompiledRoute | None) -> Branch:
        """Raises InvalidRequest."""
        route = Route(name="") if compiled is None else compiled.route
        answer = self._answer(compiled)
        at = "" if compiled is None else self._at(compiled.index)
        led = () if answer else destinations(
            self._route, compiled, self._pinned(compiled), self._of.policy, self._of.places
        )  # fmt: skip
        mirror = None if answer else self._mirror(compiled)
        services: dict[ServiceName, None] = {}
        for each in led:
            if each.is_declared:
                services |= dict.fromkeys(tier.service for tier in each.tiers)
        if mirror is not None and mirror.is_declared:
            services[mirror.service] = None
        return Branch(
            route=route.name,
            at=at,
            conditions="" if compiled is None else self._routes.asked[compiled.index].text,
            answer=answer,
            changes="; ".join(
                f"{key} {field.shape.show(value)}"
                for key in _CHANGES
                if (value := getattr(route, (field := ROUTE[key]).name)) is not None
            ),
            sticky="" if route.sticky is None else ROUTE["sticky"].shape.show(route.sticky),
            destinations=led,
            mirror=mirror,
            settings=() if answer else tuple(self._settings(compiled)),
            judgements=tuple(self._judged(services, compiled)),
        )

    def _answer(self, compiled: CompiledRoute | None) -> Answer | None:
        if compiled is None:
            return None
        route = compiled.route
        if route.respond is not None:
            return Answer(what="respond", status=route.respond.status, location="")
        if route.redirect is not None:
            location = compiled.location(self._head, b"http") if self._head else b""
            return Answer(
                what="redirect",
                status=route.redirect.status,
                location=location.decode("utf-8", "backslashreplace"),
            )
        return None

    def _pinned(self, compiled: CompiledRoute | None) -> int | None:
        """The destination that this very request belongs to, by what it carries."""
        if compiled is None or self._head is None or len(compiled.route.to) < 2:
            return None
        sticky = compiled.route.sticky
        if sticky is None or sticky.source:
            return None
        # What it does not carry is drawn by lot: two lots then differ in the end.
        drawn = {
            compiled.choose(self._head, _NO_CLIENT, Random(seed))  # noqa: S311 - for what is drawn by lot
            for seed in range(16)
        }
        return drawn.pop()[0] if len(drawn) == 1 else None

    def _mirror(self, compiled: CompiledRoute | None) -> MirrorSeen | None:
        if compiled is None or compiled.route.mirror is None:
            return None
        mirror = compiled.route.mirror
        service = mirror.service or self._service
        return MirrorSeen(
            name=led_to(service, mirror.subset),
            service=service,
            percent=mirror.percent,
            at=self._of.places.at(f"{self._path(compiled.index)}.mirror"),
            is_declared=(service, mirror.subset) in self._route.clusters,
        )

    def _judged(
        self, services: dict[ServiceName, None], compiled: CompiledRoute | None
    ) -> Iterator[Judgement]:
        head = None
        if self._head is not None and services:
            head = requests.copy_of(self._head)
            if compiled is not None:
                compiled.change_request(head)
            head = requests.arrived(head, self._service)
        for service in services:
            judge = self._of.judge(service)
            if judge is not None:
                yield judge.judge(self._caller, head)

    def _settings(self, compiled: CompiledRoute | None) -> Iterator[Setting]:
        """In force for the request as a whole; what is a destination's own is with it."""
        keys = ("timeouts", "access_log") if self._is_tcp else _OF_HTTP
        route = None if compiled is None else (compiled.index, compiled.route)
        for each in in_force(keys, self._service, self._of.policy, self._of.places, route):
            if (self._is_tcp and each.key in _NOT_OF_TCP) or each.key in self._beside_the_point:
                continue
            yield each
            if each.key in _DEADLINES and self._head and self._head.timeout_ms:
                field = _DEADLINES[each.key]
                changed = None if compiled is None else compiled.route.timeouts
                own_s = getattr(self._of.policy.of(self._service).timeouts, field)
                if changed is not None and getattr(changed, field) is not None:
                    own_s = getattr(changed, field)
                asked_s = tighten(own_s, parse_deadline(self._head.timeout_ms))
                if asked_s != own_s:
                    yield Setting(
                        key=each.key,
                        value=durations.show(asked_s),
                        origin=f"the request's {'grpc-timeout' if self._is_grpc else _HEADER}",
                        at="",
                    )

    @property
    def _beside_the_point(self) -> tuple[str, ...]:
        """Settings that are for the other kind of request."""
        if self._is_grpc:
            return ("timeouts.request",)
        if self._head is not None or self._route.protocol == "http":
            return ("timeouts.grpc",)
        return ()

    def _path(self, index: int) -> str:
        return f"services.{self._service}.routes[{index}]"

    def _at(self, index: int) -> str:
        return self._of.places.at(self._path(index))


def _shown(request: Request | None) -> str:
    return f"{request.method} {request.target}" if request else ""
