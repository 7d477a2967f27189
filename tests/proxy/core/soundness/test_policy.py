"""Every rule that a policy is held against, with its refusal and with what it lets through."""

import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from proxy.core import soundness
from proxy.core.soundness import resilience, routing
from proxy.core.soundness.numbers import RANGES, Range
from proxy.model.authorization import Intention, TokenProvider, TokenRule
from proxy.model.codec import decode
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

API, WEB = ServiceName("api"), ServiceName("web")
UNTIL = datetime(2030, 1, 1, tzinfo=UTC)
PATH_MATCH = Match(path=PathMatch(prefix="/v1"))


def of(**own: Any) -> Policy:
    """One service with two subsets, and another without."""
    subsets = {"v1": Subset(version="v1"), "v2": Subset(version="v2")}
    api = ServicePolicy(**({"subsets": subsets} | own))
    return Policy(services={API: api, WEB: ServicePolicy()})


def routed(**changes: Any) -> Policy:
    return of(routes=(Route(**({"name": "r"} | changes)),))


def matched(**conditions: Any) -> Policy:
    return routed(match=Match(**conditions))


def texts(**conditions: Any) -> Policy:
    return matched(headers={"x-a": TextMatch(**conditions)})


def request_headers(**changes: Any) -> Policy:
    return routed(request_headers=HeaderChanges(**changes))


def tokens(**changes: Any) -> Policy:
    given = {"issuer": "i", "audiences": ("a",), "jwks_file": "/keys.json"} | changes
    return Policy(tokens={"users": TokenProvider(**given)})


def asking(provider: str = "users", **changes: Any) -> Policy:
    """A service that asks for a token of the only provider."""
    rule = TokenRule(provider=provider, claims=changes.pop("claims", {}))
    intention = Intention(**({"name": "t", "allow": ("web",), "token": rule} | changes))
    own = ServicePolicy(intentions=(intention,))
    return Policy(services={API: own, WEB: ServicePolicy()}, tokens=tokens().tokens)


@pytest.mark.parametrize(
    ("policy", "path", "word"),
    [
        (tokens(audiences=()), "tokens.users.audiences", "anybody"),
        (tokens(issuer=""), "tokens.users.issuer", "no place"),
        (tokens(issuer="a\nb"), "tokens.users.issuer", "no place"),
        (tokens(jwks_file=""), "tokens.users", "no keys"),
        (tokens(jwks_url="https://x/"), "tokens.users", "twice"),
        (tokens(jwks_file="keys.json"), "tokens.users.jwks_file", "absolute"),
        *(
            (tokens(jwks_file="", jwks_url=url), "tokens.users.jwks_url", "cannot be fetched")
            for url in (
                *("http://keys.example.com/", "http://10.0.0.1/", "ftp://localhost/", "https:///x"),
                *("https://me:secret@keys.example.com/", "https://a b/", "https://a:99999/"),
                *("https://a/\r\nx: y", "http://127.0.0.1.example.com/", "file:///etc/passwd"),
            )
        ),
        (tokens(algorithms=("none",)), "tokens.users.algorithms[0]", "not possible"),
        (tokens(algorithms=("RS256", "HS256")), "tokens.users.algorithms[1]", "not possible"),
        (tokens(algorithms=()), "tokens.users.algorithms", "could be signed"),
        (tokens(header="X-Token"), "tokens.users.header", "not the name"),
        (tokens(header="x-mesh-flag"), "tokens.users.header", "by the mesh alone"),
        (asking("guests"), "services.api.intentions[0].token.provider", "not one of tokens"),
        (asking(allow=(), deny=("web",)), "services.api.intentions[0].token", "denies"),
        (
            asking(claims={"a": TextMatch()}),
            "services.api.intentions[0].token.claims.a",
            "no condition",
        ),
    ],
)
def test_what_is_wrong_with_tokens_is_said(policy: Policy, path: str, word: str) -> None:
    found = soundness.check(policy)
    assert [each.path for each in found] == [path]
    assert word in found[0].message


@pytest.mark.parametrize(
    "policy",
    [
        tokens(),
        tokens(jwks_file="", jwks_url="https://login.example.com:8443/keys?v=2"),
        tokens(jwks_file="", jwks_url="http://[::1]:9000/keys"),
        tokens(header="x-token", algorithms=("PS256",), leeway_s=0.0),
        asking(claims={"realm.roles": TextMatch(exact="admin"), "x": TextMatch(present=False)}),
        asking(is_audit=True),
    ],
)
def test_tokens_that_are_sound(policy: Policy) -> None:
    assert soundness.check(policy) == ()


