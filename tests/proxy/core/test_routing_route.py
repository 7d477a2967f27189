from collections import Counter
from random import Random

import pytest

from proxy.core.routing import CompiledRoute, compile_hash, compile_routes, hash_value
from proxy.model.names import ServiceName
from proxy.model.policy import Route
from proxy.model.routing import (
    Destination,
    HashOn,
    HeaderChanges,
    Match,
    PathMatch,
    Redirect,
    Rewrite,
)

API = ServiceName("api")


class Request:
    def __init__(
        self, target: bytes = b"/", *lines: bytes, authority: bytes | None = b"api.mesh"
    ) -> None:
        self.method = b"GET"
        self.target = target
        self.authority = authority
        self.lines = list(lines)


def compiled(route: Route) -> CompiledRoute:
    return compile_routes(API, (route,)).routes[0]


def split(*weights: int, sticky: HashOn | None = None) -> CompiledRoute:
    to = tuple(Destination(subset=f"s{n}", weight=one) for n, one in enumerate(weights))
    return compiled(Route(name="split", to=to, sticky=sticky))


def rewritten(path: PathMatch | None, to: str, target: bytes) -> bytes:
    route = compiled(Route(name="r", match=Match(path=path), rewrite=Rewrite(path=to)))
    request = Request(target)
    route.change_request(request)
    return request.target


def test_a_route_without_a_choice_needs_no_random_number() -> None:
    class NoRandom(Random):
        def random(self) -> float:
            raise AssertionError

    assert split().choose(Request(), b"c", NoRandom()) == (0, None)
    assert split(5, sticky=HashOn(cookie="c")).choose(Request(), b"c", NoRandom()) == (0, None)


@pytest.mark.parametrize("sticky", [None, HashOn(header="x-user"), HashOn(source=True)])
@pytest.mark.parametrize("weights", [(90, 10), (1, 1, 2), (0, 3, 0, 1), (100, 0)])
def test_shares_are_as_the_weights_say(weights: tuple[int, ...], sticky: HashOn | None) -> None:
    route = split(*weights, sticky=sticky)
    rng = Random(7)
    count = 20_000

    chosen = Counter(
        route.choose(Request(b"/", b"x-user: %d" % n), b"10.0.0.%d" % n, rng)[0]
        for n in range(count)
    )

    for place, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(chosen[place] / count - share) < 0.015
        assert weight or not chosen[place]


def test_equal_values_get_the_same_destination_in_each_process() -> None:
    route = split(50, 50, sticky=HashOn(header="x-user"))

    seen = [
        route.choose(Request(b"/", b"x-user: %d" % n), b"", Random(seed))[0]
        for n in range(12)
        for seed in (1, 2)
    ]

    assert seen[::2] == seen[1::2]
    assert seen[::2] == [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0]


def test_a_shift_of_weights_moves_no_more_values_than_it_must() -> None:
    on = HashOn(header="x-user")
    before, after = split(90, 10, sticky=on), split(80, 20, sticky=on)
    moved = Counter(
        (
            before.choose(Request(b"/", b"x-user: %d" % n), b"", Random(0))[0],
            after.choose(Request(b"/", b"x-user: %d" % n), b"", Random(0))[0],
        )
        for n in range(20_000)
    )

    assert moved[(1, 0)] == 0
    assert 0.09 < moved[(0, 1)] / 20_000 < 0.11


def test_a_destination_sees_the_whole_range_of_the_hash_it_was_chosen_by() -> None:
    on = HashOn(header="x-user")
    route = split(90, 10, sticky=on)
    requests = [Request(b"/", b"x-user: %d" % n) for n in range(20_000)]

    values = [
        hash_value(on, one, b"", Random(0))[0]
        for one in requests
        if route.choose(one, b"", Random(0))[0] == 1
    ]

    eighths = Counter(value >> 61 for value in values)
    assert all(abs(eighths[part] / len(values) - 1 / 8) < 0.03 for part in range(8))


