"""Sums that go on while one of several processes dies or drops what is idle in it."""

from proxy.core.exposition import Tally, merge
from proxy.core.legacy import Legacy
from proxy.core.metrics import SERIES_IDLE_S, Metrics

MINUTE_S = 60.0


def process(**counts: int) -> Metrics:
    metrics = Metrics()
    metrics.is_one_of_many = True
    family = metrics.counter("requests_total", "Requests.", ("who",), fades=True)
    for who, count in counts.items():
        family.labels(who).value += count
    return metrics


def total(who: str, *tallies: Tally) -> float:
    for family in merge(tallies):
        for labels, figures in family.series:
            if labels == (who,):
                return figures[0]
    return 0.0


def test_what_one_process_drops_stays_in_the_sum_while_another_counts() -> None:
    legacy, quiet, busy = Legacy(), process(a=1000), process(a=10)
    for now in (0.0, SERIES_IDLE_S):
        quiet.sweep(now)
    legacy.add(quiet.take_dropped())
    assert total("a", quiet.tally()) == 0
    assert total("a", quiet.tally(), busy.tally(), legacy.tally) == 1010
    quiet.counter("requests_total", "Requests.", ("who",), fades=True).labels("a").value += 1
    assert total("a", quiet.tally(), busy.tally(), legacy.tally) == 1011
    for minute in range(60):
        legacy.sweep([quiet.tally(), busy.tally()], minute * MINUTE_S)
    assert total("a", quiet.tally(), busy.tally(), legacy.tally) == 1011


def test_what_the_dead_left_is_forgotten_once_nobody_has_it_for_the_idle_time() -> None:
    legacy = Legacy()
    legacy.add(process(a=1, b=2).tally())
    living = process(b=1).tally()
    for minute in range(10):
        legacy.sweep([living], minute * MINUTE_S)
    assert (total("a", legacy.tally), total("b", legacy.tally)) == (1, 2)
    legacy.sweep([living], SERIES_IDLE_S)
    assert (total("a", legacy.tally), total("b", legacy.tally)) == (0, 2)
    for minute in range(11, 23):
        legacy.sweep([], minute * MINUTE_S)
    assert legacy.tally == ()
    assert not legacy._since


def test_what_somebody_counts_in_again_meanwhile_begins_its_time_anew() -> None:
    legacy = Legacy()
    legacy.add(process(a=1).tally())
    legacy.sweep([], 0.0)
    legacy.sweep([process(a=5).tally()], 300.0)
    legacy.sweep([], 360.0)
    legacy.sweep([], SERIES_IDLE_S + 60.0)
    assert total("a", legacy.tally) == 1


def test_series_without_labels_are_kept_for_good() -> None:
    metrics = Metrics()
    metrics.counter("restarts_total", "Restarts.").labels().value += 3
    legacy = Legacy()
    legacy.add(metrics.tally())
    for minute in range(30):
        legacy.sweep([], minute * MINUTE_S)
    assert legacy.tally[0].series == [((), [3])]
