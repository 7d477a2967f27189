"""What the mesh relies on in registration, TTL checks, health and the catalogue."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Agent


async def checks(agent: Agent, name: str) -> dict[str, dict[str, Any]]:
    """As the catalogue, and so every other host, sees them."""
    return {check["CheckID"]: check for check in (await agent.get(f"health/checks/{name}")).json}


async def own_checks(agent: Agent) -> dict[str, dict[str, Any]]:
    """As the agent itself sees them."""
    return dict((await agent.get("agent/checks")).json)


async def passing(agent: Agent, name: str) -> list[str]:
    reply = await agent.get(f"health/service/{name}?passing")
    return [entry["Service"]["ID"] for entry in reply.json]


async def test_a_registered_service_is_in_every_view(agent: Agent) -> None:
    name = agent.name("web")
    meta = {"mesh": "meshctl", "mesh-host": "h-1"}
    reply = await agent.register(
        name, Tags=["a", "b"], Meta=meta, Checks=[agent.ttl(name, Status="passing", Notes="n")]
    )
    assert (reply.status, reply.body) == (200, b"")

    (entry,) = (await agent.get(f"health/service/{name}")).json
    service, node = entry["Service"], entry["Node"]
    expected = {
        "ID": f"{name}-1",
        "Service": name,
        "Tags": ["a", "b"],
        "Address": "10.1.2.3",
        "Port": 15006,
        "Meta": meta,
        "Weights": {"Passing": 1, "Warning": 1},
        "EnableTagOverride": False,
        "TaggedAddresses": {
            kind: {"Address": "10.1.2.3", "Port": 15006} for kind in ("lan_ipv4", "wan_ipv4")
        },
    }
    assert {key: service[key] for key in expected} == expected
    assert service["CreateIndex"] == service["ModifyIndex"] > 0
    assert {"ID", "Node", "Address", "Datacenter", "Meta", "CreateIndex"} <= node.keys()
    assert [check["CheckID"] for check in entry["Checks"]] == ["serfHealth", f"{name}:proxy"]
    (_, check) = entry["Checks"]
    del check["CreateIndex"], check["ModifyIndex"]
    assert (
        check.items()
        >= {
            "Node": node["Node"],
            "CheckID": f"{name}:proxy",
            "Name": "proxy",
            "Status": "passing",
            "Notes": "n",
            "Output": "",
            "ServiceID": f"{name}-1",
            "ServiceName": name,
            "ServiceTags": ["a", "b"],
            "Type": "ttl",
        }.items()
    )

    own = (await agent.get("agent/services")).json[f"{name}-1"]
    assert {key: own[key] for key in expected} == expected
    (listed,) = (await agent.get(f"catalog/service/{name}")).json
    assert listed["ServiceID"] == f"{name}-1"
    assert (listed["ServiceAddress"], listed["ServicePort"]) == ("10.1.2.3", 15006)
    assert (listed["ServiceMeta"], listed["ServiceTags"]) == (meta, ["a", "b"])
    assert listed["Node"] == node["Node"]
    # Consul gathers them in a set: their order is nobody's promise.
    assert sorted((await agent.get("catalog/services")).json[name]) == ["a", "b"]


async def test_the_agents_own_views_have_no_consul_service_and_no_indexes(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    assert "consul" not in (await agent.get("agent/services")).json
    assert "consul" in (await agent.get("catalog/services")).json
    assert "serfHealth" not in await own_checks(agent)
    assert (await own_checks(agent))[f"{name}:proxy"]["ModifyIndex"] == 0


async def test_the_node_is_listed_and_healthy(agent: Agent) -> None:
    (node,) = (await agent.get("catalog/nodes")).json
    assert node["Address"] == "127.0.0.1"
    assert node["Datacenter"] == "dc1"
    config = (await agent.get("agent/self")).json["Config"]
    assert (config["NodeName"], config["Datacenter"]) == (node["Node"], "dc1")
    states = (await agent.get("health/state/passing")).json
    assert ("serfHealth", "") in {(check["CheckID"], check["ServiceID"]) for check in states}


async def test_the_leader_is_an_address(agent: Agent) -> None:
    leader = (await agent.get("status/leader")).json
    assert leader.startswith("127.0.0.1:")


async def test_what_nobody_registered_is_an_empty_list_with_an_index(agent: Agent) -> None:
    name = agent.name("nobody")
    for path in ("health/service", "health/checks", "catalog/service"):
        reply = await agent.get(f"{path}/{name}")
        assert (reply.status, reply.json) == (200, [])
        assert reply.index > 0


async def test_an_id_defaults_to_the_name_and_check_ids_to_the_service(agent: Agent) -> None:
    one, two = agent.name("one"), agent.name("two")
    await agent.put("agent/service/register", {"Name": one, "Check": {"TTL": "30s"}})
    await agent.put(
        "agent/service/register", {"Name": two, "Checks": [{"TTL": "30s"}, {"TTL": "30s"}]}
    )
    (check,) = (await agent.get(f"health/checks/{one}")).json
    assert (check["CheckID"], check["Name"]) == (f"service:{one}", f"Service '{one}' check")
    assert check["ServiceID"] == one
    assert set(await checks(agent, two)) == {f"service:{two}:1", f"service:{two}:2"}


async def test_a_check_without_a_status_is_critical_at_first(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    assert (await checks(agent, name))[f"{name}:proxy"]["Status"] == "critical"
    assert await passing(agent, name) == []


async def test_an_instance_passes_only_if_all_its_checks_do(agent: Agent) -> None:
    name = agent.name("web")
    app = {"CheckID": f"{name}:app", "Name": "app", "TTL": "30s", "Status": "passing"}
    await agent.register(name, Checks=[agent.ttl(name, Status="passing"), app])
    assert await passing(agent, name) == [f"{name}-1"]
    await agent.put(f"agent/check/warn/{name}:app?note=slow")
    assert await passing(agent, name) == []
    assert len((await agent.get(f"health/service/{name}")).json) == 1
    assert len((await agent.get(f"health/service/{name}?passing=false")).json) == 1
    await agent.put(f"agent/check/pass/{name}:app")
    assert await passing(agent, name) == [f"{name}-1"]


async def test_tags_filter_and_several_must_all_match(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Tags=["a", "b"])
    found = {}
    for query in ("tag=a", "tag=a&tag=b", "tag=z", "tag=a&tag=z"):
        found[query] = len((await agent.get(f"health/service/{name}?{query}")).json)
    assert found == {"tag=a": 1, "tag=a&tag=b": 1, "tag=z": 0, "tag=a&tag=z": 0}
    assert (await agent.get(f"catalog/service/{name}?tag=z")).json == []


@pytest.mark.parametrize(
    ("verb", "status"), [("pass", "passing"), ("warn", "warning"), ("fail", "critical")]
)
async def test_each_verb_sets_its_status_and_the_note(agent: Agent, verb: str, status: str) -> None:
    name = agent.name("web")
    # From a status that is none of the three, so that the change is published at once.
    await agent.register(
        name, Check=agent.ttl(name, Status="warning" if verb != "warn" else "passing")
    )
    reply = await agent.put(f"agent/check/{verb}/{name}:proxy?note=all%20said")
    assert (reply.status, reply.body) == (200, b"")
    check = (await checks(agent, name))[f"{name}:proxy"]
    assert (check["Status"], check["Output"]) == (status, "all said")


async def test_an_update_sets_status_and_output_from_a_body(agent: Agent) -> None:
    name, output = agent.name("web"), '{"generation": 7, "state": "ready"} \N{SNOWMAN}'
    await agent.register(name, Check=agent.ttl(name))
    body = {"Status": "passing", "Output": output}
    assert (await agent.put(f"agent/check/update/{name}:proxy", body)).status == 200
    check = (await checks(agent, name))[f"{name}:proxy"]
    assert (check["Status"], check["Output"]) == ("passing", output)


async def test_an_output_is_cut_at_4_kib(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    body = {"Status": "passing", "Output": "x" * 5000}
    await agent.put(f"agent/check/update/{name}:proxy", body)
    output = (await checks(agent, name))[f"{name}:proxy"]["Output"]
    assert output == "x" * 4096 + " ... (captured 4096 of 5000 bytes)"


async def test_an_output_alone_reaches_the_catalogue_later(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    await agent.put(f"agent/check/pass/{name}:proxy?note=one")
    index = (await agent.get(f"health/service/{name}")).index
    await agent.put(f"agent/check/pass/{name}:proxy?note=two")
    assert (await own_checks(agent))[f"{name}:proxy"]["Output"] == "two"
    assert (await checks(agent, name))[f"{name}:proxy"]["Output"] == "one"
    assert (await agent.get(f"health/service/{name}")).index == index


async def test_registering_again_publishes_an_output_that_was_held_back(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    await agent.put(f"agent/check/pass/{name}:proxy?note=one")
    index = (await agent.get(f"health/service/{name}")).index
    await agent.put(f"agent/check/pass/{name}:proxy?note=two")
    await agent.register(name, Check=agent.ttl(name))
    check = (await checks(agent, name))[f"{name}:proxy"]
    assert (check["Status"], check["Output"]) == ("passing", "two")
    assert (await agent.get(f"health/service/{name}")).index > index


async def test_a_change_of_status_publishes_the_output_with_it(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    await agent.put(f"agent/check/pass/{name}:proxy?note=one")
    await agent.put(f"agent/check/pass/{name}:proxy?note=two")
    await agent.put(f"agent/check/warn/{name}:proxy?note=two")
    await agent.put(f"agent/check/pass/{name}:proxy?note=two")
    check = (await checks(agent, name))[f"{name}:proxy"]
    assert (check["Status"], check["Output"]) == ("passing", "two")


async def test_an_expired_ttl_is_critical_and_quotes_the_last_output(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name, TTL="300ms"))
    await agent.put(f"agent/check/pass/{name}:proxy?note=last")
    assert await passing(agent, name) == [f"{name}-1"]
    (check,) = await agent.until(
        f"health/checks/{name}", lambda found: found[0]["Status"] == "critical"
    )
    assert check["Output"] == "TTL expired (last output before timeout follows): last"
    assert await passing(agent, name) == []


async def test_a_check_that_expired_passes_again_with_the_next_heartbeat(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name, TTL="300ms", Status="passing"))
    await agent.until(f"health/checks/{name}", lambda found: found[0]["Status"] == "critical")
    await agent.put(f"agent/check/pass/{name}:proxy")
    assert await passing(agent, name) == [f"{name}-1"]


async def test_heartbeats_keep_a_check_alive(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name, TTL="1s", Status="passing"))
    for _ in range(8):
        await agent.put(f"agent/check/pass/{name}:proxy")
        assert await passing(agent, name) == [f"{name}-1"]
        await asyncio.sleep(0.2)


async def test_registering_again_keeps_what_a_known_check_says(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    await agent.put(f"agent/check/pass/{name}:proxy?note=fine")
    await agent.register(name, Port=15007, Check=agent.ttl(name, Status="critical"))
    check = (await checks(agent, name))[f"{name}:proxy"]
    assert (check["Status"], check["Output"]) == ("passing", "fine")
    (entry,) = (await agent.get(f"health/service/{name}")).json
    assert entry["Service"]["Port"] == 15007


async def test_registering_the_same_again_is_no_change(agent: Agent) -> None:
    name = agent.name("web")
    for _ in range(2):
        await agent.register(name, Check=agent.ttl(name, Status="passing"))
    (before,) = (await agent.get(f"health/service/{name}")).json
    index = (await agent.get(f"health/service/{name}")).index
    await agent.register(name, Check=agent.ttl(name, Status="passing"))
    (after,) = (await agent.get(f"health/service/{name}")).json
    assert after["Service"] == before["Service"]
    assert (await agent.get(f"health/service/{name}")).index == index


async def test_checks_left_out_stay_unless_replacement_is_asked_for(agent: Agent) -> None:
    name = agent.name("web")
    app = {"CheckID": f"{name}:app", "Name": "app", "TTL": "30s"}
    await agent.register(name, Checks=[agent.ttl(name), app])
    await agent.register(name, Checks=[agent.ttl(name)])
    assert set(await checks(agent, name)) == {f"{name}:proxy", f"{name}:app"}
    body = {"ID": f"{name}-1", "Name": name, "Checks": [agent.ttl(name)]}
    await agent.put("agent/service/register?replace-existing-checks", body)
    assert set(await checks(agent, name)) == {f"{name}:proxy"}


async def test_two_instances_of_a_service_are_two_entries(agent: Agent) -> None:
    name = agent.name("web")
    for host in ("b", "a"):
        await agent.register(
            name, ID=f"{name}-{host}", Check=agent.ttl(f"{name}-{host}", Status="passing")
        )
    assert sorted(await passing(agent, name)) == [f"{name}-a", f"{name}-b"]
    await agent.put(f"agent/check/fail/{name}-a:proxy")
    assert await passing(agent, name) == [f"{name}-b"]


async def test_deregistering_takes_the_service_and_its_checks_away(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name, Status="passing"))
    reply = await agent.put(f"agent/service/deregister/{name}-1")
    assert (reply.status, reply.body) == (200, b"")
    assert (await agent.get(f"health/service/{name}")).json == []
    assert await checks(agent, name) == {}
    assert name not in (await agent.get("catalog/services")).json
    assert f"{name}-1" not in (await agent.get("agent/services")).json
    # 1.8 says nothing of it, current versions say 404.
    assert (await agent.put(f"agent/service/deregister/{name}-1")).status in (200, 404)


async def test_a_check_can_be_added_to_a_service_and_taken_away(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name)
    extra = {"ID": f"{name}:x", "Name": "x", "TTL": "30s", "ServiceID": f"{name}-1"}
    assert (await agent.put("agent/check/register", extra)).status == 200
    assert (await checks(agent, name))[f"{name}:x"]["ServiceID"] == f"{name}-1"
    assert (await agent.put(f"agent/check/deregister/{name}:x")).status == 200
    assert await checks(agent, name) == {}
    orphan = {"Name": "x", "TTL": "30s", "ServiceID": agent.name("missing")}
    assert (await agent.put("agent/check/register", orphan)).status >= 400


async def test_updates_of_an_unknown_check_fail(agent: Agent) -> None:
    name = agent.name("missing")
    for path, body in (
        (f"agent/check/pass/{name}", None),
        (f"agent/check/update/{name}", {"Status": "passing"}),
    ):
        # 500 in 1.8, 404 in current versions: a proxy registers anew on either.
        reply = await agent.put(path, body)
        assert reply.status in (404, 500)
        assert name.encode() in reply.body


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", b"Request decode failed"),
        (b"{", b"Request decode failed"),
        ([], b"Request decode failed"),
        ({"Name": "x", "Bogus": 1}, b'Request decode failed: json: unknown field "Bogus"'),
        ({"Name": "x", "Port": "80"}, b"Request decode failed"),
        ({"Name": "x", "Check": {"TTL": "soon"}}, b"Request decode failed: time: invalid duration"),
        ({"ID": "x"}, b"Missing service name"),
        ({"Name": "x", "Address": "0.0.0.0"}, b"Invalid service address"),
        ({"Name": "x", "Check": {"TTL": "-1s"}}, b"Invalid check: TTL must be > 0 for TTL checks"),
        ({"Name": "x", "Check": {"Name": "c"}}, b"Invalid check: TTL must be > 0 for TTL checks"),
        (
            {"Name": "x", "Check": {"TTL": "1s", "Interval": "1s"}},
            b"Invalid check: Interval and TTL cannot both be specified",
        ),
        (
            {"Name": "x", "Check": {"TTL": "1s", "Status": "bogus"}},
            b"Status for checks must 'passing', 'warning', 'critical'",
        ),
        (
            {"Name": "x", "Meta": {"a b": "v"}},
            b"Invalid Service Meta: Couldn't load metadata pair ('a b', 'v'): "
            b"Key contains invalid characters",
        ),
        ({"Name": "x", "Meta": {"k": "v" * 513}}, b"Invalid Service Meta"),
        ({"Name": "x", "Meta": {"consul-k": "v"}}, b"Invalid Service Meta"),
        ({"Name": "x", "Weights": {"Passing": -1}}, b"Invalid Weights"),
    ],
)
async def test_a_wrong_registration_is_a_400_in_consuls_words(
    agent: Agent, body: Any, text: bytes
) -> None:
    reply = await agent.put("agent/service/register", body)
    assert (reply.status, reply.body[: len(text)]) == (400, text)


async def test_field_names_are_matched_whatever_their_case(agent: Agent) -> None:
    name = agent.name("lower")
    await agent.put("agent/service/register", {"name": name, "port": 7})
    assert (await agent.get("agent/services")).json[name]["Port"] == 7


async def test_a_wrong_update_is_a_400(agent: Agent) -> None:
    name = agent.name("web")
    await agent.register(name, Check=agent.ttl(name))
    for body in (b"", b"{", {"Status": "bogus"}):
        reply = await agent.put(f"agent/check/update/{name}:proxy", body)
        assert reply.status == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "agent/service/register", 405, "OPTIONS,PUT"),
        ("GET", "agent/check/pass/x", 405, "OPTIONS,PUT"),
        ("PUT", "catalog/nodes", 405, "OPTIONS,GET"),
        ("PUT", "status/leader", 405, "OPTIONS,GET"),
        ("GET", "txn", 405, "OPTIONS,PUT"),
        ("OPTIONS", "kv/x", 200, "OPTIONS,GET,PUT,DELETE"),
    ],
)
async def test_another_method_is_refused_with_those_allowed(
    agent: Agent, method: str, path: str, status: int, allow: str
) -> None:
    reply = await agent.call(method, path)
    assert (reply.status, reply.headers["Allow"]) == (status, allow)


async def test_a_query_without_its_argument_is_a_400(agent: Agent) -> None:
    for path in ("health/service/", "catalog/service/"):
        assert (await agent.get(path)).status == 400
    assert (await agent.get("health/service/x?passing=maybe")).status == 400
