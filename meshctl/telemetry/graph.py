"""The graph of calls as a value: services, who calls whom, and in which layer each is drawn.

From a ``View`` (what is called) or from an inventory (what is declared); both are drawn alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meshctl.inventory.model import Inventory
from meshctl.telemetry.view import Edge, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    service: str
    protocol: str
    """Empty: not known, as of ``unknown``."""
    note: str = ""
    """What is wrong with it, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    caller: str
    service: str
    protocol: str
    edge: Edge | None = None
    """None: declared only, nothing is known of traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    nodes: tuple[Node, ...]
    """By name."""
    links: tuple[Link, ...]
    """By caller and service."""

    def callers(self) -> Mapping[str, tuple[str, ...]]:
        """Of each service that has any."""
        return _grouped((link.service, link.caller) for link in self.links)

    def called(self) -> Mapping[str, tuple[str, ...]]:
        """By each service that calls any."""
        return _grouped((link.caller, link.service) for link in self.links)


def seen(view: View) -> Graph:
    """What is called, and services that nobody calls."""
    rows = {row.service: row for row in view.services}
    names = rows.keys() | {name for edge in view.edges for name in (edge.caller, edge.service)}
    nodes = []
    for name in sorted(names):
        row = rows.get(name)
        note = ""
        if row is not None and row.available < row.endpoints:
            note = f"{row.available} of {row.endpoints} endpoints in use"
        protocol = row.protocol if row is not None else ""
        nodes.append(Node(service=name, protocol=protocol, note=note))
    links = (
        Link(caller=edge.caller, service=edge.service, protocol=edge.protocol, edge=edge)
        for edge in view.edges
    )
    return Graph(nodes=tuple(nodes), links=tuple(sorted(links, key=_order)))


def declared(inventory: Inventory) -> Graph:
    """Who may call whom as far as the inventory goes."""
    services = {own.name: own for host in inventory.hosts for own in host.services}
    links = {
        (own.name, use.service): Link(
            caller=own.name, service=use.service, protocol=str(use.protocol)
        )
        for host in inventory.hosts
        for own in host.services
        for use in own.upstreams
    }
    return Graph(
        nodes=tuple(
            Node(service=name, protocol=str(own.protocol)) for name, own in sorted(services.items())
        ),
        links=tuple(sorted(links.values(), key=_order)),
    )


def around(graph: Graph, service: str) -> Graph:
    """``service``, everything that leads to it and everything it leads to."""
    kept = _reached(service, graph.called()) | _reached(service, graph.callers())
    before, after = _reached(service, graph.callers()), _reached(service, graph.called())
    return Graph(
        nodes=tuple(node for node in graph.nodes if node.service in kept),
        links=tuple(
            link
            for link in graph.links
            if {link.caller, link.service} <= before or {link.caller, link.service} <= after
        ),
    )


def ranks(graph: Graph) -> dict[str, int]:
    """The column of each service, callers before called: its longest way from a service that nobody
    calls. A call that closes a circle is not counted.
    """
    called = graph.called()
    order = _callers_first(graph, called)
    place = {service: number for number, service in enumerate(order)}
    rank = dict.fromkeys(order, 0)
    for service in order:
        for other in called.get(service, ()):
            if place[other] > place[service]:
                rank[other] = max(rank[other], rank[service] + 1)
    # What calls somebody, and nobody calls, stands right before whom it calls.
    callers = graph.callers()
    for service in reversed(order):
        following = [
            rank[other] for other in called.get(service, ()) if place[other] > place[service]
        ]
        if following and not callers.get(service):
            rank[service] = min(following) - 1
    return rank


def _callers_first(graph: Graph, called: Mapping[str, Sequence[str]]) -> list[str]:
    """Depth first, last finished first; from services that nobody calls, where there are any."""
    callers = graph.callers()
    names = [node.service for node in graph.nodes]
    names.sort(key=lambda name: (bool(callers.get(name)), name))
    finished: list[str] = []
    entered: set[str] = set()
    for start in names:
        if start in entered:
            continue
        entered.add(start)
        stack = [(start, iter(called.get(start, ())))]
        while stack:
            name, rest = stack[-1]
            following = next((other for other in rest if other not in entered), None)
            if following is None:
                finished.append(name)
                stack.pop()
            else:
                entered.add(following)
                stack.append((following, iter(called.get(following, ()))))
    return finished[::-1]


def _reached(start: str, ways: Mapping[str, Sequence[str]]) -> set[str]:
    reached, waiting = {start}, [start]
    while waiting:
        for other in ways.get(waiting.pop(), ()):
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for one, other in pairs:
        if one != other:
            found.setdefault(one, set()).add(other)
    return {one: tuple(sorted(others)) for one, others in found.items()}


def _order(link: Link) -> tuple[str, str, str]:
    return link.caller, link.service, link.protocol
