"""Rules and dashboards ask for nothing that a proxy does not expose."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import promtool
import pytest
from families import proxy_tally

from meshctl.observe.alerting import Objectives
from meshctl.observe.alerts import alerts
from meshctl.observe.grafana import DASHBOARDS, files
from meshctl.observe.recording import groups, recordings
from meshctl.observe.terms import TARGET_LABELS
from meshctl.observe.yamltext import quoted

SCRAPE = {"job", "instance", *TARGET_LABELS}
PROMETHEUS: dict[str, set[str]] = {
    "up": SCRAPE,
    "scrape_duration_seconds": SCRAPE,
    "scrape_samples_scraped": SCRAPE,
    "ALERTS": {"alertname", "alertstate", "severity"},
}
"""What Prometheus itself says of every target, and of alerts."""

_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_METRIC = re.compile(r"(?<![\w:$])((?:\w+:)?(?:istio|mesh)_[\w:]+|up|ALERTS|scrape_\w+)(?![\w(])")
_SELECTED = re.compile(r"([\w:]+)\{([^}]*)\}")
_MATCHED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Metrics of a whole proxy, histograms by their parts, with their labels."""
    found: dict[str, set[str]] = {}
    for family in proxy_tally():
        labels = set(family.label_names) | SCRAPE
        if family.kind == "histogram":
            found[f"{family.name}_bucket"] = labels | {"le"}
            found[f"{family.name}_sum"] = found[f"{family.name}_count"] = labels
        else:
            found[family.name] = labels
    return found


