"""What a Grafana dashboard is made of, as values, and the JSON that Grafana reads.

Only panels and options that Grafana has had since version 9. The data source is a variable, so
that a dashboard works in any Grafana without being changed.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

MARK = "Written by `meshctl observe grafana`, which writes it anew; save a copy to change it."
COLUMNS = 24
"""Of Grafana's grid."""

Kind = Literal["timeseries", "stat", "table"]
Unit = Literal["reqps", "percentunit", "ms", "s", "short", "Bps", "bytes", "none"]

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    expression: str
    legend: str = ""
    """In a table: the title of its column."""
    unit: Unit | None = None
    """In a table, where it is not the panel's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    queries: tuple[Query, ...]
    about: str
    """What it shows, and what to do about it."""
    kind: Kind = "timeseries"
    unit: Unit = "short"
    width: int = 8
    height: int = 8
    most: float | None = None
    """The upper end of the scale."""
    warn_above: float | None = None


def panel(
    title: str,
    about: str,
    *queries: tuple[str, str],
    kind: Kind = "timeseries",
    unit: Unit = "short",
    width: int = 8,
    height: int = 8,
    most: float | None = None,
    warn_above: float | None = None,
) -> Panel:
    """One of expressions with their legends."""
    return Panel(
        title=title,
        about=about,
        queries=tuple(Query(expression=text, legend=legend) for text, legend in queries),
        kind=kind,
        unit=unit,
        width=width,
        height=height,
        most=most,
        warn_above=warn_above,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """Chosen at the top of the dashboard, used as ``$name``."""

    name: str
    label: str
    query: str
    """``label_values(METRIC, LABEL)``."""
    is_multi: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    uid: str
    title: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = field(default=())

    @property
    def queries(self) -> tuple[Query, ...]:
        return tuple(each for row in self.rows for panel in row.panels for each in panel.queries)


def render(dashboard: Dashboard) -> str:
    """The JSON text of it; equal for equal dashboards."""
    document = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": MARK,
        "tags": ["meshctl"],
        "schemaVersion": 37,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {"type": "dashboards", "tags": ["meshctl"], "title": "meshctl", "keepTime": True}
        ],
        "templating": {"list": [_datasource(), *map(_variable, dashboard.variables)]},
        "panels": _panels(dashboard.rows),
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "definition": variable.query,
        "refresh": 2,
        "sort": 1,
        "multi": variable.is_multi,
        "includeAll": variable.is_multi,
        "allValue": ".+" if variable.is_multi else None,
        "current": {"text": "All", "value": "$__all"} if variable.is_multi else {},
    }


def _panels(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    x = y = tallest = 0
    for row in rows:
        y, x = y + tallest, 0
        made.append(
            {
                "id": len(made) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
        )
        y, tallest = y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            made.append(_panel(panel, len(made) + 1, place))
            x, tallest = x + panel.width, max(tallest, panel.height)
    return made


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    is_table = panel.kind == "table"
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.most is not None:
        defaults |= {"min": 0, "max": panel.most}
    if panel.warn_above is not None:
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [
                {"color": "green", "value": None},
                {"color": "orange", "value": panel.warn_above},
            ],
        }
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel) if is_table else []},
        "options": _options(panel.kind),
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                "instant": panel.kind != "timeseries",
                "range": panel.kind == "timeseries",
                "format": "table" if is_table else "time_series",
            }
            for at, query in enumerate(panel.queries)
        ],
    }
    if is_table:
        made["transformations"] = [{"id": "merge", "options": {}}]
    return made


def _options(kind: Kind) -> dict[str, Any]:
    match kind:
        case "timeseries":
            return {
                "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["last"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case "stat":
            return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
        case "table":
            return {"showHeader": True}


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """Columns get their titles and units; the time of the query is no news."""
    made = [
        {
            "matcher": {"id": "byName", "options": f"Value #{chr(ord('A') + at)}"},
            "properties": [
                {"id": "displayName", "value": query.legend},
                {"id": "unit", "value": query.unit or panel.unit},
            ],
        }
        for at, query in enumerate(panel.queries)
    ]
    hidden: list[dict[str, Any]] = [
        {
            "matcher": {"id": "byName", "options": "Time"},
            "properties": [{"id": "custom.hidden", "value": True}],
        }
    ]
    return hidden + made
