"""``meshctl.consul.ConsulEdge`` against both agents."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshctl.apply.policy import await_acknowledged
from meshctl.consul import CheckStatus, ConsulEdge, Publication, RegisteredWorkload, history
from meshctl.errors import Refused, RemoteFailure
from meshctl.pki.policykey import PolicyKey
from meshctl.pki.signing import MAX_LEAP, Published, Signing, last_published
from meshctl.state import StateDir
from proxy.model import registration
from proxy.model.codec import encode
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy, Route, ServicePolicy, Snapshot, Timeouts
from proxy.model.registration import SNAPSHOT_KEY, Acknowledgement
from proxy.model.routing import DirectResponse, Match, PathMatch
from proxy.model.signed import Kind, open_envelope
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


@pytest.fixture
def signing(tmp_path: Path) -> Signing:
    return signing_of(tmp_path / "mesh", TD)


def signing_of(folder: Path, trust_domain: TrustDomain) -> Signing:
    state = StateDir.create(folder, trust_domain, datetime.now(UTC))
    return Signing(state=state, key=PolicyKey.generate())


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


async def test_nothing_published_is_none_at_0(edge: ConsulEdge, signing: Signing) -> None:
    assert await edge.fetch_snapshot(signing.trust) == (None, 0)


async def test_the_first_publication_is_generation_1_and_comes_back(
    edge: ConsulEdge, signing: Signing
) -> None:
    assert await edge.publish(policy(5.0), signing) == Publication(generation=1, changed=True)
    snapshot, index = await edge.fetch_snapshot(signing.trust)
    assert snapshot == Snapshot(generation=1, trust_domain=TD, policy=policy(5.0))
    assert index > 0


async def test_publishing_the_same_writes_nothing(edge: ConsulEdge, signing: Signing) -> None:
    await edge.publish(policy(5.0), signing)
    before = await edge.fetch_snapshot(signing.trust)
    assert await edge.publish(policy(5.0), signing) == Publication(generation=1, changed=False)
    assert await edge.fetch_snapshot(signing.trust) == before


async def test_each_change_is_one_generation_more(edge: ConsulEdge, signing: Signing) -> None:
    generations = [(await edge.publish(policy(float(n)), signing)).generation for n in range(5, 9)]
    assert generations == [1, 2, 3, 4]


async def test_of_racing_publications_each_has_a_number_of_its_own(
    edge: ConsulEdge, signing: Signing
) -> None:
    """Numbers of those that lost are used up: something was signed with them."""
    results = await asyncio.gather(*(edge.publish(policy(float(n)), signing) for n in range(5, 11)))
    generations = {result.generation for result in results}
    assert len(generations) == 6
    snapshot, _ = await edge.fetch_snapshot(signing.trust)
    assert snapshot is not None
    assert snapshot.generation == max(generations)


@pytest.mark.parametrize("is_remembered", [True, False])
@pytest.mark.parametrize(
    "stored",
    [
        b'{"generation": 3, "poli',
        b"",
        pack(Snapshot(generation=9, trust_domain=TD, policy=Policy())),
    ],
    ids=["cut", "empty", "unsigned"],
)
async def test_what_is_not_signed_is_reported_and_repaired_with_a_higher_generation(
    agent: Agent, edge: ConsulEdge, signing: Signing, stored: bytes, is_remembered: bool
) -> None:
    for number in range(5, 8):
        await edge.publish(policy(float(number)), signing)
    if not is_remembered:
        (signing.state.path / "published.json").unlink()
    await agent.put(f"kv/{SNAPSHOT_KEY}", stored)
    with pytest.raises(RemoteFailure, match="is not signed by this mesh") as caught:
        await edge.fetch_snapshot(signing.trust)
    assert "meshctl deploy" in caught.value.hint
    publication = await edge.publish(policy(5.0), signing)
    assert publication.changed
    assert publication.generation > 3
    assert (publication.generation == 4) == is_remembered
    snapshot, _ = await edge.fetch_snapshot(signing.trust)
    assert snapshot is not None
    assert snapshot.generation == publication.generation


async def test_what_another_key_signed_is_not_believed(
    edge: ConsulEdge, signing: Signing, tmp_path: Path
) -> None:
    """Also if it is what we were about to publish."""
    await edge.publish(policy(5.0), signing_of(tmp_path / "thief", TD))
    with pytest.raises(RemoteFailure, match="signed with the key"):
        await edge.fetch_snapshot(signing.trust)
    assert (await edge.publish(policy(5.0), signing)).changed
    snapshot, _ = await edge.fetch_snapshot(signing.trust)
    assert snapshot is not None


async def test_an_old_one_that_was_put_back_is_not_taken_for_the_one_in_force(
    agent: Agent, edge: ConsulEdge, signing: Signing
) -> None:
    """The strict one of before, shown to an operator who is about to return to it."""
    await edge.publish(policy(1.0), signing)
    strict = (await agent.get(f"kv/{SNAPSHOT_KEY}?raw")).body
    await edge.publish(policy(2.0), signing)
    await agent.put(f"kv/{SNAPSHOT_KEY}", strict)
    assert await edge.publish(policy(1.0), signing) == Publication(generation=3, changed=True)


async def test_no_number_is_signed_twice(
    agent: Agent, edge: ConsulEdge, signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consul says that it did not take one, and keeps it: then that number is used up."""
    kept: list[bytes] = []
    seal = PolicyKey.seal

    def noted(self: PolicyKey, kind: Kind, content: bytes) -> bytes:
        if kind is Kind.POLICY:
            kept.append(content)
        return seal(self, kind, content)

    monkeypatch.setattr(PolicyKey, "seal", noted)
    real = edge._connection.api.kv.put

    def refusing(key: str, *args: Any, **options: Any) -> Any:
        if key == SNAPSHOT_KEY and len(kept) == 1:
            options["cas"] = 2**40  # so that it fails
        return real(key, *args, **options)

    monkeypatch.setattr(edge._connection.api.kv, "put", refusing)
    await edge.publish(policy(1.0), signing)
    numbers = [json.loads(content)["generation"] for content in kept]
    assert numbers == [1, 2]


