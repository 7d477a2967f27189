"""Whose endpoints and whose policy a proxy needs."""

from proxy.core.reach import concerned, needed
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy, Route, ServicePolicy
from proxy.model.resilience import Failover
from proxy.model.routing import Destination, Mirror
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Upstream, Workload

API, DB, CACHE = ServiceName("api"), ServiceName("db"), ServiceName("cache")


def workload(name: str, *upstreams: str) -> Workload:
    return Workload(
        service=ServiceName(name),
        protocol="http",
        version="v1",
        app=Address(host="127.0.0.1", port=8080),
        health=HealthCheck(),
        allow=(),
        upstreams=tuple(Upstream(service=ServiceName(up), protocol="http") for up in upstreams),
    )


def settings(*workloads: Workload) -> Settings:
    return Settings(
        host=HostName("h0"),
        trust_domain=TrustDomain("mesh.example"),
        advertise="10.0.0.1",
        release="r1",
        admin=Address(host="127.0.0.1", port=15000),
        inbound=Address(host="0.0.0.0", port=15006),
        consul=Consul(url="http://127.0.0.1:8500"),
        state_dir="/nowhere",
        trust_bundle="/nowhere",
        workloads=workloads,
    )


def failing_over(*steps: Failover) -> ServicePolicy:
    return ServicePolicy(failover=steps)


def test_every_declared_upstream_is_watched_with_or_without_a_port() -> None:
    reach = needed(settings(workload("web", "api", "db"), workload("job", "db")), Policy())
    assert reach.services == {"api", "db"}
    assert reach.elsewhere == frozenset()


def test_without_upstreams_nothing_is_watched() -> None:
    policy = Policy(defaults=failing_over(Failover(datacenter="dc2")))
    reach = needed(settings(workload("web")), policy)
    assert (reach.services, reach.elsewhere) == (frozenset(), frozenset())


def test_a_failover_to_a_datacenter_is_watched_there() -> None:
    policy = Policy(
        services={API: failing_over(Failover(datacenter="dc2"), Failover(datacenter="dc3"))}
    )
    assert needed(settings(workload("web", "api", "db")), policy).elsewhere == {
        ("dc2", API),
        ("dc3", API),
    }


def test_the_failover_of_the_defaults_holds_for_each_upstream() -> None:
    policy = Policy(defaults=failing_over(Failover(datacenter="dc2")))
    assert needed(settings(workload("web", "api", "db")), policy).elsewhere == {
        ("dc2", API),
        ("dc2", DB),
    }


def test_a_failover_to_another_service_elsewhere_is_watched_there() -> None:
    policy = Policy(services={API: failing_over(Failover(service=CACHE, datacenter="dc2"))})
    assert needed(settings(workload("web", "api", "cache")), policy).elsewhere == {("dc2", CACHE)}


def test_the_failover_of_a_routes_destination_is_watched() -> None:
    policy = Policy(
        services={
            API: ServicePolicy(routes=(Route(name="r", to=(Destination(service=DB),)),)),
            DB: failing_over(Failover(datacenter="dc2")),
        }
    )
    assert needed(settings(workload("web", "api", "db")), policy).elsewhere == {("dc2", DB)}


def test_what_the_workload_does_not_declare_is_left_out() -> None:
    """Another workload of the same host may declare it: that opens no door for this one."""
    route = Route(name="r", to=(Destination(service=DB),), mirror=Mirror(service=CACHE))
    policy = Policy(
        services={
            API: ServicePolicy(routes=(route,), failover=(Failover(service=DB, datacenter="dc2"),)),
        }
    )
    alone = needed(settings(workload("web", "api")), policy)
    assert (alone.services, alone.elsewhere) == ({API}, frozenset())
    beside = needed(settings(workload("web", "api"), workload("job", "db")), policy)
    assert beside.elsewhere == frozenset()


def test_the_policies_that_matter_are_those_of_upstreams_and_of_ones_own() -> None:
    assert concerned(settings(workload("web", "api"), workload("job"))) == {"web", "api", "job"}
