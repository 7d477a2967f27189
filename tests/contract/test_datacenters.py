"""Asking for another datacenter, and what a proxy registers of its own place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from proxy.core.discovery import Observation
from proxy.model.names import ServiceName, TrustDomain
from proxy.net import entries
from proxy.net.consul import Consul, Rejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Agent

TD = TrustDomain("mesh.example")


@pytest.fixture
async def client(agent: Agent) -> AsyncIterator[Consul]:
    made = Consul(agent.url)
    yield made
    await made.close()


async def own_datacenter(agent: Agent) -> str:
    name: str = (await agent.get("agent/self")).json["Config"]["Datacenter"]
    return name


@pytest.mark.parametrize(
    "path",
    [
        "health/service/x?dc=elsewhere",
        "health/service/x?dc=elsewhere&index=5&wait=1s",
        "catalog/services?dc=elsewhere",
        "kv/x?dc=elsewhere",
    ],
)
async def test_there_is_no_way_to_a_datacenter_that_is_not_there(agent: Agent, path: str) -> None:
    async with asyncio.timeout(5):
        reply = await agent.get(path)
    assert reply.status == 500
    assert b"No path to datacenter" in reply.body


async def test_the_agents_own_datacenter_by_name_is_like_none(agent: Agent) -> None:
    name, own = agent.name("web"), await own_datacenter(agent)
    await agent.register(name)
    plain = await agent.get(f"health/service/{name}")
    named = await agent.get(f"health/service/{name}?dc={own}")
    assert (named.status, named.json, named.index) == (200, plain.json, plain.index)


async def test_the_proxys_client_waits_in_a_datacenter_by_name(
    agent: Agent, client: Consul
) -> None:
    name, own = agent.name("web"), await own_datacenter(agent)
    before = await client.health(name, index=0, wait_s=1, datacenter=own)
    query = asyncio.create_task(client.health(name, index=before.index, wait_s=10, datacenter=own))
    await asyncio.wait([query], timeout=0.2)
    assert not query.done()
    await agent.register(name)
    async with asyncio.timeout(5):
        after = await query
    assert [entry.service.id for entry in after.entries] == [f"{name}-1"]


async def test_the_proxys_client_is_told_that_there_is_no_way(agent: Agent, client: Consul) -> None:
    for index in (0, 7):
        with pytest.raises(Rejected) as caught:
            await client.health(agent.name("web"), index=index, wait_s=5, datacenter="elsewhere")
        assert caught.value.status == 500
        assert "No path to datacenter" in str(caught.value)


async def test_zone_and_weight_come_back_as_they_were_registered(
    agent: Agent, client: Consul
) -> None:
    name = ServiceName(agent.name("web"))
    meta = {
        "mesh": "meshctl",
        "mesh-trust-domain": TD,
        "mesh-host": "h1",
        "mesh-zone": "eu-west-1a",
        "mesh-weight": "7",
    }
    await client.register(
        service_id=f"{name}-1", name=name, address="10.0.0.7", port=15006, meta=meta, checks=()
    )
    seen = await look(client, name)
    assert [(found.zone, found.weight) for found in seen.healthy] == [("eu-west-1a", 7)]
    # Registered again with another weight, as by a proxy that a deploy has restarted.
    await client.register(
        service_id=f"{name}-1",
        name=name,
        address="10.0.0.7",
        port=15006,
        meta={**meta, "mesh-weight": "0"},
        checks=(),
    )
    await agent.until(
        f"health/service/{name}", lambda all_: all_[0]["Service"]["Meta"]["mesh-weight"] == "0"
    )
    seen = await look(client, name)
    assert [found.weight for found in seen.healthy] == [0]


async def look(client: Consul, name: ServiceName) -> Observation:
    answer = await client.health(name, index=0, wait_s=1)
    return entries.read(answer, name, TD, went_back=False)
