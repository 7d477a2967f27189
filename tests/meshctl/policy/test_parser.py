"""mesh.yaml: what it means, and every way in which it is refused."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshctl.errors import Exit, InvalidInput
from meshctl.inventory import parse as inventory
from meshctl.policy import parser
from proxy.model.authorization import Intention, TokenProvider, TokenRule
from proxy.model.names import ServiceName
from proxy.model.policy import (
    Balancing,
    Policy,
    Route,
    ServicePolicy,
    Subset,
    Timeouts,
)
from proxy.model.resilience import (
    ActiveHealth,
    Failover,
    Fault,
    Limits,
    OutlierDetection,
    RateLimit,
    Retries,
)
from proxy.model.routing import (
    Destination,
    DirectResponse,
    HashOn,
    HeaderChanges,
    Match,
    Mirror,
    PathMatch,
    Redirect,
    Rewrite,
    RouteTimeouts,
    TextMatch,
)
from proxy.model.telemetry import AccessLog, Telemetry, Tracing
from proxy.model.violation import Violation

API, WEB, DB = ServiceName("api"), ServiceName("web"), ServiceName("db")
NOW = datetime(2026, 7, 1, tzinfo=UTC)
_CASE = Path(__file__).parents[2] / "cases" / "policy" / "inventory.yaml"
INVENTORY = inventory.parse(_CASE.read_text(), _CASE)


def parse(text: str) -> Policy:
    return parser.parse(text, "mesh.yaml", INVENTORY, NOW)


def api(text: str) -> ServicePolicy:
    """What ``text``, in flow style, makes of the service api."""
    return parse(f"version: 1\nservices: {{api: {{{text}}}}}").services[API]


def route(text: str) -> Route:
    """The first of one or two subsets' routes."""
    subsets = "subsets: {v1: v1, v2: v2}"
    (made,) = api(f"{subsets}, routes: [{{name: r, {text}}}]").routes
    return made


def refused(text: str) -> tuple[Violation, ...]:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert caught.value.exit_code is Exit.USAGE
    return caught.value.violations


def test_a_version_alone_is_the_built_in_policy() -> None:
    for text in ("version: 1", "version: 1\ndefaults:\nservices:\n", "version: 1\nservices: {}"):
        assert parse(text) == Policy()


def test_a_service_overrides_the_defaults_field_by_field() -> None:
    policy = parse(
        "version: 1\n"
        "defaults: {timeouts: {request: 10s, pool_idle: 2s}}\n"
        "services:\n"
        "  api: {timeouts: {request: 5s, connect: 250ms}}\n"
        "  web:\n",
    )
    defaults = Timeouts(request_s=10.0, pool_idle_s=2.0)
    assert policy.defaults == ServicePolicy(timeouts=defaults)
    assert policy.of(API).timeouts == Timeouts(request_s=5.0, connect_s=0.25, pool_idle_s=2.0)
    assert policy.of(WEB).timeouts == defaults


def test_every_timeout_can_be_set() -> None:
    policy = parse(
        "version: 1\ndefaults:\n  timeouts: {connect: 2s, request: 20s, stream_idle: 6m, "
        "connection_idle: 2h, pool_idle: 4s}",
    )
    assert policy.defaults.timeouts == Timeouts(
        connect_s=2.0,
        request_s=20.0,
        stream_idle_s=360.0,
        connection_idle_s=7200.0,
        pool_idle_s=4.0,
    )


def test_a_request_timeout_of_0_is_none_and_contradicts_nothing() -> None:
    text = "version: 1\ndefaults: {timeouts: {connect: 30s, request: 0}}"
    assert parse(text).defaults.timeouts.request_s == 0.0