def fault(**changes: Any) -> Policy:
    given: dict[str, Any] = {"name": "f", "until": UNTIL, "abort_status": 503} | changes
    return of(faults=(Fault(**given),))


GOOD: list[Policy] = [
    Policy(),
    of(),
    of(timeouts=Timeouts(connect_s=30.0, request_s=0.0, per_try_s=20.0)),
    of(retries=Retries(attempts=0, on=(), methods=())),
    of(retries=Retries(on=("statuses",), statuses=(503, 429))),
    of(balancing=Balancing(algorithm="maglev", hash_on=HashOn(source=True))),
    of(balancing=Balancing(algorithm="ring_hash", hash_on=HashOn(cookie="sid", ttl_s=60.0))),
    of(health_check=ActiveHealth(path="/healthz?deep=1", statuses=(200, 204))),
    of(health_check=ActiveHealth(kind="tcp")),
    of(health_check=ActiveHealth(kind="grpc")),
    of(health_check=ActiveHealth(kind="grpc", grpc_service="orders.v1.Orders")),
    of(rate_limits=(RateLimit(name="a", requests=5, match=PATH_MATCH),)),
    fault(delay_s=0.2, abort_status=0, percent=0.5),
    of(failover=(Failover(subset="v1"), Failover(service=WEB), Failover(datacenter="dc2"))),
    of(failover=(Failover(service=API, datacenter="dc2"), Failover(service=WEB, datacenter="dc2"))),
    routed(to=(Destination(subset="v1", weight=0), Destination(service=WEB, weight=3))),
    routed(to=(Destination(subset="v1"), Destination(subset="v2")), sticky=HashOn(header="x-user")),
    routed(redirect=Redirect(status=308, scheme="https", authority="a.example:8443", path="/x")),
    routed(respond=DirectResponse(status=204), response_headers=HeaderChanges(set={"x-a": ""})),
    routed(match=PATH_MATCH, rewrite=Rewrite(path="/", authority="a.example")),
    routed(
        match=Match(path=PathMatch(template="/u/{id}/*/{last}/**")),
        rewrite=Rewrite(path="/v2/{last}/{id}"),
    ),
    routed(mirror=Mirror(subset="v2", percent=0.1)),
    routed(mirror=Mirror(service=WEB)),
    routed(timeouts=RouteTimeouts(per_try_s=1.0, request_s=0.0)),
    routed(retries=Retries(attempts=1)),
    request_headers(remove=("x-a",), set={"x-b": "a b\tc"}, add={"via": "mesh"}),
    matched(path=PathMatch(regex=r"/a/[0-9]+(/.*)?"), methods=("GET", "PROPFIND", "M-SEARCH")),
    matched(
        headers={"x-a": TextMatch(exact=""), "x-b": TextMatch(present=False)},
        query={"Größe": TextMatch(regex="(?i)x|y")},
    ),
    matched(authorities=("api.mesh", "*.example.com", "10.0.0.1", "[::1]"), sources=(WEB,)),
    of(routes=(Route(name="a", match=PATH_MATCH), Route(name="b"))),
]


@pytest.mark.parametrize("policy", GOOD, ids=range(len(GOOD)))
def test_a_sound_policy_has_no_violations(policy: Policy) -> None:
    assert soundness.check(policy) == ()


