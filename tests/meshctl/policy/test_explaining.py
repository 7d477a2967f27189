"""What a call becomes is told in advance, with the line that decides."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshctl.cli.explain import world_of
from meshctl.inventory import parse as inventory
from meshctl.policy import parse
from meshctl.policy.explained import Branch, Explanation, Judgement, Outcome
from meshctl.policy.explaining import Request, explain
from meshctl.policy.origins import Places
from meshctl.policy.text import Text
from meshctl.policy.world import CompiledWorld
from meshctl.yamltree import load
from proxy.core.authorization.tokens import Claims
from proxy.model.names import ServiceName, TrustDomain

_INVENTORY = """\
version: 1
consul: {mode: existing}
hosts:
  - name: front
    address: 10.0.0.1
    services:
      - name: web
        port: 8080
        protocol: http
        outbound_port: 15001
        upstreams: [{api: 9001}, {db: 9002}, search]
      - {name: batch, port: 8085, protocol: http, upstreams: [{api: 9003}]}
  - name: back-1
    address: 10.0.0.2
    services:
      - {name: api, port: 8090, protocol: http, plaintext_port: 8190}
      - {name: db, port: 5432}
  - name: back-2
    address: 10.0.0.3
    services:
      - {name: api, port: 8090, protocol: http, version: v2}
      - {name: search, port: 8091, protocol: http}
"""
INVENTORY = inventory.parse(_INVENTORY, Path("/x/inventory.yaml"))
NOW = datetime(2026, 7, 1, tzinfo=UTC)


def told(
    policy: str,
    request: Request | None = None,
    *,
    caller: str = "web",
    service: str = "api",
    claims: Claims | None = None,
    is_published: bool = False,
) -> Explanation:
    text = f"version: 1\n{policy}"
    world = world_of(INVENTORY, TrustDomain("mesh.test"), parse(text, "mesh.yaml", INVENTORY, NOW))
    places = Places(None if is_published else Text(load(text, "mesh.yaml")), "mesh.yaml")
    compiled = CompiledWorld(world, places, NOW, claims)
    return explain(compiled, ServiceName(caller), ServiceName(service), request)


def get(target: str = "/", **headers: str) -> Request:
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Request(method="GET", target=target, fields=fields)


def branch(found: Explanation) -> Branch:
    (only,) = found.branches
    return only


def judged(found: Explanation, service: str = "api") -> Judgement:
    made = branch(found).judgement(ServiceName(service))
    assert made is not None
    return made


ROUTES = """\
services:
  api:
    subsets: {one: v1, two: v2, none: v1}
    routes:
      - name: canary
        match: {path: /v1, headers: {x-team: blue}}
        to: [{subset: two}]
      - name: writes
        match: {methods: [POST], sources: [batch]}
      - name: split
        match: {path: /v1}
        to: [{subset: one, weight: 9}, {subset: two, weight: 1}, {subset: none, weight: 0}]
        rewrite: {path: /api}
"""


def test_the_route_is_named_with_its_line_and_those_before_it_with_what_failed() -> None:
    found = told(ROUTES, get("/v1/x?y=1", x_team="red"))
    assert (branch(found).route, branch(found).at) == ("split", "mesh.yaml:11")
    assert [(each.name, each.at) for each in found.passed_over] == [
        ("canary", "mesh.yaml:6"),
        ("writes", "mesh.yaml:9"),
    ]
    canary, writes = (
        [(each.wants, each.has) for each in route.unmet] for route in found.passed_over
    )
    assert canary == [("headers x-team: exact blue", "red")]
    assert writes == [("sources batch", "web"), ("methods POST", "GET")]


def test_shares_are_in_percent_and_the_rewritten_request_is_what_is_judged() -> None:
    found = told(ROUTES, get("/v1//x?y=1"))
    assert [(to.name, to.share_percent) for to in branch(found).destinations] == [
        ("api/one", 90.0), ("api/two", 10.0), ("api/none", 0.0),
    ]  # fmt: skip
    assert [to.tiers[0].hosts for to in branch(found).destinations][:2] == [
        ("back-1",),
        ("back-2",),
    ]
    assert judged(found).target == "/api/x?y=1"
    assert found.outcome is Outcome.ALLOWED


def test_without_a_match_the_service_itself_is_called() -> None:
    found = told(ROUTES, get("/other"))
    assert (branch(found).route, len(found.passed_over)) == ("", 3)
    (to,) = branch(found).destinations
    assert (to.name, to.share_percent, to.tiers[0].hosts) == ("api", 100.0, ("back-1", "back-2"))


def test_a_sticky_request_is_told_its_destination_if_it_carries_one() -> None:
    policy = ROUTES + "        sticky: {header: x-user}\n"
    pinned = [to.is_pinned for to in branch(told(policy, get("/v1", x_user="ann"))).destinations]
    assert pinned.count(True) == 1
    assert not any(to.is_pinned for to in branch(told(policy, get("/v1"))).destinations)


INTENTIONS = """\
services:
  api:
    intentions:
      - name: reads
        allow: [web]
        match: {path: /v1, methods: [GET]}
      - name: closed
        deny: "*"
        match: {path: /v1/admin}
      - {name: later, deny: [web], audit: true}