@pytest.mark.parametrize(
    ("text", "path", "line", "message", "hint"),
    [
        ("", "version", 1, "it is missing", "add 'version: 1'"),
        ("services: {}", "version", 1, "it is missing", "add 'version: 1'"),
        ("version: 2", "version", 1, "'2' is not a version", "use 1"),
        ("version: true", "version", 1, "'true' is not a version", "use 1"),
        ("version: '1'", "version", 1, "'1' is not a version", "use 1"),
        (
            "[1]",
            "(file)",
            1,
            "a list is not a mapping",
            "version, defaults, telemetry, tokens, services",
        ),
        ("version: 1\nservice: {}", "service", 2, "unknown key", "did you mean 'services'?"),
        (
            "version: 1\nxyz: {}",
            "xyz",
            2,
            "unknown key",
            "version, defaults, telemetry, tokens, services",
        ),
        (
            "version: 1\ndefaults:\n  timeout: {}",
            "defaults.timeout",
            3,
            "unknown key 'timeout'",
            "did you mean 'timeouts'?",
        ),
        (
            "version: 1\ndefaults:\n  timeouts:\n    requests: 1s",
            "defaults.timeouts.requests",
            4,
            "unknown key 'requests'",
            "did you mean 'request'?",
        ),
        (
            "version: 1\nservices:\n  apo: {}",
            "services.apo",
            3,
            "no service 'apo' is in the inventory",
            "did you mean 'api'?",
        ),
        ("version: 1\nservices:\n  q: {}", "services.q", 3, "no service 'q'", "api, db, web"),
        ("version: 1\nservices: [api]", "services", 2, "a list is not a mapping", ""),
        ("version: 1\ndefaults: 5", "defaults", 2, "'5' is not a mapping", "timeouts"),
        (
            "version: 1\ndefaults: {timeouts: {request: 5}}",
            "defaults.timeouts.request",
            2,
            "5 has no unit",
            "15s",
        ),
        (
            "version: 1\ndefaults: {timeouts: {request: -5s}}",
            "defaults.timeouts.request",
            2,
            "negative",
            "",
        ),
        (
            "version: 1\ndefaults: {timeouts: {request: 48h}}",
            "defaults.timeouts.request",
            2,
            "longer than 24h",
            "",
        ),
        (
            "version: 1\ndefaults: {timeouts: {connect: 0}}",
            "defaults.timeouts.connect",
            2,
            "0 is not possible here",
            "above 0",
        ),
        (
            "version: 1\ndefaults: {timeouts: {request: [5s]}}",
            "defaults.timeouts.request",
            2,
            "it is not a duration",
            "",
        ),
        (
            "version: 1\ndefaults: {timeouts: {connect: 15s}}",
            "defaults.timeouts.connect",
            2,
            "connect (15s) is not shorter than request (15s)",
            "raise request",
        ),
        (
            "version: 1\nservices:\n  api:\n    timeouts:\n      request: 1s",
            "services.api.timeouts.request",
            5,
            "connect (1s) is not shorter than request (1s)",
            "lower connect",
        ),
    ],
)
def test_a_violation_says_where_what_and_what_would_be_right(
    text: str, path: str, line: int, message: str, hint: str
) -> None:
    (found,) = refused(text)
    assert (found.path, found.line) == (path, line)
    assert message in found.message
    assert hint in found.hint


def test_all_violations_are_reported_in_the_order_of_the_text() -> None:
    found = refused(
        "version: 3\n"
        "default: {}\n"
        "defaults: {timeouts: {connect: 20s}}\n"
        "services:\n"
        "  apii: {timeouts: {request: 5}}\n"
        "  web: {timeouts: {request: 2s}}\n"
    )
    assert [violation.path for violation in found] == [
        "version",
        "default",
        "defaults.timeouts.connect",
        "services.apii",
        "services.apii.timeouts.request",
        "services.web.timeouts.request",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nversion: 1",
        "version: 1\ndefaults: &a {}\nservices: {api: *a}",
        "version: 1\n1: 2",
        "version: 1\nservices: {",
        "version: 1\n---\nversion: 1",
        "\x00",
        "[" * 1000,
        "#" * (parser.MAX_BYTES + 1),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str) -> None:
    assert refused(text)


