"""What rate limits and faults need of a match: to be asked, or to be none at all."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from proxy.model.names import ServiceName
from proxy.model.routing import Match

_ANY_MATCH = Match()

H_contra = TypeVar("H_contra", contravariant=True)
H = TypeVar("H")


class Matcher(Protocol[H_contra]):
    """``routing.Matcher`` is one; ``head`` is whatever it looks at."""

    def matches(self, head: H_contra, source: ServiceName, /) -> bool: ...


def compile_unless_any(
    match: Match, compile_match: Callable[[Match], Matcher[H]]
) -> Matcher[H] | None:
    """None for a match without conditions, so that it costs one test."""
    return None if match == _ANY_MATCH else compile_match(match)