BAD: list[tuple[Policy, str, str, str]] = [
    # Numbers that defeat each other.
    (of(timeouts=Timeouts(connect_s=15.0)), "timeouts.connect", "not shorter than", "raise"),
    (
        of(timeouts=Timeouts(per_try_s=15.0)),
        "timeouts.per_try",
        "per_try (15s) is not shorter than request (15s)",
        "lower per_try",
    ),
    (
        routed(timeouts=RouteTimeouts(per_try_s=0.5, request_s=0.5)),
        "routes[0].timeouts.per_try",
        "per_try (500ms) is not",
        "",
    ),
    (
        routed(timeouts=RouteTimeouts(per_try_s=20.0)),
        "routes[0].timeouts.per_try",
        "request (15s)",
        "",
    ),
    (of(retries=Retries(backoff_base_s=1.0)), "retries.backoff_base", "longer than", "raise"),
    (of(retries=Retries(statuses=(503,))), "retries.statuses", "do nothing", "add 'statuses'"),
    (of(retries=Retries(on=("statuses",))), "retries.on", "none is listed", "statuses: [503]"),
    (of(retries=Retries(on=("5xx", "5xx"))), "retries.on[1]", "there twice", "keep one"),
    (of(retries=Retries(methods=("get",))), "retries.methods[0]", "not a method", "write GET"),
    (
        of(retries=Retries(on=("statuses",), statuses=(200,))),
        "retries.statuses[0]",
        "200 is not a failure",
        "400 to 599",
    ),
    (
        routed(retries=Retries(statuses=(503,))),
        "routes[0].retries.statuses",
        "do nothing",
        "",
    ),
    (of(balancing=Balancing(algorithm="maglev")), "load_balancing.algorithm", "nothing", "hash_on"),
    (
        of(balancing=Balancing(hash_on=HashOn(source=True))),
        "load_balancing.hash_on",
        "does nothing with peak_ewma",
        "ring_hash",
    ),
    (
        of(balancing=Balancing(algorithm="maglev", hash_on=HashOn())),
        "load_balancing.hash_on",
        "nothing to go by",
        "exactly one",
    ),
    (
        of(balancing=Balancing(algorithm="maglev", hash_on=HashOn(header="a", source=True))),
        "load_balancing.hash_on",
        "header and source",
        "exactly one",
    ),
    (
        of(balancing=Balancing(algorithm="maglev", hash_on=HashOn(header="a", ttl_s=5.0))),
        "load_balancing.hash_on.ttl",
        "only a cookie",
        "remove",
    ),
    (
        of(outlier_detection=OutlierDetection(ejection_s=301.0)),
        "outlier_detection.ejection",
        "longer than max_ejection",
        "raise",
    ),
    (of(health_check=ActiveHealth(timeout_s=11.0)), "health_check.timeout", "longer", "lower"),
    (of(health_check=ActiveHealth(path="x")), "health_check.http", "not a path", "begin"),
    (
        of(health_check=ActiveHealth(kind="tcp", statuses=(200,))),
        "health_check.statuses",
        "no status",
        "http",
    ),
    (
        of(health_check=ActiveHealth(kind="grpc", statuses=(200,))),
        "health_check.statuses",
        "with words",
        "remove",
    ),
    (
        of(health_check=ActiveHealth(kind="grpc", grpc_service="a b")),
        "health_check.grpc",
        "not the name of a gRPC service",
        "true",
    ),
    (of(health_check=ActiveHealth(statuses=(99,))), "health_check.statuses[0]", "99 is not", ""),
    # Faults and limits.
    (fault(abort_status=0), "faults[0]", "does nothing", "delay, abort"),
    (fault(until=datetime(2030, 1, 1)), "faults[0].until", "no time zone", "Z"),
    (fault(name="a b"), "faults[0].name", "not a name", ""),
    (
        of(faults=(Fault(name="a", until=UNTIL, delay_s=1.0),) * 2),
        "faults[1].name",
        "taken by services.api.faults[0]",
        "own",
    ),
    (
        of(rate_limits=(RateLimit(name="a", requests=1),) * 2),
        "rate_limits[1].name",
        "'a' is taken",
        "",
    ),
    # Failover.
    (of(failover=(Failover(),)), "failover[0]", "nowhere", "datacenter"),
    (of(failover=(Failover(service=API),)), "failover[0]", "stand in for itself", ""),
    (of(failover=(Failover(subset="v3"),)), "failover[0].subset", "no subset 'v3'", "v1, v2"),
    (of(failover=(Failover(datacenter="DC 2"),)), "failover[0].datacenter", "not a data", ""),
    (of(failover=(Failover(service=WEB),) * 2), "failover[1]", "the same", "keep one"),
    (of(failover=(Failover(service=ServiceName("A")),)), "failover[0].service", "not a serv", ""),
    # Subsets.
    (of(subsets={"a b": Subset(version="v1")}), "subsets.a b", "not a name", ""),
    (of(subsets={"a": Subset(version="")}), "subsets.a.version", "not a version", ""),
    # Routes: actions.
    (
        routed(to=(Destination(subset="v1"),), redirect=Redirect(path="/x")),
        "routes[0].redirect",
        "it has to and redirect",
        "keep one",
    ),
    (
        routed(respond=DirectResponse(status=200), redirect=Redirect(path="/x")),
        "routes[0].respond",
        "redirect and respond",
        "",
    ),
    (
        routed(respond=DirectResponse(status=200), retries=Retries()),
        "routes[0].retries",
        "does nothing where there is 'respond'",
        "remove",
    ),
    (routed(redirect=Redirect()), "routes[0].redirect", "leads back to itself", "path"),
    (routed(redirect=Redirect(status=304, path="/")), "routes[0].redirect.status", "304", "302"),
    (routed(redirect=Redirect(scheme="ftp")), "routes[0].redirect.scheme", "not a scheme", ""),
    (routed(redirect=Redirect(authority="a/b")), "routes[0].redirect.authority", "not an a", ""),
    (routed(redirect=Redirect(path="/a?b")), "routes[0].redirect.path", "more than a path", ""),
    (
        routed(respond=DirectResponse(status=204, body="x")),
        "routes[0].respond.body",
        "has no body",
        "",
    ),
    (
        routed(respond=DirectResponse(status=200, body="x" * (routing.MAX_BODY + 1))),
        "routes[0].respond.body",
        "65537 bytes",
        "65536",
    ),
    (
        routed(respond=DirectResponse(status=200, body="\ud800")),
        "routes[0].respond.body",
        "UTF-8",
        "",
    ),
    (
        routed(respond=DirectResponse(status=200, content_type="a\r\nb")),
        "routes[0].respond.content_type",
        "cannot be a header's value",
        "",
    ),
    # Routes: destinations.
    (
        routed(to=(Destination(subset="v1", weight=0), Destination(subset="v2", weight=0))),
        "routes[0].to[0].weight",
        "all weights are 0",
        "above 0",
    ),
    (
        routed(to=(Destination(subset="v1"), Destination(service=API, subset="v1"))),
        "routes[0].to[1]",
        "the same as services.api.routes[0].to[0]",
        "weights",
    ),
    (routed(to=(Destination(subset="v3"),)), "routes[0].to[0].subset", "api has no", "v1, v2"),
    (
        routed(to=(Destination(service=WEB, subset="v1"),)),
        "routes[0].to[0].subset",
        "web has no subset 'v1'",
        "services.web.subsets",
    ),
    (
        routed(to=(Destination(service=ServiceName("db"), subset="v1"),)),
        "routes[0].to[0].subset",
        "db has no subset",
        "",
    ),
    (routed(sticky=HashOn(source=True)), "routes[0].sticky", "with one destination", "hash_on"),
    (routed(mirror=Mirror()), "routes[0].mirror", "api would get each", "subset"),
    (routed(mirror=Mirror(service=API)), "routes[0].mirror", "api would get each", "subset"),
    (routed(mirror=Mirror(subset="v3")), "routes[0].mirror.subset", "no subset", ""),
    # Routes: what is changed.
    (routed(rewrite=Rewrite()), "routes[0].rewrite", "changes nothing", ""),
    (
        routed(match=PATH_MATCH, rewrite=Rewrite(path="/{id}")),
        "routes[0].rewrite.path",
        "a segment that the match does not have",
        "template",
    ),
    (
        routed(match=Match(path=PathMatch(template="/{a}")), rewrite=Rewrite(path="/{b}")),
        "routes[0].rewrite.path",
        "a segment that the match does not have",
        "known: {a}",
    ),
    (request_headers(), "routes[0].request_headers", "changes nothing", ""),
    *(
        (
            request_headers(set={name: "x"}),
            f"routes[0].request_headers.set.{name}",
            message,
            "",
        )
        for name, message in {
            "content-length": "belongs to the connection",
            "Transfer-Encoding": "not the name",
            "transfer-encoding": "belongs to the connection",
            "transfer_encoding": "belongs to the connection",
            "connection": "belongs to the connection",
            "upgrade": "belongs to the connection",
            "host": "not a header here",
            "x-mesh-flag": "written by the mesh",
            "x_mesh_source": "written by the mesh",
            "x-forwarded-client-cert": "written by the mesh",
            "x-request-id": "written by the mesh",
            "a b": "not the name",
            "": "not the name",
            "x-ü": "not the name",
        }.items()
    ),
    *(
        (request_headers(add={"x-a": value}), "routes[0].request_headers.add.x-a", "value", "")
        for value in ("a\r\nx-b: c", "a\nb", "a\x00b", " a", "a ", "€")
    ),
    (
        request_headers(add={"x-a": "x" * 4097}),
        "routes[0].request_headers.add.x-a",
        "4097 characters",
        "4096",
    ),
    (
        routed(response_headers=HeaderChanges(remove=("te",))),
        "routes[0].response_headers.remove[0]",
        "belongs",
        "",
    ),
    # Matches.
    (matched(path=PathMatch()), "routes[0].match.path", "no condition", "exactly one of: exact"),
    (
        matched(path=PathMatch(exact="/", prefix="/")),
        "routes[0].match.path",
        "exact and prefix",
        "exactly one",
    ),
    *(
        (matched(path=PathMatch(exact=path)), "routes[0].match.path.exact", message, "")
        for path, message in {
            "x": "not a path",
            "": "not a path",
            "/a b": "not a path",
            "/ü": "not a path",
            "/a?b": "more than a path",
            "/a#b": "more than a path",
            "/a/../b": "dot segment",
            "/a/.": "dot segment",
            "/" + "x" * 2048: "not a path",
        }.items()
    ),
    *(
        (matched(path=PathMatch(template=path)), "routes[0].match.path.template", message, "")
        for path, message in {
            "/{id": "not a segment",
            "/a{id}": "not a segment",
            "/{}": "not a segment",
            "/{1}": "not a segment",
            "/**/a": "not a segment",
            "/a*": "not a segment",
            "/{a}/{a}": "{a} is there twice",
            "a": "not a path",
        }.items()
    ),
    *(
        (matched(path=PathMatch(regex=regex)), "routes[0].match.path.regex", message, "RE2")
        for regex, message in {"(": "of RE2", "a(?=b)": "of RE2", "é": "ASCII"}.items()
    ),
    (matched(path=PathMatch(regex="a" * 1025)), "routes[0].match.path.regex", "1024", ""),
    (matched(path=PathMatch(regex="\ud800")), "routes[0].match.path.regex", "ASCII", ""),
    (texts(), "routes[0].match.headers.x-a", "no condition", "present"),
    (texts(exact="a", present=True), "routes[0].match.headers.x-a", "exact and present", ""),
    (texts(prefix=""), "routes[0].match.headers.x-a.prefix", "every value", "present"),
    (texts(regex="["), "routes[0].match.headers.x-a.regex", "of RE2", ""),
    (
        matched(headers={"X-A": TextMatch(exact="")}),
        "routes[0].match.headers.X-A",
        "not the name",
        "lower case",
    ),
    (
        matched(headers={"host": TextMatch(exact="a")}),
        "routes[0].match.headers.host",
        "not a header here",
        "authorities",
    ),
    (matched(query={"": TextMatch(exact="a")}), "routes[0].match.query.", "not a query", ""),
    (matched(methods=("GET", "GET")), "routes[0].match.methods[1]", "there twice", ""),
    (matched(methods=("CONNECT",)), "routes[0].match.methods[0]", "CONNECT", "remove"),
    *(
        (matched(authorities=(host,)), "routes[0].match.authorities[0]", "not a host", "port")
        for host in ("A.example", "a:80", "*", "a.*.b", "", "a/b", "x" * 254)
    ),
    (matched(sources=(ServiceName("A"),)), "routes[0].match.sources[0]", "not a service", ""),
    (routed(name=""), "routes[0].name", "not a name", ""),
    (
        of(routes=(Route(name="a", match=PATH_MATCH), Route(name="a"))),
        "routes[1].name",
        "'a' is taken",
        "",
    ),
    (
        of(routes=(Route(name="all"), Route(name="b", match=PATH_MATCH))),
        "routes[1]",
        "'all' before it matches everything",
        "further up",
    ),
    # Counts.
    (
        of(routes=tuple(Route(name=f"r{i}", match=PATH_MATCH) for i in range(1001))),
        "routes",
        "1001 entries",
        "at most 1000",
    ),
    (
        routed(to=tuple(Destination(service=ServiceName(f"s{i}")) for i in range(101))),
        "routes[0].to",
        "101 entries",
        "at most 100",
    ),
    (
        of(rate_limits=tuple(RateLimit(name=f"l{i}", requests=1) for i in range(65))),
        "rate_limits",
        "65 entries",
        "at most 64",
    ),
    (
        of(failover=tuple(Failover(service=ServiceName(f"s{i}")) for i in range(17))),
        "failover",
        "17 entries",
        "at most 16",
    ),
]