def test_every_setting_of_how_a_service_is_called_can_be_set() -> None:
    made = api(
        "retries: {attempts: 3, on: [reset, statuses], statuses: [503, 429], methods: GET, "
        "backoff_base: 10ms, backoff_max: 1s, budget: 12.5%, budget_min_per_s: 2, "
        "body_limit: 1MiB}, "
        "load_balancing: {algorithm: maglev, hash_on: {cookie: sid, ttl: 1h}, default_rtt: 5ms, "
        "decay: 1s, slow_start: 30s, zone: ignore}, "
        "limits: {connections: 1, pending: 2, requests: 3, retries: 4, "
        "new_connections_per_s: 0.5}, "
        "outlier_detection: {consecutive_failures: 1, ejection: 2s, max_ejection: 3s, "
        "max_ejected: 4, panic: 0%}, "
        "health_check: {http: /h, statuses: 204, interval: 3s, timeout: 1s, unhealthy_after: 1, "
        "healthy_after: 1}"
    )
    assert made.retries == Retries(
        attempts=3, on=("reset", "statuses"), statuses=(503, 429), methods=("GET",),
        backoff_base_s=0.01, backoff_max_s=1.0, budget_percent=12.5, budget_min_per_s=2.0,
        body_limit_bytes=1024 * 1024,
    )  # fmt: skip
    assert made.balancing == Balancing(
        algorithm="maglev", hash_on=HashOn(cookie="sid", ttl_s=3600.0), default_rtt_s=0.005,
        decay_s=1.0, slow_start_s=30.0, zone="ignore",
    )  # fmt: skip
    assert made.limits == Limits(
        connections=1, pending=2, requests=3, retries=4, new_connections_per_s=0.5
    )
    assert made.outlier_detection == OutlierDetection(
        consecutive_failures=1, ejection_s=2.0, max_ejection_s=3.0, max_ejected_percent=4.0,
        panic_percent=0.0,
    )  # fmt: skip
    assert made.health_check == ActiveHealth(
        path="/h", statuses=(204,), interval_s=3.0, timeout_s=1.0, unhealthy_after=1,
        healthy_after=1,
    )  # fmt: skip


def test_every_setting_of_a_route_can_be_set() -> None:
    made = route(
        "match: {path: {template: '/u/{id}'}, methods: [GET, PUT], headers: {x-a: v, x-b: "
        "{prefix: p}, x-c: {regex: r}, x-d: {present: false}}, query: {q: {exact: '1'}}, "
        "authorities: '*.example.com', sources: [web]}, "
        "to: [{subset: v1, weight: 9}, {service: api, subset: v2}], sticky: {source: true}, "
        "rewrite: {path: '/{id}', authority: a}, request_headers: {remove: x-e, set: {x-f: g}, "
        "add: {x-h: ''}}, response_headers: {add: {x-i: j}}, mirror: {subset: v2, percent: 1%}, "
        "timeouts: {per_try: 1s, request: 0}, retries: {attempts: 0}"
    )
    assert made == Route(
        name="r",
        match=Match(
            path=PathMatch(template="/u/{id}"),
            methods=("GET", "PUT"),
            headers={
                "x-a": TextMatch(exact="v"),
                "x-b": TextMatch(prefix="p"),
                "x-c": TextMatch(regex="r"),
                "x-d": TextMatch(present=False),
            },
            query={"q": TextMatch(exact="1")},
            authorities=("*.example.com",),
            sources=(WEB,),
        ),
        to=(Destination(subset="v1", weight=9), Destination(service=API, subset="v2")),
        sticky=HashOn(source=True),
        rewrite=Rewrite(path="/{id}", authority="a"),
        request_headers=HeaderChanges(remove=("x-e",), set={"x-f": "g"}, add={"x-h": ""}),
        response_headers=HeaderChanges(add={"x-i": "j"}),
        mirror=Mirror(subset="v2", percent=1.0),
        timeouts=RouteTimeouts(per_try_s=1.0, request_s=0.0),
        retries=Retries(attempts=0),
    )


def test_short_forms_mean_what_they_stand_for() -> None:
    assert route("match: {path: /x}").match.path == PathMatch(prefix="/x")
    assert route("to: {subset: v1}").to == (Destination(subset="v1"),)
    assert route("to: api").to == (Destination(service=API),)
    assert route("respond: 404").respond == DirectResponse(status=404)
    assert api("subsets: {a: v1}").subsets == {"a": Subset(version="v1")}
    assert api("subsets: {a: {version: v2}}").subsets == {"a": Subset(version="v2")}


