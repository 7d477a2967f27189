import pytest

from proxy.core.metrics import SERIES_IDLE_S, Family, Metrics


def test_render_is_the_text_format_in_a_deterministic_order() -> None:
    metrics = Metrics()
    requests = metrics.counter("z_total", "Requests.", ("code", "who"))
    requests.labels("500", "b").value += 1
    requests.labels("200", "a").value += 2
    metrics.gauge("a_gauge", "Now.").labels().value = 1.5
    histogram = metrics.histogram("m_ms", "Took.", ("who",), (1.0, 5.0)).labels("x")
    for value in (0.5, 1.0, 3.0, 99.0):
        histogram.observe(value)
    assert metrics.render().decode() == (
        "# HELP a_gauge Now.\n"
        "# TYPE a_gauge gauge\n"
        "a_gauge 1.5\n"
        "# HELP m_ms Took.\n"
        "# TYPE m_ms histogram\n"
        'm_ms_bucket{who="x",le="1"} 2\n'
        'm_ms_bucket{who="x",le="5"} 3\n'
        'm_ms_bucket{who="x",le="+Inf"} 4\n'
        'm_ms_sum{who="x"} 103.5\n'
        'm_ms_count{who="x"} 4\n'
        "# HELP z_total Requests.\n"
        "# TYPE z_total counter\n"
        'z_total{code="200",who="a"} 2\n'
        'z_total{code="500",who="b"} 1\n'
    )


def test_label_values_and_help_are_escaped() -> None:
    metrics = Metrics()
    metrics.counter("c", "a\\b\nc", ("l",)).labels('x"y\\z\n').value += 1
    assert metrics.render() == (b'# HELP c a\\\\b\\nc\n# TYPE c counter\nc{l="x\\"y\\\\z\\n"} 1\n')


def test_a_series_is_found_again_and_counts_on() -> None:
    metrics = Metrics()
    family = metrics.counter("c", "", ("l",))
    family.labels("x").value += 1
    assert metrics.counter("c", "", ("l",)) is family
    assert family.labels("x") is family.labels("x")
    assert family.labels("x").value == 1


def test_series_above_the_cap_go_to_one_called_overflow() -> None:
    metrics = Metrics(max_series=3)
    family = metrics.counter("c", "", ("l",))
    for number in range(10):
        family.labels(str(number)).value += 1
    assert family.labels("overflow").value == 7
    assert metrics.render().count(b"\nc{") == 4


def test_a_removed_series_is_not_rendered() -> None:
    metrics = Metrics()
    family = metrics.gauge("g", "", ("l",))
    family.labels("x").value = 1
    family.remove("x")
    assert b'l="x"' not in metrics.render()


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b"])
def test_a_name_that_prometheus_refuses_is_refused_here(name: str) -> None:
    with pytest.raises(ValueError):
        Metrics().counter(name, "")


@pytest.mark.parametrize("label", ["", "__x", "le", "a-b"])
def test_a_label_that_prometheus_refuses_is_refused_here(label: str) -> None:
    with pytest.raises(ValueError):
        Metrics().counter("c", "", (label,))


def test_the_wrong_number_of_labels_or_another_type_is_refused() -> None:
    metrics = Metrics()
    family = metrics.counter("c", "", ("l",))
    with pytest.raises(ValueError):
        family.labels("a", "b")
    with pytest.raises(ValueError):
        metrics.gauge("c", "", ("l",))
    with pytest.raises(ValueError):
        metrics.histogram("c", "", ("l",))
    with pytest.raises(ValueError):
        metrics.histogram("h", "", (), (2.0, 1.0))


def fading() -> tuple[Metrics, Family]:
    metrics = Metrics(max_series=3)
    metrics.count_series()
    return metrics, metrics.counter("c_total", "", ("l",), fades=True)


def figure(metrics: Metrics, line: str) -> float | None:
    for each in metrics.render().decode().splitlines():
        if each.startswith(f"{line} "):
            return float(each.rpartition(" ")[2])
    return None


