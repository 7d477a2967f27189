"""Intentions at the called side, through two data planes."""

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from proxy.model.authorization import Intention
from proxy.model.policy import ServicePolicy
from proxy.model.resilience import RateLimit
from proxy.model.routing import Match, PathMatch

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