@pytest.fixture(scope="module")
def known(exposed: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """With what Prometheus and the recording rules make of them."""
    recorded = {rule.name: set(rule.labels) for rule in recordings()}
    return {**PROMETHEUS, **exposed, **recorded}


def metrics_of(expression: str) -> set[str]:
    return set(_METRIC.findall(re.sub(r"\{[^}]*\}", "", _TEXT.sub('""', expression))))


def selections(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that is selected from, and the labels by which."""
    for name, matchers in _SELECTED.findall(_TEXT.sub('""', expression)):
        yield name, set(_MATCHED.findall(matchers))


def grouped_by(expression: str) -> set[str]:
    return {
        label.strip()
        for labels in _GROUPED.findall(_TEXT.sub('""', expression))
        for label in labels.split(",")
        if label.strip()
    }


def expressions() -> Iterator[tuple[str, str]]:
    """Where from, and the expression."""
    yield from ((rule.name, rule.expression) for rule in recordings())
    yield from ((alert.name, alert.expression) for alert in alerts(Objectives()))
    for dashboard in DASHBOARDS:
        for row in dashboard.rows:
            for panel in row.panels:
                for at, query in enumerate(panel.queries):
                    where = f"{dashboard.uid}: {row.title}, {panel.title}, {at + 1}"
                    yield where, query.expression


@pytest.mark.parametrize(
    "expression", [pytest.param(text, id=where) for where, text in expressions()]
)
def test_an_expression_uses_only_metrics_and_labels_that_exist(
    expression: str, known: Mapping[str, set[str]]
) -> None:
    names = metrics_of(expression)
    assert names
    assert names <= known.keys()
    for name, labels in selections(expression):
        assert labels <= known[name], f"{name} has no such label"
    every = set[str]().union(*(known[name] for name in names))
    assert grouped_by(expression) <= every


def test_the_reading_of_expressions_sees_what_is_wrong() -> None:
    text = 'sum by (wrong, le) (rate(istio_x_total{reporter="mesh_no{a}",code=~"5.."}[5m])) or up'
    assert metrics_of(text) == {"istio_x_total", "up"}
    assert list(selections(text)) == [("istio_x_total", {"reporter", "code"})]
    assert grouped_by(text) == {"wrong", "le"}


def test_recorded_labels_are_those_that_the_rule_leaves(known: Mapping[str, set[str]]) -> None:
    for rule in recordings():
        assert grouped_by(rule.expression) - {"le"} == set(rule.labels), rule.name


def test_legends_and_annotations_name_labels_that_are_there(
    known: Mapping[str, set[str]],
) -> None:
    def check(where: str, expression: str, labels: set[str]) -> None:
        groups = grouped_by(expression) - {"le"}
        is_aggregated = re.match(r"\(*(sum|max|min|count|avg)\b", expression) is not None
        there = groups if is_aggregated else set[str]()
        if not is_aggregated:
            for name in metrics_of(expression):
                there |= known[name]
        assert labels <= there, f"{where}: {labels - there}"

    for dashboard in DASHBOARDS:
        for query in dashboard.queries:
            used = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
            check(f"{dashboard.uid} {query.legend}", query.expression, used)
    for alert in alerts(Objectives()):
        text = alert.summary + alert.description + alert.command
        check(alert.name, alert.expression, set(re.findall(r"\$labels\.(\w+)", text)))


class TestDashboards:
    def test_are_json_that_says_who_wrote_it_and_where_to_get_the_data(self) -> None:
        made = files()
        assert len(made) == len(DASHBOARDS) == 3
        for name, text in made.items():
            document = json.loads(text)
            assert name == f"{document['uid']}.json"
            assert "`meshctl observe grafana`" in document["description"]
            variables = [each["name"] for each in document["templating"]["list"]]
            assert variables[0] == "datasource"
            for panel in document["panels"]:
                for target in panel.get("targets", ()):
                    assert target["datasource"]["uid"] == "${datasource}"
                    used = set(re.findall(r"\$(\w+)", target["expr"]))
                    assert used <= set(variables)

    def test_have_panels_that_do_not_overlap_and_ids_of_their_own(self) -> None:
        for text in files().values():
            panels = json.loads(text)["panels"]
            assert len({panel["id"] for panel in panels}) == len(panels)
            cells = set[tuple[int, int]]()
            for panel in panels:
                at = panel["gridPos"]
                mine = {
                    (x, y)
                    for x in range(at["x"], at["x"] + at["w"])
                    for y in range(at["y"], at["y"] + at["h"])
                }
                assert max(x for x, _ in mine) < 24
                assert not mine & cells, panel["title"]
                cells |= mine

    def test_say_of_each_panel_what_it_shows(self) -> None:
        for dashboard in DASHBOARDS:
            for row in dashboard.rows:
                for panel in row.panels:
                    assert panel.about.endswith("."), panel.title
                    assert 1 <= len(panel.queries) <= 26

    def test_have_queries_that_prometheus_can_parse(self, tmp_path: Path) -> None:
        lines = ["groups:", "  - name: dashboards", "    rules:"]
        for number, query in enumerate(each for board in DASHBOARDS for each in board.queries):
            lines.append(f"      - record: query_{number}")
            lines.append(f"        expr: {quoted(query.expression)}")
        (tmp_path / "queries.yml").write_text("\n".join((*lines, "")))
        promtool.promtool("check", "rules", tmp_path / "queries.yml")

    def test_ask_for_variables_that_exist(self, known: Mapping[str, set[str]]) -> None:
        for dashboard in DASHBOARDS:
            for variable in dashboard.variables:
                match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable.query)
                assert match is not None
                assert match[2] in known[match[1]]


def test_every_recording_is_used_by_an_alert_or_a_dashboard() -> None:
    used = set[str]().union(
        *(metrics_of(alert.expression) for alert in alerts(Objectives())),
        *(metrics_of(query.expression) for board in DASHBOARDS for query in board.queries),
        *(metrics_of(rule.expression) for rule in recordings()),
    )
    kept_for_people = {
        # Quantiles of a kind come together.
        name
        for group in groups()
        for name in (rule.name for rule in group.rules)
        if re.search(r":p\d\d_rate5m$", name)
    }
    assert {rule.name for rule in recordings()} - used <= kept_for_people
