"""Records of one request, from several proxies, in the order in which it passed them. Pure.

The hosts' clocks need not agree, so the order follows from who called whom: the caller's view, then
the called side's, then what that service called itself under the same id.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from meshctl.policy.origins import Places
from proxy.core.authorization import Reason
from proxy.model.names import ServiceName
from proxy.model.policy import Policy
from proxy.model.recent import SeenRequest

_SENTENCES: dict[str, str] = {
    Reason.UNDECLARED: "the inventory does not have {service} among the caller's upstreams",
    Reason.DEFAULT_DENY: "no intention of {service} allows it",
    Reason.TOKEN: "an intention of {service} would allow it, but for its token",
    Reason.STRICT: "the caller has no identity, and {service} is strict",
    "local-user": "the process is not of the unix user that {service} has in the inventory",
    Reason.NO_POLICY: "no policy that could be verified had arrived yet",
    Reason.AMBIGUOUS_PATH: "applications may read its path in different ways",
    Reason.AMBIGUOUS_HEADER: "applications may read one of its headers in different ways",
    Reason.AMBIGUOUS_QUERY: "applications may read its query in different ways",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    depth: int
    """0: nobody before it is known."""
    seen: SeenRequest
    why: str
    """Of a denial, for people; empty: it was none."""
    at: str
    """Of the intention, in the file at hand."""


def hops(requests: tuple[SeenRequest, ...], policy: Policy, places: Places) -> tuple[Hop, ...]:
    left = sorted(requests, key=lambda each: (each.ended_at, -each.duration_ms))
    made: list[Hop] = []

    def visit(seen: SeenRequest, depth: int) -> None:
        left.remove(seen)
        why, at = denial(seen.policy, policy, places)
        made.append(Hop(depth=depth, seen=seen, why=why, at=at))
        for each in list(_after(seen, left)):
            if each in left:
                visit(each, depth + 1)

    while left:
        visit(_first(left), 0)
    return tuple(made)


def denial(policy_id: str, policy: Policy, places: Places) -> tuple[str, str]:
    """The sentence and the line of what denied; the line is empty if no file at hand has it."""
    service, _, name = policy_id.partition("/")
    if not name:
        return "", ""
    for number, each in enumerate(policy.of(ServiceName(service)).intentions):
        if each.name == name:
            at = places.at(f"services.{service}.intentions[{number}]")
            return f"the intention {name!r} denies it", at
    sentence = _SENTENCES.get(name, "an intention denied it that is not in the policy at hand")
    return sentence.format(service=service), ""


def _first(left: list[SeenRequest]) -> SeenRequest:
    """One that no other leads to, a caller's own view before a called side's."""

    def is_led_to(each: SeenRequest) -> bool:
        return any(each in _after(other, left) for other in left if other is not each)

    return min(left, key=lambda each: (is_led_to(each), each.side != "source"))


def _after(seen: SeenRequest, left: list[SeenRequest]) -> Iterator[SeenRequest]:
    for each in left:
        if each is seen:
            continue
        if seen.side == "source":
            if each.side == "destination" and each.caller == seen.caller and _was_tried(seen, each):
                yield each
        elif each.side == "source" and each.caller == seen.service:
            yield each


def _was_tried(source: SeenRequest, destination: SeenRequest) -> bool:
    return f"{destination.service} on {destination.host}" in source.endpoints
