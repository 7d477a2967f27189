"""Intentions: deny before allow, default deny, and paths that have one reading only."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.authorization import Authorizer, Decision, forwarded_target
from proxy.core.routing.paths import normalise_path
from proxy.http.head import RequestHead
from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.routing import Match, PathMatch, TextMatch

API, WEB, JOBS = ServiceName("api"), ServiceName("web"), ServiceName("jobs")
ONE = Match(headers={"x-a": TextMatch(exact="1")})
ADMIN = Match(path=PathMatch(prefix="/admin"))
CLOSED = Intention(name="closed", deny=("*",), match=ADMIN)


def head(target: str = "/", method: str = "GET", *lines: bytes) -> RequestHead:
    made = RequestHead(method.encode(), target.encode("latin-1"), b"api", False)
    made.lines = list(lines)
    return made


def decide(intentions: Any, caller: ServiceName = WEB, request: Any = None) -> Decision:
    rules = Authorizer(API, (WEB, JOBS), tuple(intentions)).of(caller)
    return rules.decide(request or head())


def test_without_intentions_the_inventory_decides() -> None:
    found = decide([])
    assert (found.is_allowed, found.policy) == (True, "api/declared")


@pytest.mark.parametrize("allow", [(), ("*",), ("stranger",)])
def test_no_intention_lets_in_whom_the_inventory_does_not_declare(allow: tuple[str, ...]) -> None:
    intentions = [Intention(name="a", allow=allow)] if allow else []
    found = decide(intentions, ServiceName("stranger"))
    assert (found.is_allowed, found.policy) == (False, "api/undeclared")


def test_with_intentions_nothing_is_allowed_that_none_allows() -> None:
    found = decide([Intention(name="a", allow=("jobs",))])
    assert (found.is_allowed, found.policy) == (False, "api/default-deny")


@pytest.mark.parametrize("caller", ["web", "*"])
def test_one_that_allows_is_enough(caller: str) -> None:
    found = decide([Intention(name="a", allow=("jobs",)), Intention(name="b", allow=(caller,))])
    assert (found.is_allowed, found.policy) == (True, "api/b")


@pytest.mark.parametrize("is_first", [True, False])
def test_one_that_denies_decides_wherever_it_stands(is_first: bool) -> None:
    both = [Intention(name="all", allow=("*",)), Intention(name="no", deny=("web",))]
    found = decide(both[::-1] if is_first else both)
    assert (found.is_allowed, found.policy) == (False, "api/no")
    assert decide(both, JOBS).is_allowed


@pytest.mark.parametrize(
    ("match", "request_", "holds"),
    [
        (Match(methods=("GET",)), head(), True),
        (Match(methods=("POST",)), head(), False),
        (Match(path=PathMatch(prefix="/v1")), head("/v1/x?y"), True),
        (Match(path=PathMatch(prefix="/v1")), head("/v10"), False),
        (Match(path=PathMatch(exact="/a")), head("/A"), False),
        (ONE, head("/", "GET", b"x-a: 1"), True),
        (ONE, head("/", "GET", b"x-a: 1", b"x-a: 1"), False),
        (ONE, head(), False),
        (Match(query={"q": TextMatch(present=True)}), head("/?q=1"), True),
        (Match(query={"q": TextMatch(present=True)}), head("/"), False),
        (Match(authorities=("api",)), head(), True),
        (Match(methods=("GET",), path=PathMatch(exact="/")), head("/x"), False),
    ],
)  # fmt: skip
def test_an_intention_is_for_requests_that_match(
    match: Match, request_: RequestHead, holds: bool
) -> None:
    assert decide([Intention(name="a", allow=("web",), match=match)], WEB, request_).is_allowed is (
        holds
    )


@pytest.mark.parametrize(
    "target",
    [
        *("/admin", "/admin/x", "//admin", "/./admin", "/x/../admin", "/%61dmin"),
        *("/ADMIN", "/aDmiN/"),
        *("/x/%2e%2E/admin", "/x/..//admin/..//admin", "/admin/.", "/x/.%2e/%41dmin?y"),
        *("/admin%2Fx", "/%2Fadmin", "/x%5C..%5Cadmin", "/x\\..\\admin"),
        *("/admin;a=b", "/x/..;/admin", "/admin%3bx", "/admin%3Fx"),
        *("/%252e/admin", "/x/%252e%252e/admin", "/%25%36%31dmin"),
        *("/x/%c0%ae%c0%ae/admin", "/\xc0\xaf/admin", "/%e0%80%af/admin"),
        *("/admin%", "admin", "/admin%0a", "/admin%00"),
    ],
)  # fmt: skip
def test_no_spelling_of_a_denied_path_gets_through(target: str) -> None:
    found = decide([Intention(name="all", allow=("*",)), CLOSED], WEB, head(target))
    assert not found.is_allowed
    assert found.policy in ("api/closed", "api/ambiguous-path")


@pytest.mark.parametrize(
    "target",
    [
        *("/x;a=b", "/x%3Bb", "/x\\y", "/x%5cy", "/x%2Fy", "/x%3fy", "/x%252e", "/x%25%32e"),
        *("/x%00", "/x%0d", "/x%7F", "/x%", "/x%zz", "/x%ff", "/\xff", "/x#y", "x", ""),
    ],
)
def test_what_has_several_readings_is_refused_where_everything_is_allowed(target: str) -> None:
    anything = Intention(name="all", allow=("web",), match=Match(path=PathMatch(regex="(?s).*")))
    found = decide([anything], WEB, head(target))
    assert (found.is_allowed, found.policy) == (False, "api/ambiguous-path")


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        ("/a/b?c=%2F&d=..", "/a/b?c=%2F&d=.."),
        ("/a//b/./c/../d", "/a/b/d"),
        ("/%7Euser/%c3%a9", "/~user/%C3%A9"),
        ("/\xc3\xa9", "/%C3%A9"),
        ("/a%23b%25", "/a%23b%25"),
        ("*", "*"),
        ("/../..", "/"),
    ],
)
def test_the_application_gets_the_path_that_was_judged(target: str, forwarded: str) -> None:
    request = head(target)
    assert decide([Intention(name="a", allow=("web",), match=ADMIN)], WEB, request)
    assert request.target == forwarded.encode()


def test_without_conditions_on_paths_targets_stay_as_they_came() -> None:
    request = head("/a//b/%2F")
    posts = Intention(name="a", allow=("web",), match=Match(methods=("GET",)))
    assert decide([posts], WEB, request).is_allowed
    assert request.target == b"/a//b/%2F"


@given(st.binary(max_size=40))
def test_what_is_forwarded_has_no_other_reading(text: bytes) -> None:
    target = b"/" + text.replace(b"?", b"")
    found = forwarded_target(target)
    if found is not None:
        assert found == normalise_path(found) == forwarded_target(found)
        assert not any(bad in found for bad in (b"\\", b";", b"//"))


@pytest.mark.parametrize(
    ("intentions", "constant"),
    [
        ((), True),
        ((Intention(name="a", allow=("web",)),), True),
        ((Intention(name="a", allow=("jobs",), match=ADMIN),), True),
        ((Intention(name="a", allow=("web",), match=ADMIN),), False),
        ((Intention(name="a", allow=("web",)), CLOSED), False),
        ((Intention(name="a", deny=("web",)), CLOSED), True),
        ((Intention(name="a", deny=("web",), is_audit=True, match=ADMIN),), False),
    ],
)  # fmt: skip
def test_what_no_rule_looks_at_is_decided_once(
    intentions: tuple[Intention, ...], constant: bool
) -> None:
    rules = Authorizer(API, (WEB,), intentions).of(WEB)
    assert (rules.constant is not None) is constant
    if constant:
        assert rules.decide(head("/admin%2F")) == rules.constant


def test_a_tcp_session_is_let_in_only_where_no_request_has_to_be_looked_at() -> None:
    rules = Authorizer(API, (WEB,), (Intention(name="a", allow=("web",), match=ADMIN),)).of(WEB)
    assert (rules.session.is_allowed, rules.session.policy) == (False, "api/default-deny")
    assert (
        Authorizer(API, (WEB,), (Intention(name="a", allow=("web",)),)).of(WEB).session.is_allowed
    )


TEAM = Match(headers={"x-team": TextMatch(exact="blue")})
HAS_TEAM = Match(headers={"x-team": TextMatch(present=True)})
ROLE = Match(query={"role": TextMatch(exact="admin")})
ONE_ELSE = Match(methods=("GET",))


@pytest.mark.parametrize(
    ("match", "request_", "policy"),
    [
        (TEAM, head("/", "GET", b"x-team: blue", b"x-team: red"), "ambiguous-header"),
        (TEAM, head("/", "GET", b"x_team: blue"), "ambiguous-header"),
        (TEAM, head("/", "GET", b"x-team: red", b"x.team: blue"), "ambiguous-header"),
        (HAS_TEAM, head("/", "GET", b"x_team: blue"), "ambiguous-header"),
        (ROLE, head("/?role=user&role=admin"), "ambiguous-query"),
        (ROLE, head("/?r%6Fle=user&role=admin"), "ambiguous-query"),
        (ROLE, head("/?x=1;role=admin"), "ambiguous-query"),
    ],
)
@pytest.mark.parametrize("is_denying", [False, True])
def test_what_rules_look_at_must_have_one_reading(
    match: Match, request_: RequestHead, policy: str, is_denying: bool
) -> None:
    some = Intention(name="some", **{"deny" if is_denying else "allow": ("web",)}, match=match)
    found = decide([some, Intention(name="all", allow=("*",), match=ONE_ELSE)], WEB, request_)
    assert (found.is_allowed, found.policy) == (False, f"api/{policy}")


@pytest.mark.parametrize(
    ("match", "request_"),
    [
        (HAS_TEAM, head("/", "GET", b"x-team: blue", b"x-team: red")),
        (TEAM, head("/", "GET", b"x-team: blue", b"accept: a", b"accept: b", b"x_other: 1")),
        (ROLE, head("/?role=admin&x=1&x=2&rolex=")),
        (ROLE, head("/?role=admin&role%5b%5d=1")),
        (ADMIN, head("/admin?x=1;y=2", "GET", b"x_team: 1", b"x-team: 2", b"x-team: 3")),
    ],
)
def test_what_no_rule_looks_at_may_come_as_it_likes(match: Match, request_: RequestHead) -> None:
    assert decide([Intention(name="a", allow=("web",), match=match)], WEB, request_).is_allowed


def test_an_audit_neither_refuses_nor_rewrites_what_it_cannot_read() -> None:
    both = Match(path=PathMatch(prefix="/admin"), headers=TEAM.headers)
    audit = Intention(name="later", deny=("web",), match=both, is_audit=True)
    for intentions in ([audit], [audit, Intention(name="a", allow=("web",), match=ONE_ELSE)]):
        request = head("/a//b;c", "GET", b"x-team: 1", b"x_team: 2")
        assert decide(intentions, WEB, request).is_allowed
        assert request.target == b"/a//b;c"


@pytest.mark.parametrize(
    ("intentions", "policy"),
    [
        ((), None),
        ((Intention(name="a", allow=("web",)),), None),
        ((Intention(name="a", allow=("web",), match=ADMIN),), None),
        ((Intention(name="a", allow=("web",)), CLOSED), None),
        ((Intention(name="a", allow=("jobs",)),), "api/default-deny"),
        ((Intention(name="a", allow=("jobs",)), CLOSED), "api/default-deny"),
        ((CLOSED,), "api/default-deny"),
        ((CLOSED, Intention(name="no", deny=("web",)), Intention(name="a", allow=("*",))),
         "api/no"),
        ((Intention(name="no", deny=("web",), is_audit=True),), None),
        ((Intention(name="a", allow=("jobs",)),
          Intention(name="try", allow=("web",), is_audit=True, match=ADMIN)), "api/default-deny"),
    ],
)  # fmt: skip
def test_a_caller_is_shut_out_if_nothing_that_it_can_ask_for_is_allowed(
    intentions: tuple[Intention, ...], policy: str | None
) -> None:
    found = Authorizer(API, (WEB, JOBS), intentions).of(WEB).shut_out
    assert (found.policy if found is not None else None) == policy
    stranger = Authorizer(API, (WEB,), intentions).of(ServiceName("stranger")).shut_out
    assert stranger is not None


def test_an_audit_decides_nothing_and_says_what_it_would_have() -> None:
    audit = Intention(name="later", deny=("web",), match=ADMIN, is_audit=True)
    found = decide([audit], WEB, head("/admin"))
    assert (found.is_allowed, found.policy, found.audited) == (True, "api/declared", ("api/later",))
    assert decide([audit], WEB, head("/x")).audited == ()
    both = [Intention(name="a", allow=("jobs",)), Intention(name="b", allow=("*",), is_audit=True)]
    found = decide(both)
    assert (found.is_allowed, found.policy, found.audited) == (
        False,
        "api/default-deny",
        ("api/b",),
    )
    assert decide(both, JOBS).audited == ()


@pytest.mark.parametrize("caller", [WEB, ServiceName("stranger")])
def test_while_the_policy_is_not_known_nobody_may_call(caller: ServiceName) -> None:
    rules = Authorizer(API, (WEB, JOBS), None).of(caller)
    for found in (rules.decide(head()), rules.session):
        assert not found.is_allowed
    if caller == WEB:
        assert rules.session.policy == "api/no-policy"
        assert rules.session.why == "no policy that could be verified has arrived yet"