def test_a_route_can_redirect_and_respond() -> None:
    made = route("redirect: {status: 301, scheme: https, authority: 'a:1', path: /b}")
    assert made.redirect == Redirect(status=301, scheme="https", authority="a:1", path="/b")
    made = route("respond: {status: 410, body: gone, content_type: text/html}")
    assert made.respond == DirectResponse(status=410, body="gone", content_type="text/html")


def test_intentions_can_be_set() -> None:
    made = api(
        "intentions: [{name: reads, allow: web, match: {methods: GET, path: /v1}}, "
        "{name: closed, deny: '*', audit: true}]"
    )
    assert made.intentions == (
        Intention(
            name="reads",
            allow=("web",),
            match=Match(methods=("GET",), path=PathMatch(prefix="/v1")),
        ),
        Intention(name="closed", deny=("*",), is_audit=True),
    )


def test_tokens_can_be_described_and_asked_for() -> None:
    made = parse(
        "version: 1\ntokens:\n  users: {issuer: i, audiences: api, jwks_url: 'https://a/k', "
        "algorithms: ES256, header: x-token, refresh: 1m, leeway: 0}\n"
        "services:\n  api:\n    mode: strict\n    intentions:\n"
        "    - {name: a, allow: web, token: users}\n"
        "    - {name: b, allow: web, token: {provider: users, claims: {r.s: x}}}\n"
    )
    assert made.tokens == {
        "users": TokenProvider(
            issuer="i", audiences=("api",), jwks_url="https://a/k", algorithms=("ES256",),
            header="x-token", refresh_s=60.0, leeway_s=0.0,
        )
    }  # fmt: skip
    own = made.services[ServiceName("api")]
    assert own.mode == "strict"
    assert [each.token for each in own.intentions] == [
        TokenRule(provider="users"),
        TokenRule(provider="users", claims={"r.s": TextMatch(exact="x")}),
    ]


def test_what_is_told_of_calls_can_be_set() -> None:
    policy = parse(
        "version: 1\n"
        "defaults:\n"
        "  access_log: {percent: 10%, slow: 1.5s, format: '%method% %status%'}\n"
        "  tracing: {percent: 1%, header: 'x-debug: 1'}\n"
        "telemetry: {metrics: false, otlp: 'http://127.0.0.1:4318/v1/traces', log_to: file, "
        "log_file_size: 2MiB, log_files: 0}\n"
        "services: {api: {access_log: {slow: 0, format: json}, tracing: {header: 'off'}}}\n"
    )
    assert policy.defaults.access_log == AccessLog(
        percent=10.0, slow_ms=1500.0, format="%method% %status%"
    )
    assert policy.defaults.tracing == Tracing(percent=1.0, header="x-debug: 1")
    assert policy.of(API).access_log == AccessLog(percent=10.0)
    assert policy.of(API).tracing == Tracing(percent=1.0)
    assert policy.telemetry == Telemetry(
        metrics=False,
        otlp="http://127.0.0.1:4318/v1/traces",
        log_to="file",
        log_file_bytes=2 * 1024 * 1024,
        log_files=0,
    )


def test_a_share_alone_is_enough_for_logs_and_traces() -> None:
    own = api("access_log: 5%, tracing: 100%")
    assert (own.access_log, own.tracing) == (AccessLog(percent=5.0), Tracing(percent=100.0))


