"""Who may call less than before, when one policy follows another.

Pure: two policies and the inventory in, values out. That a caller may call nothing any more is
judged by the code that the proxies judge by; that it may call less is judged by its intentions, and
errs on the side of saying so.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from meshctl.inventory.model import Inventory
from proxy.core.authorization import Authorizer, CallerRules
from proxy.model.authorization import EVERYBODY, Intention
from proxy.model.names import ServiceName
from proxy.model.policy import Policy
from proxy.model.settings import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Of one called service: somebody loses something. The tuples are sorted."""

    service: ServiceName
    wholly: tuple[ServiceName, ...] = ()
    """May call nothing any more."""
    partly: tuple[ServiceName, ...] = ()
    """Something that they could ask for is denied now, or may be."""
    anonymous: bool = False
    """Callers without an identity may call nothing any more."""


def losses(before: Policy | None, after: Policy, inventory: Inventory) -> tuple[Loss, ...]:
    """Sorted by service; empty: nobody loses anything. ``before`` None: nothing was published."""
    old = Policy() if before is None else before
    found = []
    for service, protocol, callers in _called(inventory):
        left, right = old.of(service), after.of(service)
        if (left.intentions, left.mode) == (right.intentions, right.mode):
            continue
        was, is_ = _authorizer(service, old, callers), _authorizer(service, after, callers)
        wholly, partly = [], []
        for caller in callers:
            if not _may_call(was.of(caller), protocol):
                continue
            if not _may_call(is_.of(caller), protocol):
                wholly.append(caller)
            elif protocol != "tcp" and _is_narrower(
                _Rights(caller, left.intentions), _Rights(caller, right.intentions)
            ):
                partly.append(caller)
        anonymous = _may_call(was.anonymous, protocol) and not _may_call(is_.anonymous, protocol)
        if wholly or partly or anonymous:
            loss = Loss(
                service=service, wholly=tuple(wholly), partly=tuple(partly), anonymous=anonymous
            )
            found.append(loss)
    return tuple(found)


def _called(
    inventory: Inventory,
) -> Iterator[tuple[ServiceName, Protocol, list[ServiceName]]]:
    """Each service with its declared callers, both in order."""
    callers: dict[ServiceName, set[ServiceName]] = {}
    protocols: dict[ServiceName, Protocol] = {}
    for host in inventory.hosts:
        for service in host.services:
            protocols[service.name] = service.protocol
            for upstream in service.upstreams:
                callers.setdefault(upstream.service, set()).add(service.name)
    for name in sorted(protocols):
        yield name, protocols[name], sorted(callers.get(name, ()))


def _authorizer(service: ServiceName, policy: Policy, callers: list[ServiceName]) -> Authorizer:
    own = policy.of(service)
    return Authorizer(service, callers, own.intentions, providers=policy.tokens, mode=own.mode)


def _may_call(rules: CallerRules, protocol: Protocol) -> bool:
    return rules.session.is_allowed if protocol == "tcp" else rules.shut_out is None


class _Rights:
    """What the intentions say for one caller, whatever they are called."""

    def __init__(self, caller: ServiceName, intentions: tuple[Intention, ...]) -> None:
        enforced = [each for each in intentions if not each.is_audit]
        self.denied = [each.match for each in enforced if _is_for(caller, each.deny)]
        self.allowed = [
            (each.match, each.token) for each in enforced if _is_for(caller, each.allow)
        ]
        self.is_open = not enforced or any(
            _is_unconditional(each) for each in enforced if _is_for(caller, each.allow)
        )


def _is_for(caller: ServiceName, callers: tuple[str, ...]) -> bool:
    return caller in callers or EVERYBODY in callers


def _is_unconditional(intention: Intention) -> bool:
    return intention.match == type(intention.match)() and intention.token is None


def _is_narrower(before: _Rights, after: _Rights) -> bool:
    if any(match not in before.denied for match in after.denied):
        return True
    if after.is_open:
        return False
    return before.is_open or any(allowed not in after.allowed for allowed in before.allowed)
