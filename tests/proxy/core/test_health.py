"""From probe results to reported health."""

from proxy.core.health import ASSUMED, Health


def after(
    *failures: str | None,
    unhealthy_after: int = 2,
    healthy_after: int = 1,
    first: Health = Health(),  # noqa: B008  # frozen
) -> Health:
    health = first
    for failure in failures:
        health = health.after(failure, unhealthy_after=unhealthy_after, healthy_after=healthy_after)
    return health


def test_nothing_is_healthy_before_the_first_result() -> None:
    assert not Health().is_known
    assert not Health().is_healthy


def test_the_first_result_counts_at_once() -> None:
    assert after(None).is_healthy
    down = after("refused")
    assert (down.is_known, down.is_healthy, down.detail) == (True, False, "refused")


def test_one_failure_of_two_is_forgiven_but_told() -> None:
    health = after(None, "refused")
    assert health.is_healthy
    assert health.detail == "refused"


def test_consecutive_failures_are_not() -> None:
    assert not after(None, "refused", "refused").is_healthy
    assert after(None, "refused", None, "refused").is_healthy


def test_one_success_restores() -> None:
    health = after("refused", "refused", None)
    assert (health.is_healthy, health.failures, health.detail) == (True, 0, "ok")


def test_a_forgiven_failure_is_no_change() -> None:
    assert after(None).says_the_same(after(None, "refused"))
    assert not Health().says_the_same(after("refused"))
    assert not after(None).says_the_same(after(None, "a", "b"))


def test_as_many_successes_in_a_row_restore_as_are_asked_for() -> None:
    down = after("refused", "refused")
    assert not after(None, healthy_after=2, first=down).is_healthy
    assert after(None, None, healthy_after=2, first=down).is_healthy
    assert not after(None, "refused", None, healthy_after=2, first=down).is_healthy
    assert after(None, "refused", None, None, healthy_after=2, first=down).is_healthy


def test_while_it_recovers_the_last_failure_is_told() -> None:
    health = after("refused", None, healthy_after=3)
    assert (health.is_healthy, health.detail, health.successes) == (False, "refused", 1)


def test_the_first_success_counts_at_once_whatever_is_asked_for() -> None:
    assert after(None, healthy_after=3).is_healthy


def test_what_is_assumed_healthy_falls_only_by_as_many_failures_as_are_asked_for() -> None:
    assert ASSUMED.is_healthy
    assert after("refused", "refused", unhealthy_after=3, first=ASSUMED).is_healthy
    assert not after(*["refused"] * 3, unhealthy_after=3, first=ASSUMED).is_healthy
