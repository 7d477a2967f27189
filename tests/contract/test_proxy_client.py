"""The proxy's own client of Consul, ``proxy.net.consul``, against both agents."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from proxy.net.consul import Consul, Rejected, TtlCheck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Agent


@pytest.fixture
async def client(agent: Agent) -> AsyncIterator[Consul]:
    made = Consul(agent.url, datacenter="dc1")
    yield made
    await made.close()


async def register(client: Consul, name: str) -> None:
    check = TtlCheck(
        check_id=f"{name}:proxy",
        name="proxy",
        ttl_s=30.0,
        status="critical",
        deregister_after_s=72 * 3600.0,
    )
    await client.register(
        service_id=f"{name}-1",
        name=name,
        address="10.0.0.7",
        port=15006,
        meta={"mesh": "meshctl"},
        checks=(check,),
    )


async def test_a_registration_is_seen_by_a_waiting_query(agent: Agent, client: Consul) -> None:
    name = agent.name("web")
    before = await client.health(name, index=0, wait_s=1)
    assert before.entries == ()
    query = asyncio.create_task(client.health(name, index=before.index, wait_s=10))
    done, _ = await asyncio.wait([query], timeout=0.2)
    assert not done
    await register(client, name)
    async with asyncio.timeout(5):
        after = await query
    assert after.index > before.index
    (entry,) = after.entries
    assert (entry.service.id, entry.service.address, entry.service.port) == (
        f"{name}-1",
        "10.0.0.7",
        15006,
    )
    assert entry.service.meta == {"mesh": "meshctl"}
    assert after.unreadable == 0
    assert f"{name}-1" in await client.services()


async def test_an_update_of_a_check_is_seen(agent: Agent, client: Consul) -> None:
    name = agent.name("web")
    await register(client, name)
    await client.update_check(f"{name}:proxy", "passing", '{"generation": 1}')
    (entry,) = (await client.health(name, index=0, wait_s=1)).entries
    statuses = {check.check_id: check.status for check in entry.checks or []}
    assert statuses == {"serfHealth": "passing", f"{name}:proxy": "passing"}


async def test_a_check_that_is_not_there_is_rejected(agent: Agent, client: Consul) -> None:
    with pytest.raises(Rejected) as caught:
        await client.update_check(agent.name("missing"), "passing", "")
    assert caught.value.status in (404, 500)


async def test_deregistering_twice_is_no_error(agent: Agent, client: Consul) -> None:
    name = agent.name("web")
    await register(client, name)
    await client.deregister(f"{name}-1")
    await client.deregister(f"{name}-1")
    assert (await client.health(name, index=0, wait_s=1)).entries == ()


async def test_a_key_appears_changes_and_goes(agent: Agent, client: Consul) -> None:
    key = agent.name("dir/key")
    found = await client.key(key, index=0, wait_s=1)
    assert found.value is None
    for change, value in (
        (agent.put(f"kv/{key}", b"1"), b"1"),
        (agent.put(f"kv/{key}", b""), b""),
        (agent.call("DELETE", f"kv/{key}"), None),
    ):
        query = asyncio.create_task(client.key(key, index=found.index, wait_s=10))
        await asyncio.wait([query], timeout=0.1)
        await change
        async with asyncio.timeout(5):
            found = await query
        assert found.value == value
