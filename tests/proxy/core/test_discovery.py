"""Which endpoints are used, given what the registry says and what it said before."""

import pytest

from proxy.core.discovery import KEEP_ABSENT_S, KEEP_EMPTY_S, Observation, ServiceView
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName

API = ServiceName("api")


def at(host: str, version: str = "v1") -> Endpoint:
    return Endpoint(
        service=API,
        host=HostName(host),
        address=f"10.0.0.{host[1:]}",
        port=15006,
        version=version,
    )


def saw(*healthy: str, ill: tuple[str, ...] = (), went_back: bool = False) -> Observation:
    return Observation(
        healthy=tuple(map(at, healthy)), ill=tuple(map(at, ill)), went_back=went_back
    )


def hosts(view: ServiceView) -> list[str]:
    return [endpoint.host for endpoint in view.endpoints]


NEW = ServiceView(service=API)
TWO = NEW.after(saw("h1", "h2"), 0.0)


def test_healthy_instances_are_endpoints_in_a_fixed_order() -> None:
    assert hosts(NEW.after(saw("h2", "h1"), 0.0)) == ["h1", "h2"]
    assert TWO.source == "consul"
    assert TWO.doubt == ""


def test_an_ill_instance_leaves_at_once() -> None:
    assert hosts(TWO.after(saw("h1", ill=("h2",)), 1.0)) == ["h1"]


def test_an_instance_that_is_gone_while_others_are_there_leaves_at_once() -> None:
    assert hosts(TWO.after(saw("h1"), 1.0)) == ["h1"]


def test_all_ill_means_no_endpoint() -> None:
    view = TWO.after(saw(ill=("h1", "h2")), 1.0)
    assert hosts(view) == []
    assert view.doubt == ""


def test_nothing_known_and_nothing_registered_is_nothing() -> None:
    view = NEW.after(saw(), 1.0)
    assert hosts(view) == []
    assert view.doubt == ""
    assert view.source == "consul"


def test_an_emptied_registry_evicts_nobody_and_says_so() -> None:
    view = TWO.after(saw(), 100.0)
    assert hosts(view) == ["h1", "h2"]
    assert view.kept == 2
    assert "nothing is registered any more" in view.doubt


def test_what_was_on_disk_survives_an_empty_registry_too() -> None:
    cold = ServiceView(service=API, endpoints=(at("h1"),), source="disk")
    assert hosts(cold.after(saw(), 5.0)) == ["h1"]


@pytest.mark.parametrize(
    ("later_s", "left"), [(KEEP_EMPTY_S - 1, ["h1", "h2"]), (KEEP_EMPTY_S, [])]
)
def test_an_emptied_registry_is_believed_in_the_end(later_s: float, left: list[str]) -> None:
    view = TWO.after(saw(), 100.0).after(saw(), 130.0)
    assert hosts(view.after(saw(), 100.0 + later_s)) == left


def test_a_registry_that_lost_its_history_evicts_only_what_it_calls_ill() -> None:
    view = TWO.after(saw("h3", ill=("h2",), went_back=True), 10.0)
    assert hosts(view) == ["h1", "h3"]
    assert "lost its history" in view.doubt
    assert hosts(view.after(saw("h3", ill=("h2",)), 11.0)) == ["h1", "h3"]


def test_the_absent_ones_leave_when_the_grace_is_over() -> None:
    view = TWO.after(saw("h1", went_back=True), 10.0)
    assert hosts(view.after(saw("h1"), 10.0 + KEEP_ABSENT_S)) == ["h1"]


def test_after_an_emptied_registry_fills_again_the_rest_has_a_short_grace() -> None:
    view = TWO.after(saw(), 10.0).after(saw("h1"), 20.0)
    assert hosts(view) == ["h1", "h2"]
    assert hosts(view.after(saw("h1"), 20.0 + KEEP_ABSENT_S - 1)) == ["h1", "h2"]
    done = view.after(saw("h1"), 20.0 + KEEP_ABSENT_S)
    assert hosts(done) == ["h1"]
    assert done.doubt == ""


def test_when_everybody_is_back_nothing_is_in_doubt() -> None:
    view = TWO.after(saw(), 10.0).after(saw("h1", "h2"), 20.0)
    assert (hosts(view), view.kept, view.keep_until_s) == (["h1", "h2"], 0, 0.0)
    assert hosts(view.after(saw("h1"), 21.0)) == ["h1"]


def test_a_new_version_on_a_host_replaces_the_old_one() -> None:
    seen = Observation(healthy=(at("h1", "v2"), at("h2")), ill=())
    assert [e.version for e in TWO.after(seen, 1.0).endpoints] == ["v2", "v1"]


def test_equal_answers_make_equal_views() -> None:
    assert TWO.after(saw("h2", "h1"), 50.0) == TWO