@pytest.mark.parametrize(
    ("text", "path", "message", "hint"),
    [
        ("metrics: 1", "telemetry.metrics", "not true or false", "true or false"),
        ("otlp: ''", "telemetry.otlp", "empty", "remove it"),
        ("otlp: 'http://a/v1/traces?x'", "telemetry.otlp", "more than a path", "leave out"),
        ("log_to: syslog", "telemetry.log_to", "'syslog'", "journal, file"),
        ("log_file_size: 0", "telemetry.log_file_size", "unit", "from 1MiB to 16GiB"),
        ("log_file_size: 64KiB", "telemetry.log_file_size", "out of range", "from 1MiB"),
        ("log_files: -1", "telemetry.log_files", "out of range", "0 to 1000"),
        ("log_filez: 1", "telemetry.log_filez", "unknown key", "did you mean 'log_files'?"),
    ],
)
def test_what_is_wrong_with_telemetry_is_said_at_its_place(
    text: str, path: str, message: str, hint: str
) -> None:
    (found,) = refused(f"version: 1\ntelemetry:\n  {text}\n")
    assert (found.path, found.line) == (path, 3)
    assert message in found.message
    assert hint in (found.hint or "")


def test_limits_faults_and_failover_can_be_set() -> None:
    made = api(
        "rate_limits: [{name: a, requests: 5, per: 1m, burst: 9, by: caller, "
        "match: {methods: GET}}], faults: [{name: b, until: '2026-07-01T02:30:00+02:00', "
        "percent: 5%, delay: 1s, abort: 503, match: {path: /x}}], "
        "subsets: {v1: v1}, failover: [{subset: v1}, {datacenter: dc2}]"
    )
    assert made.rate_limits == (
        RateLimit(
            name="a", requests=5, per_s=60.0, burst=9, by="caller", match=Match(methods=("GET",))
        ),
    )
    assert made.faults == (
        Fault(
            name="b", until=datetime(2026, 7, 1, 0, 30, tzinfo=UTC), percent=5.0, delay_s=1.0,
            abort_status=503, match=Match(path=PathMatch(prefix="/x")),
        ),
    )  # fmt: skip
    assert made.failover == (Failover(subset="v1"), Failover(datacenter="dc2"))


def test_retries_of_a_route_override_those_of_its_service_field_by_field() -> None:
    made = api("retries: {attempts: 5, budget: 1%}, routes: [{name: a, retries: {attempts: 1}}]")
    assert made.routes[0].retries == Retries(attempts=1, budget_percent=1.0)


def test_a_health_check_is_overridden_and_undone() -> None:
    policy = parse(
        "version: 1\n"
        "defaults: {health_check: {http: /h, statuses: [200], interval: 7s}}\n"
        "services: {api: {health_check: {tcp: true}}, web: {health_check: off}}\n"
    )
    assert policy.defaults.health_check == ActiveHealth(path="/h", statuses=(200,), interval_s=7.0)
    assert policy.of(API).health_check == ActiveHealth(kind="tcp", interval_s=7.0)
    assert policy.of(WEB).health_check is None
    text = _CASE.read_text().replace("protocol: http", "protocol: grpc")
    asked = parser.parse(
        "version: 1\n"
        "defaults: {health_check: {http: /h, statuses: [200], interval: 7s}}\n"
        "services: {web: {health_check: {grpc: true}}, api: {health_check: {grpc: a.v1.A}}}\n",
        "mesh.yaml",
        inventory.parse(text, _CASE),
        NOW,
    )
    assert asked.of(WEB).health_check == ActiveHealth(kind="grpc", interval_s=7.0)
    assert asked.of(API).health_check == ActiveHealth(
        kind="grpc", grpc_service="a.v1.A", interval_s=7.0
    )
    assert parse("version: 1\ndefaults: {health_check: }").defaults.health_check == ActiveHealth()