@pytest.mark.parametrize(
    ("policy", "path", "message", "hint"), BAD, ids=[f"{i}-{b[1]}" for i, b in enumerate(BAD)]
)
def test_an_unsound_policy_is_refused_with_the_place_and_the_remedy(
    policy: Policy, path: str, message: str, hint: str
) -> None:
    (found,) = soundness.check(policy)
    assert found.path == f"services.api.{path}"
    assert message in found.message
    assert hint in found.hint


def _numbers() -> Iterator[tuple[type, str, Range]]:
    for struct, fields in RANGES.items():
        for field, allowed in fields.items():
            yield struct, field, allowed


def _with(struct: type, field: str, value: float) -> Policy:
    """A policy that holds ``value`` in that field of that struct, and is sound otherwise."""
    given: Any = {field: value}
    match struct:
        case _ if struct is Timeouts:
            return of(timeouts=Timeouts(**given))
        case _ if struct is RouteTimeouts:
            return routed(timeouts=RouteTimeouts(**given))
        case _ if struct is RateLimit:
            return of(rate_limits=(RateLimit(**{"name": "a", "requests": 1, **given}),))
        case _ if struct is Fault:
            return fault(**{"delay_s": 1.0, **given})
        case _ if struct is HashOn:
            on = HashOn(cookie="a", **given)
            return of(balancing=Balancing(algorithm="maglev", hash_on=on))
        case _ if struct is Destination:
            return routed(to=(Destination(subset="v1"), Destination(**given)))
        case _ if struct is DirectResponse:
            return routed(respond=DirectResponse(**given))
        case _ if struct is Mirror:
            return routed(mirror=Mirror(subset="v1", **given))
        case _ if struct is TokenProvider:
            return tokens(**given)
        case _ if struct is Telemetry:
            return Policy(telemetry=Telemetry(**given))
        case _:
            key = {
                "Balancing": "balancing",
                "Retries": "retries",
                "Limits": "limits",
                "OutlierDetection": "outlier_detection",
                "ActiveHealth": "health_check",
                "AccessLog": "access_log",
                "Tracing": "tracing",
            }[struct.__name__]
            return of(**{key: struct(**given)})


