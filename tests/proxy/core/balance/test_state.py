from proxy.core.balance import EndpointState
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName


def test_there_is_nothing_against_a_new_endpoint() -> None:
    endpoint = Endpoint(
        service=ServiceName("api"), host=HostName("h1"), address="10.0.0.1", port=80
    )
    state = EndpointState(endpoint)
    assert state.endpoint is endpoint
    assert not any(
        getattr(state, name) for name in EndpointState.__slots__ if name not in ("endpoint",)
    )


def test_a_pool_may_extend_the_record_without_a_dictionary() -> None:
    class Pool(EndpointState):
        __slots__ = ("connections",)

    pool = Pool(Endpoint(service=ServiceName("api"), host=HostName("h"), address="::1", port=1))
    assert not hasattr(pool, "__dict__")
