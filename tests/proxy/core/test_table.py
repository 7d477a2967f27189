import pytest

from proxy.core.table import compile_table
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Timeouts
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Upstream, Workload

WEB, API = ServiceName("web"), ServiceName("api")
SETTINGS = Settings(
    host=HostName("h1"),
    trust_domain=TrustDomain("mesh.test"),
    advertise="10.0.0.1",
    release="r",
    admin=Address(host="127.0.0.1", port=15000),
    inbound=Address(host="0.0.0.0", port=15006),
    consul=Consul(url="http://127.0.0.1:8500"),
    state_dir="/s",
    trust_bundle="/t",
    workloads=(
        Workload(
            service=WEB,
            protocol="http",
            version="1",
            app=Address(host="127.0.0.1", port=8080),
            health=HealthCheck(),
            allow=(ServiceName("edge"),),
            upstreams=(
                Upstream(service=API, protocol="http", listen=Address(host="127.0.0.1", port=9001)),
            ),
        ),
    ),
)


def endpoint(host: str, port: int = 15006) -> Endpoint:
    return Endpoint(service=API, host=HostName(host), address="10.0.0.9", port=port)


def test_everything_that_a_request_needs_is_compiled() -> None:
    policy = Policy(services={API: ServicePolicy(timeouts=Timeouts(request_s=3.0))})
    table = compile_table(SETTINGS, policy, Catalogue(endpoints={API: (endpoint("h2"),)}))
    (route,) = table.outbound.values()
    assert route.server_name == "api.mesh.test"
    assert route.caller_identity == "spiffe://mesh.test/svc/web"
    assert route.expected_identity == "spiffe://mesh.test/svc/api"
    assert route.subject == "web -> api"
    assert route.timeouts.request_s == 3.0
    assert route.endpoints == (endpoint("h2"),)
    inbound = table.inbound[WEB]
    assert inbound.identity == "spiffe://mesh.test/svc/web"
    assert inbound.allow == {ServiceName("edge")}
    assert inbound.timeouts == Timeouts()


def test_a_service_that_the_catalogue_does_not_know_has_no_endpoints() -> None:
    (route,) = compile_table(SETTINGS, Policy(), Catalogue()).outbound.values()
    assert route.endpoints == ()


def test_equal_catalogues_make_equal_tables_whatever_their_order() -> None:
    ends = (endpoint("h3"), endpoint("h2"), endpoint("h2", 1))
    tables = [
        compile_table(SETTINGS, Policy(), Catalogue(endpoints={API: order}))
        for order in (ends, ends[::-1], (*ends, ends[0]))
    ]
    assert tables[0] == tables[1] == tables[2]


def test_a_table_cannot_be_changed() -> None:
    table = compile_table(SETTINGS, Policy(), Catalogue())
    with pytest.raises(TypeError):
        table.inbound[WEB] = table.inbound[WEB]  # type: ignore[index]  # that is the point


def test_while_the_policy_is_not_known_calls_go_out_by_the_defaults_and_nobody_is_let_in() -> None:
    table = compile_table(SETTINGS, None, Catalogue(endpoints={API: (endpoint("h2"),)}))
    known = compile_table(SETTINGS, Policy(), Catalogue(endpoints={API: (endpoint("h2"),)}))
    assert table.outbound == known.outbound
    assert table.inbound[WEB].intentions is None
    assert known.inbound[WEB].intentions == ()
