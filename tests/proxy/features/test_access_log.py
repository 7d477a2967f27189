"""The lines that both sides write of calls that were really made."""

import asyncio
import json
from typing import Any

import pytest

from proxy.core.access_format import BOTH, HTTP, TCP
from proxy.model.authorization import Intention
from proxy.model.policy import Route, ServicePolicy
from proxy.model.resilience import Fault, Limits, Retries
from proxy.model.routing import Match, PathMatch, Rewrite
from proxy.model.telemetry import AccessLog
from proxy.net import inbound, pool_dial

ALL = AccessLog(percent=100)


async def written(grid: Any, host: str) -> list[str]:
    """What the proxy of ``host`` has logged by now."""
    metrics = grid.planes[host]._metrics
    metrics.work_off()
    await metrics.telemetry.logs.flush(20)
    file = grid.log_dir / host / "access.log"
    return file.read_text().splitlines() if file.exists() else []


async def logged(grid: Any, host: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in await written(grid, host)]


async def one(grid: Any, host: str) -> dict[str, Any]:
    (line,) = await logged(grid, host)
    return line


async def until_logged(grid: Any, host: str) -> dict[str, Any]:
    """For the end of a TCP session, which its client does not see."""
    async with asyncio.timeout(20):
        while not (lines := await logged(grid, host)):
            await asyncio.sleep(0.01)
    (line,) = lines
    return line


