"""A change of policy is shown setting by setting, with the services and hosts that feel it."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec.structs
import pytest

from meshctl.inventory import parse as inventory
from meshctl.policy import parse
from meshctl.policy.diff import Change, Difference
from meshctl.policy.diff import difference as between
from proxy.model.policy import Policy

_CASE = Path(__file__).parents[2] / "cases" / "policy" / "inventory.yaml"
INVENTORY = inventory.parse(
    _CASE.read_text()
    + """\
  - name: far
    address: 10.0.0.4
    services: [{name: search, port: 8099, protocol: http}]
""",
    _CASE,
)
NOW = datetime(2026, 7, 1, tzinfo=UTC)


def policy(text: str) -> Policy:
    return parse(f"version: 1\n{text}", "mesh.yaml", INVENTORY, NOW)


def difference(before: Policy | None, after: Policy) -> Difference:
    return between(before, after, INVENTORY)


def changed(before: str, after: str) -> dict[str, tuple[str, str]]:
    """Of the service api, whose settings these are."""
    found = difference(
        policy(f"services: {{api: {{{before}}}}}"), policy(f"services: {{api: {{{after}}}}}")
    )
    return {
        change.path.removeprefix("services.api."): (change.before, change.after)
        for change in found.changes
    }


def test_equal_policies_have_no_difference() -> None:
    found = difference(policy(""), policy("services: {api: {}}"))
    assert found.is_empty
    assert (found.services, found.hosts) == ((), ())


def test_nothing_published_counts_as_the_built_in_defaults() -> None:
    assert difference(None, Policy()).is_empty


def test_a_services_setting_touches_who_carries_and_who_calls_it() -> None:
    after = policy("services: {api: {timeouts: {request: 5s}}}")
    found = difference(policy(""), after)
    assert found.changes == (Change(path="services.api.timeouts.request", before="", after="5s"),)
    assert found.services == ("api",)
    assert found.hosts == ("front", "back", "next"), "front calls api, back carries it"


def test_a_service_that_nobody_calls_touches_its_own_host_only() -> None:
    after = policy("services: {search: {timeouts: {connect: 2s}}}")
    assert difference(policy(""), after).hosts == ("far",)


def test_a_default_touches_those_that_inherit_it() -> None:
    own = "services: {api: {timeouts: {request: 5s}}}"
    before = policy(own)
    after = policy(f"defaults: {{timeouts: {{request: 20s}}}}\n{own}")
    found = difference(before, after)
    assert found.changes == (Change(path="defaults.timeouts.request", before="15s", after="20s"),)
    assert found.services == ("db", "search", "web")


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "250ms"), (0.0, "0"), (3600.0, "1h")])
def test_settings_are_shown_as_they_are_written(seconds: float, text: str) -> None:
    before = Policy()
    timeouts = msgspec.structs.replace(before.defaults.timeouts, request_s=seconds)
    defaults = msgspec.structs.replace(before.defaults, timeouts=timeouts)
    after = msgspec.structs.replace(before, defaults=defaults)
    (change,) = difference(before, after).changes
    assert (change.before, change.after) == ("15s", text)


CANARY = (
    "subsets: {v1: v1, v2: v2}, routes: [{name: canary, match: {path: /v1, methods: GET}, "
    "to: [{subset: v1, weight: 90}, {subset: v2, weight: 10}]}, {name: rest}]"
)


def test_a_shift_of_weights_is_one_line() -> None:
    assert changed(CANARY, CANARY.replace("90", "50").replace("10", "50")) == {
        "routes.canary.to": ("subset v1, weight 90; subset v2, weight 10",
                             "subset v1, weight 50; subset v2, weight 50")
    }  # fmt: skip


def test_a_new_route_is_shown_by_its_name_with_what_it_says() -> None:
    assert changed("subsets: {v1: v1, v2: v2}", CANARY) == {
        "routes": ("", "canary, rest"),
        "routes.canary.match.path": ("", "prefix /v1"),
        "routes.canary.match.methods": ("", "GET"),
        "routes.canary.to": ("", "subset v1, weight 90; subset v2, weight 10"),
    }


def test_the_order_of_routes_matters() -> None:
    routes = [f"{{name: {name}, match: {{path: /{name}}}}}" for name in ("a", "b")]
    before, after = (f"routes: [{', '.join(order)}]" for order in (routes, routes[::-1]))
    assert changed(before, after) == {"routes": ("a, b", "b, a")}


def test_each_kind_of_setting_is_readable() -> None:
    shown = changed(
        "",
        "retries: {on: [reset, 5xx], body_limit: 1MiB, budget: 5%}, "
        "load_balancing: {algorithm: maglev, hash_on: {cookie: sid, ttl: 1h}}, "
        "health_check: {http: /h}, subsets: {new: v2}, failover: [{subset: new}, "
        "{datacenter: dc2}], rate_limits: [{name: all, requests: 5, match: {headers: "
        "{x-a: b}}}], faults: [{name: f, until: 2026-08-01T00:00:00Z, delay: 1s}], "
        "routes: [{name: a, respond: {status: 404, body: 'a\\nb'}, match: {path: /x}}, "
        "{name: b, retries: {attempts: 0}, request_headers: {set: {x-a: b}}}]",
    )
    for path, after in {
        "retries.on": "reset, 5xx",
        "retries.body_limit": "1MiB",
        "retries.budget": "5%",
        "load_balancing.algorithm": "maglev",
        "load_balancing.hash_on": "cookie sid, ttl 1h",
        "health_check.http": "/h",
        "subsets.new": "version v2",
        "failover": "subset new; datacenter dc2",
        "rate_limits": "all",
        "rate_limits.all.requests": "5",
        "rate_limits.all.match.headers": "x-a: exact b",
        "faults.f.until": "2026-08-01T00:00:00Z",
        "faults.f.delay": "1s",
        "routes.a.respond.status": "404",
        "routes.b.retries.attempts": "0",
        "routes.b.request_headers.set": "x-a: b",
    }.items():
        assert shown[path] == (shown[path][0], after), path
    assert "health_check.tcp" not in shown
    assert "routes.b.retries.on" not in shown, "as for the service"


def test_an_undone_health_check_is_shown() -> None:
    defaults = "defaults: {health_check: {tcp: true}}\nservices: "
    found = difference(policy(defaults), policy(f"{defaults}{{api: {{health_check: off}}}}"))
    assert found.changes == (Change(path="services.api.health_check", before="", after="off"),)


def test_what_is_led_to_touches_the_callers_of_what_leads_there() -> None:
    text = _CASE.read_text().replace("[{api: 9001}]", "[{api: 9001}, {search: 9003}]")
    search = "{name: search, port: 8099, protocol: http}"
    text += f"  - {{name: far, address: 10.0.0.4, services: [{search}]}}\n"
    mesh = inventory.parse(text, _CASE)
    leads = "version: 1\nservices: {api: {routes: [{name: a, to: search}]}, search: {%s}}"
    before, after = (
        parse(leads % own, "mesh.yaml", mesh, NOW) for own in ("", "limits: {requests: 5}")
    )
    bare = inventory.parse(_CASE.read_text() + text.splitlines()[-1] + "\n", _CASE)
    found = between(before, after, bare)
    assert found.services == ("search",)
    assert found.hosts == ("front", "far"), "web on front calls api, which leads to search"


def test_what_a_service_undoes_of_the_defaults_of_telemetry_is_shown() -> None:
    defaults = "defaults: {access_log: {format: '%path%', slow: 1s}, tracing: {header: x-debug}}\n"
    own = "services: {api: {access_log: {format: json, slow: 0}, tracing: {header: 'off'}}}"
    found = difference(policy(defaults), policy(defaults + own))
    assert found.changes == (
        Change(path="services.api.access_log.format", before="", after="json"),
        Change(path="services.api.access_log.slow", before="", after="0"),
        Change(path="services.api.tracing.header", before="", after="off"),
    )


def test_telemetry_touches_every_host_that_carries_a_service_and_no_service() -> None:
    found = difference(
        policy(""), policy("telemetry: {otlp: 'http://127.0.0.1:4318/v1/traces', log_to: file}")
    )
    assert found.changes == (
        Change(path="telemetry.log_to", before="", after="file"),
        Change(path="telemetry.otlp", before="", after="http://127.0.0.1:4318/v1/traces"),
    )
    assert found.services == ()
    assert found.hosts == tuple(host.name for host in INVENTORY.hosts if host.services)
    assert found.hosts


def test_a_share_of_calls_logged_is_readable() -> None:
    assert changed("access_log: 10%", "access_log: {percent: 0.5%, slow: 500ms}") == {
        "access_log.percent": ("10%", "0.5%"),
        "access_log.slow": ("", "500ms"),
    }