"""


def test_an_allowed_request_names_the_intention_its_line_and_the_audits() -> None:
    made = judged(told(INTENTIONS, get("/v1/./x")))
    assert (made.outcome, made.policy, made.at) == (Outcome.ALLOWED, "api/reads", "mesh.yaml:5")
    assert (made.target, made.audited) == ("/v1/x", ("api/later",))
    assert [(each.id, each.result) for each in made.rules] == [
        ("api/closed", "does not hold"), ("api/reads", "holds"), ("api/later", "holds"),
    ]  # fmt: skip


def test_a_deny_decides_in_any_case_of_the_path_and_the_rest_is_not_asked() -> None:
    made = judged(told(INTENTIONS, get("/v1/ADMIN")))
    assert (made.outcome, made.policy, made.at) == (Outcome.DENIED, "api/closed", "mesh.yaml:8")
    assert [each.result for each in made.rules] == ["holds", "not asked", "holds"]


def test_what_nothing_allows_says_which_condition_failed() -> None:
    request = Request(method="PUT", target="/v1/x")
    found = told(INTENTIONS, request)
    assert (found.outcome, judged(found).policy) == (Outcome.DENIED, "api/default-deny")
    reads = judged(found).rules[1]
    assert [(each.wants, each.has) for each in reads.unmet] == [("methods GET", "PUT")]
    others = judged(told(INTENTIONS, request, caller="batch"))
    assert [each.result for each in others.rules] == [
        "does not hold", "not for this caller", "not for this caller",
    ]  # fmt: skip


def test_an_ambiguous_path_is_refused_before_any_rule_is_asked() -> None:
    made = judged(told(INTENTIONS, get("/v1/x%2Fy")))
    assert made.policy == "api/ambiguous-path"
    assert {each.result for each in made.rules} == {"not asked"}


def test_a_header_that_only_the_mesh_may_write_reaches_no_rule() -> None:
    policy = """\
services:
  api:
    intentions: [{name: team, allow: [web], match: {headers: {x-team: red}}}]
"""
    assert told(policy, get("/", x_team="red")).outcome is Outcome.ALLOWED
    dropped = get("/", x_team="red", connection="x-team")
    assert told(policy, dropped).outcome is Outcome.DENIED


def test_the_value_of_a_secret_header_is_not_shown() -> None:
    policy = """\
services:
  api:
    intentions: [{name: k, allow: [web], match: {headers: {authorization: {prefix: Basic}}}}]
"""
    found = told(policy, get("/", authorization="Bearer abc"))
    assert "abc" not in repr(found)


TOKENS = """\
tokens: {corp: {issuer: "https://sso.test", audiences: [api], jwks_file: /etc/jwks.json}}
services:
  api:
    intentions:
      - {name: staff, allow: [web], token: {provider: corp, claims: {group: staff}}}