def test_a_client_without_the_cookie_gets_one_that_leads_to_the_same_destination() -> None:
    route = split(50, 50, sticky=HashOn(cookie="canary", ttl_s=3600))
    rng = Random(3)
    for _ in range(50):
        place, line = route.choose(Request(b"/", b"cookie: canary=; other=1"), b"c", rng)
        assert line is not None
        assert line.startswith(b"set-cookie: canary=")
        value, *attributes = line.removeprefix(b"set-cookie: ").split(b"; ")
        assert attributes == [b"Path=/", b"HttpOnly", b"Max-Age=3600"]

        again = Request(b"/", b"cookie: x=canary=9; " + value + b"; y=1")
        assert route.choose(again, b"d", rng) == (place, None)


def test_a_cookie_without_a_ttl_ends_with_the_session() -> None:
    _, line = hash_value(HashOn(cookie="c"), Request(), b"", Random(1))

    assert line is not None
    assert line.endswith(b"; Path=/; HttpOnly")


@pytest.mark.parametrize(
    ("on", "lines", "client", "same_as"),
    [
        (HashOn(header="X-User"), [b"x-user: 7"], b"", b"7"),
        (HashOn(header="x-user"), [b"x-user: 7", b"x-user: 8"], b"", b"7, 8"),
        (HashOn(cookie="c"), [b"cookie: a=1; c=7"], b"", b"7"),
        (HashOn(cookie="c"), [b"cookie: a=1", b"cookie: c=7;c=8"], b"", b"7"),
        (HashOn(header="host"), [], b"", b"api.mesh"),
        (HashOn(source=True), [], b"10.0.0.1", b"10.0.0.1"),
    ],
)
def test_a_hash_is_of_the_value_and_of_nothing_else(
    on: HashOn, lines: list[bytes], client: bytes, same_as: bytes
) -> None:
    value, line = compile_hash(on)(Request(b"/", *lines), client, Random(1))

    assert (value, line) == hash_value(HashOn(source=True), Request(), same_as, Random(2))
    assert 0 <= value < 1 << 64


def test_a_hash_is_stable_over_releases() -> None:
    assert hash_value(HashOn(source=True), Request(), b"10.0.0.1", Random())[0] == B2SUM_L_64


B2SUM_L_64 = 0x538EF646E14D03E6


def test_requests_without_the_header_are_spread() -> None:
    rng = Random(1)
    on = HashOn(header="x-user")

    values = {hash_value(on, Request(), b"same", rng)[0] for _ in range(10)}

    assert len(values) == 10


@pytest.mark.parametrize(
    ("prefix", "to", "target", "result"),
    [
        ("/v1", "/v2", b"/v1/x?a=/v1", b"/v2/x?a=/v1"),
        ("/v1", "/v2", b"/v1", b"/v2"),
        ("/v1", "/v2", b"/v1/", b"/v2/"),
        ("/v1", "/", b"/v1/x", b"/x"),
        ("/v1", "/", b"/v1", b"/"),
        ("/v1", "/", b"/v1?q", b"/?q"),
        ("/v1/", "/v2/", b"/v1/x", b"/v2/x"),
        ("/v1/", "/v2/", b"/v1", b"/v2"),
        ("/", "/v2", b"/x", b"/v2/x"),
        ("/", "/v2", b"/", b"/v2/"),
        ("/a/b", "/c", b"/a/b/d%2Fe", b"/c/d%2Fe"),
        ("/v1", "/", b"/v1//evil.example/x", b"/evil.example/x"),
        ("/v1", "/v2", b"/x/../%761//y/", b"/v2/y/"),
    ],
)
def test_a_prefix_is_replaced_by_whole_segments(
    prefix: str, to: str, target: bytes, result: bytes
) -> None:
    assert rewritten(PathMatch(prefix=prefix), to, target) == result


@pytest.mark.parametrize(
    ("path", "to", "target", "result"),
    [
        (None, "/new", b"/a/b?q=1", b"/new?q=1"),
        (PathMatch(exact="/a"), "/new", b"/a", b"/new"),
        (PathMatch(regex="/.*"), "/n{x}", b"/a", b"/n{x}"),
        (PathMatch(template="/u/{id}/**"), "/x/{id}/y", b"/u/7/z?q", b"/x/7/y?q"),
        (PathMatch(template="//u//{id}"), "/x/{id}", b"/u/7", b"/x/7"),
        (PathMatch(template="/{a}/{b}"), "/{b}-{a}/{c}", b"/1/2", b"/2-1/{c}"),
        (PathMatch(template="/{a}"), "/{a}", b"//x/../%2e%40", b"/.@"),
        (PathMatch(template="/u/{id}"), "/x/{id}", b"/u/a%2fb%20c", b"/x/a%2Fb%20c"),
        (None, "/a b?#é\r\n%41", b"/", b"/a%20b%3F%23%C3%A9%0D%0A%41"),
    ],
)
def test_a_path_is_replaced_and_the_query_stays(
    path: PathMatch | None, to: str, target: bytes, result: bytes
) -> None:
    assert rewritten(path, to, target) == result


