"""What was seen becomes intentions that allow it, and nothing else."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshctl.inventory.parse import parse as parse_inventory
from meshctl.policy import parse
from meshctl.policy.learning import fragment, learn
from proxy.core.authorization import Authorizer
from proxy.core.authorization.patterns import pattern_of
from proxy.http.head import RequestHead, parse_request
from proxy.model.names import ServiceName
from proxy.model.observed import AMBIGUOUS, SeenCall
from proxy.model.policy import Policy

INVENTORY = parse_inventory(
    """\
version: 1
consul: {mode: existing}
hosts:
  - name: a
    address: 10.0.0.1
    services:
      - {name: api, port: 8080, protocol: http}
      - {name: db, port: 5432, protocol: tcp}
      - name: web
        port: 8081
        protocol: http
        upstreams: [{service: api, port: 9000}, {service: db, port: 9001}]
      - {name: job, port: 8082, protocol: http, upstreams: [{service: api, port: 9002}]}
""",
    Path("inventory.yaml"),
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
API, DB, WEB, JOB = map(ServiceName, ("api", "db", "web", "job"))


def seen(method: str, target: str, caller: str = "web", count: int = 1) -> SeenCall:
    return SeenCall(
        service=API, caller=ServiceName(caller), method=method,
        path=pattern_of(target.encode()), allowed=count,
    )  # fmt: skip


def taught(calls: list[SeenCall]) -> Policy:
    """As an operator would take it over."""
    text = fragment(calls, seconds=60)
    return parse(text, "mesh.yaml", INVENTORY, NOW)


def request(method: str, target: str) -> RequestHead:
    return parse_request(f"{method} {target} HTTP/1.1\r\nHost: api".encode())


def is_allowed(policy: Policy, method: str, target: str, caller: ServiceName = WEB) -> bool:
    authorizer = Authorizer(API, (WEB, JOB), policy.of(API).intentions)
    return authorizer.of(caller).decide(request(method, target)).is_allowed


REAL = [
    ("GET", "/"),
    ("GET", "/users/17"),
    ("GET", "/users/4/orders?page=2"),
    ("PUT", "/users/17"),
    ("GET", "/items/0f8fad5b-d9cb-469f-a165-70867728950e"),
    ("POST", "/blobs/deadbeefdeadbeefdeadbeef"),
    ("GET", "/a/b/../c//d"),
    ("GET", "/x{y}z"),
    ("GET", "/caf%C3%A9"),
    ("GET", "/" + "/".join("abcdefghijklmnopqrstuvw")),
    *(("GET", f"/tags/word{number}x") for number in range(25)),
]


def test_all_that_was_seen_is_allowed_and_other_calls_are_not() -> None:
    policy = taught([seen(*each) for each in REAL] + [seen("DELETE", "/users/3", "job")])
    for method, target in REAL:
        assert is_allowed(policy, method, target), target
    for method, target in [
        ("DELETE", "/users/17"),
        ("POST", "/users/17"),
        ("GET", "/users"),
        ("GET", "/users/17/orders/1"),
        ("GET", "/admin"),
        ("PUT", "/tags/word1x"),
        ("GET", "/a/c/d/e"),
    ]:
        assert not is_allowed(policy, method, target), target
    assert is_allowed(policy, "DELETE", "/users/9", JOB)
    assert not is_allowed(policy, "GET", "/users/9", JOB)
    assert is_allowed(policy, "GET", "/tags/never-seen"), "too many values are taken for ids"


def test_few_values_are_kept_apart() -> None:
    policy = taught([seen("GET", f"/tags/word{number}x") for number in range(20)])
    assert is_allowed(policy, "GET", "/tags/word19x")
    assert not is_allowed(policy, "GET", "/tags/other")


def test_callers_that_do_the_same_share_an_intention() -> None:
    (one,) = learn([seen("GET", "/x", "web", 3), seen("GET", "/x", "job", 4)])[API]
    assert (one.intention.allow, one.count) == (("job", "web"), 7)


def test_sessions_have_callers_only() -> None:
    calls = [SeenCall(service=DB, caller=WEB, allowed=2)]
    policy = taught(calls)
    (made,) = policy.of(DB).intentions
    assert (made.allow, made.match.path) == (("web",), None)


def test_what_was_denied_is_told_and_not_allowed() -> None:
    denied = SeenCall(
        service=API, caller=JOB, method="GET", path="/secret", denied=9, policy="api/closed"
    )
    text = fragment([seen("GET", "/x"), denied], seconds=5)
    assert "#   9 x job -> api GET /secret (api/closed)" in text
    assert not is_allowed(parse(text, "m", INVENTORY, NOW), "GET", "/secret", JOB)


def test_what_no_intention_can_name_is_told() -> None:
    odd = SeenCall(service=API, caller=WEB, method="GET", path=AMBIGUOUS, allowed=3)
    text = fragment([odd], seconds=5, left_out=2)
    assert "3 calls had paths that applications may read in different ways" in text
    assert "INCOMPLETE: 2 calls" in text
    assert parse(text, "m", INVENTORY, NOW) == Policy()


@pytest.mark.parametrize(
    ("target", "pattern"),
    [
        ("/", "/"),
        ("/a//b/./c/..", "/a/b/"),
        ("/users/12", "/users/*"),
        ("/users/12a", "/users/12a"),
        ("/u/0f8fad5b-d9cb-469f-a165-70867728950e/x", "/u/*/x"),
        ("/u/0f8fad5bd9cb469f", "/u/*"),
        ("/u/0f8fad5b", "/u/0f8fad5b"),
        ("/a%2Fb", AMBIGUOUS),
        ("*", "*"),
        ("/x?token=secret", "/x"),
        ("/" + "a/" * 20, "/" + "a/" * 16 + "**"),
        ("/" + "a" * 600, "/**"),
    ],
)
def test_a_path_becomes_a_pattern(target: str, pattern: str) -> None:
    assert pattern_of(target.encode()) == pattern
