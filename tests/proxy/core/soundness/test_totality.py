"""Whatever a snapshot may hold, judging it ends in an answer, and what is sound can be compiled."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core import soundness
from proxy.core.authorization import Authorizer
from proxy.core.routing import compile_match, compile_routes
from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, Route, ServicePolicy, Snapshot
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
    TextMatch,
)
from proxy.model.snapshot import pack, unpack

API = ServiceName("api")
NAMES = st.sampled_from(["api", "web", "x-a", "a", "Host", "host", "x-mesh-a", "te", "", "é", "\0"])
TEXTS = st.sampled_from(["", "a", "/", "/a/{b}", "/{b}/**", "/a/../b", "(", "[a-z]+", "é", "{c}"])
SERVICES = st.sampled_from(["api", "web", "A b"])
WEIGHTS = st.sampled_from([-1, 0, 1, 10**30])


def some(kind: Any, **fields: Any) -> st.SearchStrategy[Any]:
    """With any of the fields left at their defaults."""
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: kind(**given))


MATCHES = some(
    Match,
    path=some(PathMatch, exact=TEXTS, prefix=TEXTS, template=TEXTS, regex=TEXTS),
    methods=st.lists(st.sampled_from(["GET", "get", ""]), max_size=2).map(tuple),
    headers=st.dictionaries(NAMES, some(TextMatch, exact=TEXTS, regex=TEXTS), max_size=1),
    query=st.dictionaries(NAMES, some(TextMatch, prefix=TEXTS, present=st.booleans()), max_size=1),
    authorities=st.lists(TEXTS, max_size=1).map(tuple),
    sources=st.lists(SERVICES, max_size=1).map(tuple),
)
HASHES = some(HashOn, header=NAMES, cookie=NAMES, source=st.booleans(), ttl_s=st.floats())
CHANGES = some(
    HeaderChanges,
    remove=st.lists(NAMES, max_size=1).map(tuple),
    set=st.dictionaries(NAMES, TEXTS, max_size=1),
)
ROUTES = st.builds(
    lambda name, rest: Route(name=name, **rest),
    NAMES,
    st.fixed_dictionaries(
        {},
        optional={
            "match": MATCHES,
            "to": st.lists(
                some(Destination, service=SERVICES, subset=NAMES, weight=WEIGHTS), max_size=2
            ).map(tuple),
            "sticky": HASHES,
            "redirect": some(Redirect, authority=TEXTS, path=TEXTS, status=WEIGHTS),
            "respond": st.builds(lambda status: DirectResponse(status=status), WEIGHTS),
            "rewrite": some(Rewrite, path=TEXTS, authority=TEXTS),
            "request_headers": CHANGES,
            "mirror": some(Mirror, service=SERVICES, percent=st.floats()),
        },
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROUTES, max_size=2).map(tuple))
def test_judging_is_total_and_what_is_sound_compiles(routes: tuple[Route, ...]) -> None:
    policy = Policy(services={API: ServicePolicy(routes=routes)})
    if soundness.check(policy):
        return
    compile_routes(API, routes)
    for route in routes:
        compile_match(route.match)
    snapshot = Snapshot(generation=1, trust_domain="mesh.example", policy=policy)  # type: ignore[arg-type]
    assert unpack(pack(snapshot)) == snapshot


@settings(max_examples=100, deadline=None)
@given(MATCHES)
def test_a_single_match_is_sound_or_refused_never_an_error(match: Match) -> None:
    policy = Policy(services={API: ServicePolicy(routes=(Route(name="a", match=match),))})
    if not soundness.check(policy):
        compile_match(match)


_PIECES = ("[^a]", "[a-f0-9]", "\\x2e", "[f-k]|/", "x")


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(_PIECES),
    st.integers(1, 1000),
    st.integers(1, 255),
    st.booleans(),
    st.sampled_from(["allow", "deny"]),
)
def test_a_sound_intention_compiles_in_the_form_in_which_it_is_enforced(
    piece: str, times: int, length: int, is_repeated: bool, kind: str
) -> None:
    pattern = f"/(?:{piece}){{{times}}}" if is_repeated else "/" + piece * length
    match = Match(path=PathMatch(regex=pattern))
    intention = Intention(name="one", **{kind: ("web",)}, match=match)
    policy = Policy(services={API: ServicePolicy(intentions=(intention,))})
    if not soundness.check(policy):
        assert Authorizer(API, (ServiceName("web"),), (intention,)).of(ServiceName("web"))


def test_what_is_too_large_in_any_case_of_its_letters_is_refused_where_it_denies() -> None:
    match = Match(path=PathMatch(regex="/[^a]{490}"))
    found = {
        kind: soundness.check(
            Policy(
                services={
                    API: ServicePolicy(
                        intentions=(Intention(name="one", **{kind: ("web",)}, match=match),)
                    )
                }
            )
        )
        for kind in ("allow", "deny")
    }
    assert found["allow"] == ()
    (finding,) = found["deny"]
    assert finding.path == "services.api.intentions[0].match.path.regex"
