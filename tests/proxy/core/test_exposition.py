"""Figures of several processes as one."""

import pytest

from proxy.core.exposition import Combine, LabelTexts, Tally, lasting, merge, pieces, render
from proxy.core.metrics import Metrics


def process(requests: dict[str, int], took_ms: tuple[float, ...] = (), lag: float = 0) -> Tally:
    metrics = Metrics()
    for code, count in requests.items():
        metrics.counter("requests_total", "Requests.", ("code",)).labels(code).value += count
    for each in took_ms:
        metrics.histogram("took_ms", "Took.", (), (1.0, 5.0)).labels().observe(each)
    metrics.gauge("lag", "Lag.", combine="max").labels().value = lag
    metrics.gauge("open", "Open.").labels().value = len(took_ms)
    return metrics.tally()


def test_counters_histograms_and_counts_add_up_and_of_the_others_the_highest_is_shown() -> None:
    merged = merge(
        [process({"200": 2}, (0.5, 9.0), 0.3), process({"200": 3, "503": 1}, (2.0,), 0.1)]
    )
    assert render(merged).decode().splitlines() == [
        "# HELP lag Lag.",
        "# TYPE lag gauge",
        "lag 0.3",
        "# HELP open Open.",
        "# TYPE open gauge",
        "open 3",
        "# HELP requests_total Requests.",
        "# TYPE requests_total counter",
        'requests_total{code="200"} 5',
        'requests_total{code="503"} 1',
        "# HELP took_ms Took.",
        "# TYPE took_ms histogram",
        'took_ms_bucket{le="1"} 1',
        'took_ms_bucket{le="5"} 2',
        'took_ms_bucket{le="+Inf"} 3',
        "took_ms_sum 11.5",
        "took_ms_count 3",
    ]


def test_one_alone_is_itself_and_what_is_merged_stays_as_it_was() -> None:
    one, other = process({"200": 2}, (1.0,)), process({"200": 1}, (1.0,))
    assert merge([one]) == one
    assert merge([]) == ()
    before = render(one)
    merge([one, other])
    assert render(one) == before


def test_the_order_of_merging_does_not_matter() -> None:
    parts = [process({"200": n}, (float(n),), n / 10) for n in range(1, 4)]
    assert merge([merge(parts[:2]), parts[2]]) == merge([parts[2], parts[1], parts[0]])


def test_only_gauges_end_with_their_process() -> None:
    left = lasting(process({"200": 2}, (1.0,), 0.5))
    assert [family.name for family in left] == ["requests_total", "took_ms"]


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_a_family_keeps_to_one_way_of_combining(combine: Combine) -> None:
    metrics = Metrics()
    metrics.gauge("g", "", combine=combine)
    with pytest.raises(ValueError):
        metrics.gauge("g", "", combine="sum" if combine == "max" else "max")


def open_metrics(tally: Tally) -> str:
    return "".join(piece for family in tally for piece in pieces(family, is_open=True))


def test_open_metrics_names_counters_without_their_suffix_and_has_exemplars() -> None:
    metrics = Metrics()
    metrics.counter("z_total", 'Say "z".', ("who",)).labels("a").value += 2
    histogram = metrics.histogram("m_ms", "Took.", ("who",), (1.0, 5.0)).labels("x")
    histogram.observe(3.0)
    histogram.exemplify(1, b"0af7651916cd43dd8448eb211c80319c", 3.0, 1700000000.25)
    assert open_metrics(metrics.tally()) == (
        "# HELP m_ms Took.\n"
        "# TYPE m_ms histogram\n"
        'm_ms_bucket{who="x",le="1.0"} 0\n'
        'm_ms_bucket{who="x",le="5.0"} 1'
        ' # {trace_id="0af7651916cd43dd8448eb211c80319c"} 3 1700000000.250\n'
        'm_ms_bucket{who="x",le="+Inf"} 1\n'
        'm_ms_sum{who="x"} 3\n'
        'm_ms_count{who="x"} 1\n'
        '# HELP z Say \\"z\\".\n'
        "# TYPE z counter\n"
        'z_total{who="a"} 2\n'
    )
    assert b"trace_id" not in render(metrics.tally())


def test_of_two_exemplars_of_a_bucket_the_newer_one_is_shown() -> None:
    parts = []
    for at, trace in ((2.0, b"bb"), (1.0, b"aa")):
        metrics = Metrics()
        histogram = metrics.histogram("m_ms", "Took.", (), (1.0,)).labels()
        histogram.observe(0.5)
        histogram.exemplify(0, trace, 0.5, at)
        parts.append(metrics.tally())
    text = open_metrics(merge(parts))
    assert 'm_ms_bucket{le="1.0"} 2 # {trace_id="bb"} 0.5 2.000\n' in text
    assert "aa" not in text


def test_texts_of_labels_are_made_once_and_not_kept_for_ever() -> None:
    texts = LabelTexts()
    metrics = Metrics()
    family = metrics.counter("c_total", "", ("l",))
    for number in range(100):
        family.labels(str(number))
    first = "".join(pieces(family.tally(), texts))
    assert "".join(pieces(family.tally(), texts)) == first
    assert len(texts._texts[("l",)]) == 100
    texts.prune(60)
    assert texts._texts
    texts.prune(10)
    assert not texts._texts
