"""The router against a naive reference, which knows nothing of its index, parser or normal form."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.routing import CompiledRoute, Router, compile_match, compile_routes
from proxy.model.names import ServiceName
from proxy.model.policy import Route
from proxy.model.routing import Match, PathMatch, TextMatch

API = ServiceName("api")
WEB = ServiceName("web")
MOB = ServiceName("mob")


@dataclass(kw_only=True)
class Request:
    target: bytes = b"/"
    method: bytes = b"GET"
    authority: bytes | None = b"api.mesh"
    lines: list[bytes] = field(default_factory=list)


def routes(*matches: Match) -> Router:
    return compile_routes(API, [Route(name=f"r{n}", match=one) for n, one in enumerate(matches)])


def path(**kind: str) -> Match:
    return Match(path=PathMatch(**kind))


def index(found: CompiledRoute | None) -> int | None:
    return None if found is None else found.index


def test_a_service_without_routes_finds_none() -> None:
    router = compile_routes(API, ())

    assert router.routes == ()
    assert router.find(Request(), WEB) is None


@pytest.mark.parametrize(
    ("matches", "target", "expected"),
    [
        ([path(exact="/a"), path(prefix="/"), Match()], b"/a", 0),
        ([path(prefix="/"), path(exact="/a"), Match()], b"/a", 0),
        ([Match(), path(exact="/a")], b"/a", 0),
        ([path(exact="/b"), Match(), path(exact="/a")], b"/a", 1),
        ([path(regex="/."), path(exact="/a")], b"/a", 0),
        ([path(exact="/a"), path(regex="/.")], b"/a", 0),
        ([path(template="/{x}/b"), path(template="/a/b")], b"/a/b", 0),
        ([path(template="/a/b"), path(template="/{x}/b")], b"/a/b", 0),
        ([path(template="/a/c"), path(template="/{x}/b")], b"/a/b", 1),
        ([path(template="/a/{y}/c"), path(template="/{x}/b/**")], b"/a/b/d", 1),
        ([path(template="/{x}/b/c/d"), path(prefix="/a")], b"/a/b/c/d", 0),
        ([path(prefix="/a/b"), path(prefix="/a"), path(prefix="/a/b")], b"/a/b/c", 0),
        ([path(prefix="/a"), path(prefix="/a/b")], b"/a/b/c", 0),
        ([path(prefix="/a/b"), path(prefix="/a")], b"/a/c", 1),
        ([path(exact="/a"), path(exact="/a")], b"/a", 0),
        ([path(exact="/a"), path(prefix="/b")], b"/c", None),
        ([path(prefix="/a"), path(template="/**"), path(regex=".*")], b"*", 2),
    ],
)
def test_the_first_route_that_matches_wins(
    matches: Sequence[Match], target: bytes, expected: int | None
) -> None:
    assert index(routes(*matches).find(Request(target=target), WEB)) == expected


def test_a_route_whose_other_conditions_fail_gives_way_to_the_next() -> None:
    router = routes(
        Match(path=PathMatch(exact="/a"), methods=("PUT",)),
        Match(path=PathMatch(exact="/a"), headers={"x": TextMatch(exact="1")}),
        Match(path=PathMatch(prefix="/a"), sources=(MOB,)),
        path(exact="/a"),
    )

    assert index(router.find(Request(target=b"/a", method=b"PUT"), WEB)) == 0
    assert index(router.find(Request(target=b"/a", lines=[b"x: 1"]), WEB)) == 1
    assert index(router.find(Request(target=b"/a"), MOB)) == 2
    assert index(router.find(Request(target=b"/a"), WEB)) == 3


def test_a_large_table_tests_only_routes_of_the_path() -> None:
    tested = 0
    router = routes(
        *(path(exact=f"/e{n}") for n in range(500)),
        *(path(prefix=f"/p{n}/x") for n in range(500)),
        *(path(template=f"/{{any}}/t{n}") for n in range(500)),
    )
    for one in router.routes:

        def count(head: object, source: object, seen: object) -> bool:
            nonlocal tested
            tested += 1
            return True

        one.conditions = (count,)

    assert index(router.find(Request(target=b"/e499"), WEB)) == 499
    assert index(router.find(Request(target=b"/p499/x/y"), WEB)) == 999
    assert index(router.find(Request(target=b"/z/t499"), WEB)) == 1499
    assert tested == 3


def test_a_path_deeper_than_every_route_is_not_taken_apart() -> None:
    router = routes(path(prefix="/a/b"), path(template="/{x}/{y}/**"))

    assert index(router.find(Request(target=b"/a/b" + b"/c" * 10_000), WEB)) == 0
    assert index(router.find(Request(target=b"/b/b" + b"/c" * 10_000), WEB)) == 1


# What follows is the reference: one route after the other, by means of the standard library.

ESCAPES = {"%61": "a", "%2e": ".", "%2E": "."}


def plain_path(target: str) -> str:
    text = target.split("?", maxsplit=1)[0]
    for escape, char in ESCAPES.items():
        text = text.replace(escape, char)
    text = re.sub("/+", "/", re.sub(r";[^/]*", "", text)).replace("%2f", "%2F")
    while (shorter := re.sub(r"/\.(/|$)", "/", text)) != text:
        text = shorter
    while (shorter := re.sub(r"^/\.\.(/|$)|/(?!\.\.(?:/|$))[^/]+/\.\.(/|$)", "/", text)) != text:
        text = shorter
    return text


def text_holds(wanted: TextMatch, value: str | None) -> bool:
    if wanted.present is not None:
        return (value is not None) == wanted.present
    if value is None:
        return False
    if wanted.exact is not None:
        return value == wanted.exact
    if wanted.prefix is not None:
        return value[: len(wanted.prefix)] == wanted.prefix
    assert wanted.regex is not None
    return re.fullmatch(wanted.regex, value) is not None


def path_holds(wanted: PathMatch, text: str) -> bool:
    if wanted.exact is not None:
        return text == wanted.exact
    if wanted.prefix is not None:
        return (text + "/").startswith(wanted.prefix.rstrip("/") + "/")
    if wanted.template is not None:
        pattern = re.sub(r"\{[a-z]+\}|\*\*|\*", "<>", re.sub(r"/\*\*$", "<rest>", wanted.template))
        pattern = re.escape(pattern).replace("<>", "[^/]+").replace("<rest>", "(/.*)?")
        return re.fullmatch(pattern, text) is not None
    assert wanted.regex is not None
    return re.fullmatch(wanted.regex, text) is not None


def holds(match: Match, request: Request, source: ServiceName) -> bool:
    target = request.target.decode()
    fields: dict[str, str] = {}
    for line in request.lines:
        name, value = line.decode().split(": ", 1)
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    query: dict[str, str] = {}
    for name, value in parse_qsl(urlsplit("http://x" + target).query, keep_blank_values=True):
        query.setdefault(name, value)
    authority = (request.authority or b"").decode()
    host = (urlsplit("//" + authority).hostname or "").removesuffix(".")
    return (
        (match.path is None or path_holds(match.path, plain_path(target)))
        and (not match.methods or request.method.decode() in match.methods)
        and (not match.sources or source in match.sources)
        and all(text_holds(one, fields.get(name)) for name, one in match.headers.items())
        and all(text_holds(one, query.get(name)) for name, one in match.query.items())
        and (
            not match.authorities
            or any(
                host.endswith(one[1:]) if one[0] == "*" else host == one
                for one in match.authorities
            )
        )
    )


names = st.sampled_from(["a", "b"])
texts = st.one_of(
    st.builds(TextMatch, exact=st.sampled_from(["1", "2", "", "1, 2"])),
    st.builds(TextMatch, prefix=st.sampled_from(["1", ""])),
    st.builds(TextMatch, regex=st.sampled_from(["[12]", "1.*", ".+"])),
    st.builds(TextMatch, present=st.booleans()),
)
literals = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3).map(lambda p: "/" + "/".join(p))
templates = st.tuples(
    st.lists(st.sampled_from(["a", "b", "*", "{x}"]), min_size=1, max_size=3),
    st.sampled_from(["", "", "/", "/**"]),
).map(lambda made: "/" + "/".join(made[0]) + made[1])
paths = st.one_of(
    st.builds(PathMatch, exact=literals),
    st.builds(
        PathMatch, prefix=st.one_of(literals, literals.map(lambda one: one.rstrip("/") + "/"))
    ),
    st.builds(PathMatch, template=templates),
    st.builds(PathMatch, regex=st.sampled_from(["/a/?.*", "/[ab]+", ".*/b", "/a|/ab"])),
)
matches = st.builds(
    Match,
    path=st.one_of(paths, paths, paths, st.none()),
    methods=st.sampled_from([(), (), (), ("GET",), ("GET", "PUT")]),
    headers=st.one_of(st.just({}), st.just({}), st.dictionaries(names, texts, max_size=2)),
    query=st.one_of(st.just({}), st.just({}), st.dictionaries(names, texts, max_size=2)),
    authorities=st.sampled_from([(), (), (), ("x.y",), ("*.y", "z")]),
    sources=st.sampled_from([(), (), (), (WEB,)]),
)
segments = st.sampled_from(
    ["a", "a", "b", "b", "ab", "", ".", "..", "%61", "a;b", "%2E%2e", "a%2fb"]
)
queries = st.lists(
    st.sampled_from(["a=1", "a=2", "b=1", "b", "a=", "%61=%31", "b=1,+2", ""]), max_size=3
).map("&".join)
requests = st.builds(
    Request,
    target=st.tuples(
        st.lists(segments, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)),
        st.one_of(st.just(""), queries.map(lambda query: "?" + query)),
    ).map(lambda made: "".join(made).encode()),
    method=st.sampled_from([b"GET", b"PUT"]),
    authority=st.sampled_from([b"x.y", b"X.Y:80", b"x.y.", b"z", b"y", None]),
    lines=st.lists(st.sampled_from([b"a: 1", b"a: 2", b"b: 1", b"b: ", b"ab: 1"]), max_size=3),
)


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(matches, min_size=1, max_size=8),
    st.lists(requests, min_size=1, max_size=4),
    st.sampled_from([WEB, MOB]),
)
def test_the_router_finds_what_a_naive_reference_finds(
    table: list[Match], asked: list[Request], source: ServiceName
) -> None:
    router = routes(*table)
    for request in asked:
        holding = [n for n, match in enumerate(table) if holds(match, request, source)]

        assert index(router.find(request, source)) == (holding[0] if holding else None)
        assert [
            n for n, match in enumerate(table) if compile_match(match).matches(request, source)
        ] == holding
