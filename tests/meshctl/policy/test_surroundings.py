"""What a policy says of services is held against the inventory."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshctl.errors import InvalidInput
from meshctl.inventory import parse as inventory
from meshctl.policy import parse
from proxy.model.violation import Violation

_CASE = Path(__file__).parents[2] / "cases" / "policy" / "inventory.yaml"
NOW = datetime(2026, 7, 1, tzinfo=UTC)


def violations(policy: str, before: str = "", after: str = "") -> tuple[Violation, ...]:
    """Of the services in ``policy``, with ``before`` replaced by ``after`` in the inventory."""
    text = _CASE.read_text()
    assert before in text
    found = inventory.parse(text.replace(before, after), _CASE)
    try:
        parse(f"version: 1\nservices:\n  {policy}\n", "mesh.yaml", found, NOW)
    except InvalidInput as error:
        return error.violations
    return ()


SEARCH = "- {name: db, port: 5432}"
WITH_SEARCH = f"{SEARCH}\n      - {{name: search, port: 8099, protocol: http}}"


@pytest.mark.parametrize(
    "leads",
    [
        "routes: [{name: a, to: search}]",
        "routes: [{name: a, to: [{weight: 9}, {service: search}]}]",
        "routes: [{name: a, mirror: search}]",
        "failover: [search]",
    ],
)
def test_callers_have_to_declare_where_routes_lead_them(leads: str) -> None:
    (found,) = violations(f"api: {{{leads}}}", SEARCH, WITH_SEARCH)
    assert found.message == "callers of api are led there, but web may not call search"
    assert found.hint == ("add 'search' to upstreams of web in the inventory; a port is not needed")


def test_callers_that_do_declare_it_may_be_led_there() -> None:
    text = _CASE.read_text().replace("[{api: 9001}]", "[{api: 9001}, {search: 9003}]")
    found = inventory.parse(text.replace(SEARCH, WITH_SEARCH), _CASE)
    policy = "version: 1\nservices: {api: {routes: [{name: a, to: search}], failover: [search]}}"
    assert parse(policy, "mesh.yaml", found, NOW)


def test_a_route_for_one_caller_does_not_ask_it_of_others() -> None:
    jobs = "{name: jobs, port: 8070, protocol: http, upstreams: [{api: 9004}, {search: 9005}]}"
    others = f"{WITH_SEARCH}\n      - {jobs}"
    policy = "api: {routes: [{name: a, match: {sources: jobs}, to: search}]}"
    assert violations(policy, SEARCH, others) == ()
    (found,) = violations("api: {routes: [{name: a, to: search}]}", SEARCH, others)
    assert "but web may not" in found.message


def test_a_service_that_nobody_calls_may_lead_anywhere() -> None:
    assert violations("web: {routes: [{name: a, to: api}]}") == ()


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("timeouts: {request: 5s}", "timeouts.request"),
        ("timeouts: {per_try: 5s}", "timeouts.per_try"),
        ("timeouts: {pool_idle: 5s}", "timeouts.pool_idle"),
        ("retries: {on: [connect-failure, 5xx]}", "retries.on"),
        ("retries: {methods: [GET]}", "retries.methods"),
        ("retries: {body_limit: 1KiB}", "retries.body_limit"),
        ("limits: {pending: 5}", "limits.pending"),
        (
            "load_balancing: {algorithm: maglev, hash_on: {header: x-a}}",
            "load_balancing.hash_on.header",
        ),
        ("health_check: {http: /}", "health_check.http"),
        ("health_check: {grpc: true}", "health_check.grpc"),
        ("rate_limits: [{name: a, requests: 1}]", "rate_limits"),
        ("faults: [{name: a, delay: 1s, until: 2026-08-01T00:00:00Z}]", "faults"),
        ("intentions: [{name: a, allow: '*', match: {path: /x}}]", "intentions[0].match"),
        ("routes: [{name: a, match: {path: /x}}]", "routes[0].match"),
        ("routes: [{name: a, match: {methods: GET}}]", "routes[0].match"),
        ("routes: [{name: a, redirect: {path: /x}}]", "routes[0].redirect"),
        ("routes: [{name: a, respond: 404}]", "routes[0].respond"),
        ("routes: [{name: a, rewrite: {path: /x}}]", "routes[0].rewrite"),
        ("routes: [{name: a, request_headers: {remove: a}}]", "routes[0].request_headers"),
        ("routes: [{name: a, response_headers: {remove: a}}]", "routes[0].response_headers"),
        ("routes: [{name: a, timeouts: {request: 1s}}]", "routes[0].timeouts"),
        ("routes: [{name: a, retries: {attempts: 1}}]", "routes[0].retries"),
        (
            "subsets: {a: v1}, routes: [{name: a, mirror: {subset: a}}]",
            "routes[0].mirror",
        ),
        (
            "subsets: {a: v1}, routes: [{name: a, to: [{subset: a}, {weight: 2}], "
            "sticky: {cookie: a}}]",
            "routes[0].sticky",
        ),
    ],
)
def test_what_is_for_http_is_refused_for_a_service_that_speaks_tcp(setting: str, path: str) -> None:
    (found,) = violations(f"db: {{{setting}}}")
    assert found.path == f"services.db.{path}"
    assert "the service speaks tcp" in found.message


@pytest.mark.parametrize(
    "setting",
    [
        "timeouts: {connect: 2s, stream_idle: 1h}",
        "retries: {attempts: 1, on: [connect-failure]}",
        "limits: {connections: 5, requests: 5, new_connections_per_s: 2}",
        "load_balancing: {algorithm: maglev, hash_on: {source: true}}",
        "outlier_detection: {consecutive_failures: 2}",
        "health_check: {tcp: true}",
        "subsets: {a: v1}, routes: [{name: a, to: [{subset: a}, {weight: 2}], "
        "sticky: {source: true}}]",
        "subsets: {a: v1}, routes: [{name: a, match: {sources: api}, to: {subset: a}}]",
        "subsets: {a: v1}, failover: [{subset: a}, {datacenter: dc2}]",
    ],
)
def test_what_tcp_knows_is_accepted_for_it(setting: str) -> None:
    assert violations(f"db: {{{setting}}}") == ()


def test_defaults_may_be_for_http_even_if_a_service_speaks_tcp() -> None:
    text = _CASE.read_text()
    policy = "version: 1\ndefaults: {timeouts: {per_try: 1s}}\nservices: {db: {}}"
    assert parse(policy, "mesh.yaml", inventory.parse(text, _CASE), NOW)


def test_a_route_leads_to_services_of_its_own_protocol() -> None:
    policy = "api: {routes: [{name: a, to: db}]}"
    found = violations(policy, "[{api: 9001}]", "[{api: 9001}, {db: 9007}]")
    assert [v.message for v in found] == ["db speaks tcp, api http"]


@pytest.mark.parametrize("protocol", ["http", "http2", "grpc"])
def test_to_lead_from_one_version_of_http_to_another_is_right(protocol: str) -> None:
    text = _CASE.read_text().replace("[{api: 9001}]", "[{api: 9001}, {search: 9003}]")
    other = WITH_SEARCH.replace("protocol: http", f"protocol: {protocol}")
    found = inventory.parse(text.replace(SEARCH, other), _CASE)
    policy = "version: 1\nservices: {api: {routes: [{name: a, to: search}]}}"
    assert parse(policy, "mesh.yaml", found, NOW)


def test_a_service_of_http_1_1_is_not_asked_by_grpc() -> None:
    (found,) = violations("api: {health_check: {grpc: true}}")
    assert found.path == "services.api.health_check.grpc"
    assert "api speaks http, which is HTTP/1.1" in found.message
    of_grpc = inventory.parse(_CASE.read_text().replace("protocol: http", "protocol: grpc"), _CASE)
    policy = "version: 1\ndefaults: {health_check: {grpc: true}}\n"
    assert parse(policy, "mesh.yaml", of_grpc, NOW)
    with pytest.raises(InvalidInput) as caught:
        parse(policy, "mesh.yaml", inventory.parse(_CASE.read_text(), _CASE), NOW)
    assert {each.path for each in caught.value.violations} == {"defaults.health_check.grpc"}


def test_a_fault_is_refused_from_the_moment_it_is_over() -> None:
    policy = "api: {faults: [{name: a, delay: 1s, until: 2026-07-01T00:00:0%sZ}]}"
    assert violations(policy % 1) == ()
    (found,) = violations(policy % 0)
    assert "is over" in found.message


def test_permissive_asks_for_a_port_to_be_permissive_at() -> None:
    (found,) = violations("api: {mode: permissive}")
    assert (found.path, found.line) == ("services.api.mode", 3)
    assert "plaintext_port" in found.hint
    assert violations("api: {mode: strict}") == ()
    port = "name: api, plaintext_port: 9900,"
    assert violations("api: {mode: permissive}", "name: api,", port) == ()


def test_a_session_has_no_place_for_a_token() -> None:
    tokens = "tokens: {users: {issuer: i, audiences: a, jwks_file: /k}}"
    asks = "{intentions: [{name: a, allow: '*', token: users}]}"
    text = f"version: 1\n{tokens}\nservices:\n  db: {asks}\n"
    with pytest.raises(InvalidInput) as caught:
        parse(text, "mesh.yaml", inventory.parse(_CASE.read_text(), _CASE), NOW)
    (found,) = caught.value.violations
    assert found.path == "services.db.intentions[0].token"
    assert "speaks tcp" in found.message