"""


@pytest.mark.parametrize(
    ("claims", "headers", "outcome", "policy"),
    [
        (None, {}, Outcome.DENIED, "api/token"),
        (None, {"authorization": "Bearer x"}, Outcome.DEPENDS, ""),
        ({"group": ["staff", "other"]}, {}, Outcome.ALLOWED, "api/staff"),
        ({"group": "guests"}, {}, Outcome.DENIED, "api/token"),
    ],
)
def test_claims_stand_for_a_verified_token(
    claims: Claims | None, headers: dict[str, str], outcome: Outcome, policy: str
) -> None:
    found = told(TOKENS, get("/", **headers), claims=claims)
    assert (found.outcome, judged(found).policy) == (outcome, policy)
    if outcome is Outcome.DENIED:
        (rule,) = judged(found).rules
        assert [each.wants for each in rule.unmet] == ["a token of corp with group"]


def test_without_a_request_constants_are_told_and_the_rest_depends() -> None:
    found = told(INTENTIONS)
    assert found.outcome is Outcome.DEPENDS
    made = judged(found)
    assert [(each.id, each.result) for each in made.rules] == [
        ("api/closed", "depends"), ("api/reads", "depends"), ("api/later", "holds"),
    ]  # fmt: skip
    assert told("services: {}").outcome is Outcome.ALLOWED
    closed = "services: {api: {intentions: [{name: no, deny: '*'}]}}"
    assert (told(closed).outcome, judged(told(closed)).policy) == (Outcome.DENIED, "api/no")


def test_without_a_request_only_routes_that_the_caller_may_take_are_shown() -> None:
    assert [each.route for each in told(ROUTES).branches] == ["canary", "split", ""]
    all_of_batch = ROUTES.replace("{methods: [POST], sources: [batch]}", "{sources: [batch]}")
    found = told(all_of_batch, caller="batch")
    assert [each.route for each in found.branches] == ["canary", "writes"]


@pytest.mark.parametrize(
    ("policy", "answer"),
    [
        ("{name: old, match: {path: /a}, redirect: {path: /b}}", ("redirect", 302, "http://127.0.0.1:9001/b?q")),
        ("{name: no, match: {path: /a}, respond: 418}", ("respond", 418, "")),
    ],
)  # fmt: skip
def test_what_the_callers_own_proxy_answers_is_told(
    policy: str, answer: tuple[str, int, str]
) -> None:
    found = told(f"services: {{api: {{routes: [{policy}]}}}}", get("/a?q"))
    made = branch(found).answer
    assert found.outcome is Outcome.ANSWERED
    assert made is not None
    assert (made.what, made.status, made.location) == answer


def test_a_certain_fault_answers_and_an_uncertain_one_is_told() -> None:
    fault = "{{name: f, until: 2026-08-01T00:00:00Z, percent: {}%, abort: 503}}"
    certain = f"services: {{api: {{faults: [{fault.format(100)}]}}}}"
    found = told(certain, get())
    assert (found.outcome, found.why) == (Outcome.ANSWERED, "the fault 'f' answers 503")
    uncertain = told(certain.replace("100%", "30%"), get())
    assert (uncertain.outcome, uncertain.faults[0].percent) == (Outcome.ALLOWED, 30.0)
    assert told(certain.replace("percent: 100%", "percent: 0%"), get()).faults == ()


def test_each_setting_says_where_it_was_written() -> None:
    policy = """\
defaults:
  timeouts: {connect: 2s}
  limits:
    connections: 7
services:
  api:
    timeouts:
      stream_idle: 1m
    routes:
      - name: all
        timeouts: {request: 2s}
        retries:
          attempts: 5
