"""What the admin port says of ways to services that have none of their own."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.discovery import ServiceView
from proxy.core.metrics import Metrics
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.settings import (
    Address,
    Consul,
    HealthCheck,
    Protocol,
    Settings,
    Upstream,
    Workload,
)
from proxy.net.recent import Recent
from proxy.net.report import Report

API = ServiceName("api")
OWN = Address(host="127.0.0.1", port=9001)
SHARED = Address(host="127.0.0.1", port=15001)


def report(upstream: Upstream, outbound: Address | None) -> Report:
    web = Workload(
        service=ServiceName("web"),
        protocol="http",
        version="v1",
        app=Address(host="127.0.0.1", port=8080),
        health=HealthCheck(),
        allow=(),
        upstreams=(upstream,),
        outbound=outbound,
    )
    settings = Settings(
        host=HostName("h0"),
        trust_domain=TrustDomain("mesh.example"),
        advertise="10.0.0.1",
        release="r1",
        admin=Address(host="127.0.0.1", port=15000),
        inbound=Address(host="0.0.0.0", port=15006),
        consul=Consul(url="http://127.0.0.1:8500"),
        state_dir="/nowhere",
        trust_bundle="/nowhere",
        workloads=(web,),
    )
    far = Endpoint(service=API, host=HostName("h2"), address="10.0.0.2", port=15006)
    watcher = SimpleNamespace(
        views={API: ServiceView(service=API)},
        elsewhere={("dc2", API): ServiceView(service=API, datacenter="dc2", endpoints=(far,))},
        policy_source="none",
        refused="",
        error="",
        policy_keys=(),
    )
    health = SimpleNamespace(is_healthy=True, detail="")
    parts: dict[str, Any] = {
        "metrics": Metrics(),
        "watcher": watcher,
        "registrar": SimpleNamespace(error="", is_announced=True),
        "checkers": {ServiceName("web"): SimpleNamespace(health=health)},
        "workers": SimpleNamespace(status=()),
        "recent": Recent(),
        "clusters": tuple,
        "state": lambda: "ready",
        "generation": lambda: 1,
        "identities": dict,
        "user_problems": dict,
        "reload": dict,
    }
    return Report(settings, **parts)


@pytest.mark.parametrize(
    ("protocol", "own", "outbound", "listen"),
    [
        ("http", OWN, SHARED, "127.0.0.1:9001"),
        ("http", None, SHARED, "127.0.0.1:15001"),
        ("http", None, None, ""),
        ("tcp", None, SHARED, ""),
    ],
)
def test_the_way_to_an_upstream_is_its_own_port_or_the_one_by_host(
    protocol: Protocol, own: Address | None, outbound: Address | None, listen: str
) -> None:
    upstream = Upstream(service=API, protocol=protocol, listen=own)
    (status,) = report(upstream, outbound).status().upstreams
    assert status.listen == listen


async def test_endpoints_of_other_datacenters_are_listed_with_theirs() -> None:
    made = report(Upstream(service=API, protocol="http", listen=OWN), None)
    answer = await made.routes()["/endpoints"].handler()
    listed = json.loads(answer.body)
    assert listed["api"]["endpoints"] == []
    assert [found["host"] for found in listed["api in dc2"]["endpoints"]] == ["h2"]


def test_what_says_who_calls_whom_is_not_for_everybody() -> None:
    routes = report(Upstream(service=API, protocol="http", listen=OWN), None).routes()
    assert routes["/stats"].is_private
    assert not routes["/metrics"].is_private
