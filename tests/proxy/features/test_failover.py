"""Failover through real proxies: to another subset, service or datacenter, and back."""

from typing import Any

from proxy.model.names import ServiceName
from proxy.model.policy import Route, ServicePolicy, Subset
from proxy.model.resilience import Failover
from proxy.model.routing import Destination

API2 = ServiceName("api2")


async def test_requests_go_to_another_service_and_return(grid: Any) -> None:
    await grid.serve("api2", "b1")
    grid.policy["api"] = ServicePolicy(failover=(Failover(service=API2),))
    grid.apply()
    client = await grid.connect()
    assert (await client.get()).body == b"b1"
    await grid.serve("api", "a1")
    grid.apply()
    assert await grid.count(client, 5) == {"a1": 5}


async def test_a_service_whose_endpoints_cannot_be_connected_to_fails_over(
    grid: Any, unused_tcp_port: int
) -> None:
    grid.register("api", "dead", unused_tcp_port)
    await grid.serve("api2", "b1")
    grid.policy["api"] = ServicePolicy(failover=(Failover(service=API2),))
    grid.apply()
    assert await grid.count(await grid.connect(), 5) == {"b1": 5}


async def test_requests_go_to_another_subset(grid: Any) -> None:
    await grid.serve("api", "v1", version="1")
    grid.policy["api"] = ServicePolicy(
        subsets={"one": Subset(version="1"), "two": Subset(version="2")},
        routes=(Route(name="new", to=(Destination(subset="two"),)),),
        failover=(Failover(subset="one"),),
    )
    grid.apply()
    client = await grid.connect()
    assert (await client.get()).body == b"v1"
    await grid.serve("api", "v2", version="2")
    grid.apply()
    assert (await client.get()).body == b"v2"


async def test_requests_go_to_another_datacenter(grid: Any) -> None:
    await grid.serve("api", "there", datacenter="dc2")
    grid.policy["api"] = ServicePolicy(failover=(Failover(datacenter="dc2"),))
    grid.apply()
    client = await grid.connect()
    assert (await client.get()).body == b"there"
    await grid.serve("api", "here")
    grid.apply()
    assert await grid.count(client, 5) == {"here": 5}


async def test_the_list_is_gone_through_in_order(grid: Any) -> None:
    await grid.serve("orders", "o1")
    grid.policy["api"] = ServicePolicy(
        failover=(Failover(service=API2), Failover(service=ServiceName("orders")))
    )
    grid.apply()
    client = await grid.connect()
    assert (await client.get()).body == b"o1"
    grid.cluster("api").sweep(grid.cluster("api")._ledger.now)
    assert (
        grid.metric("near", "mesh_failover_tier", source_workload="web", destination_service="api")
        == 2
    )
    await grid.serve("api2", "b1")
    grid.apply()
    assert (await client.get()).body == b"b1"


async def test_a_service_that_the_caller_does_not_declare_is_no_failover(grid: Any) -> None:
    await grid.serve("undeclared", "u1")
    grid.policy["api"] = ServicePolicy(failover=(Failover(service=ServiceName("undeclared")),))
    grid.apply()
    response = await (await grid.connect()).get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UH")
