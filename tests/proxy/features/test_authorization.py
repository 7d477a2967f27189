"""Intentions at the called side, through two data planes."""

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.policy import Route, ServicePolicy
from proxy.model.resilience import RateLimit
from proxy.model.routing import Destination, Match, PathMatch, TextMatch
from proxy.net import inbound, pool_dial
from proxy.net.outbound import OutboundService

READS = Intention(name="reads", allow=("web",), match=Match(methods=("GET",)))


async def test_what_no_intention_allows_is_refused_and_says_by_what(
    grid: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(intentions=(READS,))
    grid.apply()
    web, other = await grid.connect(), await grid.connect(caller="other")
    assert (await web.get("/x")).status == 200
    before = len(app.requests)
    with caplog.at_level(logging.WARNING):
        refused = await other.get("/x?secret=1", "X-Request-Id: r-1\r\n")
    assert (refused.status, refused.headers["x-mesh-flag"]) == (403, "UAEX")
    assert b"no intention of api allows it (policy api/default-deny)" in refused.body
    assert len(app.requests) == before
    assert grid.metric(
        "a1",
        "mesh_authorization_denials_total",
        source_workload="other",
        destination_service="api",
        policy="api/default-deny",
    ) == 1  # fmt: skip
    line = next(each for each in caplog.records if each.getMessage() == "call denied")
    said = {key: getattr(line, key) for key in ("caller", "service", "policy", "path")}
    assert said == {
        "caller": "other", "service": "api", "policy": "api/default-deny", "path": b"/x",
    }  # fmt: skip
    assert line.request_id == b"r-1"  # type: ignore[attr-defined]  # an extra of the record


async def test_methods_are_told_apart_on_one_connection(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(intentions=(READS,))
    grid.apply()
    client = await grid.connect()
    assert (await client.get()).status == 200
    client.send(b"DELETE / HTTP/1.1\r\nHost: api\r\n\r\n")
    assert (await client.response()).status == 403
    assert (await client.get()).status == 200


async def test_a_denied_path_is_denied_in_any_spelling_and_others_arrive_in_normal_form(
    grid: Any,
) -> None:
    app = await grid.serve("api", "a1")
    closed = Intention(name="closed", deny=("*",), match=Match(path=PathMatch(prefix="/admin")))
    grid.policy["api"] = ServicePolicy(intentions=(closed, Intention(name="all", allow=("*",))))
    grid.apply()
    client = await grid.connect()
    for target in ("/admin", "/x/../admin/y", "/%61dmin", "/ADMIN", "/admin%2Fy", "/x;/../admin"):
        assert (await client.get(target)).status == 403, target
    assert (await client.get("/a//./b/%7e?q=//")).status == 200
    assert [request.target for request in app.requests] == ["/a/b/~?q=//"]


async def test_a_new_policy_holds_for_the_next_request_of_a_connection(grid: Any) -> None:
    await grid.serve("api", "a1")
    client = await grid.connect()
    grid.apply()
    assert (await client.get()).status == 200
    grid.policy["api"] = ServicePolicy(intentions=(Intention(name="no", deny=("web",)),))
    grid.apply()
    refused = await client.get()
    assert refused.status == 403
    assert b"the intention 'no' denies it (policy api/no)" in refused.body
    del grid.policy["api"]
    grid.apply()
    assert (await client.get()).status == 200


async def test_no_intention_lets_in_whom_the_inventory_does_not_declare(grid: Any) -> None:
    await grid.serve("api", "a1", allow=("web",))
    grid.policy["api"] = ServicePolicy(intentions=(Intention(name="all", allow=("*",)),))
    grid.apply()
    assert (await (await grid.connect()).get()).status == 200
    refused = await (await grid.connect(caller="other")).get()
    assert refused.status == 403
    assert b"(policy api/undeclared)" in refused.body


async def test_an_audit_lets_the_call_through_and_is_counted(grid: Any) -> None:
    await grid.serve("api", "a1")
    audit = Intention(name="later", deny=("web",), is_audit=True)
    grid.policy["api"] = ServicePolicy(intentions=(audit,))
    grid.apply()
    assert (await (await grid.connect()).get()).status == 200
    assert grid.metric("a1", "mesh_authorization_audited_total", policy="api/later") == 1
    assert grid.metric("a1", "mesh_authorization_denials_total") == 0


async def test_who_is_denied_takes_nothing_from_the_rate_limit(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        intentions=(Intention(name="web", allow=("web",)),),
        rate_limits=(RateLimit(name="one", requests=1, per_s=60.0),),
    )
    grid.apply()
    assert (await (await grid.connect(caller="other")).get()).status == 403
    assert (await (await grid.connect()).get()).status == 200


async def test_a_tcp_session_of_a_denied_caller_carries_nothing(grid: Any) -> None:
    app = await grid.serve("db", "d1")
    reached = asyncio.Event()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.write(b"hello")

    app.script = greet
    grid.policy["db"] = ServicePolicy(intentions=(Intention(name="web", allow=("web",)),))
    grid.apply()
    web = await grid.connect("db")
    assert await web.reader.readexactly(5) == b"hello"
    reached.clear()
    other = await grid.connect("db", caller="other")
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await other.reader.read() == b""
    assert not reached.is_set()
    denied = {"policy": "db/default-deny", "source_workload": "other"}
    assert grid.metric("d1", "mesh_authorization_denials_total", **denied) >= 1


@pytest.fixture(params=["shared", "http1"])
def between(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the two proxies speak."""
    if request.param == "http1":
        monkeypatch.setattr(inbound, "ALPN", "something else")
        monkeypatch.setattr(pool_dial, "ALPN", "something else")


@pytest.mark.usefixtures("between")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_denial_says_in_a_header_which_policy_it_was(
    grid: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[tuple[str, str]] = []
    finished = OutboundService.finished

    def finished_and_noted(self: Any, exchange: Any) -> None:
        noted.append((exchange.flag, exchange.policy))
        finished(self, exchange)

    monkeypatch.setattr(OutboundService, "finished", finished_and_noted)
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(intentions=(Intention(name="No.1_x", deny=("web",)),))
    grid.apply()
    client = await grid.connect()
    length = b"Content-Length: 2\r\n\r\nhi" if method == "POST" else b"\r\n"
    client.send(b"%b / HTTP/1.1\r\nHost: api\r\n%b" % (method.encode(), length))
    refused = await client.response(method=method)
    assert (refused.status, refused.headers["x-mesh-policy"]) == (403, "api/No.1_x")
    assert refused.head.lower().count(b"x-mesh-policy") == 1
    assert noted == [("UAEX", "api/No.1_x")]


@pytest.mark.usefixtures("between")
async def test_only_denials_have_it(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        rate_limits=(RateLimit(name="one", requests=1, per_s=60.0),),
    )
    grid.apply()
    client = await grid.connect()
    assert "x-mesh-policy" not in (await client.get()).headers
    limited = await client.get()
    assert (limited.status, limited.headers["x-mesh-flag"]) == (429, "RL")
    assert "x-mesh-policy" not in limited.headers


@pytest.mark.usefixtures("between")
async def test_an_application_cannot_say_that_policy_denied(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    app.answer = lambda _: (
        b"HTTP/1.1 403 Forbidden\r\nX-Mesh-Policy: api/made-up\r\nX-Mesh-Flag: UAEX\r\n"
        b"x_mesh_policy: api/made-up\r\nTrailer: x-mesh-policy\r\nTransfer-Encoding: chunked\r\n"
        b"\r\n2\r\nno\r\n0\r\nX-Mesh-Policy: api/made-up\r\n\r\n"
    )
    grid.apply()
    client = await grid.connect()
    for _ in range(2):
        response = await client.get(headers="X-Mesh-Policy: api/asked\r\n")
        assert (response.status, response.body) == (403, b"no")
        assert not any("mesh" in name for name in response.headers if name != "trailer")
    for received in app.requests:
        assert "api/asked" not in dict(received.headers).values()


async def test_a_route_to_a_service_that_is_not_declared_is_a_denial_with_an_id(grid: Any) -> None:
    route = Route(name="away", to=(Destination(service=ServiceName("undeclared")),))
    grid.policy["api"] = ServicePolicy(routes=(route,))
    await grid.serve("api", "a1")
    grid.apply()
    refused = await (await grid.connect()).get()
    assert (refused.status, refused.headers["x-mesh-policy"]) == (403, "api/undeclared")


_GET = "GET {} HTTP/1.1\r\nHost: api\r\n{}\r\n"
KINDS: dict[str, tuple[Match, str, tuple[str, ...]]] = {
    "path exact": (
        Match(path=PathMatch(exact="/a/b")),
        _GET.format("/a/b?x", ""),
        (_GET.format("/a/bc", ""), _GET.format("/a", ""), _GET.format("/x?/a/b", "")),
    ),
    "path prefix": (
        Match(path=PathMatch(prefix="/a/b")),
        _GET.format("/a/b/c", ""),
        (_GET.format("/a/bc", ""), _GET.format("/", ""), _GET.format("/x/a/b", "")),
    ),
    "path template": (
        Match(path=PathMatch(template="/u/{id}/o")),
        _GET.format("/u/7/o", ""),
        (_GET.format("/u/7/8/o", ""), _GET.format("/u/7", ""), _GET.format("/u/7/o/p", "")),
    ),
    "path regex": (
        Match(path=PathMatch(regex="/a/[0-9]+")),
        _GET.format("/a/12", ""),
        (_GET.format("/a/12/x", ""), _GET.format("/a/x", ""), _GET.format("/x/a/1", "")),
    ),
    "methods": (
        Match(methods=("GET", "HEAD")),
        _GET.format("/", ""),
        ("POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n",
         "OPTIONS * HTTP/1.1\r\nHost: api\r\n\r\n"),
    ),
    "header present": (
        Match(headers={"x-team": TextMatch(present=True)}),
        _GET.format("/", "X-Team: any\r\n"),
        (_GET.format("/", ""), _GET.format("/", "X-Teams: any\r\n")),
    ),
    "header absent": (
        Match(headers={"x-debug": TextMatch(present=False)}),
        _GET.format("/", ""),
        (_GET.format("/", "X-Debug: 1\r\n"), _GET.format("/", "X-Debug:\r\n")),
    ),
    "header exact": (
        Match(headers={"x-team": TextMatch(exact="blue")}),
        _GET.format("/", "X-Team: blue\r\n"),
        (_GET.format("/", "X-Team: bluer\r\n"), _GET.format("/", "X-Team: Blue\r\n"),
         _GET.format("/", "")),
    ),
    "header prefix": (
        Match(headers={"x-team": TextMatch(prefix="bl")}),
        _GET.format("/", "X-Team: blue\r\n"),
        (_GET.format("/", "X-Team: abl\r\n"), _GET.format("/", "")),
    ),
    "header regex": (
        Match(headers={"x-team": TextMatch(regex="b[a-z]+")}),
        _GET.format("/", "X-Team: blue\r\n"),
        (_GET.format("/", "X-Team: blue, red\r\n"), _GET.format("/", "X-Team: a blue\r\n"),
         _GET.format("/", "")),
    ),
    "query": (
        Match(query={"v": TextMatch(exact="1")}),
        _GET.format("/?a=2&v=1", ""),
        (_GET.format("/?v=11", ""), _GET.format("/?a=v=1", ""), _GET.format("/", ""),
         _GET.format("/", "X: ?v=1\r\n")),
    ),
    "authorities": (
        Match(authorities=("api.mesh",)),
        "GET / HTTP/1.1\r\nHost: api.mesh:80\r\n\r\n",
        (_GET.format("/", ""), "GET / HTTP/1.1\r\nHost: x.api.mesh\r\n\r\n",
         "GET http://api/ HTTP/1.1\r\nHost: api.mesh\r\n\r\n"),
    ),
}  # fmt: skip
"""What a condition holds for, and what it does not."""


async def _statuses(grid: Any, requests: tuple[str, ...]) -> list[int]:
    client = await grid.connect()
    found = []
    for request in requests:
        client.send(request.encode())
        found.append((await client.response()).status)
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_what_an_intention_does_not_allow_is_denied(grid: Any, kind: str) -> None:
    match, inside, outside = KINDS[kind]
    app = await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        intentions=(Intention(name="some", allow=("web",), match=match),)
    )
    grid.apply()
    assert await _statuses(grid, (inside, *outside)) == [200, *[403] * len(outside)]
    assert len(app.requests) == 1
    other = await grid.connect(caller="other")
    other.send(inside.encode())
    assert (await other.response()).status == 403


@pytest.mark.parametrize("kind", KINDS)
async def test_what_an_intention_denies_is_denied_whatever_others_allow(
    grid: Any, kind: str
) -> None:
    match, inside, outside = KINDS[kind]
    app = await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        intentions=(
            Intention(name="all", allow=("*",)),
            Intention(name="some", deny=("web",), match=match),
        )
    )
    grid.apply()
    # As for paths, what is denied in one case of its letters is denied in any.
    assert await _statuses(grid, (inside, *outside)) == [403, *[200] * len(outside)]
    assert len(app.requests) == len(outside)
    assert grid.metric("a1", "mesh_authorization_denials_total", policy="api/some") == 1


@pytest.mark.parametrize(
    ("match", "request_", "policy"),
    [
        (Match(headers={"x-role": TextMatch(exact="admin")}),
         _GET.format("/", "X-Role: user\r\nX-Role: admin\r\n"), "api/ambiguous-header"),
        (Match(headers={"x-role": TextMatch(present=True)}),
         _GET.format("/", "X_Role: admin\r\n"), "api/ambiguous-header"),
        (Match(headers={"x-role": TextMatch(exact="admin")}),
         _GET.format("/", "X.Role: admin\r\n"), "api/ambiguous-header"),
        (Match(query={"role": TextMatch(exact="admin")}),
         _GET.format("/?role=user&r%6fle=admin", ""), "api/ambiguous-query"),
        (Match(query={"role": TextMatch(exact="admin")}),
         _GET.format("/?a=1;role=admin", ""), "api/ambiguous-query"),
    ],
)  # fmt: skip
async def test_what_applications_may_read_otherwise_than_the_rule_is_denied(
    grid: Any, match: Match, request_: str, policy: str
) -> None:
    app = await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        intentions=(
            Intention(name="all", allow=("*",)),
            Intention(name="admins", deny=("web",), match=match),
        )
    )
    grid.apply()
    client = await grid.connect()
    client.send(request_.encode())
    refused = await client.response()
    assert (refused.status, refused.headers.get("x-mesh-policy")) == (403, policy)
    assert app.requests == []


@pytest.mark.parametrize(
    "intentions",
    [
        (Intention(name="no", deny=("other",)),),
        (Intention(name="all", allow=("*",)), Intention(name="no", deny=("*",))),
        (Intention(name="web", allow=("web",)),),
        (Intention(name="paths", allow=("other",), match=Match(path=PathMatch(exact="/"))),),
    ],
)
async def test_a_tcp_session_that_no_intention_allows_reaches_nobody(
    grid: Any, intentions: tuple[Intention, ...]
) -> None:
    app = await grid.serve("db", "d1")
    grid.policy["db"] = ServicePolicy(intentions=intentions)
    grid.apply()
    client = await grid.connect("db", caller="other")
    client.send(b"hello")
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            assert await client.reader.read() == b""
    assert app.connections == 0
