"""The Grafana dashboard of teachers and students: the panels in the JSON model of Grafana."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

from cluster.grafana.panels import ROWS, STUDENT, TEACHER, Panel

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, WIDTH, HEIGHT = 3, 8, 8


def dashboard() -> dict[str, Any]:
    """The dashboard in the JSON model of Grafana, to be imported."""
    alive = {"kind": f"{TEACHER}_streams", "rank": f"{STUDENT}_steps_total"}
    either = f'{{__name__=~"{"|".join(alive.values())}"}}'
    variables = {"job": either, **alive}
    return {
        "uid": "conkd",
        "title": "ConKD: teachers and students",
        "tags": ["conkd"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "",
        "graphTooltip": 1,
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_source_variable(), *(_variable(*it) for it in variables.items())]},
        "panels": [{"id": number, **it} for number, it in enumerate(_placed(), start=1)],
    }


def _placed() -> Iterator[dict[str, Any]]:
    """Rows and their panels, from top to bottom."""
    top = 0
    for title, panels in ROWS.items():
        place = {"h": 1, "w": COLUMNS * WIDTH, "x": 0, "y": top}
        yield {"type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        for index, each in enumerate(panels):
            row, column = divmod(index, COLUMNS)
            yield _panel(each, column * WIDTH, top + 1 + row * HEIGHT)
        top += 1 + -(-len(panels) // COLUMNS) * HEIGHT


def _panel(each: Panel, x: int, y: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": each.unit,
        "min": 0,
        "custom": {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"},
    }
    return {
        "type": "timeseries",
        "title": each.title,
        "description": each.text,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
        "fieldConfig": {
            "defaults": defaults if each.most is None else {**defaults, "max": each.most},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        },
        "targets": [
            {"refId": letter, "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for letter, (legend, expression) in zip(
                string.ascii_uppercase, each.curves.items(), strict=False
            )
        ],
    }


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "options": [],
        "refresh": 1,
        "includeAll": False,
        "multi": False,
    }


def _variable(label: str, metric: str) -> dict[str, Any]:
    """A choice among the values of a label."""
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "options": [],
        "sort": 3,
    }
