import subprocess
import sys

import pytest

from proxy.core.routing import InvalidRegex, compile_match, compile_regex
from proxy.model.names import ServiceName
from proxy.model.routing import Match, PathMatch, TextMatch

WEB = ServiceName("web")


class Request:
    def __init__(
        self,
        target: bytes = b"/",
        *lines: bytes,
        method: bytes = b"GET",
        authority: bytes | None = b"api.mesh",
    ) -> None:
        self.method = method
        self.target = target
        self.authority = authority
        self.lines = list(lines)


def matches(match: Match, request: Request, source: ServiceName = WEB) -> bool:
    return compile_match(match).matches(request, source)


@pytest.mark.parametrize(
    ("path", "yes", "no"),
    [
        (PathMatch(exact="/a"), "/a /a?x=1 /%61 //a /b/../a /a;v=1", "/ /a/ /A /a/b /ab *"),
        (PathMatch(exact="/a b/é"), "/a%20b/%c3%a9", "/a+b/%c3%a9"),
        (PathMatch(exact="/100%"), "/100%25 /100%", "/100"),
        (PathMatch(exact="/a%2fb"), "/a%2Fb /a%2fb", "/a/b"),
        (PathMatch(prefix="/v1"), "/v1 /v1/ /v1/x /v1?x /x/../v1/y", "/ /v10 /v /x/v1 /v1/../x *"),
        (PathMatch(prefix="/v1/"), "/v1 /v1/ /v1/x", "/v10 /"),
        (PathMatch(prefix="/"), "/ /a //", "*"),
        (
            PathMatch(template="/users/{id}/orders/*"),
            "/users/7/orders/8 /users/a%2Fb/orders/x /users/../users/7/orders/8",
            "/users/7/orders /users/7/orders/ /users//orders/8 /users/7/orders/8/ "
            "/users/7/orders/8/9",
        ),
        (PathMatch(template="/files/**"), "/files /files/ /files/a /files/a/b", "/file / /filesx"),
        (PathMatch(template="/{a}/x/**"), "/1/x /1/x/y", "/x /1/y /1"),
        (PathMatch(template="/{a}/"), "/1/", "/1 / /1/2"),
        (PathMatch(template="//a//{x}"), "/a/1", "/a /a/1/"),
        (PathMatch(template="/**"), "/ /a/b", "*"),
        (PathMatch(regex="/v[0-9]+/.*"), "/v1/ /v22/x/y /x/../v3/z", "/v/ /xv1/ /v1 /V1/"),
        (PathMatch(regex="/a|/ab"), "/a /ab", "/abc"),
    ],
)
def test_a_path_is_matched_in_its_normal_form(path: PathMatch, yes: str, no: str) -> None:
    match = compile_match(Match(path=path))

    assert [one for one in yes.split() if not match.matches(Request(one.encode()), WEB)] == []
    assert [one for one in no.split() if match.matches(Request(one.encode()), WEB)] == []


@pytest.mark.parametrize(
    ("text", "lines", "is_match"),
    [
        (TextMatch(exact="1"), [b"x-a: 1"], True),
        (TextMatch(exact="1"), [b"x-a: 12"], False),
        (TextMatch(exact="1"), [], False),
        (TextMatch(exact=""), [b"x-a: "], True),
        (TextMatch(exact=""), [], False),
        (TextMatch(exact="1, 2"), [b"x-a: 1", b"x-b: 3", b"x-a: 2"], True),
        (TextMatch(exact="1"), [b"x-a: 1", b"x-a: 2"], False),
        (TextMatch(exact="é"), ["x-a: é".encode()], True),
        (TextMatch(prefix="ab"), [b"x-a: abc"], True),
        (TextMatch(prefix="ab"), [b"x-a: cab"], False),
        (TextMatch(prefix=""), [], False),
        (TextMatch(regex="a.c"), [b"x-a: a\xffc"], True),
        (TextMatch(regex="a.c"), [b"x-a: abcd"], False),
        (TextMatch(regex="(?i)ABC"), [b"x-a: abc"], True),
        (TextMatch(regex=".*"), [], False),
        (TextMatch(present=True), [b"x-a: "], True),
        (TextMatch(present=True), [b"x-ab: 1"], False),
        (TextMatch(present=False), [b"x-ab: 1"], True),
        (TextMatch(present=False), [b"x-a: "], False),
    ],
)
def test_a_header_is_matched_as_one_value(
    text: TextMatch, lines: list[bytes], is_match: bool
) -> None:
    assert matches(Match(headers={"x-a": text}), Request(b"/", *lines)) is is_match


