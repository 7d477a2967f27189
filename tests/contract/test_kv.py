"""What the mesh relies on in Consul's key/value store, held against both implementations."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Agent


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def entry(agent: Agent, key: str) -> dict[str, Any]:
    (found,) = (await agent.get(f"kv/{key}")).json
    return dict(found)


async def test_a_value_comes_back_in_base64_with_its_indexes(agent: Agent) -> None:
    key = agent.name("key")
    assert (await agent.put(f"kv/{key}?flags=42", b"\x00\xffbytes")).json is True
    reply = await agent.get(f"kv/{key}")
    (found,) = reply.json
    assert base64.b64decode(found.pop("Value")) == b"\x00\xffbytes"
    assert found.pop("CreateIndex") == found.pop("ModifyIndex") == reply.index
    assert found == {"Key": key, "Flags": 42, "LockIndex": 0}
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["X-Consul-Knownleader"] == "true"
    assert reply.headers["X-Consul-Lastcontact"] == "0"


async def test_an_empty_value_is_null(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"")
    assert (await entry(agent, key))["Value"] is None
    assert (await agent.get(f"kv/{key}?raw")).body == b""


async def test_raw_gives_the_bytes_and_forbids_sniffing(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"<html>")
    reply = await agent.get(f"kv/{key}?raw")
    assert reply.body == b"<html>"
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.index > 0


async def test_a_missing_key_is_404_with_an_index_and_no_body(agent: Agent) -> None:
    for query in ("", "?raw", "?recurse", "?keys"):
        reply = await agent.get(f"kv/{agent.name('missing')}{query}")
        assert (reply.status, reply.body) == (404, b"")
        assert reply.index > 0


async def test_a_change_raises_the_modify_index_only(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    first = await entry(agent, key)
    await agent.put(f"kv/{key}", b"2")
    second = await entry(agent, key)
    assert second["CreateIndex"] == first["CreateIndex"]
    assert second["ModifyIndex"] > first["ModifyIndex"]


async def test_writing_the_same_again_changes_no_index(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    before = await entry(agent, key)
    await agent.put(f"kv/{key}", b"1")
    assert await entry(agent, key) == before


async def test_recurse_and_keys_list_a_prefix_in_order(agent: Agent) -> None:
    top = agent.name("dir")
    for key in ("b", "a", "a/x", "c/y/z"):
        await agent.put(f"kv/{top}/{key}", b"1")
    reply = await agent.get(f"kv/{top}?recurse")
    assert [found["Key"] for found in reply.json] == [
        f"{top}/{key}" for key in ("a", "a/x", "b", "c/y/z")
    ]
    assert reply.index == max(found["ModifyIndex"] for found in reply.json)
    assert (await agent.get(f"kv/{top}/?keys&separator=/")).json == [
        f"{top}/{key}" for key in ("a", "a/", "b", "c/")
    ]
    assert (await agent.get(f"kv/{top}?keys")).json == [
        f"{top}/{key}" for key in ("a", "a/x", "b", "c/y/z")
    ]


async def test_escaped_and_plain_slashes_name_the_same_key(agent: Agent) -> None:
    top = agent.name("sp ace").replace(" ", "%20")
    await agent.put(f"kv/{top}%2Fx", b"1")
    assert (await agent.get(f"kv/{top}/x?raw")).body == b"1"


async def test_cas_0_creates_and_never_overwrites(agent: Agent) -> None:
    key = agent.name("key")
    assert (await agent.put(f"kv/{key}?cas=0", b"1")).json is True
    assert (await agent.put(f"kv/{key}?cas=0", b"2")).json is False
    assert (await agent.get(f"kv/{key}?raw")).body == b"1"


async def test_cas_writes_only_at_the_current_index(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    index = (await entry(agent, key))["ModifyIndex"]
    assert (await agent.put(f"kv/{key}?cas={index}", b"2")).json is True
    assert (await agent.put(f"kv/{key}?cas={index}", b"3")).json is False
    assert (await agent.put(f"kv/{agent.name('missing')}?cas={index}", b"3")).json is False
    assert (await agent.get(f"kv/{key}?raw")).body == b"2"


async def test_of_many_racing_cas_writes_exactly_one_wins(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"start")
    index = (await entry(agent, key))["ModifyIndex"]
    replies = await asyncio.gather(
        *(agent.put(f"kv/{key}?cas={index}", str(racer).encode()) for racer in range(20))
    )
    won = [racer for racer, reply in enumerate(replies) if reply.json is True]
    assert len(won) == 1
    assert (await agent.get(f"kv/{key}?raw")).body == str(won[0]).encode()


async def test_delete_says_true_for_what_is_not_there(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    assert (await agent.call("DELETE", f"kv/{key}")).json is True
    assert (await agent.get(f"kv/{key}")).status == 404
    assert (await agent.call("DELETE", f"kv/{key}")).json is True
    assert (await agent.call("DELETE", f"kv/{key}?cas=5")).json is True


async def test_delete_with_cas_deletes_only_at_the_current_index(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    index = (await entry(agent, key))["ModifyIndex"]
    assert (await agent.call("DELETE", f"kv/{key}?cas=0")).json is False
    assert (await agent.call("DELETE", f"kv/{key}?cas={index - 1}")).json is False
    assert (await agent.call("DELETE", f"kv/{key}?cas={index}")).json is True
    assert (await agent.get(f"kv/{key}")).status == 404


async def test_delete_recurse_takes_the_prefix_and_nothing_else(agent: Agent) -> None:
    top = agent.name("dir")
    for key in ("a", "b/c"):
        await agent.put(f"kv/{top}/{key}", b"1")
    await agent.put(f"kv/{top}other", b"1")
    assert (await agent.call("DELETE", f"kv/{top}/?recurse")).json is True
    assert (await agent.get(f"kv/{top}?keys")).json == [f"{top}other"]


async def test_the_index_of_a_prefix_never_goes_back_over_a_deletion(agent: Agent) -> None:
    top = agent.name("dir")
    await agent.put(f"kv/{top}/a", b"1")
    await agent.put(f"kv/{top}/b", b"1")
    seen = [(await agent.get(f"kv/{top}?recurse")).index]
    await agent.call("DELETE", f"kv/{top}/b")
    seen.append((await agent.get(f"kv/{top}?recurse")).index)
    await agent.call("DELETE", f"kv/{top}/a")
    seen.append((await agent.get(f"kv/{top}?recurse")).index)
    await agent.put(f"kv/{top}/a", b"1")
    seen.append((await agent.get(f"kv/{top}?recurse")).index)
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "kv/", 400, b"Missing key name"),
        ("PUT", "kv/", 400, b"Missing key name"),
        ("DELETE", "kv/", 400, b"Missing key name"),
        ("DELETE", "kv/x?recurse&cas=1", 400, b"Conflicting flags"),
        ("GET", "kv/x?index=abc", 400, b"Invalid index"),
        ("GET", "kv/x?index=-1", 400, b"Invalid index"),
        ("GET", "kv/x?index=1&wait=5", 400, b"Invalid wait time"),
        ("GET", "kv/x?stale&consistent", 400, b"Cannot specify ?stale with ?consistent"),
        ("GET", "kv/x?dc=elsewhere", 500, b"No path to datacenter"),
        ("PUT", "kv/x?cas=abc", 500, b'strconv.ParseUint: parsing "abc": invalid syntax'),
        ("PUT", "kv/x?flags=-1", 500, b'strconv.ParseUint: parsing "-1": invalid syntax'),
        ("POST", "kv/x", 405, b"method POST not allowed"),
    ],
)
async def test_what_is_wrong_is_refused_in_consuls_words(
    agent: Agent, method: str, path: str, status: int, body: bytes
) -> None:
    reply = await agent.call(method, path)
    assert (reply.status, reply.body[: len(body)]) == (status, body)


async def test_a_value_may_have_512_kib_and_not_a_byte_more(agent: Agent) -> None:
    key = agent.name("key")
    assert (await agent.put(f"kv/{key}", b"x" * 524288)).status == 200
    reply = await agent.put(f"kv/{key}", b"y" * 524289)
    assert reply.status == 413
    assert reply.body.startswith(b"Request body(524289 bytes) too large, max size: 524288 bytes.")
    assert (await agent.get(f"kv/{key}?raw")).body[:1] == b"x"


async def transact(agent: Agent, *operations: dict[str, Any]) -> Any:
    return await agent.put("txn", [{"KV": operation} for operation in operations])


async def test_a_transaction_shows_what_it_wrote_and_read(agent: Agent) -> None:
    a, b = agent.name("a"), agent.name("b")
    await agent.put(f"kv/{a}", b"old")
    index = (await entry(agent, a))["ModifyIndex"]
    reply = await transact(
        agent,
        {"Verb": "set", "Key": b, "Value": encoded("new"), "Flags": 7},
        {"Verb": "get", "Key": a},
        {"Verb": "check-index", "Key": a, "Index": index},
        {"Verb": "check-not-exists", "Key": agent.name("missing")},
        {"Verb": "cas", "Key": a, "Value": encoded("newer"), "Index": index},
        {"Verb": "delete", "Key": agent.name("missing")},
    )
    assert (reply.status, reply.json["Errors"]) == (200, None)
    shown = [(r["KV"]["Key"], r["KV"]["Value"]) for r in reply.json["Results"]]
    assert shown == [(b, None), (a, encoded("old")), (a, None), (a, None)]
    assert (await agent.get(f"kv/{a}?raw")).body == b"newer"
    written = await entry(agent, b)
    assert written["Flags"] == 7
    assert written["ModifyIndex"] == (await entry(agent, a))["ModifyIndex"]


async def test_a_failing_transaction_changes_nothing_and_names_each_failure(agent: Agent) -> None:
    a, b, missing = agent.name("a"), agent.name("b"), agent.name("missing")
    await agent.put(f"kv/{a}", b"old")
    index = (await entry(agent, a))["ModifyIndex"]
    reply = await transact(
        agent,
        {"Verb": "set", "Key": b, "Value": encoded("new")},
        {"Verb": "set", "Key": a, "Value": encoded("new")},
        {"Verb": "cas", "Key": a, "Value": encoded("x"), "Index": index - 1},
        {"Verb": "get", "Key": missing},
        {"Verb": "check-index", "Key": missing, "Index": 5},
        {"Verb": "check-not-exists", "Key": a},
        {"Verb": "delete-cas", "Key": a, "Index": index - 1},
    )
    assert (reply.status, reply.json["Results"]) == (409, None)
    assert [(e["OpIndex"], e["What"]) for e in reply.json["Errors"]] == [
        (2, f'failed to set key "{a}", index is stale'),
        (3, f'key "{missing}" doesn\'t exist'),
        (4, f'failed to check index, key "{missing}" doesn\'t exist'),
        (5, f'key "{a}" exists'),
        (6, f'failed to delete key "{a}", index is stale'),
    ]
    assert (await agent.get(f"kv/{b}")).status == 404
    assert (await agent.get(f"kv/{a}?raw")).body == b"old"
    assert (await entry(agent, a))["ModifyIndex"] == index


async def test_delete_cas_in_a_transaction_deletes_at_the_current_index(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    index = (await entry(agent, key))["ModifyIndex"]
    reply = await transact(agent, {"Verb": "delete-cas", "Key": key, "Index": index})
    assert (reply.status, reply.json) == (200, {"Results": [], "Errors": None})
    assert (await agent.get(f"kv/{key}")).status == 404


async def test_a_transaction_has_at_most_64_operations(agent: Agent) -> None:
    stem = agent.name("many")
    sets = [{"Verb": "set", "Key": f"{stem}/{n}", "Value": encoded("1")} for n in range(65)]
    reply = await transact(agent, *sets)
    assert reply.status == 413
    assert reply.body.startswith(b"Transaction contains too many operations (65 > 64)")
    assert (await agent.get(f"kv/{stem}?keys")).status == 404
    assert (await transact(agent, *sets[:64])).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"KV": {}}', 400),
        (b'[{"KV": {"Verb": "set", "Key": "x", "Value": "!"}}]', 400),
        (b'[{"KV": {"Verb": "set", "Key": "x", "Bogus": 1}}]', 400),
        (b'[{"KV": {"Verb": "bogus", "Key": "x"}}]', 409),
        (b'[{"KV": {"Verb": "set", "Key": ""}}]', 409),
    ],
)
async def test_a_malformed_transaction_is_refused(agent: Agent, body: bytes, status: int) -> None:
    assert (await agent.put("txn", body)).status == status
