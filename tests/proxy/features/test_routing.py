"""Routes through real proxies: what matches, where it goes, what is changed on the way."""

import asyncio
from typing import Any

import pytest

from proxy.model.policy import Balancing, Route, ServicePolicy, Subset
from proxy.model.routing import (
    Destination,
    DirectResponse,
    HashOn,
    HeaderChanges,
    Match,
    Mirror,
    PathMatch,
    Redirect,
    Rewrite,
    TextMatch,
)

TO_V2 = (Destination(subset="v2"),)
SUBSETS = {"v1": Subset(version="1"), "v2": Subset(version="2")}


async def versions(grid: Any, *routes: Route) -> None:
    """Instances v1 and v2 of api, api2's only one, and these routes; v1 where none matches."""
    for host, version in (("v1", "1"), ("v2", "2")):
        if host not in grid.apps:
            await grid.serve("api", host, version=version)
    if "b1" not in grid.apps:
        await grid.serve("api2", "b1")
    grid.policy["api"] = ServicePolicy(
        subsets=SUBSETS,
        routes=(*routes, Route(name="rest", to=(Destination(subset="v1"),))),
    )
    grid.apply()


@pytest.mark.parametrize(
    ("match", "yes", "no"),
    [
        (Match(path=PathMatch(exact="/a")), "/a?x=1", "/a/b"),
        (Match(path=PathMatch(prefix="/a")), "/a/b", "/ab"),
        (Match(path=PathMatch(template="/u/{id}/o/*")), "/u/7/o/8", "/u/7/p/8"),
        (Match(path=PathMatch(regex="/x[0-9]+")), "/x42", "/x42/y"),
        (Match(query={"v": TextMatch(exact="2")}), "/?v=2", "/?v=3"),
        (Match(query={"v": TextMatch(prefix="a")}), "/?v=ab", "/?v=b"),
        (Match(query={"v": TextMatch(regex="[0-9]+")}), "/?v=12", "/?v=x"),
        (Match(query={"v": TextMatch(present=True)}), "/?v", "/?w"),
        (Match(query={"v": TextMatch(present=False)}), "/", "/?v=1"),
    ],
)
async def test_a_route_matches_path_and_query(grid: Any, match: Match, yes: str, no: str) -> None:
    await versions(grid, Route(name="new", match=match, to=TO_V2))
    client = await grid.connect()
    assert (await client.get(yes)).body == b"v2"
    assert (await client.get(no)).body == b"v1"


@pytest.mark.parametrize(
    ("match", "yes", "no"),
    [
        (TextMatch(exact="1"), "X-Canary: 1\r\n", "X-Canary: 2\r\n"),
        (TextMatch(prefix="a"), "x-canary: abc\r\n", "x-canary: bc\r\n"),
        (TextMatch(regex="a+"), "x-canary: aaa\r\n", "x-canary: aab\r\n"),
        (TextMatch(present=True), "x-canary:\r\n", ""),
        (TextMatch(present=False), "", "x-canary: 1\r\n"),
    ],
)
async def test_a_route_matches_headers(grid: Any, match: TextMatch, yes: str, no: str) -> None:
    await versions(grid, Route(name="new", match=Match(headers={"x-canary": match}), to=TO_V2))
    client = await grid.connect()
    assert (await client.get("/", yes)).body == b"v2"
    assert (await client.get("/", no)).body == b"v1"


async def test_a_route_matches_the_method(grid: Any) -> None:
    await versions(grid, Route(name="new", match=Match(methods=("POST",)), to=TO_V2))
    client = await grid.connect()
    assert (await client.get()).body == b"v1"
    client.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n")
    assert (await client.response()).body == b"v2"


async def test_a_route_matches_the_authority(grid: Any) -> None:
    match = Match(authorities=("new.example.com",))
    await versions(grid, Route(name="new", match=match, to=TO_V2))
    client = await grid.connect()
    for host, body in ((b"NEW.example.com:80", b"v2"), (b"old.example.com", b"v1")):
        client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
        assert (await client.response()).body == body


async def test_a_route_matches_the_source(grid: Any) -> None:
    await versions(grid, Route(name="new", match=Match(sources=("other",)), to=TO_V2))  # type: ignore[arg-type]
    assert (await (await grid.connect(caller="web")).get()).body == b"v1"
    assert (await (await grid.connect(caller="other")).get()).body == b"v2"