@pytest.mark.parametrize(
    ("text", "path", "message", "hint"),
    [
        ("retries: {attempts: 11}", "retries.attempts", "11 is out of range", "0 to 10"),
        ("retries: {attempts: 1.5}", "retries.attempts", "not a whole number", ""),
        ("retries: {attempts: true}", "retries.attempts", "not a whole number", ""),
        ("retries: {budget: 101%}", "retries.budget", "not a percentage", "0% to 100%"),
        ("retries: {budget: .nan}", "retries.budget", "not a percentage", ""),
        ("retries: {body_limit: 64}", "retries.body_limit", "64 has no unit", "64KiB"),
        ("retries: {body_limit: 1GiB}", "retries.body_limit", "out of range", "16MiB"),
        ("retries: {on: 5xy}", "retries.on", "not known", "did you mean '5xx'?"),
        ("retries: {on: [[]]}", "retries.on[0]", "this is a list", ""),
        ("retries: {statuses: []}", "retries.statuses", "the list is empty", ""),
        ("load_balancing: {algorithm: fair}", "load_balancing.algorithm", "'fair'", "maglev"),
        ("load_balancing: {hash_on: {}}", "load_balancing.hash_on", "nothing to go by", "header"),
        ("health_check: {http: /, tcp: true}", "health_check", "http and tcp", "keep one"),
        ("health_check: {tcp: false}", "health_check.tcp", "not true", "remove"),
        ("health_check: on", "health_check", "'on' is not a mapping", "http, grpc, tcp"),
        ("limits: {requests: 0}", "limits.requests", "0 is out of range", "use 1 to 1000000"),
        ("subsets: {a: v7}", "subsets.a", "no instance of api has the version 'v7'", "v"),
        ("subsets: {a: 7}", "subsets.a", "a text was expected", 'quotes: "7"'),
        ("subsets: [a]", "subsets", "a list is not a mapping", ""),
        ("routes: {}", "routes", "a mapping is not a list", "begin each item with -"),
        ("routes: [{}]", "routes[0].name", "it is missing", "add 'name: ...'"),
        ("routes: [{name: a, to: []}]", "routes[0].to", "the list is empty", ""),
        ("routes: [{name: a, too: b}]", "routes[0].too", "unknown key", "did you mean 'to'?"),
        ("routes: [{name: a, to: apo}]", "routes[0].to", "no service 'apo'", "mean 'api'?"),
        ("routes: [{name: a, to: {subset: z}}]", "routes[0].to.subset", "no subset 'z'", "add"),
        ("routes: [{name: a, mirror: {service: x}}]", "routes[0].mirror.service", "'x'", "api"),
        ("routes: [{name: a, respond: 99}]", "routes[0].respond", "99 is out", "200 to 599"),
        ("routes: [{name: a, respond: {}}]", "routes[0].respond.status", "missing", "status"),
        (
            "routes: [{name: a, redirect: {status: 200, path: /}}]",
            "routes[0].redirect.status",
            "200",
            "308",
        ),
        (
            "routes: [{name: a, match: {path: {exact: /, prefix: /}}}]",
            "routes[0].match.path",
            "exact and prefix",
            "keep one",
        ),
        ("routes: [{name: a, match: {path: x}}]", "routes[0].match.path", "not a path", "/"),
        (
            "routes: [{name: a, match: {sources: wep}}]",
            "routes[0].match.sources",
            "no service 'wep'",
            "did you mean 'web'?",
        ),
        ("rate_limits: [{name: a}]", "rate_limits[0].requests", "missing", "requests"),
        (
            "faults: [{name: a, delay: 1s, until: 2026-06-30T00:00:00Z}]",
            "faults[0].until",
            "the fault 'a' is over",
            "a time to come",
        ),
        ("faults: [{name: a, delay: 1s}]", "faults[0].until", "missing", "until"),
        *(
            (
                f"faults: [{{name: a, delay: 1s, until: {until}}}]",
                "faults[0].until",
                "not a time with a zone",
                "Z for UTC",
            )
            for until in ("2027-01-01", "'2027-01-01T00:00:00'", "tomorrow", "'20270101T00Z'", "5")
        ),
        ("intentions: [{name: a}]", "intentions[0]", "nothing to go by", "allow, deny"),
        (
            "intentions: [{name: a, allow: web, deny: web}]",
            "intentions[0]",
            "allow and deny",
            "keep one of",
        ),
        ("intentions: [{allow: web}]", "intentions[0].name", "missing", "name"),
        (
            "intentions: [{name: a, allow: wep}]",
            "intentions[0].allow",
            "no service 'wep'",
            "did you mean 'web'?",
        ),
        (
            "intentions: [{name: a, allow: db}]",
            "intentions[0].allow",
            "db does not declare api",
            "add 'api' to upstreams of db",
        ),
        (
            "intentions: [{name: a, allow: ['*', web]}]",
            "intentions[0].allow",
            "every caller already",
            "remove the others",
        ),
        (
            "intentions: [{name: a, allow: web, match: {sources: web}}]",
            "intentions[0].match.sources",
            "for",
            "name the callers there",
        ),
        (
            "intentions: [{name: a, allow: web}, {name: a, deny: web}]",
            "intentions[1].name",
            "taken",
            "its own",
        ),
        (
            "intentions: [{name: a, allow: web, token: users}]",
            "intentions[0].token",
            "not one of tokens",
            "under 'tokens'",
        ),
        ("mode: loose", "mode", "'loose'", "strict, permissive"),
        ("access_log: all", "access_log", "not a percentage", "0% to 100%"),
        ("access_log: {slow: 500}", "access_log.slow", "500 has no unit", "250ms"),
        ("access_log: {slow: 25h}", "access_log.slow", "longer than 24h", ""),
        ('access_log: {format: "%path%\\n"}', "access_log.format", "a line break", "one line"),
        ("access_log: {format: '%pth%'}", "access_log.format", "%pth% is no field", "path"),
        ("tracing: {header: 'X-Debug: 1'}", "tracing.header", "not the name", "lower case"),
        ("failover: [{}]", "failover[0]", "nowhere", "service, subset"),
        ("failover: [{datacenter: dc1}]", "failover[0].datacenter", "own datacenter", "another"),
        ("failover: [gone]", "failover[0]", "no service 'gone'", "web"),
    ],
)
def test_a_setting_is_refused_at_its_place(text: str, path: str, message: str, hint: str) -> None:
    found = refused(f"version: 1\nservices:\n  api:\n    {text}\n")
    (violation,) = found
    assert (violation.path, violation.line) == (f"services.api.{path}", 4)
    assert message in violation.message
    assert hint in violation.hint


