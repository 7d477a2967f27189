"""Finished requests are remembered in few words, and bad ones longer than good ones."""

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.metrics import Metrics
from proxy.http.head import parse_request
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.recent import Wanted
from proxy.net.dataplane_metrics import DataPlaneMetrics, Reporter
from proxy.net.recent import KEPT, KEPT_BAD, MAX_ENDED, MAX_FOUND, NEWEST, Recent, Ring, together

ENDPOINT = Endpoint(service=ServiceName("api"), host=HostName("b1"), address="10.0.0.1", port=1)


class Pool:
    endpoint = ENDPOINT


class Rule:
    name = "canary"


def exchange(request_id: str = "r", target: str = "/a?secret=1", **more: Any) -> Any:
    """What the ring reads of one."""
    fields = f"\r\nx-request-id: {request_id}" if request_id else ""
    head = parse_request(f"GET {target} HTTP/1.1\r\nhost: api\r\ncookie: k=v{fields}".encode())
    given = {
        "head": head, "target": Pool(), "rule": None, "tried": (),
        "tries": 1, "status": 200, "flag": "", "policy": "", "started": 1.0, "headed": 0.0,
        "body_bytes": 5, "response_bytes": 7, "detail": "", "grpc": None, "span": None,
        "queue_s": 0.0, "connect_s": 0.0, "waits_since": 0.0, "tried_at": 0.0,
    }  # fmt: skip
    return SimpleNamespace(**given | more)


def add(ring: Ring, exchange: Any, now: float, service: str = "api") -> None:
    """``exchange`` of web, which is over."""
    families = DataPlaneMetrics(Metrics())
    setattr(families.recent, ring.side, ring)
    Reporter(families, ring.side, "web", "spiffe://web", service).answered(exchange, now)


def test_a_request_is_told_without_query_and_headers() -> None:
    recent = Recent()
    recent.host = HostName("front")
    retried = exchange(
        tried=(SimpleNamespace(endpoint=ENDPOINT),), tries=2, rule=Rule(),
        headed=1.25,
    )  # fmt: skip
    add(recent.source, retried, 1.5)
    (seen,) = recent.find("r")
    assert (seen.id, seen.host, seen.side, seen.caller, seen.service) == (
        "r", "front", "source", "web", "api",
    )  # fmt: skip
    assert (seen.method, seen.path, seen.route, seen.tries) == ("GET", "/a", "canary", 2)
    assert seen.endpoints == ("api on b1", "api on b1")
    assert (seen.duration_ms, seen.first_byte_ms, seen.request_bytes) == (500.0, 250.0, 5)
    assert seen.ended_at.endswith("Z")
    assert "secret" not in repr(seen)
    assert "k=v" not in repr(seen)


def test_a_flood_of_good_requests_does_not_push_out_what_was_denied() -> None:
    recent = Recent()
    denied = exchange("bad", status=403, flag="UAEX", policy="api/no")
    add(recent.destination, denied, 0.0)
    for number in range(KEPT + 1):
        add(recent.destination, exchange(f"good-{number}"), float(number))
    (seen,) = recent.find("bad")
    assert (seen.status, seen.flag, seen.policy, seen.endpoints) == (403, "UAEX", "api/no", ())
    assert recent.find("good-0") == ()
    assert recent.find(f"good-{KEPT}")


def test_rings_are_bounded() -> None:
    recent = Recent()
    for number in range(KEPT + KEPT_BAD + 10):
        add(recent.source, exchange(status=500), float(number))
        add(recent.source, exchange(), float(number))
    assert len(recent.source.entries()) == KEPT + KEPT_BAD
    assert len(recent.find("r")) == MAX_FOUND


def test_without_an_id_the_newest_are_told_of_both_sides() -> None:
    recent = Recent()
    for number in range(NEWEST):
        add(recent.source, exchange(f"s{number}"), float(number))
        add(recent.destination, exchange(f"d{number}"), number + 0.5)
    found = recent.find("")
    assert len(found) == NEWEST
    assert [each.id for each in found[:3]] == [f"d{NEWEST - 1}", f"s{NEWEST - 1}", f"d{NEWEST - 2}"]


def test_what_was_refused_before_it_had_an_id_is_not_kept() -> None:
    recent = Recent()
    add(recent.source, exchange(""), 1.0)
    assert recent.find("") == ()


def test_a_long_path_is_cut() -> None:
    recent = Recent()
    add(recent.source, exchange(target="/" + "x" * 5000), 1.0)
    assert len(recent.find("r")[0].path) <= 256