async def test_a_registry_that_claims_absurd_generations_burns_no_numbers(
    agent: Agent, edge: ConsulEdge, signing: Signing
) -> None:
    await register(agent, "api", "h1")
    for claim in (2**53, 2**63 - 1, 2**32 + 5):
        output = encode(acknowledgement(claim)).decode()
        await report(agent, "mesh-api-h1:proxy", "passing", output)
        await agent.call("DELETE", f"kv/{SNAPSHOT_KEY}")
        before = last_published(signing.state)
        published = await edge.publish(policy(5.0), signing)
        assert published.generation == before + 1
    assert last_published(signing.state) == 3
    assert MAX_LEAP == 2**32


async def test_at_the_end_of_the_numbers_nothing_is_signed(
    edge: ConsulEdge, signing: Signing
) -> None:
    signing.state.write("published.json", Published(generation=2**53))
    with pytest.raises(Refused, match="has come to its end"):
        await edge.publish(policy(5.0), signing)


async def test_a_wiped_store_goes_on_above_what_proxies_have_acknowledged(
    agent: Agent, edge: ConsulEdge, signing: Signing
) -> None:
    await register(agent, "api", "h1")
    output = encode(acknowledgement(41)).decode()
    await report(agent, "mesh-api-h1:proxy", "passing", output)
    assert (await edge.publish(policy(5.0), signing)).generation == 42


async def test_the_policy_of_another_mesh_is_not_overwritten(
    edge: ConsulEdge, signing: Signing, tmp_path: Path
) -> None:
    other = signing_of(tmp_path / "other", TrustDomain("other.test"))
    await edge.publish(policy(5.0), other)
    with pytest.raises(Refused, match=r"other\.test") as caught:
        await edge.publish(policy(6.0), signing)
    assert SNAPSHOT_KEY in caught.value.hint
    snapshot, _ = await edge.fetch_snapshot(other.trust)
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


async def test_what_is_published_is_canonical_json_in_an_envelope(
    agent: Agent, edge: ConsulEdge, signing: Signing
) -> None:
    await edge.publish(policy(5.0), signing)
    raw = (await agent.get(f"kv/{SNAPSHOT_KEY}?raw")).body
    packed = open_envelope(Kind.POLICY, raw).content
    assert packed == pack(Snapshot(generation=1, trust_domain=TD, policy=policy(5.0)))
    assert json.loads(packed)["policy"]["defaults"]["timeouts"]["request_s"] == 5.0


