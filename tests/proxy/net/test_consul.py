"""The Consul client, against a scripted server and against Consul itself."""

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.net import consul as module
from proxy.net.consul import Consul, Garbage, Rejected, TtlCheck, Unavailable

CHECKS = (
    TtlCheck(
        check_id="s:proxy", name="p", ttl_s=10, status="passing", deregister_after_s=72 * 3600
    ),
    TtlCheck(check_id="s:app", name="a", ttl_s=60, status="critical"),
)


async def register(client: Consul, *, service_id: str = "s") -> None:
    await client.register(
        service_id=service_id,
        name="mesh-api",
        address="10.0.0.1",
        port=15006,
        meta={"mesh": "x"},
        checks=CHECKS,
    )


def always(scripted: Any, data: bytes, *, close: bool = False) -> None:
    async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            writer.close()

    scripted.script = script


CALLS = {
    "services": lambda client: client.services(),
    "health": lambda client: client.health("mesh-api", index=1, wait_s=1),
    "key": lambda client: client.key("a/b", index=1, wait_s=1),
    "update": lambda client: client.update_check("c", "passing", "out"),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
@pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
async def test_an_error_status_is_rejected_with_its_text(
    scripted: Any, reply: Any, call: Any, status: int
) -> None:
    always(scripted, reply(b"rpc error: No cluster leader", status=status))
    with pytest.raises(Rejected, match="No cluster leader") as error:
        await call(Consul(scripted.url))
    assert (error.value.status, error.value.kind) == (status, "rejected")


@each_call
async def test_a_cut_answer_is_unavailable(scripted: Any, reply: Any, call: Any) -> None:
    always(scripted, reply(b'[{"Value": "aGVs')[:-3], close=True)
    with pytest.raises(Unavailable, match="middle"):
        await call(Consul(scripted.url))


@each_call
async def test_another_protocol_is_garbage(scripted: Any, call: Any) -> None:
    always(scripted, b"SSH-2.0-OpenSSH_9.2\r\n")
    with pytest.raises(Garbage):
        await call(Consul(scripted.url))


@pytest.mark.parametrize("call", [CALLS["services"], CALLS["health"], CALLS["key"]])
@pytest.mark.parametrize("body", [b"<html>hello</html>", b"", b"null", b"7", b"\xff", b"[" * 9999])
async def test_a_body_that_is_not_consuls_is_garbage(
    scripted: Any, reply: Any, call: Any, body: bytes
) -> None:
    always(scripted, reply(body, index=3))
    with pytest.raises(Garbage):
        await call(Consul(scripted.url))


@each_call
async def test_nobody_there_is_unavailable(call: Any, free_ports: Any) -> None:
    with pytest.raises(Unavailable, match="refused"):
        await call(Consul(f"http://127.0.0.1:{free_ports(1)[0]}"))


@each_call
async def test_silence_ends_at_the_deadline(
    scripted: Any, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALL_DEADLINE_S", 0.2)
    monkeypatch.setattr(module, "BLOCKING_SLACK_S", 0.1)
    always(scripted, b"")
    before = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within"):
        await call(Consul(scripted.url))
    assert time.monotonic() - before < 3


async def test_an_answer_beyond_the_limit_is_garbage(
    scripted: Any, reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 100)
    always(scripted, reply(b"[" + b" " * 500_000 + b"]", index=1))
    with pytest.raises(Garbage, match="larger"):
        await Consul(scripted.url).health("x", index=0, wait_s=1)


async def test_short_calls_share_a_connection_and_blocking_ones_do_not(
    scripted: Any, reply: Any, until: Any
) -> None:
    always(scripted, reply(b"[]", index=1))
    client = Consul(scripted.url)
    for _ in range(3):
        await client.update_check("c", "passing", "")
    assert scripted.open_connections == 1
    await client.health("x", index=0, wait_s=1)
    assert "Connection: close" in scripted.requests[-1]
    await until(lambda: scripted.open_connections == 1)
    await client.close()
    await until(lambda: scripted.open_connections == 0)


async def test_a_kept_connection_that_died_is_replaced_unnoticed(scripted: Any, reply: Any) -> None:
    count = 0

    async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        if count == 2:
            writer.close()  # takes the request and closes, as a server at its idle time does
        else:
            writer.write(reply(b"{}"))

    scripted.script = script
    client = Consul(scripted.url)
    await client.services()
    await client.services()
    assert count == 3
    await client.close()


async def test_the_token_is_sent_and_nothing_else_shows_it(scripted: Any, reply: Any) -> None:
    always(scripted, reply(b"{}"))
    client = Consul(scripted.url, token="s3cret-token", datacenter="dc 1")
    await client.services()
    assert "X-Consul-Token: s3cret-token" in scripted.requests[0]
    assert "s3cret-token" not in repr(client)
    await client.close()


@each_call
async def test_a_token_that_is_refused_is_read_again(
    scripted: Any, reply: Any, call: Any, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("new-token\n")
    client = Consul(scripted.url, token="old-token", token_file=str(file))
    always(scripted, reply(b"ACL not found", status=403))
    with pytest.raises(Rejected):
        await call(client)
    with pytest.raises(Rejected):
        await call(client)
    tokens = [line for head in scripted.requests for line in head.splitlines() if "Token" in line]
    assert tokens == ["X-Consul-Token: old-token", "X-Consul-Token: new-token"]
    await client.close()


@pytest.mark.parametrize("content", [None, b"", b"\n", b"a\r\nX-Evil: 1", b"na\xc3\xafve"])
async def test_what_is_not_a_token_does_not_replace_one(
    scripted: Any, reply: Any, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    client = Consul(scripted.url, token="old-token", token_file=str(file))
    always(scripted, reply(b"Permission denied", status=403))
    for _ in range(2):
        with pytest.raises(Rejected):
            await client.services()
    assert all("X-Consul-Token: old-token\r\n" in head for head in scripted.requests)
    assert not any("X-Evil" in head for head in scripted.requests)
    await client.close()


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("https://127.0.0.1:8501", None),
        ("http://127.0.0.1:8500/prefix", None),
        ("http://u:p@127.0.0.1:8500", None),
        ("http://127.0.0.1:99999", None),
        ("127.0.0.1:8500", None),
        ("http://127.0.0.1:8500", "a\r\nX-Evil: 1"),
        ("http://127.0.0.1:8500", "naïve"),
    ],
)
def test_what_cannot_be_an_agent_or_a_token_is_refused(url: str, token: str | None) -> None:
    with pytest.raises(ValueError):
        Consul(url, token=token)


async def test_the_query_says_index_wait_and_datacenter(scripted: Any, reply: Any) -> None:
    always(scripted, reply(b"[]", index=9))
    answer = await Consul(scripted.url, datacenter="dc 1").health("mesh-x/y", index=8, wait_s=60)
    assert answer.index == 9
    assert scripted.requests[0].startswith(
        "GET /v1/health/service/mesh-x%2Fy?index=8&wait=60s&dc=dc%201 HTTP/1.1\r\n"
    )


async def test_a_query_can_be_about_another_datacenter(scripted: Any, reply: Any) -> None:
    always(scripted, reply(b"[]", index=9))
    for own in (None, "dc1"):
        client = Consul(scripted.url, datacenter=own)
        await client.health("mesh-x", index=8, wait_s=60, datacenter="dc2&x")
    assert [head.split("\r\n")[0] for head in scripted.requests] == [
        "GET /v1/health/service/mesh-x?index=8&wait=60s&dc=dc2%26x HTTP/1.1"
    ] * 2


@pytest.mark.parametrize("index", ["", "-4", "+4", "1_0", "4.0", "٤", "9" * 21])
async def test_an_index_that_is_no_number_counts_as_none(
    scripted: Any, reply: Any, index: str
) -> None:
    always(scripted, f"HTTP/1.1 200 X\r\nX-Consul-Index: {index}\r\n".encode() + reply(b"[]")[16:])
    assert (await Consul(scripted.url).health("x", index=0, wait_s=1)).index == 0


async def test_entries_that_make_no_sense_are_counted_and_the_others_kept(
    scripted: Any, reply: Any
) -> None:
    good = {"Node": {"Address": "10.0.0.9"}, "Service": {"ID": "a", "Port": 1}, "Checks": None}
    entries = [good, 7, {"Node": {}}, {**good, "Service": {"Port": "x"}}, {**good, "New": [1]}]
    always(scripted, reply(json.dumps(entries).encode(), index=1))
    answer = await Consul(scripted.url).health("x", index=0, wait_s=1)
    assert [entry.service.id for entry in answer.entries] == ["a", "a"]
    assert answer.unreadable == 3


async def test_a_key_is_decoded_and_a_missing_one_is_none(scripted: Any, reply: Any) -> None:
    value = base64.b64encode(b"hello").decode()
    client = Consul(scripted.url)
    always(scripted, reply(json.dumps([{"Value": value, "Flags": 0}]).encode(), index=5))
    assert (await client.key("a b/c", index=0, wait_s=1)).value == b"hello"
    assert scripted.requests[0].startswith("GET /v1/kv/a%20b/c?index=0&wait=1s ")
    always(scripted, reply(b'[{"Value": null}]', index=5))
    assert (await client.key("k", index=0, wait_s=1)).value == b""
    always(scripted, reply(b"", status=404, index=5))
    assert await client.key("k", index=0, wait_s=1) == module.Key(index=5, value=None)
    always(scripted, reply(b"404 page not found", status=404))
    with pytest.raises(Rejected):
        await client.key("k", index=0, wait_s=1)
    always(scripted, reply(b'[{"Value": "?"}]', index=5))
    with pytest.raises(Garbage):
        await client.key("k", index=0, wait_s=1)


async def test_a_real_agent_takes_and_gives_what_we_say(shared_consul: Any) -> None:
    client = Consul(shared_consul.url)
    with pytest.raises(Rejected) as unknown:
        await client.update_check("s:proxy", "passing", "out")
    assert unknown.value.status in {404, 500}
    await register(client)
    await client.update_check("s:app", "passing", "fine")
    await client.update_check("s:proxy", "warning", '{"generation":1}')
    entries: tuple[Any, ...] = ()
    index = 0
    async with asyncio.timeout(20):
        while not entries or entries[0].checks[-1].status != "warning":
            answer = await client.health("mesh-api", index=index, wait_s=5)
            entries, index = answer.entries, answer.index
    (entry,) = entries
    assert (entry.service.address, entry.service.port) == ("10.0.0.1", 15006)
    assert entry.service.meta == {"mesh": "x"}
    assert {check.check_id for check in entry.checks} == {"serfHealth", "s:proxy", "s:app"}
    assert set(await client.services()) == {"s"}
    await client.deregister("s")
    await client.deregister("never-there")
    assert await client.services() == {}
    await client.close()


async def test_a_real_agent_holds_a_query_until_something_changes(shared_consul: Any) -> None:
    client = Consul(shared_consul.url)
    first = await client.key("meshctl/snapshot", index=0, wait_s=5)
    assert first.value is None
    assert first.index >= 1
    blocked = asyncio.ensure_future(client.key("meshctl/snapshot", index=first.index, wait_s=20))
    done, _ = await asyncio.wait({blocked}, timeout=0.3)
    assert not done
    await asyncio.to_thread(shared_consul.call, "PUT", "/v1/kv/meshctl/snapshot", b"{}")
    changed = await asyncio.wait_for(blocked, 5)
    assert changed.value == b"{}"
    assert changed.index > first.index
    await asyncio.to_thread(shared_consul.call, "DELETE", "/v1/kv/meshctl/snapshot")
    nothing = await client.health("mesh-none", index=0, wait_s=1)
    assert nothing.entries == ()
