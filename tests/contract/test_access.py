"""A managed Consul's access control on real agents: each token does what it must and no more."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from contract import cluster as clusters
from contract.cluster import Through
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshctl.acl import Token, grants
from meshctl.apply.consul_access import open_consul
from meshctl.consul import ConsulEdge
from meshctl.errors import RemoteFailure
from meshctl.pki.policykey import PolicyKey
from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.pki.signing import Signing
from meshctl.state import StateDir
from proxy.model.names import HostName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Timeouts
from proxy.model.registration import SNAPSHOT_KEY
from proxy.net.consul import Consul, Rejected, TtlCheck

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contract.cluster import Cluster

pytestmark = [pytest.mark.consul, pytest.mark.timeout(300)]

SERVERS = ("one", "two", "three")
HOSTS = {"one": ["api"], "two": ["web"], "three": [], "four": ["web", "cache"]}


def services(cluster: Cluster) -> dict[Any, Any]:
    return {host.name: [s.name for s in host.services] for host in cluster.inventory.hosts}


def establish(cluster: Cluster, *, is_fresh: bool = True) -> None:
    acl = cluster.acl
    wanted = grants(acl, services(cluster))
    asyncio.run(cluster.access.establish(wanted, acl.hosts, is_fresh=is_fresh))


def trim(cluster: Cluster) -> None:
    acl = cluster.acl
    asyncio.run(cluster.access.trim(grants(acl, services(cluster)), acl.hosts))


@pytest.fixture(scope="module")
def cluster(consul_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers and a client, as a first deploy leaves them."""
    made = clusters.make(consul_binary, tmp_path_factory.mktemp("access"), HOSTS, servers=3)
    try:
        for name in SERVERS:
            made.start(name)
        made.await_leader(*SERVERS, servers=3)
        establish(made)
        made.start("four")
        made.await_leader("four")
        trim(made)
        yield made
    finally:
        made.close()


def proxy(cluster: Cluster, host: Any) -> str:
    return cluster.acl.hosts[host].proxy.secret


def agent(cluster: Cluster, host: Any) -> str:
    return cluster.acl.hosts[host].agent.secret


def a_service(name: str) -> dict[str, Any]:
    return {
        "ID": f"mesh-{name}-x",
        "Name": f"mesh-{name}",
        "Port": 15006,
        "Checks": [{"CheckID": f"mesh-{name}-x:proxy", "Name": "proxy", "TTL": "600s",
                    "Status": "passing"}],
    }  # fmt: skip


@pytest.mark.parametrize(("host", "name"), [("four", "web"), ("four", "cache"), ("one", "api")])
def test_a_proxy_registers_its_hosts_services_for_all_to_see(
    cluster: Cluster, host: str, name: str
) -> None:
    token = proxy(cluster, host)
    made = cluster.ask(host, "PUT", "agent/service/register", a_service(name), token=token)
    assert made[0] == 200, made
    update = {"Status": "passing", "Output": "well"}
    done = cluster.ask(host, "PUT", f"agent/check/update/mesh-{name}-x:proxy", update, token=token)
    assert done[0] == 200, done
    other = proxy(cluster, "two")

    def seen() -> Any:
        status, entries = cluster.ask("two", "GET", f"health/service/mesh-{name}", token=other)
        return status == 200 and [e for e in entries if e["Node"]["Node"] == host]

    (entry,) = cluster.until("the other hosts see it", seen)
    assert {check["Status"] for check in entry["Checks"]} == {"passing"}
    gone = cluster.ask(host, "PUT", f"agent/service/deregister/mesh-{name}-x", token=token)
    assert gone[0] == 200, gone
    cluster.until("it is gone everywhere", lambda: not seen())


def test_each_agent_keeps_its_own_node_up_to_date(cluster: Cluster) -> None:
    """What an agent alone knows of its node comes with its token only."""

    def synced() -> bool:
        _, nodes = cluster.ask("one", "GET", "catalog/nodes", token=proxy(cluster, "one"))
        return len(nodes) == 4 and all((node["TaggedAddresses"] or {}) for node in nodes)

    cluster.until("every node in the catalogue", synced)


def put_key(cluster: Cluster, host: str, key: str, token: str) -> Any:
    return cluster.ask(host, "PUT", f"kv/{key}", b"x", token=token)[0]


def observer(cluster: Cluster) -> str:
    token = cluster.acl.observer
    assert token is not None
    return token.secret


