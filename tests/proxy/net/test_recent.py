"""Finished requests are remembered in few words, and bad ones longer than good ones."""

from types import SimpleNamespace
from typing import Any

from proxy.http.head import parse_request
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.net.recent import KEPT, KEPT_BAD, MAX_FOUND, NEWEST, Recent

ENDPOINT = Endpoint(service=ServiceName("api"), host=HostName("b1"), address="10.0.0.1", port=1)


def exchange(request_id: str = "r", target: str = "/a?secret=1", **more: Any) -> Any:
    """What the ring reads of one."""
    fields = f"\r\nx-request-id: {request_id}" if request_id else ""
    head = parse_request(f"GET {target} HTTP/1.1\r\nhost: api\r\ncookie: k=v{fields}".encode())
    given = {
        "head": head, "target": SimpleNamespace(endpoint=ENDPOINT), "rule": None, "tried": (),
        "tries": 1, "status": 200, "flag": "", "policy": "", "started": 1.0, "headed": 0.0,
        "body_bytes": 5,
    }  # fmt: skip
    return SimpleNamespace(**given | more)


def test_a_request_is_told_without_query_and_headers() -> None:
    recent = Recent()
    recent.host = HostName("front")
    retried = exchange(
        tried=(SimpleNamespace(endpoint=ENDPOINT),), tries=2, rule=SimpleNamespace(name="canary"),
        headed=1.25,
    )  # fmt: skip
    recent.source.add("web", "api", retried, 1.5)
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
    recent.destination.add("web", "api", denied, 0.0)
    for number in range(KEPT + 1):
        recent.destination.add("web", "api", exchange(f"good-{number}"), float(number))
    (seen,) = recent.find("bad")
    assert (seen.status, seen.flag, seen.policy, seen.endpoints) == (403, "UAEX", "api/no", ())
    assert recent.find("good-0") == ()
    assert recent.find(f"good-{KEPT}")


def test_rings_are_bounded() -> None:
    recent = Recent()
    for number in range(KEPT + KEPT_BAD + 10):
        recent.source.add("web", "api", exchange(status=500), float(number))
        recent.source.add("web", "api", exchange(), float(number))
    assert len(recent.source.entries()) == KEPT + KEPT_BAD
    assert len(recent.find("r")) == MAX_FOUND


def test_without_an_id_the_newest_are_told_of_both_sides() -> None:
    recent = Recent()
    for number in range(NEWEST):
        recent.source.add("web", "api", exchange(f"s{number}"), float(number))
        recent.destination.add("web", "api", exchange(f"d{number}"), number + 0.5)
    found = recent.find("")
    assert len(found) == NEWEST
    assert [each.id for each in found[:3]] == [f"d{NEWEST - 1}", f"s{NEWEST - 1}", f"d{NEWEST - 2}"]


def test_what_was_refused_before_it_had_an_id_is_not_kept() -> None:
    recent = Recent()
    recent.source.add("web", "unknown", exchange(""), 1.0)
    assert recent.find("") == ()


def test_a_long_path_is_cut() -> None:
    recent = Recent()
    recent.source.add("web", "api", exchange(target="/" + "x" * 5000), 1.0)
    assert len(recent.find("r")[0].path) <= 256


def test_an_id_that_would_steer_a_terminal_is_escaped() -> None:
    recent = Recent()
    steering = exchange("r")
    steering.head.lines[-1] = b"x-request-id: \xc2\x9b31m"
    recent.source.add("web", "api", steering, 1.0)
    (seen,) = recent.find("\xc2\x9b31m")
    assert seen.id == "\\xc2\\x9b31m"
