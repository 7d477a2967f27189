"""``meshctl.consul.ConsulEdge`` against both agents."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from meshctl.apply.policy import await_acknowledged
from meshctl.consul import CheckStatus, ConsulEdge, Publication, RegisteredWorkload, history
from meshctl.errors import Refused, RemoteFailure
from proxy.model import registration
from proxy.model.codec import encode
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy, Route, ServicePolicy, Snapshot, Timeouts
from proxy.model.registration import SNAPSHOT_KEY, Acknowledgement
from proxy.model.routing import DirectResponse, Match, PathMatch
from proxy.model.snapshot import pack, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Agent

TD = TrustDomain("mesh.test")


def policy(request_s: float) -> Policy:
    return Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=request_s)))


@pytest.fixture
async def edge(agent: Agent) -> AsyncIterator[ConsulEdge]:
    """With nothing published and no workload registered."""
    await agent.call("DELETE", f"kv/{SNAPSHOT_KEY}")
    await agent.call("DELETE", f"kv/{history.PREFIX}?recurse")
    for service_id in (await agent.get("agent/services")).json:
        if service_id.startswith(registration.SERVICE_PREFIX):
            await agent.put(f"agent/service/deregister/{service_id}")
    async with ConsulEdge(agent.url) as made:
        yield made


async def register(agent: Agent, service: str, host: str, **changes: Any) -> None:
    name, on = ServiceName(service), HostName(host)
    checks = [
        {"CheckID": registration.proxy_check_id(name, on), "Name": "p", "TTL": "30s"},
        {"CheckID": registration.app_check_id(name, on), "Name": "a", "TTL": "30s"},
    ]
    body = {
        "ID": registration.service_id(name, on),
        "Name": registration.catalogue_name(name),
        "Address": "10.0.0.7",
        "Port": 15006,
        "Meta": {
            registration.META_MESH: "meshctl",
            registration.META_TRUST_DOMAIN: TD,
            registration.META_HOST: host,
            registration.META_VERSION: "v2",
            registration.META_PROTOCOL: "http",
        },
        "Checks": checks,
    }
    reply = await agent.put("agent/service/register", {**body, **changes})
    assert reply.status == 200


async def report(agent: Agent, check_id: str, status: str, output: str) -> None:
    body = {"Status": status, "Output": output}
    assert (await agent.put(f"agent/check/update/{check_id}", body)).status == 200


def acknowledgement(generation: int) -> Acknowledgement:
    return Acknowledgement(generation=generation, release="r", config="c", state="ready")


async def test_there_is_a_leader(edge: ConsulEdge) -> None:
    assert (await edge.leader()).startswith("127.0.0.1:")


async def test_nothing_published_is_none_at_0(edge: ConsulEdge) -> None:
    assert await edge.fetch_snapshot() == (None, 0)


async def test_the_first_publication_is_generation_1_and_comes_back(edge: ConsulEdge) -> None:
    assert await edge.publish(policy(5.0), TD) == Publication(generation=1, changed=True)
    snapshot, index = await edge.fetch_snapshot()
    assert snapshot == Snapshot(generation=1, trust_domain=TD, policy=policy(5.0))
    assert index > 0


async def test_publishing_the_same_writes_nothing(edge: ConsulEdge) -> None:
    await edge.publish(policy(5.0), TD)
    before = await edge.fetch_snapshot()
    assert await edge.publish(policy(5.0), TD) == Publication(generation=1, changed=False)
    assert await edge.fetch_snapshot() == before


async def test_each_change_is_one_generation_more(edge: ConsulEdge) -> None:
    generations = [(await edge.publish(policy(float(n)), TD)).generation for n in range(5, 9)]
    assert generations == [1, 2, 3, 4]


async def test_racing_publications_lose_no_generation(edge: ConsulEdge) -> None:
    results = await asyncio.gather(*(edge.publish(policy(float(n)), TD) for n in range(5, 11)))
    assert sorted(result.generation for result in results) == [1, 2, 3, 4, 5, 6]
    snapshot, _ = await edge.fetch_snapshot()
    assert snapshot is not None
    assert snapshot.generation == 6


async def test_a_broken_snapshot_is_reported_and_repaired_with_a_higher_generation(
    agent: Agent, edge: ConsulEdge
) -> None:
    for number in range(5, 8):
        await edge.publish(policy(float(number)), TD)
    await agent.put(f"kv/{SNAPSHOT_KEY}", b'{"generation": 3, "poli')
    with pytest.raises(RemoteFailure, match="broken") as caught:
        await edge.fetch_snapshot()
    assert "meshctl deploy" in caught.value.hint
    publication = await edge.publish(policy(5.0), TD)
    assert publication.changed
    assert publication.generation > 3
    snapshot, _ = await edge.fetch_snapshot()
    assert snapshot is not None
    assert snapshot.generation == publication.generation


async def test_a_wiped_store_goes_on_above_what_proxies_have_acknowledged(
    agent: Agent, edge: ConsulEdge
) -> None:
    await register(agent, "api", "h1")
    output = encode(acknowledgement(41)).decode()
    await report(agent, "mesh-api-h1:proxy", "passing", output)
    assert (await edge.publish(policy(5.0), TD)).generation == 42


async def test_the_policy_of_another_mesh_is_not_overwritten(edge: ConsulEdge) -> None:
    await edge.publish(policy(5.0), TrustDomain("other.test"))
    with pytest.raises(Refused, match=r"other\.test") as caught:
        await edge.publish(policy(6.0), TD)
    assert SNAPSHOT_KEY in caught.value.hint
    snapshot, _ = await edge.fetch_snapshot()
    assert snapshot is not None
    assert snapshot.trust_domain == "other.test"


async def test_nothing_registered_is_no_workload(edge: ConsulEdge) -> None:
    assert await edge.workloads() == []


async def test_workloads_come_with_everything_their_proxies_said(
    agent: Agent, edge: ConsulEdge
) -> None:
    await register(agent, "web", "h2")
    await register(agent, "api", "h2")
    await register(agent, "api", "h1")
    said = acknowledgement(7)
    await report(agent, "mesh-api-h1:proxy", "passing", encode(said).decode())
    await report(agent, "mesh-api-h1:app", "warning", "slow to answer")
    await report(agent, "mesh-api-h2:proxy", "passing", "not an acknowledgement")
    await report(agent, "mesh-api-h2:app", "passing", "")
    found = await edge.workloads()
    assert [(w.service, w.host) for w in found] == [("api", "h1"), ("api", "h2"), ("web", "h2")]
    (node,) = (await agent.get("catalog/nodes")).json
    assert found[0] == RegisteredWorkload(
        service=ServiceName("api"),
        host=HostName("h1"),
        trust_domain=TD,
        address="10.0.0.7",
        port=15006,
        version="v2",
        protocol="http",
        node=node["Node"],
        node_status=CheckStatus.PASSING,
        proxy_status=CheckStatus.PASSING,
        app_status=CheckStatus.WARNING,
        app_output="slow to answer",
        acknowledgement=said,
    )
    assert [w.acknowledgement for w in found[1:]] == [None, None]
    assert [w.is_healthy for w in found] == [False, True, False]
    assert found[2].proxy_status is CheckStatus.CRITICAL


async def test_an_expired_proxy_is_critical_with_its_last_acknowledgement(
    agent: Agent, edge: ConsulEdge
) -> None:
    check = {"CheckID": "mesh-api-h1:proxy", "Name": "p", "TTL": "300ms"}
    await register(agent, "api", "h1", Checks=[check])
    said = acknowledgement(7)
    await report(agent, "mesh-api-h1:proxy", "passing", encode(said).decode())
    await agent.until("health/checks/mesh-api", lambda found: found[0]["Status"] == "critical")
    (workload,) = await edge.workloads()
    assert workload.proxy_status is CheckStatus.CRITICAL
    assert workload.app_status is CheckStatus.MISSING
    assert workload.acknowledgement == said


async def test_what_no_proxy_of_ours_registered_is_left_out(agent: Agent, edge: ConsulEdge) -> None:
    await register(agent, "ours", "h1")
    await register(agent, "foreign", "h1", Meta={})
    await register(agent, "strange", "h1", Meta={registration.META_MESH: "meshctl"})
    odd = {"ID": "odd", "Name": "mesh-Not_A_Name", "Meta": {registration.META_MESH: "meshctl"}}
    await agent.put("agent/service/register", odd)
    try:
        assert [workload.service for workload in await edge.workloads()] == ["ours"]
    finally:
        await agent.put("agent/service/deregister/odd")


async def test_what_is_published_is_canonical_json(agent: Agent, edge: ConsulEdge) -> None:
    await edge.publish(policy(5.0), TD)
    raw = (await agent.get(f"kv/{SNAPSHOT_KEY}?raw")).body
    assert raw == pack(Snapshot(generation=1, trust_domain=TD, policy=policy(5.0)))
    assert json.loads(raw)["policy"]["defaults"]["timeouts"]["request_s"] == 5.0


async def test_the_history_has_what_was_published_the_newest_first(edge: ConsulEdge) -> None:
    await edge.publish(policy(1), TD)
    await edge.publish(policy(2), TD, why="rollback to 7")
    newest, oldest = await edge.history()
    assert (newest.policy, newest.why) == (policy(2), "rollback to 7")
    assert (oldest.policy, oldest.why) == (policy(1), "")
    assert newest.generation == oldest.generation + 1
    assert newest.published_at.endswith("Z")
    assert "@" in newest.by


async def test_a_policy_that_is_in_force_already_makes_no_history(edge: ConsulEdge) -> None:
    await edge.publish(policy(1), TD)
    await edge.publish(policy(1), TD)
    assert len(await edge.history()) == 1


async def test_the_history_is_bounded(edge: ConsulEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    for turn in range(6):
        await edge.publish(policy(turn + 1), TD)
    assert [entry.policy for entry in await edge.history()] == [policy(6), policy(5), policy(4)]


async def test_an_entry_that_cannot_be_read_is_left_out(agent: Agent, edge: ConsulEdge) -> None:
    await edge.publish(policy(1), TD)
    await agent.put(f"kv/{history.PREFIX}0000000000", b"not an entry")
    assert [entry.policy for entry in await edge.history()] == [policy(1)]


async def test_proxies_that_live_and_do_not_run_a_generation_are_named(
    agent: Agent, edge: ConsulEdge
) -> None:
    for host, said in (("a", acknowledgement(3)), ("b", acknowledgement(2)), ("c", None)):
        await register(agent, "api", host)
        check = registration.proxy_check_id(ServiceName("api"), HostName(host))
        await report(agent, check, "passing", encode(said).decode() if said else "")
    await register(agent, "api", "dead")
    found = await await_acknowledged(edge, TD, 3, deadline_s=0.0)
    assert found.hosts == ("a",)
    assert found.late == {"b": "it runs generation 2", "c": "it has not said what it runs"}


async def test_a_late_proxy_is_waited_for(agent: Agent, edge: ConsulEdge) -> None:
    await register(agent, "api", "a")
    check = registration.proxy_check_id(ServiceName("api"), HostName("a"))
    await report(agent, check, "passing", encode(acknowledgement(2)).decode())
    waiting = asyncio.create_task(await_acknowledged(edge, TD, 3, deadline_s=20.0))
    # A changed status is published at once, a changed output alone only after minutes.
    await report(agent, check, "warning", encode(acknowledgement(3)).decode())
    assert (await waiting).hosts == ("a",)


async def test_a_policy_of_a_thousand_services_is_published_and_read_back(
    agent: Agent, edge: ConsulEdge
) -> None:
    def routes(service: int) -> tuple[Route, ...]:
        prefixes = (f"/{service * 7919 % 65521:x}/{number}" for number in range(5))
        matches = (Match(path=PathMatch(prefix=prefix)) for prefix in prefixes)
        return tuple(Route(name=f"r{n}", match=match) for n, match in enumerate(matches))

    services = {
        ServiceName(f"service-{i:04d}"): ServicePolicy(routes=routes(i)) for i in range(1000)
    }
    large = Policy(services=services)
    published = await edge.publish(large, TD)
    assert published.changed
    raw = (await agent.get(f"kv/{SNAPSHOT_KEY}?raw")).body
    assert len(raw) < len(plain(raw)) / 4
    snapshot, _ = await edge.fetch_snapshot()
    assert snapshot is not None
    assert snapshot.policy == large
    assert not (await edge.publish(large, TD)).changed
    assert (await edge.history())[0].policy == large


async def test_a_policy_that_consul_would_not_take_is_refused_before_it_is_sent(
    edge: ConsulEdge,
) -> None:
    rng = random.Random(7)
    routes = tuple(
        Route(name=f"r{i}", respond=DirectResponse(status=200, body=rng.randbytes(30_000).hex()))
        for i in range(20)
    )
    policy = Policy(services={ServiceName("api"): ServicePolicy(routes=routes)})
    with pytest.raises(Refused, match="at most 524288"):
        await edge.publish(policy, TD)
    assert await edge.fetch_snapshot() == (None, 0)