def test_an_observer_finds_the_services_of_the_mesh_and_reads_no_policy(cluster: Cluster) -> None:
    """The calls of Prometheus, with its header."""
    token = proxy(cluster, "four")
    made = cluster.ask("four", "PUT", "agent/service/register", a_service("web"), token=token)
    assert made[0] == 200, made

    def asked(path: str) -> Any:
        request = urllib.request.Request(f"{cluster.url('two')}/v1/{path}")
        request.add_header("Authorization", f"Bearer {observer(cluster)}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    cluster.until("it is listed", lambda: "mesh-web" in asked("catalog/services?stale=&wait=1ms"))
    (entry,) = cluster.until("it is there", lambda: asked("health/service/mesh-web?stale="))
    assert entry["Node"]["Node"] == "four"
    status, _ = cluster.ask("two", "GET", f"kv/{SNAPSHOT_KEY}", token=observer(cluster))
    assert status == 403
    gone = cluster.ask("four", "PUT", "agent/service/deregister/mesh-web-x", token=token)
    assert gone[0] == 200, gone


def test_the_operator_publishes_and_proxies_read(cluster: Cluster) -> None:
    operator = cluster.acl.operator.secret
    assert put_key(cluster, "one", SNAPSHOT_KEY, operator) == 200
    assert put_key(cluster, "one", "meshctl/history/1", operator) == 200
    assert put_key(cluster, "one", "elsewhere", operator) == 403
    for host in HOSTS:
        path = f"kv/{SNAPSHOT_KEY}?raw"
        assert cluster.ask(host, "GET", path, token=proxy(cluster, host)) == (200, "x")
    catalogue = cluster.ask("four", "GET", "catalog/services", token=operator)
    assert catalogue[0] == 200, catalogue


async def test_the_proxys_own_client_works_with_its_token(cluster: Cluster) -> None:
    client = Consul(cluster.url("four"), token=proxy(cluster, "four"), datacenter="dc1")
    check = TtlCheck(check_id="mesh-web-four:proxy", name="proxy", ttl_s=60, status="passing")
    try:
        for _ in range(2):
            await client.register(
                service_id="mesh-web-four",
                name="mesh-web",
                address="10.0.0.4",
                port=15006,
                meta={"mesh": "meshctl"},
                checks=(check,),
            )
        await client.update_check("mesh-web-four:proxy", "passing", "well")
        assert "mesh-web-four" in await client.services()
        async with asyncio.timeout(20):
            found = await client.health("mesh-web", index=0, wait_s=1)
            while not found.entries:
                found = await client.health("mesh-web", index=found.index, wait_s=1)
        assert [entry.node.node for entry in found.entries] == ["four"]
        key = await client.key(SNAPSHOT_KEY, index=0, wait_s=1)
        assert key.index > 0
        await client.deregister("mesh-web-four")
        with pytest.raises(Rejected) as refused:
            await client.register(
                service_id="mesh-api-four", name="mesh-api", address="", port=1, meta={}, checks=()
            )
        assert refused.value.status == 403
    finally:
        await client.close()


def a_signing(tmp_path: Path) -> Signing:
    domain = TrustDomain("mesh.test")
    return Signing(
        key=PolicyKey(Ed25519PrivateKey.generate()),
        state=StateDir.create(tmp_path / ".meshctl", domain, datetime.now(UTC)),
    )


async def test_meshctl_publishes_and_reads_with_the_operators_token(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "operator.token"
    file.write_text(cluster.acl.operator.secret + "\n")
    consul = replace(cluster.inventory.consul, operator_token_file=file)
    inventory = replace(cluster.inventory, consul=consul)
    signing = a_signing(tmp_path)
    for through in ("one", "four"):
        async with open_consul(inventory, Through(inventory), HostName(through)) as edge:
            assert await edge.leader()
            await edge.publish(Policy(), signing)
            assert await edge.workloads() == []
            history = await edge.history(signing.trust)
            assert len(history.entries) == 1


async def test_a_token_that_may_not_publish_is_answered_with_the_next_step(
    cluster: Cluster, tmp_path: Path
) -> None:
    policy = Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=1)))
    async with ConsulEdge(cluster.url("four"), proxy(cluster, "four")) as edge:
        with pytest.raises(RemoteFailure, match="denies access") as refused:
            await edge.publish(policy, a_signing(tmp_path))
    assert "operator_token_file" in refused.value.hint


REFUSED = [
    ("writes the policy", "PUT", f"kv/{SNAPSHOT_KEY}", "x"),
    ("removes the policy", "DELETE", f"kv/{SNAPSHOT_KEY}", None),
    ("reads another key", "GET", "kv/meshctl/history/1", None),
    ("registers another host's service", "PUT", "agent/service/register", a_service("api")),
    (
        "registers another host's service past its agent",
        "PUT",
        "catalog/register",
        {"Node": "four", "Address": "10.9.9.9", "Service": {"Service": "mesh-api", "Port": 1}},
    ),
    (
        "changes another node",
        "PUT",
        "catalog/register",
        {"Node": "one", "Address": "10.9.9.9"},
    ),
    ("removes another node", "PUT", "catalog/deregister", {"Node": "one"}),
    ("reads tokens", "GET", "acl/tokens", None),
    ("makes a token", "PUT", "acl/token", {"Policies": [{"Name": "global-management"}]}),
    ("reads the gossip keys", "GET", "operator/keyring", None),
    ("takes a server away", "DELETE", "operator/raft/peer?address=10.9.9.9:8300", None),
    ("puts another host into maintenance", "PUT", "agent/maintenance?enable=true", None),
]


