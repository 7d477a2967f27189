"""A match on its own, without a table around it: for rate limits and faults."""

from proxy.core.routing.conditions import Condition, Head, Seen, compile_conditions
from proxy.core.routing.paths import known_path, path_of
from proxy.core.routing.regex import compile_regex
from proxy.core.routing.templates import (
    Segments,
    literal_path,
    prefix_segments,
    template_segments,
)
from proxy.model.names import ServiceName
from proxy.model.routing import Match, PathMatch


class Matcher:
    __slots__ = ("_conditions",)

    def __init__(self, conditions: tuple[Condition, ...]) -> None:
        self._conditions = conditions

    def matches(self, head: Head, source: ServiceName) -> bool:
        """All conditions hold; true if there are none."""
        if self._conditions:
            seen: Seen = {}
            for condition in self._conditions:
                if not condition(head, source, seen):
                    return False
        return True


def compile_match(match: Match) -> Matcher:
    """Raises InvalidRegex; total on a sound policy."""
    conditions = compile_conditions(match)
    path = match.asked_path
    if path is not None:
        conditions = (path_condition(path), *conditions)
    return Matcher(conditions)


def path_condition(match: PathMatch) -> Condition:
    if match.exact is not None:
        return _exact(literal_path(match.exact))
    if match.prefix is not None:
        return _prefix(prefix_segments(match.prefix))
    if match.template is not None:
        return _template(*template_segments(match.template))
    if match.regex is not None:
        return _regex(match.regex)
    return lambda head, source, seen: True


def _exact(exact: bytes) -> Condition:
    def condition(head: Head, source: ServiceName, seen: Seen) -> bool:
        target = head.target
        return (known_path(target) or path_of(target)) == exact

    return condition


def _prefix(segments: Segments) -> Condition:
    below = b"/" + b"".join(one + b"/" for one in segments if one is not None)
    itself = below[:-1]

    def condition(head: Head, source: ServiceName, seen: Seen) -> bool:
        target = head.target
        path = known_path(target) or path_of(target)
        return path.startswith(below) or path == itself

    return condition


def _template(wanted: Segments, is_open: bool) -> Condition:
    count = len(wanted)

    def condition(head: Head, source: ServiceName, seen: Seen) -> bool:
        target = head.target
        path = known_path(target) or path_of(target)
        segments = path.split(b"/", count + 1)[1:]
        if segments[count:] and not is_open:
            return False
        return (
            path.startswith(b"/")
            and len(segments) >= count
            and all(
                segment != b"" if want is None else segment == want
                for want, segment in zip(wanted, segments, strict=False)
            )
        )

    return condition


def _regex(pattern: str) -> Condition:
    matches = compile_regex(pattern)

    def condition(head: Head, source: ServiceName, seen: Seen) -> bool:
        target = head.target
        return matches(known_path(target) or path_of(target)) is not None

    return condition
