"""A service's routes: the path is looked up, whatever their number; then the first match wins.

Exact paths lie in a dictionary, prefixes and templates in a tree of segments; what matches any path
or a regular expression stays in a list. Each is in the routes' order, and a look-up stops where a
better route is known, so that the smallest index that matches wins. Linear are only routes that
differ in something other than their path.
"""

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter

from proxy.core.routing.conditions import Head, Seen, compile_conditions
from proxy.core.routing.matching import path_condition
from proxy.core.routing.paths import known_path, path_of
from proxy.core.routing.route import CompiledRoute
from proxy.core.routing.templates import (
    Segments,
    literal_path,
    prefix_segments,
    template_segments,
)
from proxy.model.names import ServiceName
from proxy.model.policy import Route

_TARGETS_KEPT = 1024
_TARGET_BYTES = 256
_index = attrgetter("index")


class _Node:
    """A place in the tree of segments."""

    __slots__ = ("any", "below", "children", "here")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.any: _Node | None = None
        self.here: list[CompiledRoute] = []
        """Routes whose path ends here."""
        self.below: list[CompiledRoute] = []
        """Routes for this and all that is below."""


class Router:
    __slots__ = ("_anywhere", "_depth", "_exact", "_known", "_merged", "_root", "routes")

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes: tuple[CompiledRoute, ...] = ()
        """Empty: nothing to find."""
        self._exact: dict[bytes, list[CompiledRoute]] = {}
        self._root = _Node()
        self._depth = 0
        """Of the tree: a longer path is not taken apart further."""
        self._anywhere: list[CompiledRoute] = []
        self._known: dict[bytes, tuple[CompiledRoute, ...]] = {}
        self._merged: dict[tuple[int, ...], tuple[CompiledRoute, ...]] = {}
        self.routes = tuple(self._add(index, route) for index, route in enumerate(routes))

    def find(self, head: Head, source: ServiceName) -> CompiledRoute | None:
        """The first of the routes that matches; None: the service itself."""
        candidates = self._known.get(head.target)
        if candidates is None:
            candidates = self._candidates(head.target)
        seen: Seen = {}
        for route in candidates:
            for condition in route.conditions:
                if not condition(head, source, seen):
                    break
            else:
                return route
        return None

    def _candidates(self, target: bytes) -> tuple[CompiledRoute, ...]:
        """The routes whose path matches, in their order. Remembered, as most targets come again;
        and kept once for all targets that have the same."""
        groups = self._groups(known_path(target) or path_of(target))
        key = tuple(map(id, groups))
        candidates = self._merged.get(key)
        if candidates is None:
            candidates = tuple(sorted(chain.from_iterable(groups), key=_index))
        if len(target) <= _TARGET_BYTES:
            if len(self._known) >= _TARGETS_KEPT:
                self._known.clear()
                self._merged.clear()
            self._merged[key] = candidates
            self._known[target] = candidates
        return candidates

    def _groups(self, path: bytes) -> list[list[CompiledRoute]]:
        """Lists in their order that together have each route whose path matches."""
        groups: list[list[CompiledRoute]] = []
        exact = self._exact.get(path)
        if exact is not None:
            groups.append(exact)
        depth = self._depth
        if depth and path.startswith(b"/"):
            segments = path.split(b"/", depth)
            count = len(segments)
            node: _Node | None = self._root
            place = 1
            waiting: list[tuple[_Node, int]] | None = None
            while True:
                while node is not None:
                    if node.below:
                        groups.append(node.below)
                    if place == count:
                        if node.here:
                            groups.append(node.here)
                        break
                    segment = segments[place]
                    place += 1
                    if node.any is not None and segment:
                        if waiting is None:
                            waiting = []
                        waiting.append((node.any, place))
                    node = node.children.get(segment)
                if not waiting:
                    break
                node, place = waiting.pop()
        if self._anywhere:
            groups.append(self._anywhere)
        return groups

    def _add(self, index: int, route: Route) -> CompiledRoute:
        conditions = compile_conditions(route.match)
        path = route.match.asked_path
        if path is None:
            group = self._anywhere
        elif path.exact is not None:
            group = self._exact.setdefault(literal_path(path.exact), [])
        elif path.prefix is not None:
            group = self._node(prefix_segments(path.prefix)).below
        elif path.template is not None:
            segments, is_open = template_segments(path.template)
            node = self._node(segments)
            group = node.below if is_open else node.here
        else:
            conditions = (*conditions, path_condition(path))
            group = self._anywhere
        compiled = CompiledRoute(route, index, conditions)
        group.append(compiled)
        return compiled

    def _node(self, segments: Segments) -> _Node:
        # The slash before the first segment, and the rest of a longer path.
        self._depth = max(self._depth, len(segments) + 1)
        node = self._root
        for segment in segments:
            if segment is None:
                if node.any is None:
                    node.any = _Node()
                node = node.any
            else:
                node = node.children.setdefault(segment, _Node())
        return node


def compile_routes(service: ServiceName, routes: Sequence[Route]) -> Router:
    """Raises InvalidRegex; total on a sound policy. ``service``: whose routes they are."""
    return Router(routes)