def test_a_series_is_dropped_when_nothing_was_counted_in_it_for_ten_minutes() -> None:
    metrics, family = fading()
    family.labels("idle").value += 1
    family.labels("busy").value += 1
    assert not metrics.sweep(0.0)
    family.labels("busy").value += 1
    assert not metrics.sweep(SERIES_IDLE_S - 1)
    assert metrics.sweep(SERIES_IDLE_S)
    assert figure(metrics, 'c_total{l="idle"}') is None
    assert figure(metrics, 'c_total{l="busy"}') == 2
    assert figure(metrics, "mesh_metric_series_dropped_total") == 1
    assert figure(metrics, "mesh_metric_series") == 3  # busy, and these two


def test_who_still_holds_a_dropped_series_counts_in_it_from_nothing() -> None:
    metrics, family = fading()
    held = family.labels("x")
    held.value += 5
    metrics.sweep(0.0)
    metrics.sweep(SERIES_IDLE_S)
    assert figure(metrics, 'c_total{l="x"}') is None
    held.value += 2
    assert figure(metrics, 'c_total{l="x"}') == 2
    assert family.labels("x") is held


def test_who_asks_anew_and_who_still_holds_it_count_in_the_same_series() -> None:
    metrics, family = fading()
    held = family.labels("x")
    metrics.sweep(0.0)
    metrics.sweep(SERIES_IDLE_S)
    family.labels("x").value += 1
    held.value += 1
    assert figure(metrics, 'c_total{l="x"}') == 2


def test_a_held_series_for_which_there_is_no_room_is_counted_in_the_overflow() -> None:
    metrics, family = fading()
    held = family.labels("x")
    metrics.sweep(0.0)
    metrics.sweep(SERIES_IDLE_S)
    for each in "abc":
        family.labels(each)
    for _ in range(2):
        held.value += 1
        metrics.tally()
    assert figure(metrics, 'c_total{l="x"}') is None
    assert figure(metrics, 'c_total{l="overflow"}') == 2
    assert figure(metrics, 'mesh_metric_series_overflowed_total{family="c_total"}') == 2


def test_a_histogram_fades_with_all_its_buckets_and_comes_back_empty() -> None:
    metrics = Metrics()
    family = metrics.histogram("h", "", ("l",), (1.0,), fades=True)
    held = family.labels("x")
    held.observe(0.0)
    metrics.sweep(0.0)
    held.observe(0.0)  # its sum stays the same
    metrics.sweep(SERIES_IDLE_S)
    assert family.labels("x").counts == [2, 0]
    metrics.sweep(2 * SERIES_IDLE_S)
    assert b'l="x"' not in metrics.render()
    held.observe(7.0)
    assert (held.counts, held.total) == ([0, 1], 7.0)
    assert figure(metrics, 'h_count{l="x"}') == 1


def test_what_does_not_fade_stays() -> None:
    metrics = Metrics()
    metrics.counter("c_total", "", ("l",)).labels("x")
    metrics.gauge("g", "", ("l",)).labels("x")
    metrics.counter("alone_total", "", fades=True).labels()
    for now in (0.0, SERIES_IDLE_S, 2 * SERIES_IDLE_S):
        for _ in range(3):
            metrics.sweep(now)
    assert len(metrics.render().splitlines()) == 9


def test_a_gauge_that_is_shown_as_a_whole_loses_what_is_gone() -> None:
    metrics = Metrics()
    gauge = metrics.gauge("g", "", ("l",))
    gauge.show({("a",): 1, ("b",): True})
    gauge.show({("b",): 3})
    assert gauge.tally().series == [(("b",), [3.0])]
    assert type(gauge.tally().series[0][1][0]) is float


def test_gauges_of_what_can_be_looked_up_are_set_when_somebody_asks() -> None:
    metrics = Metrics()
    gauge = metrics.gauge("g", "").labels()
    metrics.observers.append(lambda: setattr(gauge, "value", gauge.value + 1))
    metrics.tally()
    assert figure(metrics, "g") == 2
