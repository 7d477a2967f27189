"""A failover across two real Consul datacenters, as a watcher sees it."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from proxy.model.codec import encode
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Snapshot
from proxy.model.resilience import Failover
from proxy.model.settings import Address, HealthCheck, Settings, Upstream, Workload
from proxy.model.settings import Consul as ConsulSettings
from proxy.net.consul import Consul
from proxy.net.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from conftest import Datacenter

pytestmark = pytest.mark.consul

TD = TrustDomain("mesh.example")
API = ServiceName("api")


def put(at: Datacenter, path: str, body: bytes) -> None:
    request = urllib.request.Request(f"{at.url}/v1/{path}", data=body, method="PUT")
    with urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()


def register(at: Datacenter, host: str) -> None:
    meta = {"mesh": "meshctl", "mesh-trust-domain": TD, "mesh-host": host}
    service = {
        "ID": f"mesh-api-{host}",
        "Name": "mesh-api",
        "Address": f"10.0.0.{host[1:]}",
        "Port": 15006,
        "Meta": meta,
        "Checks": [{"CheckID": f"{host}:proxy", "TTL": "60s", "Status": "passing"}],
    }
    put(at, "agent/service/register", json.dumps(service).encode())


@pytest.fixture
async def watch(datacenters: tuple[Datacenter, Datacenter]) -> AsyncIterator[Watcher]:
    near, _ = datacenters
    web = Workload(
        service=ServiceName("web"),
        protocol="http",
        version="v1",
        app=Address(host="127.0.0.1", port=8080),
        health=HealthCheck(),
        allow=(),
        upstreams=(Upstream(service=API, protocol="http"),),
    )
    settings = Settings(
        host=HostName("h0"),
        trust_domain=TD,
        advertise="10.0.0.1",
        release="r1",
        admin=Address(host="127.0.0.1", port=15000),
        inbound=Address(host="0.0.0.0", port=15006),
        consul=ConsulSettings(url=near.url, datacenter="dc1"),
        state_dir="/nowhere",
        trust_bundle="/nowhere",
        workloads=(web,),
    )
    client = Consul(near.url, datacenter="dc1")
    watcher = Watcher(settings, client, lambda: None, last_good=None, rng=random.Random(1))
    running = asyncio.ensure_future(watcher.run())
    yield watcher
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await client.close()


async def until(is_met: Callable[[], Any], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not is_met():
            await asyncio.sleep(0.05)


def hosts(watcher: Watcher, datacenter: str = "") -> list[str]:
    known = watcher.catalogue
    found = known.elsewhere.get(datacenter, {}) if datacenter else known.endpoints
    return [endpoint.host for endpoint in found.get(API, ())]


async def test_endpoints_of_another_datacenter_come_and_outlive_it(
    datacenters: tuple[Datacenter, Datacenter], watch: Watcher
) -> None:
    near, far = datacenters
    await asyncio.to_thread(register, near, "h1")
    await asyncio.to_thread(register, far, "h2")
    steps = (Failover(datacenter="dc2"), Failover(datacenter="nowhere"))
    policy = Policy(services={API: ServicePolicy(failover=steps)})
    snapshot = encode(Snapshot(generation=1, trust_domain=TD, policy=policy))
    await asyncio.to_thread(put, near, "kv/meshctl/snapshot", snapshot)
    await until(lambda: hosts(watch) == ["h1"] and hosts(watch, "dc2") == ["h2"])
    assert "datacenter nowhere: answered 500: No path to datacenter" in watch.error
    assert "dc2" not in watch.error

    await asyncio.to_thread(register, far, "h3")
    await until(lambda: hosts(watch, "dc2") == ["h2", "h3"])

    await asyncio.to_thread(far.stop)
    await until(lambda: "datacenter dc2" in watch.error)
    assert hosts(watch, "dc2") == ["h2", "h3"]
    await asyncio.to_thread(register, near, "h4")
    await until(lambda: hosts(watch) == ["h1", "h4"])
