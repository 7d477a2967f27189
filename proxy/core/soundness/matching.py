"""What tells requests apart: matches, and the values by which some belong together."""

from collections.abc import Mapping

from proxy.core.soundness import words
from proxy.core.soundness.finding import Findings, Wrong, at, judged, shown
from proxy.core.soundness.lists import at_most, each_of
from proxy.core.soundness.numbers import check_numbers
from proxy.model.routing import GrpcMatch, HashOn, Match, PathMatch, TextMatch

MAX_CONDITIONS = 64
"""Of one kind in one match."""
MAX_SOURCES = 1000
"""As many as there may be callers."""


def check_match(path: str, match: Match) -> Findings:
    if match.path is not None:
        rules: dict[str, words.Rule] = {
            "exact": words.path,
            "prefix": words.path,
            "template": words.template,
            "regex": words.regex,
        }
        yield from _one_of(f"{path}.path", match.path, rules)
    if match.grpc is not None:
        yield from _grpc(path, match, match.grpc)
    yield from each_of(f"{path}.methods", match.methods, words.method, MAX_CONDITIONS)
    yield from check_texts(f"{path}.headers", match.headers, words.header, words.header_value)
    yield from check_texts(f"{path}.query", match.query, _parameter, _argument)
    yield from each_of(f"{path}.authorities", match.authorities, words.authority, MAX_CONDITIONS)
    yield from each_of(f"{path}.sources", match.sources, words.service_name, MAX_SOURCES)


def _grpc(path: str, match: Match, grpc: GrpcMatch) -> Findings:
    yield from judged(f"{path}.grpc.service", words.grpc_name(grpc.service, "service"))
    if grpc.method:
        yield from judged(f"{path}.grpc.method", words.grpc_name(grpc.method, "method"))
    if match.path is not None:
        yield at(f"{path}.grpc", "it has path and grpc, which both name a path", "keep one of them")
    if match.methods:
        yield at(f"{path}.methods", "every call of gRPC is a POST", "remove it; see grpc.method")


def check_texts(
    path: str, matches: Mapping[str, TextMatch], rule: words.Rule, value: words.Rule
) -> Findings:
    yield from at_most(path, matches, MAX_CONDITIONS)
    rules: dict[str, words.Rule] = {
        "exact": value,
        "prefix": lambda text: value(text) if text else _EMPTY_PREFIX,
        "regex": words.regex,
        "present": _anything,
    }
    for name, match in matches.items():
        yield from judged(f"{path}.{name}", rule(name))
        yield from _one_of(f"{path}.{name}", match, rules)


def _one_of(path: str, match: PathMatch | TextMatch, rules: Mapping[str, words.Rule]) -> Findings:
    given = [key for key in rules if getattr(match, key) is not None]
    if len(given) != 1:
        what = f"it has {' and '.join(given)}" if given else "it has no condition"
        yield at(path, what, f"use exactly one of: {', '.join(rules)}")
    for key in given:
        yield from judged(f"{path}.{key}", rules[key](getattr(match, key)))


def check_hash(path: str, on: HashOn) -> Findings:
    given = [key for key in ("header", "cookie", "source") if getattr(on, key)]
    if len(given) != 1:
        what = f"it has {' and '.join(given)}" if given else "it says nothing to go by"
        yield at(path, what, "use exactly one of: header, cookie, source")
    if on.header:
        yield from judged(f"{path}.header", words.header(on.header))
    if on.cookie:
        yield from judged(f"{path}.cookie", words.cookie(on.cookie))
    elif on.ttl_s:
        yield at(f"{path}.ttl", "only a cookie has a ttl", "remove it")
    yield from check_numbers(path, on)


def _parameter(name: str) -> Wrong | None:
    if not 1 <= len(name) <= 128 or not name.isprintable():
        return Wrong(f"{shown(name)} is not a query parameter", "use its name as it is decoded")
    return None


def _argument(text: str) -> Wrong | None:
    if len(text) > 4096 or not (text.isprintable() or text.isspace()):
        return Wrong(f"{shown(text)} is not a value in a query", "write it as it is decoded")
    return None


_EMPTY_PREFIX = Wrong("every value begins with an empty prefix", "use 'present: true'")


def _anything(_: object) -> Wrong | None:
    return None