@pytest.mark.parametrize(("struct", "field", "allowed"), tuple(_numbers()), ids=str)
def test_a_number_out_of_its_range_is_refused(struct: type, field: str, allowed: Range) -> None:
    beyond = [-1, allowed.most * 1.01 + 1, math.inf, -math.inf, math.nan]
    if allowed.least > 0 and not allowed.or_zero:
        beyond.append(0)
    for value in beyond:
        found = soundness.check(_with(struct, field, value))
        assert [v for v in found if v.path.endswith(f".{allowed.key}")], value
        assert any("out of range" in v.message for v in found), value


@pytest.mark.parametrize(
    ("policy", "path", "word"),
    [
        *(
            (of(access_log=AccessLog(format=text)), "services.api.access_log.format", word)
            for text, word in (
                ("%path%\n", "it has a line break"),
                ("%path%" + "x" * 5000, "it is longer than"),
                ("%pth%", "%pth% is no field"),
                ("50%", "a single %"),
                ("no field", "it names no field"),
                (" ", "it is empty"),
            )
        ),
        (of(tracing=Tracing(header="X-Debug")), "services.api.tracing.header", "not the name"),
        (of(tracing=Tracing(header="x-debug:")), "services.api.tracing.header", "no value"),
        (of(tracing=Tracing(header="x-debug: \n")), "services.api.tracing.header", "value"),
        (of(tracing=Tracing(header=": 1")), "services.api.tracing.header", "not the name"),
        (of(tracing=Tracing(header="x-mesh-debug")), "services.api.tracing.header", "mesh alone"),
        (
            Policy(defaults=ServicePolicy(tracing=Tracing(header="te"))),
            "defaults.tracing.header",
            "belongs to the connection",
        ),
        *(
            (Policy(telemetry=Telemetry(otlp=url)), "telemetry.otlp", word)
            for url, word in (
                ("127.0.0.1:4318", "cannot be sent to"),
                ("grpc://127.0.0.1:4317", "cannot be sent to"),
                ("http:///v1/traces", "cannot be sent to"),
                ("http://a b/v1/traces", "cannot be sent to"),
                ("http://a/\r\nx: y", "cannot be sent to"),
                ("http://a:0/v1/traces", "cannot be sent to"),
                ("http://a:99999/v1/traces", "not a URL"),
                ("http://[::1/v1/traces", "not a URL"),
                ("http://me:secret@a/v1/traces", "a user or a password"),
                ("http://a/v1/traces?key=secret", "more than a path"),
                ("http://a/v1/traces#x", "more than a path"),
            )
        ),
    ],
)
def test_what_is_wrong_with_telemetry_is_said(policy: Policy, path: str, word: str) -> None:
    found = soundness.check(policy)
    assert [each.path for each in found] == [path]
    assert word in found[0].message
    assert "me:secret" not in str(found)