def test_an_id_that_would_steer_a_terminal_is_escaped() -> None:
    recent = Recent()
    steering = exchange("r")
    steering.head.lines[-1] = b"x-request-id: \xc2\x9b31m"
    add(recent.source, steering, 1.0)
    (seen,) = recent.find("\xc2\x9b31m")
    assert seen.id == "\\xc2\\x9b31m"


def test_what_is_told_of_a_failure_has_its_reason_and_its_trace() -> None:
    recent = Recent()
    failed = exchange("r", status=503, flag="UF", detail="(refused)")
    failed.head.lines.insert(1, b"traceparent: 00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01")
    add(recent.source, failed, 1.0)
    (seen,) = recent.find("r")
    assert seen.reason == "the connection to the service could not be made (refused)"
    assert (seen.trace_id, seen.response_bytes, seen.protocol) == ("ab" * 16, 7, "http")


def test_a_session_is_told_as_one() -> None:
    recent = Recent()
    recent.source.add_session(
        "web", "db", now=3.0, started=1.0, flag="UC", detail="", policy="", endpoint=ENDPOINT,
        attempts=2, received_bytes=10, sent_bytes=20,
    )  # fmt: skip
    (seen,) = recent.find("")
    assert (seen.protocol, seen.id, seen.method, seen.status) == ("tcp", "", "", 0)
    assert (seen.request_bytes, seen.response_bytes, seen.duration_ms) == (10, 20, 2000.0)
    assert seen.endpoints == ("api on b1",)
    assert seen.flag == "UC"


def after(cursor: str, service: str = "", *, is_bad_only: bool = False) -> Wanted:
    return Wanted(service=service, is_bad_only=is_bad_only, cursor=cursor)


def test_each_request_is_told_once_to_who_asks_again() -> None:
    recent = Recent()
    add(recent.source, exchange("before"), 0.0)
    first = recent.ended(Wanted())
    assert (first.requests, first.missed) == ((), 0)
    add(recent.source, exchange("a"), 2.0)
    add(recent.destination, exchange("b"), 1.0)
    add(recent.source, exchange("c", status=500), 3.0, "db")
    second = recent.ended(after(first.next))
    assert [each.id for each in second.requests] == ["b", "a", "c"]
    assert recent.ended(after(second.next)).requests == ()
    assert [each.id for each in recent.ended(after(first.next, "db")).requests] == ["c"]
    bad = recent.ended(after(first.next, is_bad_only=True))
    assert [each.id for each in bad.requests] == ["c"]


def test_what_the_ring_could_not_keep_is_counted() -> None:
    recent = Recent()
    cursor = recent.ended(Wanted()).next
    for number in range(KEPT + 30):
        add(recent.source, exchange(f"g{number}"), float(number))
    add(recent.source, exchange("bad", status=500), 0.5)
    told = recent.ended(after(cursor))
    assert len(told.requests) == MAX_ENDED
    assert told.requests[-1].id == f"g{KEPT + 29}"
    assert told.missed == KEPT + 31 - MAX_ENDED
    # A flood of good ones costs no bad one.
    bad = recent.ended(after(cursor, is_bad_only=True))
    assert ([each.id for each in bad.requests], bad.missed) == (["bad"], 0)


def test_a_process_that_the_cursor_does_not_know_tells_all_it_has() -> None:
    recent, other = Recent(), Recent()
    add(recent.source, exchange("a"), 1.0)
    add(other.source, exchange("b"), 2.0)
    told = together((recent.ended(after(other.ended(Wanted()).next)),), "")
    assert [each.id for each in told.requests] == ["a"]


@pytest.mark.parametrize("cursor", ["x", "..", "_", "a.1.2.3.4", "%", "9" * 9000])
def test_a_cursor_that_makes_no_sense_is_one_of_nobody(cursor: str) -> None:
    recent = Recent()
    add(recent.source, exchange("a"), 1.0)
    assert len(recent.ended(after(cursor)).requests) == 1


def test_a_process_that_does_not_answer_keeps_its_place() -> None:
    one, two = Recent(), Recent()
    add(two.source, exchange("early"), 0.5)
    both = together((one.ended(Wanted()), two.ended(Wanted())), "")
    add(two.source, exchange("late"), 1.0)
    alone = together((one.ended(after(both.next)),), both.next)
    again = together((one.ended(after(alone.next)), two.ended(after(alone.next))), alone.next)
    assert [each.id for each in again.requests] == ["late"]
    assert len(again.next.split("_")) == 2
