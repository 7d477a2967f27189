"""Intentions out of what proxies have seen: for each service the least that allows all of it.

What comes out is text for people to look at, as a fragment of ``mesh.yaml``: whoever watches for a
minute has not seen what happens once a month.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.core.soundness import words
from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.observed import AMBIGUOUS, SeenCall
from proxy.model.routing import Match, PathMatch

MAX_VALUES: Final = 20
"""More than so many different segments in one place are taken for ids."""
_MAX_NAME: Final = 50
_MAX_TOLD: Final = 20

_Segments = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """One intention, and how many calls it is made of."""

    intention: Intention
    count: int


def learn(calls: Iterable[SeenCall]) -> dict[ServiceName, tuple[Learned, ...]]:
    """For each service of which calls were allowed. What was denied makes no intention."""
    by_service: dict[ServiceName, list[SeenCall]] = {}
    for call in calls:
        if call.allowed and _is_writable(call):
            by_service.setdefault(call.service, []).append(call)
    return {name: tuple(_service(by_service[name])) for name in sorted(by_service)}


def _is_writable(call: SeenCall) -> bool:
    if not call.method:
        return True
    return words.method(call.method) is None and call.path.startswith("/")


def _service(calls: Sequence[SeenCall]) -> Iterator[Learned]:
    sessions = [call for call in calls if not call.method]
    names: set[str] = set()
    if sessions:
        callers = tuple(sorted({call.caller for call in sessions}))
        made = Intention(name=_name("callers", names), allow=callers)
        yield Learned(intention=made, count=sum(call.allowed for call in sessions))
    requests = [(_segments(call.path), call) for call in calls if call.method]
    shapes = _collapsed({segments for segments, _ in requests})
    seen: dict[_Segments, dict[ServiceName, dict[str, int]]] = {}
    for segments, call in requests:
        methods = seen.setdefault(shapes[segments], {}).setdefault(call.caller, {})
        methods[call.method] = methods.get(call.method, 0) + call.allowed
    for shape in sorted(seen):
        alike: dict[tuple[str, ...], list[ServiceName]] = {}
        for caller, methods in sorted(seen[shape].items()):
            alike.setdefault(tuple(sorted(methods)), []).append(caller)
        for methods_, callers_ in sorted(alike.items()):
            match = Match(path=_path(shape), methods=methods_)
            title = "-".join((*map(str.lower, methods_), *(_word(each) for each in shape)))
            made = Intention(name=_name(title, names), allow=tuple(callers_), match=match)
            count = sum(sum(seen[shape][caller].values()) for caller in callers_)
            yield Learned(intention=made, count=count)


def _segments(path: str) -> _Segments:
    return tuple(path[1:].split("/"))


def _collapsed(paths: set[_Segments]) -> Mapping[_Segments, _Segments]:
    """Each with ``*`` where there are too many different segments after the same beginning."""
    found = {path: path for path in paths}
    for depth in range(max(map(len, paths), default=0)):
        below: dict[tuple[_Segments, int], set[str]] = {}
        for shape in found.values():
            if depth < len(shape) and shape[depth] != "**":
                # Of one length: a collection and what is under it are different things.
                below.setdefault((shape[:depth], len(shape)), set()).add(shape[depth])
        for path, shape in found.items():
            values = below.get((shape[:depth], len(shape)), ()) if depth < len(shape) else ()
            if len(values) > MAX_VALUES and shape[depth] != "**":
                found[path] = (*shape[:depth], "*", *shape[depth + 1 :])
    return found


def _path(shape: _Segments) -> PathMatch:
    if {"*", "**"}.isdisjoint(shape):
        return PathMatch(exact="/" + "/".join(shape))
    # A template has a meaning of its own for some characters.
    plain = (each if {"{", "}", "*"}.isdisjoint(each.strip("*")) else "*" for each in shape)
    return PathMatch(template="/" + "/".join(plain))


def _word(segment: str) -> str:
    return {"*": "any", "**": "all"}.get(segment, segment)


def _name(title: str, taken: set[str]) -> str:
    """Unique among ``taken``, and one that mesh.yaml takes."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")[:_MAX_NAME].strip("-") or "root"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    taken.add(name)
    return name


def fragment(calls: Sequence[SeenCall], *, seconds: float, left_out: int = 0) -> str:
    """``mesh.yaml`` with the intentions learned, and remarks for whoever looks them through."""
    return "\n".join(_lines(calls, seconds, left_out)) + "\n"


def _lines(calls: Sequence[SeenCall], seconds: float, left_out: int) -> Iterator[str]:
    learned = learn(calls)
    yield f"# Seen within {seconds:g} s. What is rare may be missing: look it through."
    yield "# `audit: true` on an intention tries it without effect; see docs/authorization.md."
    if left_out:
        yield f"# INCOMPLETE: {left_out} calls were of too many different kinds to be counted."
    yield from _denied(calls)
    yield from _odd(calls)
    yield "version: 1"
    yield "services:" if learned else "services: {}"
    for service, intentions in learned.items():
        yield f"  {service}:"
        yield "    intentions:"
        for each in intentions:
            noun = "call" if each.count == 1 else "calls"
            yield f"      - name: {each.intention.name}   # {each.count} {noun}"
            yield f"        allow: [{', '.join(each.intention.allow)}]"
            match = each.intention.match
            if match.path is not None:
                key = "exact" if match.path.exact is not None else "template"
                text = json.dumps(getattr(match.path, key))
                yield (
                    f"        match: {{path: {{{key}: {text}}}, "
                    f"methods: [{', '.join(match.methods)}]}}"
                )


def _denied(calls: Sequence[SeenCall]) -> Iterator[str]:
    found = sorted((each for each in calls if each.denied), key=lambda each: -each.denied)
    if found:
        yield "# Denied already, and not allowed below unless it was allowed as well:"
    for each in found[:_MAX_TOLD]:
        what = f"{each.method} {each.path}" if each.method else "tcp"
        yield f"#   {each.denied} x {each.caller} -> {each.service} {what} ({each.policy})"
    if len(found) > _MAX_TOLD:
        yield f"#   and {len(found) - _MAX_TOLD} more kinds"


def _odd(calls: Sequence[SeenCall]) -> Iterator[str]:
    count = sum(each.allowed for each in calls if each.path == AMBIGUOUS)
    if count:
        yield f"# {count} calls had paths that applications may read in different ways: refused"
        yield "# as soon as an intention looks at paths."
    others = [each for each in calls if each.allowed and not _is_writable(each)]
    for each in others[:_MAX_TOLD]:
        if each.path != AMBIGUOUS:
            what = f"{each.method} {each.path}"
            yield f"# Not below, as no intention can name it: {each.caller} {what}"
