"""The conditions of a match, each compiled to one function, the cheap ones first.

What a request's header or query says is looked up once, whatever the number of routes that ask:
``seen`` is a dictionary that lives as long as one search, with a header under ``name: ``, a
parameter under ``?=name``, and ``?`` when the query has been read.
"""

from collections.abc import Callable
from typing import Protocol

from proxy.core.routing.paths import decode
from proxy.core.routing.regex import compile_regex
from proxy.model.names import ServiceName
from proxy.model.routing import Match, TextMatch


class Head(Protocol):
    """Of a request, in the terms of no particular HTTP version."""

    method: bytes
    target: bytes
    authority: bytes | None
    lines: list[bytes]
    """``name: value``, the name in lower case; without the host."""


Seen = dict[bytes, bytes | None]
Condition = Callable[[Head, ServiceName, Seen], bool]
_Test = Callable[[bytes | None], bool]

_QUERY_READ = b"?"


def compile_conditions(match: Match) -> tuple[Condition, ...]:
    """All of ``match`` but the path. Empty: nothing else is asked."""
    made: list[Condition] = []
    if match.methods:
        made.append(_method(frozenset(one.encode() for one in match.methods)))
    if match.sources:
        made.append(_source(frozenset(match.sources)))
    if match.authorities and "*" not in match.authorities:
        made.append(_authority(match.authorities))
    made += [_header(name.lower().encode(), one) for name, one in match.headers.items()]
    made += [_parameter(name.encode(), one) for name, one in match.query.items()]
    return tuple(made)


def header_value(lines: list[bytes], start: bytes) -> bytes | None:
    """``start``: ``name: ``. Repeated lines are joined as in RFC 9110, section 5.3."""
    value: bytes | None = None
    for line in lines:
        if line.startswith(start):
            if value is None:
                value = line[len(start) :]
            else:
                # RFC 6265, section 5.4: a cookie is divided by semicolons.
                value += (b"; " if start == b"cookie: " else b", ") + line[len(start) :]
    return value


def host_of(authority: bytes | None) -> bytes:
    """Without port and final dot, in lower case; empty if there is none."""
    if not authority:
        return b""
    if authority.startswith(b"["):
        return authority.partition(b"]")[0].lower() + b"]"
    return authority.partition(b":")[0].lower().removesuffix(b".")


def first_parameters(target: bytes) -> Seen:
    """The first value of each parameter by its name, both decoded as an HTML form's."""
    found: Seen = {_QUERY_READ: None}
    query = target.partition(b"?")[2]
    is_plain = b"%" not in query and b"+" not in query
    for piece in query.split(b"&"):
        if piece:
            name, _, value = piece.partition(b"=")
            if not is_plain:
                name = decode(name.replace(b"+", b" "))
                value = decode(value.replace(b"+", b" "))
            found.setdefault(b"?=" + name, value)
    return found


def _method(methods: frozenset[bytes]) -> Condition:
    return lambda head, source, seen: head.method in methods


def _source(sources: frozenset[ServiceName]) -> Condition:
    return lambda head, source, seen: source in sources


def _authority(authorities: tuple[str, ...]) -> Condition:
    names = [one.lower().encode() for one in authorities]
    exact = frozenset(one for one in names if not one.startswith(b"*."))
    below = tuple(one[1:] for one in names if one.startswith(b"*."))

    def condition(head: Head, source: ServiceName, seen: Seen) -> bool:
        host = host_of(head.authority)
        return host in exact or (host.endswith(below) and not host.startswith(b"."))

    return condition


def _header(name: bytes, match: TextMatch) -> Condition:
    test = compile_text(match)
    if name == b"host":
        return lambda head, source, seen: test(head.authority)
    start = name + b": "

    def condition(head: Head, source: ServiceName, seen: Seen) -> bool:
        if start in seen:
            return test(seen[start])
        value = seen[start] = header_value(head.lines, start)
        return test(value)

    return condition


def _parameter(name: bytes, match: TextMatch) -> Condition:
    test = compile_text(match)
    key = b"?=" + name

    def condition(head: Head, source: ServiceName, seen: Seen) -> bool:
        if _QUERY_READ not in seen:
            seen.update(first_parameters(head.target))
        return test(seen.get(key))

    return condition


def compile_text(match: TextMatch) -> _Test:
    """A value, or None where there is none, to whether the condition holds."""
    if match.exact is not None:
        exact = match.exact.encode()
        return lambda value: value == exact
    if match.prefix is not None:
        prefix = match.prefix.encode()
        return lambda value: value is not None and value.startswith(prefix)
    if match.regex is not None:
        matches = compile_regex(match.regex)
        return lambda value: value is not None and matches(value) is not None
    if match.present is False:
        return lambda value: value is None
    return lambda value: value is not None
