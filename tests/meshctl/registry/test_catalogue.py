"""Services and TTL checks over time, with a clock made of numbers."""

from dataclasses import replace

import pytest

from meshctl.registry.catalogue import (
    Catalogue,
    CheckDefinition,
    Service,
    Status,
    UnknownCheck,
    UnknownService,
)

WEB = Service(id="web-1", name="web", meta={}, port=80)
TTL = CheckDefinition(id="c", name="check", ttl_s=10.0)


def catalogue(*definitions: CheckDefinition, interval_s: float = 300.0) -> Catalogue:
    """``web-1`` with the checks, registered at 100 s and index 10."""
    made = Catalogue(check_update_interval_s=interval_s)
    made.register(WEB, definitions, replaces_checks=False, now=100.0, index=10)
    return made


def test_a_ttl_expires_at_its_time_and_not_before() -> None:
    made = catalogue(replace(TTL, status=Status.PASSING))
    assert made.next_deadline() == 110.0
    made.expire(now=109.9, index=11)
    assert made.checks["c"].status is Status.PASSING
    made.expire(now=110.0, index=12)
    check = made.checks["c"]
    assert (check.status, check.output) == (Status.CRITICAL, "TTL expired")
    assert (check.modify_index, made.index_of("web")) == (12, 12)
    assert made.next_deadline() is None


def test_an_update_restarts_the_ttl() -> None:
    made = catalogue(TTL)
    made.update("c", Status.PASSING, "fine", now=105.0, index=11)
    assert made.next_deadline() == 115.0
    made.expire(now=114.0, index=12)
    assert made.checks["c"].status is Status.PASSING


def test_an_expired_ttl_quotes_the_last_output_once_however_often_it_expires() -> None:
    made = catalogue(TTL)
    for start in (100.0, 200.0):
        made.update("c", Status.PASSING, "fine", now=start, index=int(start))
        made.expire(now=start + 10, index=int(start) + 1)
        expected = "TTL expired (last output before timeout follows): fine"
        assert made.checks["c"].output == expected


def test_an_output_alone_is_held_back_for_the_interval() -> None:
    made = catalogue(TTL, interval_s=5.0)
    made.update("c", Status.PASSING, "one", now=101.0, index=11)
    made.update("c", Status.PASSING, "two", now=102.0, index=12)
    made.update("c", Status.PASSING, "three", now=106.0, index=13)
    check = made.checks["c"]
    assert (check.output, check.published_output, check.modify_index) == ("three", "one", 11)
    assert made.next_deadline() == 107.0
    made.expire(now=107.0, index=14)
    check = made.checks["c"]
    assert (check.published_output, check.modify_index, made.index_of("web")) == ("three", 14, 14)


def test_an_interval_of_0_holds_nothing_back() -> None:
    made = catalogue(TTL, interval_s=0.0)
    made.update("c", Status.PASSING, "one", now=101.0, index=11)
    made.update("c", Status.PASSING, "two", now=102.0, index=12)
    assert (made.checks["c"].published_output, made.checks["c"].modify_index) == ("two", 12)


def test_an_output_that_returns_to_what_is_published_is_no_longer_held_back() -> None:
    made = catalogue(TTL)
    for index, output in enumerate(("one", "two", "one"), start=11):
        made.update("c", Status.PASSING, output, now=101.0, index=index)
    assert made.checks["c"].publish_at is None
    assert made.checks["c"].modify_index == 11


@pytest.mark.parametrize(("after_s", "at"), [(120.0, 220.0), (1.0, 160.0)])
def test_a_service_critical_for_too_long_is_removed(after_s: float, at: float) -> None:
    """Counted from the start of the critical time; Consul's minimum is a minute."""
    made = catalogue(replace(TTL, deregister_after_s=after_s))
    made.update("c", Status.CRITICAL, "still ill", now=150.0, index=11)
    made.expire(now=at - 0.1, index=12)
    assert "web-1" in made.services
    made.expire(now=at, index=13)
    assert (made.services, made.checks) == ({}, {})
    assert made.touched("web") == 13


def test_a_service_that_recovers_is_not_removed() -> None:
    made = catalogue(replace(TTL, deregister_after_s=60.0))
    made.update("c", Status.PASSING, "", now=150.0, index=11)
    made.update("c", Status.CRITICAL, "", now=155.0, index=12)
    made.expire(now=200.0, index=13)
    assert "web-1" in made.services
    assert made.next_deadline() == 215.0


def test_registering_again_keeps_the_status_and_restarts_the_ttl() -> None:
    made = catalogue(TTL)
    made.update("c", Status.PASSING, "fine", now=101.0, index=11)
    made.register(WEB, (TTL,), replaces_checks=False, now=108.0, index=12)
    check = made.checks["c"]
    assert (check.status, check.output, check.expires_at) == (Status.PASSING, "fine", 118.0)
    assert (check.modify_index, made.services["web-1"].modify_index) == (11, 10)


def test_an_id_that_changes_its_name_leaves_the_old_name_empty() -> None:
    made = catalogue(TTL)
    moved = replace(WEB, name="shop")
    made.register(moved, (TTL,), replaces_checks=False, now=101.0, index=11)
    assert made.instances("web") == ()
    assert [service.id for service in made.instances("shop")] == ["web-1"]
    assert (made.touched("web"), made.touched("shop")) == (11, 11)
    assert made.checks["c"].service_name == "shop"


def test_a_change_concerns_its_own_service_only() -> None:
    made = catalogue(TTL)
    other = replace(WEB, id="other-1", name="other")
    made.register(other, (), replaces_checks=False, now=101.0, index=11)
    assert (made.touched("web"), made.touched("other"), made.services_index) == (10, 11, 11)
    made.update("c", Status.PASSING, "", now=101.0, index=12)
    assert (made.touched("web"), made.touched("other")) == (12, 11)
    assert (made.instances_touched("web"), made.checks_index) == (10, 12)


def test_the_index_of_an_absent_service_covers_whatever_it_may_have_been() -> None:
    made = catalogue(TTL)
    made.update("c", Status.PASSING, "", now=101.0, index=11)
    before = made.index_of("web")
    made.deregister("web-1", index=12)
    assert made.index_of("web") == 12 > before
    assert made.index_of("never") == 12


def test_what_is_unknown_is_refused() -> None:
    made = catalogue(TTL)
    with pytest.raises(UnknownCheck, match="missing"):
        made.update("missing", Status.PASSING, "", now=101.0, index=11)
    with pytest.raises(UnknownService, match="missing"):
        made.register_check(TTL, "missing", now=101.0, index=11)
    assert made.deregister("missing", index=11) is False
    assert made.deregister_check("missing", index=11) is False
