"""Index rules of Consul's blocking queries."""

from proxy.core.blocking import Cursor


def test_the_first_query_does_not_block() -> None:
    assert Cursor().index == 0


def test_the_index_follows_the_answers() -> None:
    cursor = Cursor().after(7)
    assert (cursor.index, cursor.went_back) == (7, False)
    assert cursor.after(7).index == 7
    assert cursor.after(9).index == 9


def test_an_index_that_goes_back_is_reset_to_zero_and_noticed() -> None:
    cursor = Cursor().after(9).after(4)
    assert (cursor.index, cursor.went_back) == (0, True)
    again = cursor.after(4)
    assert (again.index, again.went_back) == (4, False)


def test_an_index_of_zero_never_leads_to_a_query_that_does_not_block() -> None:
    cursor = Cursor().after(0)
    assert cursor.index == 1
    assert cursor.after(0).index == 1
    assert cursor.after(-5).index == 1


def test_after_a_failure_the_next_answer_comes_at_once_and_history_is_still_compared() -> None:
    cursor = Cursor().after(9).after_failure()
    assert cursor.index == 0
    assert cursor.after(3).went_back
    assert not cursor.after(12).went_back
