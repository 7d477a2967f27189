"""What the charts of a new tab begin with."""

from browser import made

from meshctl.dashboard.past import Past


def test_a_services_sum_and_each_edge_have_a_past_of_their_own() -> None:
    past = Past()
    for step in range(5):
        past.add(made.shop(step))
    edge, service = past.of(("api", "orders")), past.of(("", "catalogue"))
    assert len(edge["at"]) == len(edge["per_s"]) == len(service["p95_ms"]) == 5
    assert edge["at"] == sorted(edge["at"])
    assert service["per_s"][0] > edge["per_s"][0] > 0


def test_what_was_not_seen_is_none_and_never_zero() -> None:
    past = Past()
    past.add(made.shop(1))
    assert past.of(("orders", "postgres"))["success"] == [None]
    assert past.of(("reports", "orders"))["p95_ms"] == [None]
    assert past.of(("no", "where")) == {"at": [], "per_s": [], "success": [], "p95_ms": []}


def test_it_is_bounded_in_time_and_in_number() -> None:
    past = Past(kept=3, max_keys=4)
    for step in range(10):
        past.add(made.shop(step))
    known = {(each.caller, each.service) for each in made.shop(0).edges}
    lengths = [len(past.of(key)["at"]) for key in known]
    assert sum(map(bool, lengths)) <= 4
    assert max(lengths) <= 3