@pytest.mark.parametrize("who", ["proxy", "agent", "operator", "observer", "nobody"])
@pytest.mark.parametrize(("what", "method", "path", "body"), REFUSED)
def test_what_a_token_must_not_do_is_refused(
    cluster: Cluster, who: str, what: str, method: str, path: str, body: Any
) -> None:
    if who == "operator" and path.startswith("kv/"):
        return  # it is the operator's to do
    token = {
        "proxy": proxy(cluster, "four"),
        "agent": agent(cluster, "four"),
        "operator": cluster.acl.operator.secret,
        "observer": observer(cluster),
        "nobody": "",
    }[who]
    # What concerns the cluster, or another host, is asked where it would be done.
    at = "one" if path.startswith(("agent/maintenance", "operator/")) else "four"
    data = body.encode() if isinstance(body, str) else body
    status, text = cluster.ask(at, method, path, data, token=token)
    # Of the keyring Consul 1.8 says so with another status.
    assert status == 403 or "denied by ACLs" in str(text), (what, status, text)


def test_a_proxy_cannot_take_its_host_out_of_the_cluster(cluster: Cluster) -> None:
    assert cluster.ask("four", "PUT", "agent/leave", token=proxy(cluster, "four"))[0] == 403


def test_who_has_no_token_sees_no_service_and_no_node(cluster: Cluster) -> None:
    token = proxy(cluster, "four")
    made = cluster.ask("four", "PUT", "agent/service/register", a_service("web"), token=token)
    assert made[0] == 200

    def names(token: str) -> Any:
        return set(cluster.ask("four", "GET", "catalog/services", token=token)[1])

    cluster.until("it is in the catalogue", lambda: "mesh-web" in names(token))
    assert names("") == set()
    assert cluster.ask("four", "GET", "catalog/nodes")[1] == []
    assert cluster.ask("four", "GET", "health/service/mesh-web")[1] == []
    gone = cluster.ask("four", "PUT", "agent/service/deregister/mesh-web-x", token=token)
    assert gone[0] == 200


def test_a_second_time_changes_nothing_in_consul(cluster: Cluster) -> None:
    def all_of_it() -> Any:
        management = cluster.tokens.management
        assert management is not None
        lists = [
            cluster.ask("one", "GET", f"acl/{kind}", token=management.secret)[1]
            for kind in ("tokens", "policies")
        ]
        return json.dumps(lists, sort_keys=True)

    before = all_of_it()
    establish(cluster)
    trim(cluster)
    assert all_of_it() == before


def test_a_service_that_moves_takes_its_right_along(cluster: Cluster) -> None:
    acl = cluster.acl
    moved = {**services(cluster), "four": ["web"], "three": ["cache"]}
    token = proxy(cluster, "three")
    register = ("three", "PUT", "agent/service/register", a_service("cache"))
    assert cluster.ask(*register, token=token)[0] == 403
    asyncio.run(cluster.access.trim(grants(acl, moved), acl.hosts))
    try:
        cluster.until(
            "the new right is known", lambda: cluster.ask(*register, token=token)[0] == 200
        )
        old = ("four", "PUT", "agent/service/register", a_service("cache"))
        cluster.until(
            "the old one ends", lambda: cluster.ask(*old, token=proxy(cluster, "four"))[0] == 403
        )
    finally:
        cluster.ask("three", "PUT", "agent/service/deregister/mesh-cache-x", token=token)
        trim(cluster)


def test_a_host_that_left_is_refused_and_gets_others_when_it_returns(cluster: Cluster) -> None:
    acl = cluster.acl
    old = acl.hosts[cluster.host("four").name]
    left = {name: tokens for name, tokens in acl.hosts.items() if name != "four"}
    smaller = replace(acl, hosts=left)
    asyncio.run(cluster.access.trim(grants(smaller, services(cluster)), left))
    path = "acl/token/self"
    for token in (old.proxy, old.agent):
        cluster.until(
            "its token is refused",
            lambda token=token: cluster.ask("four", "GET", path, token=token.secret)[0] == 403,
        )
    # It comes back, as after a deploy with it in the inventory again.
    assert cluster.acl.hosts[cluster.host("four").name] != old
    establish(cluster)
    trim(cluster)
    cluster.start("four")
    cluster.await_leader("four")
    assert cluster.ask("four", "GET", path, token=proxy(cluster, "four"))[0] == 200