async def test_a_call_is_one_line_at_each_side_with_all_fields(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    route = Route(name="old", match=Match(path=PathMatch(prefix="/x")), rewrite=Rewrite(path="/y"))
    grid.policy["api"] = ServicePolicy(routes=(route,), access_log=ALL)
    grid.apply()
    client = await grid.connect()
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = f"X-Request-Id: r-1\r\ntraceparent: 00-{trace}-b7ad6b7169203331-00\r\n"
    assert (await client.get("/x?secret=1", headers)).status == 200
    near, far = await one(grid, "near"), await one(grid, "a1")
    for line, side, host in ((near, "source", "near"), (far, "destination", "a1")):
        assert tuple(line) == (*BOTH, *HTTP)
        assert (line["log"], line["side"], line["host"]) == ("access", side, host)
        assert (line["caller"], line["service"]) == ("web", "api")
        assert line["caller_identity"] == "spiffe://mesh.test/svc/web"
        assert line["service_identity"] == "spiffe://mesh.test/svc/api"
        assert (line["request_id"], line["trace_id"]) == ("r-1", trace)
        assert (line["method"], line["path"], line["status"]) == ("GET", "/y", 200)
        assert (line["flag"], line["reason"], line["policy"]) == (None, None, None)
        assert (line["attempts"], line["request_bytes"], line["response_bytes"]) == (1, 0, 2)
        assert 0 < line["connect_ms"] < line["first_byte_ms"] == line["total_ms"]
        assert line["queue_ms"] == 0
    assert (near["route"], far["route"]) == ("old", None)
    port = grid.planes["a1"].inbound_address()[1]
    assert near["endpoint"] == f"a1 127.0.0.1:{port}"
    assert far["endpoint"] == f"127.0.0.1:{app.port}"


async def test_a_connection_that_was_there_costs_no_time(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(access_log=ALL)
    grid.apply()
    client = await grid.connect()
    for _ in range(2):
        assert (await client.get()).status == 200
    first, second = await logged(grid, "near")
    assert first["connect_ms"] > 0
    assert (second["connect_ms"], second["queue_ms"]) == (0, 0)


async def test_by_default_only_failures_are_logged(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.apply()
    client = await grid.connect()
    assert (await client.get()).status == 200
    assert await logged(grid, "near") == await logged(grid, "a1") == []
    app.answer = lambda _: b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    assert (await client.get()).status == 500
    for host in ("near", "a1"):
        line = await one(grid, host)
        assert (line["status"], line["flag"]) == (500, None)
        assert line["reason"] == "the service itself answered 500"


async def test_a_denial_has_its_policy_and_reason_at_both_sides(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(intentions=(Intention(name="no", deny=("web",)),))
    grid.apply()
    assert (await (await grid.connect()).get()).status == 403
    near, far = await one(grid, "near"), await one(grid, "a1")
    for line in (near, far):
        assert (line["status"], line["flag"], line["policy"]) == (403, "UAEX", "api/no")
        assert line["reason"].startswith("the caller's identity is not allowed")
    assert "spiffe://mesh.test/svc/web may not call" in far["reason"]


async def test_a_failure_names_the_last_endpoint_and_all_attempts(grid: Any) -> None:
    grid.register("api", "dead", 1)
    grid.register("api", "gone", 2)
    grid.policy["api"] = ServicePolicy(retries=Retries(attempts=1))
    grid.apply()
    assert (await (await grid.connect()).get()).status == 503
    line = await one(grid, "near")
    assert (line["flag"], line["attempts"]) == ("UF", 2)
    assert line["endpoint"] in ("dead 127.0.0.1:1", "gone 127.0.0.1:2")
    assert "refused" in line["reason"]


async def test_no_endpoint_is_named_where_none_is_known(grid: Any) -> None:
    grid.apply()
    assert (await (await grid.connect()).get()).status == 503
    line = await one(grid, "near")
    assert (line["flag"], line["endpoint"], line["attempts"]) == ("UH", None, 0)


async def test_a_request_that_no_service_gets_is_logged(grid: Any) -> None:
    grid.apply()
    client = await grid.connect_hosts()
    client.send(b"GET /lost HTTP/1.1\r\nHost: nowhere\r\n\r\n")
    assert (await client.response()).status == 404
    line = await one(grid, "near")
    assert (line["flag"], line["status"], line["service"]) == ("NR", 404, "unknown")
    assert (line["service_identity"], line["path"], line["request_id"]) == (None, "/lost", None)


async def test_an_injected_delay_is_no_failure_and_an_abort_is_one(grid: Any) -> None:
    await grid.serve("api", "a1")
    faults = (
        Fault(
            name="f",
            match=Match(path=PathMatch(prefix="/abort")),
            abort_status=418,
            until=grid.in_a_minute(),
        ),
        Fault(name="d", delay_s=0.001, until=grid.in_a_minute()),
    )
    grid.policy["api"] = ServicePolicy(faults=faults)
    grid.apply()
    client = await grid.connect()
    assert (await client.get("/late")).status == 200
    assert (await client.get("/abort")).status == 418
    assert (await one(grid, "near"))["flag"] == "FI"


async def test_both_sides_log_the_same_share_of_requests(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(access_log=AccessLog(percent=30))
    grid.apply()
    client = await grid.connect()
    for number in range(300):
        assert (await client.get("/", f"X-Request-Id: order-{number}\r\n")).status == 200
    near = [line["request_id"] for line in await logged(grid, "near")]
    assert near == [line["request_id"] for line in await logged(grid, "a1")]
    assert 50 <= len(near) <= 130


async def test_what_took_long_is_logged_whatever_the_share(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(access_log=AccessLog(slow_ms=0.001))
    grid.apply()
    assert (await (await grid.connect()).get()).status == 200
    assert (await one(grid, "near"))["status"] == 200
    grid.policy["api"] = ServicePolicy(access_log=AccessLog(slow_ms=60_000))
    grid.apply()
    assert (await (await grid.connect()).get()).status == 200
    assert len(await logged(grid, "near")) == 1


async def test_a_new_policy_is_in_force_at_both_sides_at_once(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.apply()
    client = await grid.connect()
    assert (await client.get()).status == 200
    grid.policy["api"] = ServicePolicy(access_log=ALL)
    grid.apply()
    assert (await client.get()).status == 200
    for host in ("near", "a1"):
        assert (await one(grid, host))["status"] == 200


async def test_a_format_of_ones_own_makes_the_lines(grid: Any) -> None:
    await grid.serve("api", "a1")
    text = '%side% %service% "%method% %path%" %status% %flag% %sent_bytes% 100%%'
    grid.policy["api"] = ServicePolicy(access_log=AccessLog(percent=100, format=text))
    grid.apply()
    assert (await (await grid.connect()).get('/a"b\\c')).status == 200
    (line,) = await written(grid, "near")
    assert line == 'source api "GET /a\\x22b\\x5cc" 200 - - 100%'


async def test_the_wait_for_a_connection_is_told_from_the_dial(
    grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (inbound, pool_dial):  # a peer that carries one request on each connection
        monkeypatch.setattr(module, "ALPN", "something else")
    app = await grid.serve("api", "a1")
    may_answer = asyncio.Event()

    async def held(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await may_answer.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    app.script = held
    grid.policy["api"] = ServicePolicy(limits=Limits(connections=1), access_log=ALL)
    grid.apply()
    answers = []
    for in_flight in (1, 2):
        client = await grid.connect()
        answers.append(asyncio.create_task(client.get()))
        async with asyncio.timeout(20):
            while grid.planes["near"].requests_in_flight < in_flight or not app.connections:
                await asyncio.sleep(0.01)
    may_answer.set()
    assert [(await answer).status for answer in answers] == [200, 200]
    first, second = await logged(grid, "near")
    assert first["connect_ms"] > 0 == first["queue_ms"]
    assert second["queue_ms"] > 0 == second["connect_ms"]
    assert second["queue_ms"] <= second["first_byte_ms"]


async def test_a_caller_without_an_identity_is_logged_as_unknown(grid: Any) -> None:
    await grid.serve("api", "a1", has_plaintext=True)
    grid.policy["api"] = ServicePolicy(mode="permissive", access_log=ALL)
    grid.apply()
    client = await grid.dial(*grid.planes["a1"].plaintext_address("api"))
    assert (await client.get()).status == 200
    line = await one(grid, "a1")
    assert (line["caller"], line["caller_identity"]) == ("unknown", None)
    assert (line["service"], line["status"]) == ("api", 200)


@pytest.mark.parametrize("percent", [0, 100])
async def test_a_tcp_session_is_one_line_at_each_side(grid: Any, percent: int) -> None:
    app = await grid.serve("db", "d1")

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"<" + await reader.readexactly(4) + b">")
        await reader.read()

    app.script = once
    grid.policy["db"] = ServicePolicy(access_log=AccessLog(percent=percent))
    grid.apply()
    client = await grid.connect("db")
    client.send(b"ping")
    assert await client.reader.readexactly(6) == b"<ping>"
    client.writer.write_eof()
    assert await client.is_closed()
    if not percent:
        assert await logged(grid, "near") == []
        return
    near, far = await until_logged(grid, "near"), await until_logged(grid, "d1")
    for line, side in ((near, "source"), (far, "destination")):
        assert tuple(line) == (*BOTH, *TCP)
        assert (line["side"], line["protocol"], line["service"]) == (side, "tcp", "db")
        assert (line["sent_bytes"], line["received_bytes"]) == (6, 4)
        assert (line["flag"], line["attempts"]) == (None, 1)
        assert 0 < line["connect_ms"] <= line["total_ms"]
    assert near["endpoint"].startswith("d1 127.0.0.1:")


async def test_a_tcp_session_that_is_refused_says_why_at_both_sides(grid: Any) -> None:
    await grid.serve("db", "d1")
    grid.policy["db"] = ServicePolicy(intentions=(Intention(name="no", deny=("web",)),))
    grid.apply()
    client = await grid.connect("db")
    with pytest.raises(ConnectionError):
        await client.reader.readexactly(1)
    far = await until_logged(grid, "d1")
    assert (far["flag"], far["policy"]) == ("UAEX", "db/no")
    assert (await until_logged(grid, "near"))["flag"] is not None


async def test_the_body_that_an_answer_to_head_leaves_out_is_not_counted(grid: Any) -> None:
    grid.apply()  # no endpoint: the proxy answers by itself
    client = await grid.connect()
    client.send(b"HEAD / HTTP/1.1\r\nHost: api\r\n\r\n")
    assert (await client.response(method="HEAD")).status == 503
    line = await one(grid, "near")
    assert (line["flag"], line["response_bytes"]) == ("UH", 0)
    said = await client.get("/")
    assert (await logged(grid, "near"))[1]["response_bytes"] == len(said.body) > 0
