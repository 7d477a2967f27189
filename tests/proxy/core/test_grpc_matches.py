"""Services and methods of gRPC where requests are matched."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.authorization import Authorizer, forwarded_target
from proxy.core.routing import compile_match, compile_routes
from proxy.core.routing.paths import path_of
from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.policy import Route
from proxy.model.routing import GrpcMatch, Match

API, WEB = ServiceName("api"), ServiceName("web")
SERVICE = Match(grpc=GrpcMatch(service="orders.v1.Orders"))
METHOD = Match(grpc=GrpcMatch(service="orders.v1.Orders", method="Get"))


@dataclass(kw_only=True)
class Head:
    target: bytes
    method: bytes = b"POST"
    authority: bytes | None = b"api"
    lines: list[bytes] = field(default_factory=list)


CASES = pytest.mark.parametrize(
    ("target", "of_service", "of_method"),
    [
        (b"/orders.v1.Orders/Get", True, True),
        (b"/orders.v1.Orders/Put", True, False),
        (b"/orders.v1.Orders/get", True, False),
        (b"/orders.v1.Orders/Get?x=1", True, True),
        (b"/orders.v1.Orders/Get/More", True, False),
        (b"/orders.v1.orders/Get", False, False),
        (b"/orders.v1.OrdersAdmin/Get", False, False),
        (b"/v1.Orders/Get", False, False),
        (b"/x/orders.v1.Orders/Get", False, False),
        (b"/", False, False),
    ],
)


@CASES
def test_a_route_is_for_its_service_or_for_one_method(
    target: bytes, of_service: bool, of_method: bool
) -> None:
    for match, expected in ((SERVICE, of_service), (METHOD, of_method)):
        router = compile_routes(API, [Route(name="a", match=match)])
        assert (router.find(Head(target=target), WEB) is not None) is expected


@CASES
def test_a_match_on_its_own_is_too(target: bytes, of_service: bool, of_method: bool) -> None:
    for match, expected in ((SERVICE, of_service), (METHOD, of_method)):
        assert compile_match(match).matches(Head(target=target), WEB) is expected


@CASES
def test_an_intention_is_too(target: bytes, of_service: bool, of_method: bool) -> None:
    for match, expected in ((SERVICE, of_service), (METHOD, of_method)):
        rules = Authorizer(API, (WEB,), (Intention(name="a", allow=("web",), match=match),))
        head: Any = Head(target=target)
        assert rules.of(WEB).decide(head).is_allowed is expected


def test_what_is_denied_is_denied_in_any_case_of_its_letters() -> None:
    everything = Intention(name="all", allow=("*",))
    closed = Intention(name="closed", deny=("web",), match=METHOD)
    rules = Authorizer(API, (WEB,), (everything, closed)).of(WEB)
    assert not rules.decide(Head(target=b"/ORDERS.v1.orders/GET")).is_allowed
    assert rules.decide(Head(target=b"/orders.v1.Orders/Put")).is_allowed


_NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,20}", fullmatch=True)


@given(st.lists(_NAME, min_size=1, max_size=4), _NAME)
def test_the_path_of_a_call_is_its_own_normal_form(parts: list[str], method: str) -> None:
    target = f"/{'.'.join(parts)}/{method}".encode()
    assert path_of(target) == target
    assert forwarded_target(target) == target