def test_an_authority_is_rewritten_and_the_target_left_as_it_came() -> None:
    route = compiled(Route(name="r", rewrite=Rewrite(authority="other.example:81")))
    request = Request(b"//a/../b?c")
    route.change_request(request)

    assert (request.authority, request.target) == (b"other.example:81", b"//a/../b?c")


def test_header_changes_remove_then_set_then_add() -> None:
    changes = HeaderChanges(
        remove=("x-gone", "x-back"),
        set={"X-Set": "new {id}", "x-back": "1"},
        add={"x-set": "more", "x-added": "é"},
    )
    route = compiled(Route(name="r", request_headers=changes, response_headers=changes))
    lines = [b"x-set: 1", b"x-gone: 1", b"x-gone-not: 1", b"x-set: 2", b"x-added: 0", b"x-back: 0"]
    expected = [
        b"x-gone-not: 1",
        b"x-added: 0",
        b"x-set: new {id}",
        b"x-back: 1",
        b"x-set: more",
        "x-added: é".encode(),
    ]
    request = Request(b"/", *lines)
    route.change_request(request)

    assert request.lines == expected
    assert route.change_response(lines) == expected
    assert len(lines) == 6


def test_added_headers_do_not_pile_up_over_requests() -> None:
    route = compiled(Route(name="r", response_headers=HeaderChanges(add={"x": "1"})))
    for _ in range(3):
        assert route.change_response([b"a: b"]) == [b"a: b", b"x: 1"]


def test_a_route_says_whether_it_changes_anything() -> None:
    nothing = compiled(Route(name="r", request_headers=HeaderChanges(), rewrite=Rewrite()))
    lines = [b"a: b"]
    request = Request(b"/a", *lines)
    nothing.change_request(request)

    assert not nothing.has_request_changes
    assert not nothing.has_response_changes
    assert nothing.change_response(lines) is lines
    assert (request.target, request.lines) == (b"/a", lines)
    assert compiled(Route(name="r", rewrite=Rewrite(path="/x"))).has_request_changes
    assert compiled(Route(name="r", rewrite=Rewrite(authority="x"))).has_request_changes
    some = compiled(Route(name="r", response_headers=HeaderChanges(remove=("x",))))
    assert (some.has_request_changes, some.has_response_changes) == (False, True)
    assert (some.name, some.index, some.route.name) == (b"r", 0, "r")


@pytest.mark.parametrize(
    ("redirect", "target", "authority", "expected"),
    [
        (Redirect(scheme="https"), b"/a?b", b"x.y", b"https://x.y/a?b"),
        (Redirect(scheme="https"), b"/a", b"x.y:80", b"https://x.y/a"),
        (Redirect(scheme="https"), b"/a", b"x.y:8080", b"https://x.y:8080/a"),
        (Redirect(scheme="http"), b"/a", b"x.y:80", b"http://x.y:80/a"),
        (Redirect(authority="new.z"), b"/a?b", b"x.y", b"http://new.z/a?b"),
        (Redirect(path="/new é"), b"/a?b", b"x.y", b"http://x.y/new%20%C3%A9?b"),
        (Redirect(path="/new"), b"/a", None, b"/new"),
        (Redirect(scheme="https"), b"//evil.example/x", None, b"/evil.example/x"),
        (
            Redirect(scheme="https", authority="n:1", path="/p"),
            b"/a?",
            b"x",
            b"https://n:1/p?",
        ),
    ],
)
def test_a_redirect_keeps_what_it_does_not_name(
    redirect: Redirect, target: bytes, authority: bytes | None, expected: bytes
) -> None:
    route = compiled(Route(name="r", redirect=redirect))

    assert route.location(Request(target, authority=authority), b"http") == expected
