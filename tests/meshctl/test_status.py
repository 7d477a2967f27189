"""What is wrong with a mesh is found, is called a problem or a warning, and comes with a fix."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec.structs
import pytest

from meshctl.errors import MeshError, Unreachable
from meshctl.facts.model import ConsulFact
from meshctl.layout import PROXY_UNIT
from meshctl.status import Catalogue, Finding, MeshStatus, Severity, build, leaf_fault
from proxy.model.codec import encode
from proxy.model.endpoint import Endpoint
from proxy.model.status import ProxyStatus, UpstreamStatus, WorkloadStatus

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
CHECKS = {("web", "front"): "passing", ("api", "back"): "passing", ("users", "back"): "passing"}


def running(world: Any, name: str, **changes: Any) -> ProxyStatus:
    """What the proxy of a host that was deployed says of itself."""
    facts = world.deployed(name)
    assert facts.proxy is not None
    endpoint = Endpoint(service="api", host="back", address="10.0.0.2", port=15006)
    status = ProxyStatus(
        host=name,
        version="0.1.0",
        state="ready",
        release=facts.proxy.release,
        config=facts.proxy.config,
        generation=3,
        policy_source="consul",
        refused="",
        registry_error="",
        is_announced=True,
        started_at="2026-06-15T11:00:00Z",
        workloads=tuple(
            WorkloadStatus(
                service=fact.service,
                version="v1",
                protocol="http",
                is_healthy=True,
                health_detail="",
                identity=fact.identity,
            )
            for fact in facts.seen.identities
        ),
        upstreams=tuple(
            UpstreamStatus(
                service=use.service,
                caller=service.name,
                listen=f"127.0.0.1:{use.port}",
                endpoints=(endpoint,),
                source="consul",
            )
            for service in world.host(name).services
            for use in service.upstreams
        ),
    )
    return msgspec.structs.replace(status, **changes)


def look(
    world: Any,
    *,
    front: Mapping[str, Any] | None = None,
    seen: Mapping[str, Any] | None = None,
    catalogue: Catalogue | MeshError | None = None,
    now: datetime = NOW,
    offset_s: float = 0.0,
) -> MeshStatus:
    """The mesh's status; ``front`` changes what front's proxy says, ``seen`` what is observed."""
    facts = {}
    for name in ("front", "back"):
        changes = dict(seen or {}) if name == "front" else {}
        said = running(world, name, **(front or {} if name == "front" else {}))
        facts[name] = world.deployed(name, **{"proxy": encode(said), **changes})
    facts["front"] = replace(facts["front"], clock_offset_s=offset_s)
    known = Catalogue(generation=3, checks=CHECKS) if catalogue is None else catalogue
    return build(
        world.inventory,
        world.desired.trust_domain,
        facts=facts,
        failures={},
        catalogue=known,
        now=now,
    )


def only(status: MeshStatus) -> Finding:
    (finding,) = status.findings
    assert finding.fix
    return finding


def test_a_mesh_that_is_well_has_no_finding(world: Any) -> None:
    status = look(world)
    assert status.findings == ()
    assert status.is_well
    assert [(host.host, host.state, host.generation) for host in status.hosts] == [
        ("front", "ready", 3),
        ("back", "ready", 3),
    ]
    assert [(own.service, own.health, own.registered) for own in status.workloads] == [
        ("web", "passing", "passing"),
        ("api", "passing", "passing"),
        ("users", "passing", "passing"),
    ]
    assert [(up.service, up.endpoints) for up in status.workloads[0].upstreams] == [("api", 1)]


@pytest.mark.parametrize(
    ("front", "says"),
    [
        ({"state": "draining"}, "its proxy is draining"),
        ({"config": "0" * 16}, "runs configuration 0000000000000000, installed is"),
        ({"generation": 2}, "runs policy generation 2, published is 3"),
        ({"refused": "generation goes back"}, "refused the published policy: generation goes back"),
        ({"workloads": ()}, "does not carry it"),
    ],
)
def test_drift_of_a_proxy_is_a_problem(world: Any, front: dict[str, Any], says: str) -> None:
    status = look(world, front=front)
    assert not status.is_well
    assert says in only(status).message


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({"proxy": b""}, "does not answer"),
        ({"proxy": b"", "current": ""}, "nothing is installed"),
        ({"consul": ConsulFact()}, "no Consul agent answers"),
        ({"consul": ConsulFact(is_answering=True)}, "knows no leader"),
        (
            {"consul": ConsulFact(is_answering=True, leader="x", is_denied=True)},
            "does not let its proxy read the policy",
        ),
    ],
)
def test_what_a_host_lacks_is_a_problem(world: Any, seen: dict[str, Any], says: str) -> None:
    status = look(world, seen=seen)
    assert not status.is_well
    assert says in only(status).message


def test_a_unit_that_is_not_enabled_is_a_problem(world: Any, make_unit: Callable[..., Any]) -> None:
    status = look(world, seen={"units": {PROXY_UNIT: make_unit(enabled="disabled")}})
    assert "at boot" in only(status).message


def test_trouble_with_consul_alone_is_a_warning(world: Any) -> None:
    status = look(world, front={"registry_error": "connection refused"})
    assert only(status).severity is Severity.WARNING
    assert status.is_well


def test_a_sick_application_is_named_with_what_its_proxy_saw(world: Any) -> None:
    sick = tuple(
        msgspec.structs.replace(own, is_healthy=False, health_detail="GET / answered 500")
        for own in running(world, "front").workloads
    )
    finding = only(look(world, front={"workloads": sick}))
    assert finding.subject == "web on front"
    assert "GET / answered 500" in finding.message


def test_a_workload_that_nobody_may_call_as_is_a_problem(world: Any) -> None:
    orphaned = tuple(
        msgspec.structs.replace(own, user_problem="there is no unix user web on this host")
        for own in running(world, "front").workloads
    )
    finding = only(look(world, front={"workloads": orphaned}))
    assert finding.subject == "web on front"
    assert "there is no unix user web on this host" in finding.message


def test_an_upstream_without_endpoints_is_a_problem(world: Any) -> None:
    bare = tuple(
        msgspec.structs.replace(up, endpoints=()) for up in running(world, "front").upstreams
    )
    finding = only(look(world, front={"upstreams": bare}))
    assert finding.message == "it calls api, which has no healthy endpoint"


def test_a_workload_missing_in_consul_is_a_problem(world: Any) -> None:
    checks = {key: word for key, word in CHECKS.items() if key != ("web", "front")}
    status = look(world, catalogue=Catalogue(generation=3, checks=checks))
    assert only(status).message == "it is not registered in Consul"
    assert status.workloads[0].registered == "absent"


def test_consul_out_of_reach_is_one_problem_and_no_drift_is_claimed(world: Any) -> None:
    status = look(world, catalogue=Unreachable("Consul cannot be reached", hint="start it"))
    assert (only(status).subject, only(status).fix) == ("Consul", "start it")
    assert status.generation is None
    assert {own.registered for own in status.workloads} == {""}


@pytest.mark.parametrize(("offset_s", "side"), [(40, "ahead of"), (-40, "behind")])
def test_a_clock_that_is_off_is_a_problem(world: Any, offset_s: float, side: str) -> None:
    assert f"40 s {side}" in only(look(world, offset_s=offset_s)).message


def test_a_host_out_of_reach_keeps_its_error_and_hint(world: Any) -> None:
    status = build(
        world.inventory,
        world.desired.trust_domain,
        facts={"back": world.deployed("back", proxy=encode(running(world, "back")))},
        failures={"front": Unreachable("front did not answer within 10 s", hint="is it up?")},
        catalogue=Catalogue(generation=3, checks=CHECKS),
        now=NOW,
    )
    finding = only(status)
    assert (finding.subject, finding.message) == ("front", "front did not answer within 10 s")
    assert status.hosts[0].state == "unreachable"
    assert status.workloads[0].health == "unknown"


EXPECTED = "spiffe://mesh.test/svc/web"


@pytest.mark.parametrize(
    ("begin", "life", "spiffe_id", "says"),
    [
        (timedelta(days=-1), timedelta(days=30), EXPECTED, ""),
        (timedelta(days=-22), timedelta(days=30), EXPECTED, ""),
        (timedelta(days=-24), timedelta(days=30), EXPECTED, "ends on"),
        (timedelta(days=-31), timedelta(days=30), EXPECTED, "ended on"),
        (timedelta(hours=1), timedelta(days=30), EXPECTED, "not valid before"),
        (timedelta(minutes=-10), timedelta(hours=1), EXPECTED, ""),
        (timedelta(minutes=-50), timedelta(hours=1), EXPECTED, "ends on"),
        (timedelta(days=-1), timedelta(days=30), "spiffe://mesh.test/svc/api", "is for spiffe://"),
    ],
)
def test_a_leaf_is_judged_by_name_and_by_what_is_left_of_it(
    make_identity: Callable[..., Any], begin: timedelta, life: timedelta, spiffe_id: str, says: str
) -> None:
    leaf = make_identity(
        "web",
        spiffe_id=spiffe_id,
        not_before=(NOW + begin).isoformat(),
        not_after=(NOW + begin + life).isoformat(),
    ).identity
    fault = leaf_fault(leaf, EXPECTED, NOW)
    assert says in fault if says else fault == ""


def test_an_expiring_certificate_is_a_problem_with_the_command_that_renews_it(world: Any) -> None:
    status = look(world, now=datetime(2026, 7, 10, tzinfo=UTC))
    (finding,) = (found for found in status.findings if found.subject == "web on front")
    assert finding.severity is Severity.PROBLEM
    assert finding.fix == "meshctl certs rotate --host front --service web"