def test_cookies_are_joined_as_cookies_and_host_is_the_authority() -> None:
    request = Request(b"/", b"cookie: a=1", b"cookie: b=2")

    assert matches(Match(headers={"cookie": TextMatch(exact="a=1; b=2")}), request)
    assert matches(Match(headers={"host": TextMatch(exact="api.mesh")}), request)


@pytest.mark.parametrize(
    ("text", "query", "is_match"),
    [
        (TextMatch(exact="1"), b"?a=1", True),
        (TextMatch(exact="1"), b"?b=2&a=1&c", True),
        (TextMatch(exact="1"), b"?a=1&a=2", True),
        (TextMatch(exact="2"), b"?a=1&a=2", False),
        (TextMatch(exact="1"), b"", False),
        (TextMatch(exact="x y"), b"?a=x%20y", True),
        (TextMatch(exact="x y"), b"?%61=x+y", True),
        (TextMatch(exact="x y"), b"?a=x+y", True),
        (TextMatch(exact="x=y?z"), b"?a=x=y?z", True),
        (TextMatch(exact="%zz"), b"?a=%zz", True),
        (TextMatch(exact="é"), b"?a=%C3%a9", True),
        (TextMatch(exact=""), b"?a", True),
        (TextMatch(prefix="ab"), b"?a=abc", True),
        (TextMatch(prefix="ab"), b"?a=a", False),
        (TextMatch(regex="[0-9]+"), b"?a=123", True),
        (TextMatch(regex="[0-9]+"), b"?a=123x", False),
        (TextMatch(present=True), b"?&&a=", True),
        (TextMatch(present=True), b"?aa=1&b=a", False),
        (TextMatch(present=False), b"?", True),
        (TextMatch(present=False), b"?%61", False),
    ],
)
def test_a_parameter_is_matched_by_its_first_value_decoded(
    text: TextMatch, query: bytes, is_match: bool
) -> None:
    assert matches(Match(query={"a": text}), Request(b"/" + query)) is is_match


@pytest.mark.parametrize(
    ("wanted", "authority", "is_match"),
    [
        ("api.mesh", b"api.mesh", True),
        ("api.mesh", b"API.Mesh:8080", True),
        ("api.mesh", b"api.mesh.", True),
        ("api.mesh", b"xapi.mesh", False),
        ("api.mesh", None, False),
        ("*.example.com", b"a.example.com", True),
        ("*.example.com", b"a.b.Example.com:80", True),
        ("*.example.com", b"example.com", False),
        ("*.example.com", b".example.com", False),
        ("*.example.com", b"xexample.com", False),
        ("[::1]", b"[::1]:80", True),
        ("[::1]", b"[::2]", False),
    ],
)
def test_an_authority_is_matched_by_its_host(
    wanted: str, authority: bytes | None, is_match: bool
) -> None:
    assert matches(Match(authorities=(wanted,)), Request(authority=authority)) is is_match


def test_methods_and_sources_are_sets() -> None:
    assert matches(Match(methods=("GET", "PUT")), Request(method=b"PUT"))
    assert not matches(Match(methods=("GET",)), Request(method=b"get"))
    assert matches(Match(sources=(ServiceName("mob"), WEB)), Request())
    assert not matches(Match(sources=(ServiceName("mob"),)), Request())


def test_all_conditions_are_needed_and_none_is_a_match() -> None:
    both = Match(
        methods=("GET",), headers={"a": TextMatch(exact="1")}, query={"b": TextMatch(present=True)}
    )

    assert matches(Match(), Request())
    assert matches(both, Request(b"/?b", b"a: 1"))
    assert not matches(both, Request(b"/", b"a: 1"))
    assert not matches(both, Request(b"/?b"))
    assert not matches(both, Request(b"/?b", b"a: 1", method=b"PUT"))


@pytest.mark.parametrize(
    "pattern", ["(", r"(a)\1", "(?=a)", "a{1001}", "é", "a" * 1025, "(a{100}){20}", "[^/]{999}b{9}"]
)
def test_a_regular_expression_that_could_be_slow_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRegex):
        compile_regex(pattern)


def test_a_regular_expression_takes_time_linear_in_the_text() -> None:
    matches_all = compile_regex("(a*)*b")

    assert matches_all(b"a" * 50_000) is None
    assert matches_all(b"a" * 50_000 + b"b") is not None


def test_re2_is_loaded_only_for_a_policy_that_needs_it() -> None:
    code = """
import sys
from proxy.core import routing
from proxy.model.routing import Match, PathMatch
routing.compile_match(Match(path=PathMatch(template="/a/*")))
assert "re2" not in sys.modules
routing.compile_match(Match(path=PathMatch(regex="/a")))
assert "re2" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
