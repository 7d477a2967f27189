import pytest

from proxy.core.metrics import Metrics


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
