"""A match taken apart into its conditions, so that the one that failed can be named.

Each is tried by the code that the proxies use for the whole.
"""

from collections.abc import Callable, Iterator

from meshctl.policy.explained import Unmet
from meshctl.policy.matching import MATCH
from proxy.core.routing import Head, Matcher, compile_match
from proxy.core.routing.conditions import first_parameters, header_value, host_of
from proxy.core.routing.paths import path_of
from proxy.model.names import ServiceName
from proxy.model.routing import Match

Test = Callable[[Head, ServiceName], bool]

_SECRET = frozenset(("authorization", "cookie", "proxy-authorization"))
_MAX_SHOWN = 100


class Asked:
    """The conditions of one match; ``compiled`` makes the test of one of them."""

    __slots__ = ("_whole", "parts")

    def __init__(self, match: Match, compiled: Callable[[Match], Test] | None = None) -> None:
        """Raises InvalidRegex; total on a sound policy."""
        make = compiled or _test
        self.parts = tuple((part, make(part)) for part in parts_of(match))
        self._whole = MATCH.show(match) if self.parts else ""

    @property
    def text(self) -> str:
        """As in ``mesh.yaml``; empty: it asks for nothing."""
        return self._whole

    def unmet(self, head: Head, caller: ServiceName) -> tuple[Unmet, ...]:
        return tuple(
            Unmet(wants=MATCH.show(part), has=found(part, head, caller))
            for part, test in self.parts
            if not test(head, caller)
        )

    def excludes(self, caller: ServiceName) -> bool:
        """Whatever the request: it is for other callers."""
        return any(part.sources and caller not in part.sources for part, _ in self.parts)

    def open_for(self, caller: ServiceName) -> bool:
        """Whatever the request: it holds for this caller."""
        return all(part.sources and caller in part.sources for part, _ in self.parts)


def parts_of(match: Match) -> Iterator[Match]:
    """One condition each; together they are ``match``."""
    if match.sources:
        yield Match(sources=match.sources)
    if match.path is not None:
        yield Match(path=match.path)
    if match.grpc is not None:
        yield Match(grpc=match.grpc)
    if match.methods:
        yield Match(methods=match.methods)
    if match.authorities:
        yield Match(authorities=match.authorities)
    for name, text in match.headers.items():
        yield Match(headers={name: text})
    for name, text in match.query.items():
        yield Match(query={name: text})


def found(part: Match, head: Head, caller: ServiceName) -> str:
    """What the request has where ``part`` looks."""
    if part.sources:
        return caller
    if part.asked_path is not None:
        return _shown(path_of(head.target))
    if part.methods:
        return _shown(head.method)
    if part.authorities:
        return _shown(host_of(head.authority) or None)
    for name in part.headers:
        value = header_value(head.lines, name.lower().encode() + b": ")
        if name.lower() == "host":
            value = head.authority
        return "one" if value is not None and name.lower() in _SECRET else _shown(value)
    for name in part.query:
        return _shown(first_parameters(head.target).get(b"?=" + name.encode()))
    return ""


def _shown(value: bytes | None) -> str:
    if value is None:
        return "none"
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _test(part: Match) -> Test:
    matcher: Matcher = compile_match(part)
    return matcher.matches