"""
    found = branch(told(policy, get()))
    (to,) = found.destinations
    seen = {
        each.key: (each.value, each.origin, each.at) for each in (*found.settings, *to.settings)
    }
    assert seen["timeouts.connect"] == ("2s", "defaults", "mesh.yaml:3")
    assert seen["timeouts.stream_idle"] == ("1m", "service", "mesh.yaml:9")
    assert seen["timeouts.request"] == ("2s", "route", "mesh.yaml:12")
    assert seen["retries.attempts"] == ("5", "route", "mesh.yaml:14")
    assert seen["limits.connections"] == ("7", "defaults", "mesh.yaml:5")
    assert seen["limits.requests"] == ("1024", "built-in", "")
    assert seen["health_check"] == ("none", "built-in", "")


def test_a_published_policy_has_origins_but_no_lines() -> None:
    policy = "defaults: {timeouts: {connect: 2s}}\nservices: {api: {timeouts: {request: 3s}}}"
    found = branch(told(policy, get(), is_published=True))
    seen = {each.key: (each.value, each.origin, each.at) for each in found.settings}
    assert seen["timeouts.connect"] == ("2s", "defaults", "")
    assert seen["timeouts.request"] == ("3s", "service", "")
    assert seen["timeouts.pool_idle"][1] == "built-in"


def test_a_shorter_deadline_of_the_request_is_in_force() -> None:
    found = branch(told("services: {}", get("/", x_mesh_timeout_ms="250")))
    values = [each.value for each in found.settings if each.key == "timeouts.request"]
    assert values == ["15s", "250ms"]


def test_rate_limits_that_count_the_request_are_told() -> None:
    policy = """\
services:
  api:
    rate_limits:
      - {name: reads, requests: 10, per: 1m, by: caller, match: {methods: [GET]}}
      - {name: writes, requests: 1, match: {methods: [POST]}}
"""
    (limit,) = judged(told(policy, get())).limits
    assert (limit.name, limit.at) == ("reads", "mesh.yaml:5")
    assert limit.figures == "10 per 1m, 10 at once, each caller for itself"
    assert [each.depends_on for each in judged(told(policy)).limits] == [
        "methods GET",
        "methods POST",
    ]


def test_failover_comes_after_the_destination_and_is_judged_too() -> None:
    policy = "services: {search: {failover: [api]}, api: {intentions: [{name: no, deny: '*'}]}}"
    found = told(policy, get(host="search"), service="search")
    (to,) = branch(found).destinations
    assert [(tier.name, tier.hosts) for tier in to.tiers] == [
        ("search", ("back-2",)), ("api", ("back-1", "back-2")),
    ]  # fmt: skip
    assert judged(found, "api").outcome is Outcome.DENIED
    assert found.outcome is Outcome.ALLOWED


def test_who_does_not_declare_the_service_has_no_way_there() -> None:
    found = told("services: {}", get(), caller="batch", service="search")
    assert (found.outcome, found.ways) == (Outcome.DENIED, ())
    assert "batch does not declare search" in found.why
    assert "(policy search/undeclared)" in found.why


def test_the_host_has_to_lead_to_the_service_where_the_port_is_shared() -> None:
    assert told("services: {}", get(host="search.mesh:80"), service="search").outcome == "allowed"
    wrong = told("services: {}", get(host="api"), service="search")
    assert (wrong.outcome, wrong.why) == (Outcome.REFUSED, "this Host leads to api, not to search")
    nobody = told("services: {}", get(host="nobody"), service="search")
    assert nobody.why == "nobody is no upstream of web"


def test_what_is_no_http_is_refused_with_the_parsers_own_words() -> None:
    found = told("services: {}", Request(method="BREW", target="/"))
    assert found.outcome is Outcome.REFUSED
    assert "the method is not a known one" in found.why


def test_a_permissive_service_is_named_as_one() -> None:
    assert judged(told("services: {api: {mode: permissive}}", get())).is_permissive
    assert not judged(told("services: {}", get())).is_permissive


def test_tcp_is_decided_by_the_caller_alone() -> None:
    policy = "services: {db: {intentions: [{name: web, allow: [web]}]}}"
    found = told(policy, service="db")
    assert (found.outcome, judged(found, "db").policy) == (Outcome.ALLOWED, "db/web")
    assert {each.key for each in branch(found).settings} == {
        "timeouts.connect", "timeouts.stream_idle", "access_log.percent", "access_log.slow",
    }  # fmt: skip


def test_what_is_told_of_a_call_is_among_the_settings_in_force() -> None:
    policy = """
defaults: {access_log: {percent: 10%, format: '%path%'}}
services: {api: {access_log: {format: json}, tracing: 5%}}
"""
    found = {each.key: (each.value, each.origin) for each in branch(told(policy, get())).settings}
    assert found["access_log.percent"] == ("10%", "defaults")
    assert found["access_log.format"] == ("json", "service")
    assert found["tracing.percent"] == ("5%", "service")
