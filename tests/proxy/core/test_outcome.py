"""What is counted by outcome reaches every series that tells of it, once."""

from proxy.core.metrics import BYTES_BUCKETS, DURATION_MS_BUCKETS
from proxy.core.outcome import Outcome, Series
from proxy.core.series import Histogram, Value


def test_what_was_counted_is_handed_on_once_and_to_all() -> None:
    requests = Value()
    took, route = Histogram(DURATION_MS_BUCKETS), Histogram(DURATION_MS_BUCKETS)
    asked, answers = Histogram(BYTES_BUCKETS), Histogram(BYTES_BUCKETS)
    outcome = Outcome(caller="web", service="api", method=b"GET")
    outcome.series = Series(requests, took, asked, answers, (route,))
    outcome.counts[2] += 3
    outcome.total_ms += 7.5
    outcome.answers[1] += 1
    outcome.answer_bytes += 200
    assert outcome.settle()
    assert not outcome.settle()
    assert requests.value == 3
    assert took.counts[2] == route.counts[2] == sum(took.counts) == 3
    assert took.total == route.total == 7.5
    assert asked.counts[0] == sum(asked.counts) == 3
    assert answers.counts[:2] == [2, 1]
    assert (asked.total, answers.total) == (0.0, 200.0)


def test_what_has_retired_has_handed_on_everything_and_holds_nothing() -> None:
    requests = Value()
    sizes = Histogram(BYTES_BUCKETS)
    outcome = Outcome(caller="web", service="api", method=b"GET")
    outcome.series = Series(requests, Histogram(DURATION_MS_BUCKETS), sizes, sizes, ())
    outcome.key = object()
    outcome.counts[0] += 1
    outcome.retire()
    assert requests.value == 1
    assert outcome.series is outcome.key is None


def test_a_delay_that_was_injected_is_remembered_for_longer_and_is_no_failure() -> None:
    delayed = Outcome(caller="web", service="api", method=b"GET", flag="DI")
    assert (delayed.is_bad, delayed.is_failure) == (True, False)
