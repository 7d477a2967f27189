"""Blocking queries: what wakes them, what does not, and what their index says."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from conftest import Agent, Reply

LONG = "wait=15s"
SHORT = "wait=300ms"


async def woken(agent: Agent, path: str, change: Awaitable[object]) -> Reply:
    """The answer to a query that waits while ``change`` happens; fails if it does not wake."""
    index = (await agent.get(path)).index
    glue = "&" if "?" in path else "?"
    query = asyncio.create_task(agent.get(f"{path}{glue}index={index}&{LONG}"))
    done, _ = await asyncio.wait([query], timeout=0.2)
    assert not done, "it answered before anything changed"
    started = time.monotonic()
    await change
    async with asyncio.timeout(5):
        reply = await query
    assert time.monotonic() - started < 3
    assert reply.index > index
    return reply


async def slept(agent: Agent, path: str, change: Awaitable[object]) -> None:
    """Fails if ``change``, which does not concern the query, wakes it."""
    before = await agent.get(path)
    glue = "&" if "?" in path else "?"
    started = time.monotonic()
    query = asyncio.create_task(agent.get(f"{path}{glue}index={before.index}&{SHORT}"))
    await asyncio.sleep(0.05)
    await change
    reply = await query
    assert time.monotonic() - started >= 0.3
    assert reply.body == before.body


async def test_a_key_that_changes_wakes_its_query(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    reply = await woken(agent, f"kv/{key}?raw", agent.put(f"kv/{key}", b"2"))
    assert reply.body == b"2"


async def test_a_key_that_is_deleted_wakes_its_query_with_404(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    assert (await woken(agent, f"kv/{key}", agent.call("DELETE", f"kv/{key}"))).status == 404


async def test_a_key_that_appears_wakes_its_query(agent: Agent) -> None:
    key = agent.name("key")
    reply = await woken(agent, f"kv/{key}?raw", agent.put(f"kv/{key}", b"1"))
    assert (reply.status, reply.body) == (200, b"1")


async def test_a_key_written_by_a_transaction_wakes_its_query(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    operation = {"Verb": "set", "Key": key, "Value": "Mg=="}
    await woken(agent, f"kv/{key}", agent.put("txn", [{"KV": operation}]))


async def test_another_key_wakes_nobody(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    await slept(agent, f"kv/{key}", agent.put(f"kv/{agent.name('other')}", b"2"))


async def test_the_same_value_again_wakes_nobody(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    await slept(agent, f"kv/{key}", agent.put(f"kv/{key}", b"1"))


async def test_a_change_below_a_prefix_wakes_its_query(agent: Agent) -> None:
    top = agent.name("dir")
    await agent.put(f"kv/{top}/a", b"1")
    for change in (agent.put(f"kv/{top}/b", b"1"), agent.call("DELETE", f"kv/{top}/a")):
        await woken(agent, f"kv/{top}/?recurse", change)
    await slept(agent, f"kv/{top}/?recurse", agent.put(f"kv/{agent.name('other')}", b"2"))


async def test_registration_and_removal_wake_the_queries_of_the_service(agent: Agent) -> None:
    for path in ("health/service", "health/checks", "catalog/service"):
        name = agent.name("web")
        check = agent.ttl(name)
        reply = await woken(agent, f"{path}/{name}", agent.register(name, Check=check))
        assert len(reply.json) == 1
        gone = agent.put(f"agent/service/deregister/{name}-1")
        reply = await woken(agent, f"{path}/{name}", gone)
        assert reply.json == []


async def test_a_check_that_changes_wakes_the_health_queries(agent: Agent) -> None:
    for path in ("health/service/{}", "health/service/{}?passing", "health/checks/{}"):
        name = agent.name("web")
        await agent.register(name, Check=agent.ttl(name))
        change = agent.put(f"agent/check/pass/{name}:proxy")
        reply = await woken(agent, path.format(name), change)
        assert len(reply.json) == 1


async def test_an_expired_ttl_wakes_the_health_query(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name, TTL="700ms", Status="passing"))
    path = f"health/service/{name}?passing"
    assert (await woken(agent, path, asyncio.sleep(0))).json == []


async def test_heartbeats_wake_nobody(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    await agent.put(f"agent/check/pass/{name}:proxy?note=1")
    heartbeat = agent.put(f"agent/check/pass/{name}:proxy?note=2")
    await slept(agent, f"health/service/{name}", heartbeat)


async def test_another_service_wakes_nobody(agent: Agent) -> None:
    name, other = agent.name("web"), agent.name("other")
    await agent.register(name, Check=agent.ttl(name))
    await slept(agent, f"health/service/{name}", agent.register(other, Check=agent.ttl(other)))


async def test_a_new_service_wakes_the_list_of_services(agent: Agent) -> None:
    name = agent.name("web")
    reply = await woken(agent, "catalog/services", agent.register(name))
    assert name in reply.json


async def test_a_check_that_changes_wakes_the_query_for_all_checks(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    await woken(agent, "health/state/any", agent.put(f"agent/check/pass/{name}:proxy"))


async def test_many_queries_wake_at_one_change(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    index = (await agent.get(f"kv/{key}")).index
    path = f"kv/{key}?raw&index={index}&{LONG}"
    queries = [asyncio.create_task(agent.get(path)) for _ in range(30)]
    done, _ = await asyncio.wait(queries, timeout=0.3)
    assert not done
    await agent.put(f"kv/{key}", b"2")
    async with asyncio.timeout(5):
        assert {(await query).body for query in queries} == {b"2"}


async def test_an_old_index_is_answered_at_once(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    index = (await agent.get(f"kv/{key}")).index
    await agent.put(f"kv/{key}", b"2")
    async with asyncio.timeout(2):
        reply = await agent.get(f"kv/{key}?raw&index={index}&{LONG}")
    assert reply.body == b"2"


@pytest.mark.parametrize("query", ["index=0", "wait=10s", f"index=0&{LONG}"])
async def test_without_an_index_nothing_waits(agent: Agent, query: str) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    async with asyncio.timeout(2):
        assert (await agent.get(f"kv/{key}?{query}")).status == 200


async def test_a_wait_ends_unchanged_at_its_time_plus_at_most_a_sixteenth(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    before = await agent.get(f"kv/{key}")
    started = time.monotonic()
    after = await agent.get(f"kv/{key}?index={before.index}&wait=800ms")
    assert 0.8 <= time.monotonic() - started < 0.85 + 0.5
    assert (after.index, after.body) == (before.index, before.body)


async def test_an_index_from_the_future_waits_and_reports_the_real_one(agent: Agent) -> None:
    """What a client sees whose Consul was wiped: the index it is told goes back."""
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    real = (await agent.get(f"kv/{key}")).index
    started = time.monotonic()
    query = asyncio.create_task(agent.get(f"kv/{key}?index={real + 10**9}&wait=500ms"))
    done, _ = await asyncio.wait([query], timeout=0.2)
    assert not done
    await agent.put(f"kv/{key}", b"2")
    reply = await query
    assert time.monotonic() - started >= 0.5
    assert real < reply.index < real + 10**9


async def test_a_client_that_goes_away_leaves_the_agent_well(agent: Agent) -> None:
    key = agent.name("key")
    await agent.put(f"kv/{key}", b"1")
    index = (await agent.get(f"kv/{key}")).index
    query = asyncio.create_task(agent.get(f"kv/{key}?index={index}&{LONG}"))
    await asyncio.wait([query], timeout=0.1)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    await agent.put(f"kv/{key}", b"2")
    assert (await agent.get(f"kv/{key}?raw")).body == b"2"


async def test_indexes_of_a_service_only_rise_over_its_whole_life(agent: Agent) -> None:
    name = agent.name("web")
    path = f"health/service/{name}"
    seen = [(await agent.get(path)).index]
    for change in (
        agent.register(name, Check=agent.ttl(name)),
        agent.put(f"agent/check/pass/{name}:proxy"),
        agent.register(name, Port=1, Check=agent.ttl(name)),
        agent.register(name, ID=f"{name}-2"),
        agent.put(f"agent/service/deregister/{name}-2"),
        agent.put(f"agent/check/fail/{name}:proxy"),
        agent.put(f"agent/service/deregister/{name}-1"),
        agent.register(name, Check=agent.ttl(name)),
    ):
        await change
        seen.append((await agent.get(path)).index)
    assert seen == sorted(set(seen))