@pytest.mark.parametrize(
    "policy",
    [
        of(access_log=AccessLog(percent=0.5, slow_ms=0.0, format="%method% %path% %status%")),
        of(tracing=Tracing(percent=100.0, header="x-debug")),
        of(tracing=Tracing(header="x-debug: a b")),
        Policy(telemetry=Telemetry(otlp="http://127.0.0.1:4318/v1/traces")),
        Policy(telemetry=Telemetry(otlp="https://[2001:db8::1]/v1/traces", log_files=0)),
        Policy(telemetry=Telemetry(metrics=False, log_to="file")),
    ],
)
def test_telemetry_that_is_sound(policy: Policy) -> None:
    assert soundness.check(policy) == ()


def test_every_number_of_the_model_has_a_range() -> None:
    def below(kind: Any, seen: set[type]) -> None:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in seen:
            seen.add(kind)
            for field in msgspec.structs.fields(kind):
                below(field.type, seen)
        for inner in getattr(kind, "__args__", ()):
            below(inner, seen)

    found: set[type] = set()
    below(Policy, found)
    assert len(found) > 20
    numbers = {
        (struct, field.name)
        for struct in found
        for field in msgspec.structs.fields(struct)
        if field.type in (int, float, int | None, float | None)
    }
    ranged = {(struct, field) for struct, field, _ in _numbers()}
    assert numbers - ranged == {(Redirect, "status")}, "which is one of a set"
    assert ranged <= numbers


