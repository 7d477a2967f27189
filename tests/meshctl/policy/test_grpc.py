"""What mesh.yaml says of gRPC: services and methods, retries, deadlines, faults; and told again."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshctl.cli.explain import _request, world_of
from meshctl.errors import InvalidInput
from meshctl.inventory import parse as inventory
from meshctl.policy import parse
from meshctl.policy.diff import difference
from meshctl.policy.explained import Explanation, Outcome
from meshctl.policy.explaining import Request, explain
from meshctl.policy.origins import Places
from meshctl.policy.text import Text
from meshctl.policy.world import CompiledWorld
from meshctl.yamltree import load
from proxy.model.names import ServiceName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Timeouts
from proxy.model.routing import GrpcMatch, Match, PathMatch, RouteTimeouts

_INVENTORY = """\
version: 1
consul: {mode: existing}
hosts:
  - name: front
    address: 10.0.0.1
    services:
      - {name: web, port: 8080, protocol: http, upstreams: [{api: 9001}, {db: 9002}]}
  - name: back
    address: 10.0.0.2
    services:
      - {name: api, port: 8090, protocol: grpc}
      - {name: db, port: 5432}
"""
INVENTORY = inventory.parse(_INVENTORY, Path("/x/inventory.yaml"))
NOW = datetime(2026, 7, 1, tzinfo=UTC)
API = ServiceName("api")


def policy(text: str) -> Policy:
    return parse(f"version: 1\nservices: {{api: {{{text}}}}}", "mesh.yaml", INVENTORY, NOW)


def api(text: str) -> ServicePolicy:
    return policy(text).services[API]


def told(text: str, request: Request | None = None) -> Explanation:
    whole = f"version: 1\nservices: {{api: {{{text}}}}}"
    world = world_of(INVENTORY, TrustDomain("mesh.test"), policy(text))
    compiled = CompiledWorld(world, Places(Text(load(whole, "mesh.yaml")), "mesh.yaml"), NOW, None)
    return explain(compiled, ServiceName("web"), API, request)


def call(path: str = "orders.v1.Orders/Get", *headers: str) -> Request:
    made = _request("grpc", path, list(headers))
    assert made is not None
    return made


def settings_of(found: Explanation) -> dict[str, tuple[str, str]]:
    return {each.key: (each.value, each.origin) for each in found.branches[0].settings}


# Matches


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders.v1.Orders", GrpcMatch(service="orders.v1.Orders")),
        ("{service: orders.v1.Orders}", GrpcMatch(service="orders.v1.Orders")),
        ("{service: Orders, method: Get}", GrpcMatch(service="Orders", method="Get")),
    ],
)
def test_a_match_names_a_service_and_perhaps_its_method(text: str, expected: GrpcMatch) -> None:
    (route,) = api(f"routes: [{{name: a, match: {{grpc: {text}}}, timeouts: {{grpc: 5s}}}}]").routes
    assert route.match == Match(grpc=expected)
    assert route.timeouts == RouteTimeouts(grpc_s=5.0)


def test_a_service_is_all_that_is_below_it_and_a_method_one_path() -> None:
    assert GrpcMatch(service="a.B").path == PathMatch(prefix="/a.B/")
    assert GrpcMatch(service="a.B", method="C").path == PathMatch(exact="/a.B/C")


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("{grpc: a.B, path: /x}", "path and grpc"),
        ("{grpc: a.B, methods: [GET]}", "every call of gRPC is a POST"),
        ("{grpc: a/B}", "not the name of a gRPC service"),
        ("{grpc: /a.B}", "not the name of a gRPC service"),
        ("{grpc: a..B}", "not the name of a gRPC service"),
        ("{grpc: {service: a.B, method: C.D}}", "not the name of a gRPC method"),
        ("{grpc: {service: a.B, method: C/D}}", "not the name of a gRPC method"),
        ("{grpc: {method: C}}", "it is missing"),
    ],
)
def test_what_names_no_call_is_refused(match: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        api(f"intentions: [{{name: a, allow: web, match: {match}}}]")
    assert any(message in each.message for each in caught.value.violations)


@pytest.mark.parametrize(
    "text",
    [
        "intentions: [{name: a, allow: web, match: {grpc: a.B}}]",
        "rate_limits: [{name: a, requests: 1, match: {grpc: a.B}}]",
        "faults: [{name: a, until: 2026-08-01T00:00:00Z, abort: 503, match: {grpc: a.B}}]",
        "routes: [{name: a, match: {grpc: a.B}, to: [{service: api}]}]",
    ],
)
def test_everything_that_matches_requests_matches_calls(text: str) -> None:
    own = api(text)
    (each,) = (*own.intentions, *own.rate_limits, *own.faults, *own.routes)
    assert each.match == Match(grpc=GrpcMatch(service="a.B"))


def test_a_change_is_shown_as_it_was_written() -> None:
    before = policy("intentions: [{name: a, allow: web, match: {grpc: a.B}}]")
    after = policy("intentions: [{name: a, allow: web, match: {grpc: {service: a.B, method: C}}}]")
    assert [
        (each.path, each.before, each.after)
        for each in difference(before, after, INVENTORY).changes
    ] == [("services.api.intentions.a.match.grpc", "service a.B", "service a.B, method C")]


def test_a_service_of_tcp_has_no_calls() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse("version: 1\nservices: {db: {timeouts: {grpc: 5s}}}", "mesh.yaml", INVENTORY, NOW)
    assert caught.value.violations[0].path == "services.db.timeouts.grpc"


# The rest


def test_retries_name_statuses_in_the_words_of_envoy() -> None:
    words = "[cancelled, deadline-exceeded, internal, resource-exhausted, unavailable]"
    assert len(api(f"retries: {{on: {words}}}").retries.on) == 5


def test_a_call_may_take_as_long_as_its_caller_allows_by_default() -> None:
    assert Timeouts().grpc_s == 0
    assert api("timeouts: {grpc: 1m}").timeouts.grpc_s == 60


def test_no_call_can_succeed_that_is_over_before_it_is_connected() -> None:
    with pytest.raises(InvalidInput) as caught:
        api("timeouts: {connect: 2s, grpc: 1s}")
    assert caught.value.violations[0].path == "services.api.timeouts.connect"


def test_a_fault_may_have_a_status_of_grpc() -> None:
    until = "until: 2026-08-01T00:00:00Z"
    (fault,) = api(f"faults: [{{name: a, {until}, grpc_status: ABORTED}}]").faults
    assert (fault.grpc_status, fault.abort_status) == ("ABORTED", 0)
    for wrong in ("OK", "aborted", "10"):
        with pytest.raises(InvalidInput):
            api(f"faults: [{{name: a, {until}, grpc_status: {wrong}}}]")


# Explained


@pytest.mark.parametrize("path", ["orders.v1.Orders/Get", "/orders.v1.Orders/Get"])
def test_a_call_is_asked_for_by_service_and_method(path: str) -> None:
    assert call(path).target == "/orders.v1.Orders/Get"
    found = told("", call(path))
    assert found.request == "POST /orders.v1.Orders/Get"
    assert (found.outcome, found.grpc_status) == (Outcome.ALLOWED, "")


@pytest.mark.parametrize("path", ["Orders", "/Orders", "Orders/", "/", "a/b/c", "//a"])
def test_what_is_no_method_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        call(path)
    assert caught.value.violations[0].path == "PATH"


def test_a_content_type_of_the_callers_own_is_kept() -> None:
    kinds = [value for name, value in call("a.B/C", "Content-Type: x/y").fields if "ontent" in name]
    assert kinds == ["x/y"]


def test_a_denial_says_what_the_client_gets() -> None:
    text = "intentions: [{name: reads, allow: web, match: {grpc: {service: a.B, method: Get}}}]"
    assert told(text, call("a.B/Get")).outcome is Outcome.ALLOWED
    denied = told(text, call("a.B/Put"))
    assert (denied.outcome, denied.grpc_status) == (Outcome.DENIED, "PERMISSION_DENIED")
    (rule,) = denied.branches[0].judgements[0].rules
    assert [(each.wants, each.has) for each in rule.unmet] == [
        ("grpc service a.B, method Get", "/a.B/Put")
    ]
    assert told(text, Request(method="POST", target="/a.B/Put")).grpc_status == ""


def test_a_fault_says_what_the_client_gets() -> None:
    until = "until: 2026-08-01T00:00:00Z"
    found = told(f"faults: [{{name: x, {until}, abort: 429, grpc_status: ABORTED}}]", call())
    assert (found.outcome, found.grpc_status) == (Outcome.ANSWERED, "ABORTED")
    found = told(f"faults: [{{name: x, {until}, abort: 429}}]", call())
    assert (found.outcome, found.grpc_status) == (Outcome.ANSWERED, "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize(
    ("own", "headers", "expected"),
    [
        ("", [], ("0", "built-in")),
        ("", ["grpc-timeout: 5S"], ("5s", "the request's grpc-timeout")),
        ("timeouts: {grpc: 2s}", ["grpc-timeout: 5S"], ("2s", "service")),
        ("timeouts: {grpc: 1m}", ["grpc-timeout: 5S"], ("5s", "the request's grpc-timeout")),
    ],
)
def test_the_deadline_of_a_call_is_the_shorter_one(
    own: str, headers: list[str], expected: Any
) -> None:
    found = settings_of(told(own, call("a.B/C", *headers)))
    assert found["timeouts.grpc"] == expected
    assert "timeouts.request" not in found


def test_a_request_that_is_no_call_has_the_timeout_of_requests() -> None:
    found = settings_of(told("", Request(method="GET", target="/")))
    assert "timeouts.request" in found
    assert "timeouts.grpc" not in found
    assert {"timeouts.request", "timeouts.grpc"} <= settings_of(told("")).keys()