def test_a_place_is_right_even_if_items_before_it_cannot_be_read() -> None:
    found = refused(
        "version: 1\n"
        "services:\n"
        "  api:\n"
        "    routes:\n"
        "      - {name: a, to: 5}\n"
        "      - name: b\n"
        "        match: {path: {regex: '('}}\n"
        "      - name: c\n"
        "        match: {path: /c}\n"
        "        to:\n"
        "          - web\n"
        "          - subset: v1\n"
    )
    assert [(violation.path, violation.line) for violation in found] == [
        ("services.api.routes[0].to", 5),
        ("services.api.routes[1].match.path.regex", 7),
        ("services.api.routes[2].to[0]", 11),
        ("services.api.routes[2].to[1].subset", 12),
    ]


def test_a_contradiction_is_shown_where_it_was_written() -> None:
    head = "version: 1\nservices:\n  api:\n    routes:\n    - name: a\n      timeouts:\n"
    (found,) = refused(f"{head}        per_try: 20s\n")
    assert (found.path, found.line) == ("services.api.routes[0].timeouts.per_try", 7)
    (found,) = refused("version: 1\nservices:\n  api:\n    retries:\n      backoff_max: 20ms\n")
    assert (found.path, found.line) == ("services.api.retries.backoff_max", 5)


def test_a_file_with_very_much_wrong_is_cut_short() -> None:
    routes = "".join(f"      - {{name: r{i}, to: gone}}\n" for i in range(700))
    found = refused(f"version: 1\nservices:\n  api:\n    routes:\n{routes}")
    assert len(found) == 501
    assert "more violations" in found[-1].message


def test_a_policy_of_a_thousand_services_can_be_read() -> None:
    """In the size that the format has to bear; the services are in no inventory."""
    one = "    routes:\n" + "".join(
        f"      - {{name: r{n}, match: {{path: /{n}}}, to: {{weight: 2}}}}\n" for n in range(5)
    )
    text = "version: 1\nservices:\n" + "".join(f"  s{i}:\n{one}" for i in range(1000))
    found = refused(text)
    assert "no service 's0'" in found[0].message, "and nothing else"
    assert all("no service" in violation.message for violation in found[:-1])