async def test_the_history_has_what_was_published_the_newest_first(
    edge: ConsulEdge, signing: Signing
) -> None:
    await edge.publish(policy(1), signing)
    await edge.publish(policy(2), signing, why="rollback to 7")
    newest, oldest = (await edge.history(signing.trust)).entries
    assert (newest.policy, newest.why) == (policy(2), "rollback to 7")
    assert (oldest.policy, oldest.why) == (policy(1), "")
    assert newest.generation == oldest.generation + 1
    assert newest.published_at.endswith("Z")
    assert "@" in newest.by


async def test_a_policy_that_is_in_force_already_makes_no_history(
    edge: ConsulEdge, signing: Signing
) -> None:
    await edge.publish(policy(1), signing)
    await edge.publish(policy(1), signing)
    assert len((await edge.history(signing.trust)).entries) == 1


async def test_the_history_is_bounded(
    edge: ConsulEdge, signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    for turn in range(6):
        await edge.publish(policy(turn + 1), signing)
    assert [entry.policy for entry in (await edge.history(signing.trust)).entries] == [
        policy(6),
        policy(5),
        policy(4),
    ]


async def test_an_entry_that_this_mesh_did_not_sign_is_left_out_and_named(
    agent: Agent, edge: ConsulEdge, signing: Signing, tmp_path: Path
) -> None:
    """Going back to it would sign it."""
    await edge.publish(policy(1), signing)
    good = (await agent.get(f"kv/{history.key(1)}?raw")).body
    thief = signing_of(tmp_path / "thief", TD).key
    entry = pack(history.Entry(generation=7, trust_domain=TD, policy=policy(9)))
    snapshot = pack(Snapshot(generation=7, trust_domain=TD, policy=policy(9)))
    for number, stored, why in (
        (0, b"not an entry", "it is not signed"),
        (7, entry, "it is not signed"),
        (7, thief.seal(Kind.HISTORY, entry), "it is signed with the key"),
        (7, signing.key.seal(Kind.POLICY, snapshot), "it is signed as 'policy'"),
        (7, good[:-1] + b" ", "its signature is wrong"),
        (7, good, "it is the entry of generation 1"),
    ):
        await agent.put(f"kv/{history.key(number)}", stored)
        found = await edge.history(signing.trust)
        assert [entry.policy for entry in found.entries] == [policy(1)]
        (said,) = found.unverified
        assert said.startswith(f"{history.key(number)}: {why}")
        await agent.call("DELETE", f"kv/{history.key(number)}")


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
    agent: Agent, edge: ConsulEdge, signing: Signing
) -> None:
    def routes(service: int) -> tuple[Route, ...]:
        prefixes = (f"/{service * 7919 % 65521:x}/{number}" for number in range(5))
        matches = (Match(path=PathMatch(prefix=prefix)) for prefix in prefixes)
        return tuple(Route(name=f"r{n}", match=match) for n, match in enumerate(matches))

    services = {
        ServiceName(f"service-{i:04d}"): ServicePolicy(routes=routes(i)) for i in range(1000)
    }
    large = Policy(services=services)
    published = await edge.publish(large, signing)
    assert published.changed
    raw = (await agent.get(f"kv/{SNAPSHOT_KEY}?raw")).body
    assert len(raw) < len(plain(open_envelope(Kind.POLICY, raw).content)) / 4
    snapshot, _ = await edge.fetch_snapshot(signing.trust)
    assert snapshot is not None
    assert snapshot.policy == large
    assert not (await edge.publish(large, signing)).changed
    assert (await edge.history(signing.trust)).entries[0].policy == large


async def test_a_policy_that_consul_would_not_take_is_refused_before_it_is_sent(
    edge: ConsulEdge,
    signing: Signing,
) -> None:
    rng = random.Random(7)
    routes = tuple(
        Route(name=f"r{i}", respond=DirectResponse(status=200, body=rng.randbytes(30_000).hex()))
        for i in range(20)
    )
    policy = Policy(services={ServiceName("api"): ServicePolicy(routes=routes)})
    with pytest.raises(Refused, match="at most 524288"):
        await edge.publish(policy, signing)
    assert await edge.fetch_snapshot(signing.trust) == (None, 0)