def test_the_defaults_are_held_against_the_same_rules_once() -> None:
    bad = ServicePolicy(timeouts=Timeouts(connect_s=-1.0))
    policy = Policy(defaults=bad, services={API: bad, WEB: ServicePolicy()})
    (found,) = soundness.check(policy)
    assert found.path == "defaults.timeouts.connect"


@pytest.mark.parametrize("field", ["routes", "subsets", "rate_limits", "faults", "failover"])
def test_what_is_for_one_service_is_refused_in_the_defaults(field: str) -> None:
    values: dict[str, Any] = {
        "routes": (Route(name="a"),),
        "subsets": {"a": Subset(version="v1")},
        "rate_limits": (RateLimit(name="a", requests=1),),
        "faults": (Fault(name="a", until=UNTIL, delay_s=1.0),),
        "failover": (Failover(service=WEB),),
    }
    (found,) = soundness.check(Policy(defaults=ServicePolicy(**{field: values[field]})))
    assert found.path == f"defaults.{field}"


def test_the_name_of_a_service_is_checked() -> None:
    data = b'{"services":{"Not A Name":{}}}'
    (found,) = soundness.check(decode(data, Policy))
    assert "not a service name" in found.message


def test_a_contradiction_names_every_place_that_it_may_come_from() -> None:
    policy = routed(timeouts=RouteTimeouts(per_try_s=20.0))
    (found,) = soundness.findings(policy)
    assert found.paths == (
        "services.api.routes[0].timeouts.per_try",
        "services.api.routes[0].timeouts.request",
        "services.api.timeouts.per_try",
        "services.api.timeouts.request",
    )


def test_without_the_engine_a_pattern_is_refused_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    policy = matched(path=PathMatch(regex="never compiled before"))
    (found,) = soundness.check(policy)
    assert "google-re2 is not installed" in found.message


def test_the_figures_of_times_are_readable() -> None:
    assert [resilience._time(s) for s in (0.025, 1.0, 1.5, 60.0)] == ["25ms", "1s", "1.5s", "60s"]