async def test_the_first_match_wins_and_none_means_the_service_itself(grid: Any) -> None:
    await grid.serve("api", "v1", version="1")
    await grid.serve("api", "v2", version="2")
    grid.policy["api"] = ServicePolicy(
        subsets=SUBSETS,
        balancing=Balancing(algorithm="round_robin"),
        routes=(
            Route(name="a", match=Match(path=PathMatch(prefix="/a")), to=TO_V2),
            Route(
                name="ab",
                match=Match(path=PathMatch(prefix="/a/b")),
                to=(Destination(subset="v1"),),
            ),
        ),
    )
    grid.apply()
    client = await grid.connect()
    assert (await client.get("/a/b")).body == b"v2"
    assert set(await grid.count(client, 10, "/c")) == {"v1", "v2"}


async def test_a_route_may_lead_to_another_service(grid: Any) -> None:
    match = Match(path=PathMatch(prefix="/b"))
    await versions(grid, Route(name="b", match=match, to=(Destination(service="api2"),)))  # type: ignore[arg-type]
    client = await grid.connect()
    assert (await client.get("/b")).body == b"b1"


async def test_a_route_to_a_service_that_the_caller_does_not_declare_is_denied(grid: Any) -> None:
    await grid.serve("undeclared", "u1")
    await versions(grid, Route(name="x", to=(Destination(service="undeclared"),)))  # type: ignore[arg-type]
    response = await (await grid.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (403, "UAEX")
    assert b"'x' leads to a service that web does not declare" in response.body


async def test_weights_split_a_canary(grid: Any) -> None:
    split = (Destination(subset="v1", weight=80), Destination(subset="v2", weight=20))
    await versions(grid, Route(name="canary", to=split))
    client = await grid.connect()
    seen = await grid.count(client, 400)
    assert 40 <= seen["v2"] <= 130
    shifted = (Destination(subset="v1", weight=0), Destination(subset="v2", weight=1))
    await versions(grid, Route(name="canary", to=shifted))
    assert await grid.count(client, 20) == {"v2": 20}


@pytest.mark.parametrize("on", [HashOn(header="x-user"), HashOn(cookie="user")])
async def test_a_sticky_split_keeps_a_user_where_it_is(grid: Any, on: HashOn) -> None:
    split = (Destination(subset="v1", weight=50), Destination(subset="v2", weight=50))
    await versions(grid, Route(name="canary", to=split, sticky=on))
    client = await grid.connect()
    groups = set()
    for user in range(20):
        header = f"x-user: {user}\r\nCookie: user={user}\r\n"
        seen = await grid.count(client, 4, headers=header)
        assert len(seen) == 1
        groups |= seen.keys()
    assert groups == {"v1", "v2"}
    if on.cookie:
        first = await client.get()
        cookie = first.headers["set-cookie"].partition(";")[0]
        for _ in range(5):
            assert (await client.get(headers=f"Cookie: {cookie}\r\n")).body == first.body


async def test_a_redirect_is_answered_by_the_callers_proxy(grid: Any) -> None:
    redirect = Redirect(status=308, authority="new.example.com", path="/b")
    await versions(grid, Route(name="moved", redirect=redirect))
    response = await (await grid.connect()).get("/a?q=1")
    assert response.status == 308
    assert response.headers["location"] == "http://new.example.com/b?q=1"
    assert response.headers["content-length"] == "0"
    assert not any(app.requests for app in grid.apps.values())


async def test_a_direct_response_needs_no_upstream(grid: Any) -> None:
    respond = DirectResponse(status=418, body="short and stout", content_type="text/x-tea")
    await versions(grid, Route(name="tea", respond=respond))
    client = await grid.connect()
    response = await client.get()
    assert (response.status, response.body) == (418, b"short and stout")
    assert response.headers["content-type"] == "text/x-tea"
    assert "x-mesh-flag" not in response.headers
    assert grid.metric("near", "istio_requests_total", response_code="418") == 1
    client.send(b"HEAD / HTTP/1.1\r\nHost: api\r\n\r\n")
    assert (await client.response(method="HEAD")).headers["content-length"] == "15"
    assert (await client.get()).status == 418


async def test_path_and_authority_are_rewritten(grid: Any) -> None:
    await versions(
        grid,
        Route(
            name="prefix",
            match=Match(path=PathMatch(prefix="/old")),
            rewrite=Rewrite(path="/new", authority="inner.example.com"),
            to=TO_V2,
        ),
        Route(
            name="template",
            match=Match(path=PathMatch(template="/u/{id}/profile")),
            rewrite=Rewrite(path="/profiles/{id}"),
            to=TO_V2,
        ),
    )
    client = await grid.connect()
    await client.get("/old/x?q=1")
    await client.get("/u/42/profile")
    first, second = grid.apps["v2"].requests
    assert first.target == "/new/x?q=1"
    assert first.all("host") == ["inner.example.com"]
    assert second.target == "/profiles/42"


async def test_request_and_response_headers_are_changed(grid: Any) -> None:
    changes = HeaderChanges(remove=("x-from",), set={"x-a": "1"}, add={"x-b": "2"})
    await versions(
        grid, Route(name="h", request_headers=changes, response_headers=changes, to=TO_V2)
    )
    grid.apps["v2"].answer = lambda _: (
        b"HTTP/1.1 200 OK\r\nX-From: app\r\nX-A: 0\r\nContent-Length: 2\r\n\r\nok"
    )
    response = await (await grid.connect()).get(headers="x-from: me\r\nX-A: 0\r\nx-b: 1\r\n")
    (received,) = grid.apps["v2"].requests
    assert (received.all("x-from"), received.all("x-a")) == ([], ["1"])
    assert received.all("x-b") == ["1", "2"]
    assert "x-from" not in response.headers
    assert (response.headers["x-a"], response.headers["x-b"]) == ("1", "2")


@pytest.mark.parametrize("body", [b"", b"x" * 10, b"y" * 30_000])
async def test_a_mirror_gets_a_copy_and_its_answer_is_thrown_away(grid: Any, body: bytes) -> None:
    await versions(
        grid, Route(name="m", mirror=Mirror(subset="v2"), to=(Destination(subset="v1"),))
    )
    grid.apps["v2"].answer = lambda _: b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    client = await grid.connect()
    for _ in range(3):
        client.send(b"POST /p HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 7000):
            client.send(body[at : at + 7000])
            await asyncio.sleep(0)
        assert (await client.response()).body == b"v1"
    await grid_until(lambda: len(grid.apps["v2"].requests) == 3)
    assert [each.body for each in grid.apps["v2"].requests] == [body] * 3
    await grid_until(
        lambda: grid.metric("near", "mesh_mirrored_requests_total", response_code="500") == 3
    )


async def test_a_mirror_that_hangs_or_is_missing_holds_nothing_up(grid: Any) -> None:
    await versions(
        grid, Route(name="m", mirror=Mirror(subset="v2"), to=(Destination(subset="v1"),))
    )

    async def never(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await asyncio.Event().wait()

    grid.apps["v2"].script = never
    client = await grid.connect()
    big = b"z" * 1_000_000
    for _ in range(2):
        client.send(b"POST /p HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % len(big))
        client.send(big)
        assert (await client.response()).body == b"v1"
    grid.deregister("v2")
    grid.apply()
    assert (await client.get()).body == b"v1"


async def test_a_mirror_gets_its_percentage(grid: Any) -> None:
    mirror = Mirror(subset="v2", percent=25)
    await versions(grid, Route(name="m", mirror=mirror, to=(Destination(subset="v1"),)))
    client = await grid.connect()
    assert await grid.count(client, 200) == {"v1": 200}
    await grid_until(lambda: not grid.cluster("api/v2").breaker.requests)
    assert 20 <= len(grid.apps["v2"].requests) <= 90


async def grid_until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def greeting(grid: Any, caller: str = "web") -> bytes:
    client = await grid.connect("db", caller)
    async with asyncio.timeout(5):
        data: bytes = await client.reader.read(10)
    return data


def greets(text: bytes) -> Any:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await reader.read()

    return script


async def test_a_tcp_service_is_split_and_routed_by_source(grid: Any) -> None:
    for host, version in (("v1", "1"), ("v2", "2")):
        app = await grid.serve("db", host, version=version)
        app.script = greets(host.encode())
    grid.policy["db"] = ServicePolicy(
        subsets=SUBSETS,
        routes=(
            Route(name="mine", match=Match(sources=("other",)), to=TO_V2),  # type: ignore[arg-type]
            Route(
                name="split",
                to=(Destination(subset="v1", weight=50), Destination(subset="v2", weight=50)),
            ),
        ),
    )
    grid.apply()
    assert {await greeting(grid, "other") for _ in range(5)} == {b"v2"}
    seen = [await greeting(grid) for _ in range(40)]
    assert min(seen.count(b"v1"), seen.count(b"v2")) >= 5


async def test_tcp_sessions_of_one_client_stay_together_by_hash(grid: Any) -> None:
    for host in ("d1", "d2", "d3"):
        app = await grid.serve("db", host)
        app.script = greets(host.encode())
    grid.policy["db"] = ServicePolicy(
        balancing=Balancing(algorithm="maglev", hash_on=HashOn(source=True))
    )
    grid.apply()
    assert len({await greeting(grid) for _ in range(6)}) == 1
