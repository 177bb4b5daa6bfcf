"""The Grafana dashboard: ``make monitoring`` makes ``dashboards/framewatch.json`` of ``panels.yaml``.

Grafana wants each panel's place, datasource and drawing said in full, some 2,600 lines. What there is to decide about
a panel stands in ``deploy/grafana/panels.yaml``: title, unit, queries.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import Field

from contract.settings import FrozenModel

FOLDER: Final = Path(__file__).parent / "grafana"
DASHBOARD: Final = FOLDER / "dashboards" / "framewatch.json"
# That of Grafana 11, which later ones bring up to their own when they load it.
_SCHEMA_VERSION: Final = 39
_COLUMNS: Final = 24
_WORKERS: Final = 'job=~"$job",instance=~"$instance"'
_PLACEHOLDERS: Final = {"$workers": _WORKERS, "$cameras": f'{_WORKERS},camera=~"$camera"'}
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


class Query(FrozenModel):
    """What a panel asks Prometheus."""

    expr: str
    """PromQL, in which ``$workers`` and ``$cameras`` stand for the labels chosen at the top of the page."""

    legend: str = ""
    """Name of each series, of its labels."""


class Panel(FrozenModel):
    """One panel."""

    title: str
    """As shown."""

    description: str
    """What it says, and what to make of it."""

    queries: tuple[Query, ...] = Field(min_length=1)
    """What it shows."""

    kind: Literal["stat", "timeseries", "table", "state-timeline"] = "timeseries"
    """How it is drawn."""

    unit: str = "none"
    """Of its values, by Grafana's name for it."""

    size: tuple[int, int] = (8, 8)
    """Columns, of 24, and Grafana's rows."""

    red_from: float | None = None
    """Value from which it is red; none where not set."""

    red_below: float | None = None
    """Value below which it is red; none where not set."""

    stacked: bool = False
    """Whether series are drawn one on the other."""


class Row(FrozenModel):
    """Panels under a heading."""

    row: str
    """The heading."""

    panels: tuple[Panel, ...]
    """From left to right, and a line down where the next has no room."""


def build_dashboard() -> dict[str, Any]:
    """All that Grafana is told, in its own JSON model."""
    rows = [Row.model_validate(row) for row in yaml.safe_load((FOLDER / "panels.yaml").read_text())]
    return {
        "uid": "framewatch",
        "title": "Framewatch",
        "description": "Workers that watch cameras: are all frames scored in time, and by which model?",
        "tags": ["framewatch"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "annotations": {"list": [_loaded_anew()]},
        "panels": list(_place(rows)),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus"}
    queries = {
        "job": "label_values(framewatch_assigned_partitions, job)",
        "instance": 'label_values(framewatch_assigned_partitions{job=~"$job"}, instance)',
        "camera": 'label_values(framewatch_frames_total{job=~"$job"}, camera)',
    }
    for name, query in queries.items():
        yield {
            "type": "query",
            "name": name,
            "label": name.capitalize(),
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _loaded_anew() -> dict[str, Any]:
    return {
        "name": "Loaded anew",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": _written_out("changes(framewatch_loaded_timestamp_seconds{$workers}[$__rate_interval]) > 0"),
        "titleFormat": "{{instance}} loaded settings or a model anew",
    }


def _written_out(expr: str) -> str:
    for placeholder, labels in _PLACEHOLDERS.items():
        expr = expr.replace(placeholder, labels)
    return expr


def _place(rows: list[Row]) -> Iterator[dict[str, Any]]:
    number = top = 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row.row, "collapsed": False, "panels": [], "gridPos": place}
        top, left, line_height = top + 1, 0, 0
        for panel in row.panels:
            width, height = panel.size
            if left + width > _COLUMNS:
                top, left, line_height = top + line_height, 0, 0
            number += 1
            yield {"id": number, "gridPos": {"x": left, "y": top, "w": width, "h": height}, **_panel(panel)}
            left, line_height = left + width, max(line_height, height)
        top += line_height


def _panel(panel: Panel) -> dict[str, Any]:
    is_instant = panel.kind in {"stat", "table"}
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "expr": _written_out(query.expr),
            "legendFormat": query.legend,
            "instant": is_instant,
            "range": not is_instant,
            "format": "table" if panel.kind == "table" else "time_series",
        }
        for number, query in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        **_drawing(panel),
    }


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    field: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never", "spanNulls": False}
        if panel.stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
        if panel.red_from is not None:
            custom["thresholdsStyle"] = {"mode": "line"}
        field |= {"min": 0, "custom": custom}
    if panel.kind == "state-timeline":
        field["mappings"] = [{"type": "value", "options": {"1": {"text": "unwell", "color": "orange"}}}]
    return field


def _drawing(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case "stat":
            named = any(query.legend for query in panel.queries)
            last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            shown = {"textMode": "value_and_name" if named else "value", "colorMode": "value", "graphMode": "none"}
            return {"options": {"reduceOptions": last, **shown}}
        case "table":
            hidden = dict.fromkeys(("Time", "Value", "__name__", "alertstate"), True)
            return {"transformations": [{"id": "organize", "options": {"excludeByName": hidden}}]}
        case "state-timeline":
            return {"options": {"showValue": "never", "mergeValues": True, "rowHeight": 0.8}}
        case "timeseries":
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
            return {"options": {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}}


def main() -> None:
    """Write the dashboard."""
    DASHBOARD.parent.mkdir(parents=True, exist_ok=True)
    DASHBOARD.write_text(json.dumps(build_dashboard(), indent=2) + "\n")


if __name__ == "__main__":
    main()
