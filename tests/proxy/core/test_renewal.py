"""When an identity is renewed: bounds for any leaf and any luck."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.pki import authority
from proxy.core import renewal
from proxy.core.renewal import Life, begin, failed, revoked

DAY = 86400.0


class Luck(random.Random):
    """Always the same place between the bounds."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self._at = at

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self._at


def life(length_s: float, issued: float = 1000.0) -> Life:
    return Life(not_before=issued - renewal.BACKDATE_S, not_after=issued + length_s)


def test_the_backdating_is_the_cas() -> None:
    assert renewal.BACKDATE_S == authority.BACKDATE_S


@pytest.mark.parametrize("length_s", [60.0, 3600.0, DAY, 30 * DAY])
@pytest.mark.parametrize(("at", "share"), [(0.0, 0.6), (0.5, 0.75), (1.0, 0.9)])
def test_it_is_due_between_60_and_90_percent_of_the_life_since_the_issuance(
    length_s: float, at: float, share: float
) -> None:
    assert begin(life(length_s), 1000.0, Luck(at)).at == pytest.approx(1000 + share * length_s)


def test_one_that_was_missed_is_due_within_seconds_and_not_for_all_at_once() -> None:
    now = 1000 + 0.95 * DAY
    due = {begin(life(DAY), now, Luck(at / 10)).at - now for at in range(11)}
    assert len(due) == 11
    assert max(due) == renewal.MISSED_S


@given(st.floats(1.0, 400 * DAY), st.floats(0, 1), st.floats(-DAY, 500 * DAY), st.floats(0.0, 1.0))
def test_no_moment_lies_in_the_past_or_behind_a_life_that_still_goes_on(
    length_s: float, at: float, offset: float, share: float
) -> None:
    now, leaf = 1000 + offset, life(length_s)
    schedule = begin(leaf, now, Luck(at))
    assert schedule.at >= min(now, leaf.not_before + renewal.BACKDATE_S)
    assert schedule.at <= max(now, leaf.not_after)
    again = failed(schedule, now, Luck(share))
    assert renewal.RETRY_MIN_S <= again.at - now <= renewal.RETRY_MAX_S


def test_failures_are_answered_later_and_later_up_to_five_minutes() -> None:
    schedule, waits = begin(life(30 * DAY), 1000.0, Luck(0.0)), []
    for _ in range(12):
        schedule = failed(schedule, 1000.0, Luck(1.0))
        waits.append(schedule.at - 1000.0)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]
    assert schedule.failures == 12


def test_tries_become_denser_as_the_end_nears() -> None:
    schedule = begin(life(600.0), 1000.0, Luck(0.0))
    for _ in range(10):
        schedule = failed(schedule, 1000.0, Luck(1.0))
    far = failed(schedule, 1400.0, Luck(1.0)).at - 1400
    near = failed(schedule, 1550.0, Luck(1.0)).at - 1550
    at_the_end = failed(schedule, 1599.0, Luck(1.0)).at - 1599
    assert (far, near, at_the_end) == (20.0, 5.0, 2.0)


def test_a_leaf_of_a_minute_has_time_for_several_tries() -> None:
    """From the latest renewal on, with the worst luck."""
    schedule, now, tries = begin(life(60.0), 1000.0, Luck(1.0)), 1054.0, 0
    while now < schedule.life.not_after:
        schedule = failed(schedule, now, Luck(1.0))
        now, tries = schedule.at, tries + 1
    assert tries >= 3


@pytest.mark.parametrize(("asked_s", "waits_s"), [(7.0, 7.0), (10_000.0, 300.0), (0.5, 1.0)])
def test_what_a_signer_asks_for_is_waited_for_up_to_the_limit(
    asked_s: float, waits_s: float
) -> None:
    schedule = begin(life(DAY), 1000.0, Luck(0.0))
    assert failed(schedule, 1000.0, Luck(0.0), retry_after_s=asked_s).at == 1000 + waits_s


def test_the_revoked_ask_rarely_but_ask() -> None:
    schedule = begin(life(DAY), 1000.0, Luck(0.0))
    refused = revoked(schedule, 1000.0, Luck(0.0))
    assert refused.is_revoked
    assert refused.at - 1000 == 150
    late = revoked(refused, 1000 + DAY - 20, Luck(0.0))
    assert late.at - (1000 + DAY - 20) == 5
    assert not failed(late, 1000.0, Luck(0.0)).is_revoked
