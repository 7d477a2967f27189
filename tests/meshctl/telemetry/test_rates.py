"""Two looks at the proxies -> what went on between them."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.made import MadeMesh, Proxy

from meshctl.telemetry.rates import view
from meshctl.telemetry.view import Edge, View
from proxy.core.stats import Stats
from proxy.model.codec import decode, encode
from proxy.model.names import HostName


def looks(*stats: Stats) -> dict[HostName, Stats]:
    return {one.host: one for one in stats}


def only_edge(seen: View) -> Edge:
    (edge,) = seen.edges
    return edge


def test_one_look_is_since_the_start() -> None:
    one = Proxy("a")
    one.requests("web", "api", 30)
    seen = view({}, looks(one.stats(60.0)), at=5.0)
    assert (seen.at, seen.window_s) == (5.0, 0.0)
    signals = only_edge(seen).signals
    assert signals is not None
    assert (signals.requests, signals.per_s, signals.success) == (30, 0.5, 1.0)


def test_two_looks_tell_what_was_added() -> None:
    one = Proxy("a")
    one.requests("web", "api", 1000, ms=400.0)
    before = one.stats(100.0)
    one.requests("web", "api", 15, ms=3.0)
    one.requests("web", "api", 4, code=503, flag="UF", ms=3.0)
    one.requests("web", "api", 1, code=404, ms=3.0)
    seen = view(looks(before), looks(one.stats(110.0)), at=0)
    assert seen.window_s == 10.0
    edge = only_edge(seen)
    assert edge.codes == {"200": 15, "404": 1, "503": 4}
    assert edge.flags == {"UF": 4}
    signals = edge.signals
    assert signals is not None
    assert (signals.requests, signals.per_s, signals.failures) == (20, 2.0, 4)
    assert signals.success == 0.8
    assert signals.mean_ms == pytest.approx(3.0)
    assert signals.p99_ms is not None
    assert 1.0 < signals.p99_ms <= 5.0
    assert edge.request_bytes_per_s == 400.0
    assert edge.response_bytes_per_s == 4000.0


@pytest.mark.parametrize(
    ("code", "flag", "fails"),
    [
        (200, "-", False),
        (404, "-", False),
        (499, "-", False),
        (500, "-", True),
        (503, "UH", True),
        (0, "DC", True),
        (0, "-", True),
        (200, "DI", False),
        (500, "DI", True),
        (403, "UAEX", True),
        (429, "RL", True),
    ],
)
def test_what_counts_as_a_failure(code: int, flag: str, fails: bool) -> None:
    one = Proxy("a")
    one.requests("web", "api", 1, code=code, flag=flag)
    signals = only_edge(view({}, looks(one.stats(1.0)), at=0)).signals
    assert signals is not None
    assert signals.failures == int(fails)


@pytest.mark.parametrize(
    ("status", "fails"), [("0", False), ("5", False), ("2", True), ("14", True), ("", False)]
)
def test_a_grpc_call_fails_by_its_status(status: str, fails: bool) -> None:
    one = Proxy("a")
    one.requests("web", "api", 1, grpc=status)
    signals = only_edge(view({}, looks(one.stats(1.0)), at=0)).signals
    assert signals is not None
    assert (signals.requests, signals.failures) == (1, int(fails))


def test_a_proxy_that_was_restarted_counts_from_zero() -> None:
    old, new = Proxy("a"), Proxy("a")
    old.requests("web", "api", 5)
    new.requests("web", "api", 40)
    seen = view(looks(old.stats(1000.0)), looks(new.stats(4.0)), at=0)
    signals = only_edge(seen).signals
    assert signals is not None
    assert (signals.requests, signals.per_s) == (40, 10.0)


def test_a_series_that_was_dropped_while_idle_and_came_back_counts_from_zero() -> None:
    old, new = Proxy("a"), Proxy("a")
    old.requests("web", "api", 500)
    old.requests("web", "users", 7)
    new.requests("web", "api", 3)
    seen = view(looks(old.stats(1000.0)), looks(new.stats(1010.0)), at=0)
    signals = only_edge(seen).signals
    assert signals is not None
    assert signals.requests == 3


def test_an_edge_without_requests_in_the_window_is_there_without_figures() -> None:
    one = Proxy("a")
    one.requests("web", "api", 500)
    stats = one.stats(10.0)
    edge = only_edge(view(looks(stats), looks(one.stats(20.0)), at=0))
    assert edge.signals is None
    assert edge.security == "mutual_tls"
    assert edge.codes == {}


def test_the_same_look_twice_is_no_time_and_no_traffic() -> None:
    one = Proxy("a")
    one.requests("web", "api", 500)
    stats = looks(one.stats(10.0))
    assert only_edge(view(stats, stats, at=0)).signals is None


def test_a_proxy_that_counts_in_no_time_gives_no_rates() -> None:
    one = Proxy("a")
    before = looks(one.stats(10.0))
    one.requests("web", "api", 500)
    assert only_edge(view(before, looks(one.stats(10.0)), at=0)).signals is None
    assert only_edge(view({}, looks(one.stats(0.0)), at=0)).signals is None


def test_each_host_has_a_window_of_its_own() -> None:
    before, after = [], []
    for name, window_s in (("a", 10.0), ("b", 5.0)):
        one = Proxy(name)
        one.requests("web", "api", 1)
        before.append(one.stats(100.0))
        one.requests("web", "api", 20)
        after.append(one.stats(100.0 + window_s))
    seen = view(looks(*before), looks(*after), at=0)
    signals = only_edge(seen).signals
    assert signals is not None
    assert (signals.requests, signals.per_s, seen.window_s) == (40, 6.0, 10.0)


def test_a_host_that_first_answers_after_long_has_no_window_yet_but_a_young_one_has() -> None:
    known, late, young = Proxy("a"), Proxy("b"), Proxy("c")
    before = looks(known.stats(100.0))
    late.requests("web", "api", 1_000_000)
    young.requests("web", "users", 8)
    seen = view(before, looks(known.stats(110.0), late.stats(9000.0), young.stats(4.0)), at=0)
    told = {edge.service: edge.signals for edge in seen.edges}
    assert told["api"] is None
    assert told["users"] is not None
    assert told["users"].per_s == 2.0
    assert [row.host for row in seen.hosts] == ["a", "b", "c"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["api", "users"]),
            st.integers(0, 50),
            st.sampled_from([200, 404, 503]),
        ),
        max_size=30,
    )
)
def test_however_requests_are_spread_over_hosts_the_sum_is_theirs(
    requests: list[tuple[str, str, int, int]],
) -> None:
    proxies = {name: Proxy(name) for name in "abc"}
    before = looks(*(one.stats(10.0) for one in proxies.values()))
    total: dict[str, int] = {}
    for host, service, number, code in requests:
        proxies[host].requests("web", service, number, code=code)
        total[service] = total.get(service, 0) + number
    seen = view(before, looks(*(one.stats(20.0) for one in proxies.values())), at=0)
    told = {row.service: row.signals.requests for row in seen.services if row.signals}
    assert told == {service: number for service, number in total.items() if number}
    for row in seen.services:
        if row.signals is not None:
            assert row.signals.per_s == pytest.approx(row.signals.requests / 10.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=12))
def test_windows_one_after_the_other_count_everything_once_through_restarts(
    steps: list[tuple[int, bool]],
) -> None:
    proxy, uptime_s = Proxy("a"), 10.0
    before, counted = looks(proxy.stats(uptime_s)), 0
    for number, restarts in steps:
        if restarts:
            proxy, uptime_s = Proxy("a"), uptime_s / 2
        else:
            uptime_s += 1.0
        if number:
            proxy.requests("web", "api", number)
        after = looks(proxy.stats(uptime_s))
        counted += sum(
            edge.signals.requests for edge in view(before, after, at=0).edges if edge.signals
        )
        before = after
    assert counted == sum(number for number, _ in steps)


def test_both_sides_are_one_edge_and_the_callers_words_count() -> None:
    source, destination = Proxy("a"), Proxy("b")
    source.requests("web", "api", 10)
    destination.requests("web", "api", 13, reporter="destination")
    source.retries("web", "api", 3)
    edge = only_edge(view({}, looks(source.stats(10.0), destination.stats(10.0)), at=0))
    assert edge.seen_by == ("source", "destination")
    assert edge.signals is not None
    assert (edge.signals.requests, edge.retries_per_s, edge.actual_per_s) == (10, 0.3, 1.3)


def test_without_the_callers_host_the_called_side_speaks() -> None:
    one = Proxy("b")
    one.requests("web", "api", 13, reporter="destination")
    seen = view({}, looks(one.stats(10.0)), at=0, faults={HostName("a"): "a is gone"})
    edge = only_edge(seen)
    assert edge.seen_by == ("destination",)
    assert edge.signals is not None
    assert edge.signals.requests == 13
    assert [(row.host, row.fault) for row in seen.hosts] == [("a", "a is gone"), ("b", "")]


def test_a_caller_that_tells_nothing_of_the_window_is_no_reason_to_tell_nothing() -> None:
    source, destination = Proxy("a"), Proxy("b")
    source.requests("web", "api", 10)
    before = looks(source.stats(10.0), destination.stats(10.0))
    destination.requests("web", "api", 13, reporter="destination")
    seen = view(before, looks(source.stats(20.0), destination.stats(20.0)), at=0)
    signals = only_edge(seen).signals
    assert signals is not None
    assert signals.requests == 13


def test_who_is_outside_the_mesh_is_not_secured() -> None:
    one = Proxy("a")
    one.requests("unknown", "web", 1, reporter="destination", security="none")
    assert only_edge(view({}, looks(one.stats(1.0)), at=0)).security == "none"


def test_an_edge_that_has_become_secured_is() -> None:
    one = Proxy("a")
    one.requests("web", "api", 1, reporter="destination", security="none")
    before = looks(one.stats(1.0))
    one.requests("web", "api", 1, reporter="destination")
    assert only_edge(view(before, looks(one.stats(2.0)), at=0)).security == "mutual_tls"


def test_denials_are_told_with_their_policy_and_at_their_edge() -> None:
    one = Proxy("b")
    one.denials("web", "api", "api/reads", 4)
    one.denials("web", "api", "api/default-deny", 1)
    before = looks(one.stats(1.0))
    one.denials("web", "api", "api/reads", 2)
    seen = view(before, looks(one.stats(2.0)), at=0)
    assert seen.denials == {("web", "api", "api/reads"): 2}
    assert only_edge(seen).denied == 2
    assert seen.services[0].denied == 2


def test_denied_tcp_sessions_are_of_the_tcp_edge() -> None:
    one = Proxy("b")
    one.sessions("web", "db", 1, 1, reporter="destination", flag="UAEX")
    one.denials("web", "db", "db/default-deny", 1)
    edge = only_edge(view({}, looks(one.stats(1.0)), at=0))
    assert (edge.protocol, edge.denied) == ("tcp", 1)


def test_tcp_has_sessions() -> None:
    one = Proxy("a")
    one.sessions("web", "db", 10, 4, sent_bytes=1000.0)
    before = looks(one.stats(10.0))
    one.sessions("web", "db", 2, 1, sent_bytes=5000.0, received_bytes=100.0)
    one.sessions("web", "db", 1, 1, flag="UF")
    seen = view(before, looks(one.stats(20.0)), at=0)
    edge = only_edge(seen)
    assert edge.signals is None
    assert edge.sessions is not None
    assert edge.sessions.open == 7
    assert edge.sessions.opened_per_s == pytest.approx(0.3)
    assert edge.sessions.sent_bytes_per_s == 500.0
    assert edge.sessions.received_bytes_per_s == 10.0
    assert edge.sessions.failures == 1
    (service,) = seen.services
    assert (service.protocol, service.sessions) == ("tcp", edge.sessions)


def test_routes_have_figures_of_their_own() -> None:
    one = Proxy("a")
    one.route("web", "api", "checkout", 9)
    one.route("web", "api", "checkout", 1, outcome="failure")
    one.route("web", "api", "-", 5)
    seen = view({}, looks(one.stats(10.0)), at=0)
    told = {row.route: (row.signals.requests, row.signals.failures) for row in seen.routes}
    assert told == {"checkout": (10, 1), "-": (5, 0)}


def test_an_endpoint_has_its_callers_opinion_and_figures() -> None:
    one = Proxy("a")
    one.endpoint("web", "api", "b", state="ejected", ejected_for_s=12.0, ejections=2, in_flight=1)
    one.endpoint("web", "api/v1", "b", in_flight=2)
    one.tries("web", "api", "b", 6)
    one.tries("web", "api", "b", 4, outcome="failure")
    seen = view({}, looks(one.stats(10.0)), at=0)
    (row,) = seen.endpoints
    assert (row.caller, row.caller_host, row.service, row.host) == ("web", "a", "api", "b")
    assert (row.state, row.ejected_for_s, row.in_flight) == ("ejected", 12.0, 3)
    assert row.why == "too many failures (2 times in a row)"
    assert row.address == "10.0.0.9:15006"
    assert row.signals is not None
    assert (row.signals.requests, row.signals.failures) == (10, 4)
    assert (seen.services[0].endpoints, seen.services[0].available) == (1, 0)


def test_a_failovers_endpoint_belongs_to_its_own_service() -> None:
    one = Proxy("a")
    one.endpoint("web", "api", "b")
    one.endpoint("web", "api", "c", service="api-backup")
    told = {row.service: row.host for row in view({}, looks(one.stats(1.0)), at=0).endpoints}
    assert told == {"api": "b", "api-backup": "c"}


def test_an_endpoint_that_is_gone_shows_while_it_was_used_and_not_longer() -> None:
    one = Proxy("a")
    one.tries("web", "api", "b", 6)
    before = looks(one.stats(10.0))
    one.tries("web", "api", "c", 1)
    seen = view(before, looks(one.stats(20.0)), at=0)
    assert [(row.host, row.state) for row in seen.endpoints] == [("c", "gone")]
    assert seen.services == ()


def test_an_endpoint_is_available_if_all_who_know_it_use_it() -> None:
    one, other = Proxy("a"), Proxy("b")
    one.endpoint("web", "api", "x")
    one.endpoint("web", "api", "y")
    other.endpoint("shop", "api", "x", state="avoided")
    (row,) = view({}, looks(one.stats(1.0), other.stats(1.0)), at=0).services
    assert (row.endpoints, row.available) == (2, 1)


def test_declared_services_are_there_without_traffic_and_unknown_ones_only_with() -> None:
    one = Proxy("a")
    one.requests("web", "unknown", 3, code=404, flag="NR")
    before = looks(one.stats(10.0))
    after = looks(one.stats(20.0))
    seen = view(before, after, at=0, protocols={"db": "tcp"})
    assert [(row.service, row.protocol) for row in seen.services] == [("db", "tcp")]
    since_start = view({}, after, at=0)
    assert [row.service for row in since_start.services] == ["unknown"]
    assert only_edge(since_start).security == "unknown"


@pytest.mark.parametrize(
    ("declared", "shown"), [("http", "http"), ("http2", "http2"), ("grpc", "grpc"), ("tcp", "http")]
)
def test_requests_are_called_what_the_service_speaks_unless_that_cannot_be(
    declared: str, shown: str
) -> None:
    one = Proxy("a")
    one.requests("web", "api", 30)
    seen = view({}, looks(one.stats(60.0)), at=0, protocols={"api": declared})
    edge, (service,) = only_edge(seen), seen.services
    assert (edge.protocol, service.protocol) == (shown, declared)
    assert service.signals is not None
    assert service.signals == edge.signals


def test_sessions_are_tcp_whatever_is_declared() -> None:
    one = Proxy("a")
    one.sessions("web", "api", 1, 0)
    edge = only_edge(view({}, looks(one.stats(1.0)), at=0, protocols={"api": "grpc"}))
    assert edge.protocol == "tcp"


def test_hosts_tell_of_themselves() -> None:
    one = Proxy("a")
    one.set("mesh_event_loop_lag_seconds", (), (), 0.25)
    one.set("mesh_certificate_not_after_seconds", ("service",), ("web",), 1.9e9)
    one.set("mesh_certificate_not_after_seconds", ("service",), ("api",), 0)
    (row,) = view({}, looks(one.stats(7.0, generation=4)), at=0).hosts
    assert (row.generation, row.uptime_s, row.loop_lag_ms) == (4, 7.0, 250.0)
    assert row.certificates == {"web": 1.9e9}


def test_what_a_proxy_of_another_release_says_otherwise_is_left_out() -> None:
    one = Proxy("a")
    one.requests("web", "api", 2)
    one.add("istio_tcp_connections_opened_total", ("reporter",), ("source",), 3)
    stats = one.stats(10.0)
    for family in stats.families:
        family.series.append((("too", "short"), [1, 2]))
    assert only_edge(view({}, looks(stats), at=0)).service == "api"


def test_a_made_mesh_is_seen_whole_and_survives_the_wire() -> None:
    mesh = MadeMesh(30, 80)
    before, after = mesh.step(10.0), mesh.step(2.0)
    wired: Mapping[HostName, Stats] = {
        name: decode(encode(stats), Stats) for name, stats in after.items()
    }
    seen = view(before, wired, at=0)
    assert seen == view(before, after, at=0)
    assert {(edge.caller, edge.service) for edge in seen.edges} >= {
        (call.caller, call.service) for call in mesh.calls
    }
    assert len(seen.hosts) == len(seen.services) == 30
    failing = {edge.service for edge in seen.edges if edge.signals and edge.signals.failures}
    assert failing
    assert failing <= mesh.troubled
    msgspec.json.encode([seen.services, seen.edges, seen.routes, seen.endpoints, seen.hosts])