def test_what_an_uninstalled_host_had_is_worth_nothing(cluster: Cluster) -> None:
    acl = cluster.acl
    old = acl.hosts[cluster.host("two").name]
    staying = {
        host: HostRecord(services=tuple(own))
        for host, own in services(cluster).items()
        if host != "two"
    }
    asyncio.run(cluster.access.forget({cluster.host("two").name}, DeployRecord(hosts=staying)))
    for token in (old.proxy, old.agent):
        cluster.until(
            "its token is refused",
            lambda token=token: (
                cluster.ask("one", "GET", "acl/token/self", token=token.secret)[0] == 403
            ),
        )
    after = cluster.acl
    assert after.hosts[cluster.host("four").name] == acl.hosts[cluster.host("four").name]
    assert after.hosts[cluster.host("two").name] != old
    assert cluster.ask("four", "GET", "acl/token/self", token=proxy(cluster, "four"))[0] == 200
    establish(cluster)
    trim(cluster)


def test_a_lost_management_token_is_replaced_and_the_old_one_is_worth_nothing(
    cluster: Cluster,
) -> None:
    old = cluster.tokens.management
    assert old is not None
    (cluster.folder / "state" / "management.token").unlink()
    places = [
        cluster.folder / name / "var/lib/meshctl-consul/acl-bootstrap-reset" for name in SERVERS
    ]
    for place in places:
        place.write_text("1")  # of another time
    establish(cluster)
    assert not any(place.exists() for place in places)
    trim(cluster)
    new = cluster.tokens.management
    assert new is not None
    assert new != old
    assert cluster.ask("one", "GET", "acl/tokens", token=new.secret)[0] == 200
    assert cluster.ask("one", "GET", "acl/tokens", token=old.secret)[0] == 403


def test_a_wrong_management_token_is_replaced_too(cluster: Cluster) -> None:
    cluster.tokens.keep_management(Token("8a8a8a8a-0000-4000-8000-000000000000"))
    establish(cluster)
    kept = cluster.tokens.management
    assert kept is not None
    assert cluster.ask("two", "GET", "acl/tokens", token=kept.secret)[0] == 200
    trim(cluster)


def test_a_cluster_that_ran_without_gets_it_while_everybody_sees_every_service(
    consul_binary: str, tmp_path: Path
) -> None:
    """The order of a deploy: servers, tokens, clients, proxies, and only then who has none."""
    cluster = clusters.make(consul_binary, tmp_path, HOSTS, servers=3)
    shown: list[tuple[str, Any]] = []
    stop = threading.Event()

    def watch(tokens: dict[str, str]) -> None:
        # As the proxies do: with no token at first, with their own from when they have it.
        while not stop.is_set():
            for host in HOSTS:
                status, found = cluster.ask(
                    host, "GET", "health/service/mesh-api", token=tokens.get(host, "")
                )
                # An agent that restarts does not answer; proxies go on with what they know.
                if status == 200:
                    shown.append((host, [entry["Node"]["Node"] for entry in found]))
            stop.wait(0.05)

    tokens: dict[str, str] = {}
    watcher = threading.Thread(target=watch, args=(tokens,))
    try:
        for name in HOSTS:
            cluster.start(name, has_acl=False)
        cluster.await_leader(*HOSTS, servers=3)
        made = cluster.ask("one", "PUT", "agent/service/register", a_service("api"))
        assert made[0] == 200
        for host in HOSTS:
            cluster.until(
                "all see it",
                lambda host=host: cluster.ask(host, "GET", "health/service/mesh-api")[1],
            )
        watcher.start()
        for name in SERVERS:
            cluster.start(name, is_enforced=False)
            cluster.await_leader(name, servers=3)
        establish(cluster, is_fresh=False)
        cluster.start("four", is_enforced=False)
        cluster.await_leader("four")
        for host in HOSTS:
            tokens[host] = proxy(cluster, host)
        again = cluster.ask(
            "one", "PUT", "agent/service/register", a_service("api"), token=tokens["one"]
        )
        assert again[0] == 200
        for name in HOSTS:
            cluster.start(name)
            cluster.await_leader(name)
        trim(cluster)
        assert cluster.ask("four", "GET", f"kv/{SNAPSHOT_KEY}")[0] == 403
    finally:
        stop.set()
        if watcher.ident is not None:
            watcher.join(60)
        cluster.close()
    assert {host for host, _ in shown} == set(HOSTS)
    assert [entry for entry in shown if entry[1] != ["one"]] == []
