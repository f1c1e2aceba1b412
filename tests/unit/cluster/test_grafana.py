"""The dashboard shows what is there, and all of it: held against scrapes of live processes."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from cluster.grafana.__main__ import main
from cluster.grafana.dashboard import dashboard
from tests.support.fake_teacher import FakeTeacher
from tests.support.replica_calls import request, run, running, score
from tests.support.scrapes import scrape
from tests.support.student_runs import free_port
from trainer.config.run import RunConfig
from trainer.config.watch import WatchConfig
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.rank_metrics import RankMetrics

METRIC = re.compile(r"\b(?:conkd|process)_\w+")
# Counted, but of no use as a curve.
NOT_SHOWN: frozenset[str] = frozenset()
LABELS = re.compile(r'\{(\w+)=~"\$(\w+)"\}')


def shown() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in shown() for target in panel["targets"]]


@pytest.fixture
def scraped() -> dict[str, set[str]]:
    """Every name that a replica and a rank tell, with its labels."""
    told: list[tuple[str, set[str]]] = []

    async def scenario() -> None:
        async with running(FakeTeacher()) as (server, stub):
            address = server.serve_metrics("127.0.0.1")
            await score(stub, [request(1)])
            told.extend(await asyncio.to_thread(names, address))

    run(scenario)
    port = free_port()
    config = RunConfig(data="a", output="b", watch=WatchConfig(metrics_port=port))
    with RankMetrics(config, 0, ClientCounters()):
        told.extend(names(f"127.0.0.1:{port}"))
    merged: dict[str, set[str]] = {}
    for name, labels in told:
        merged.setdefault(name, set()).update(labels)
    return merged


def names(address: str) -> list[tuple[str, set[str]]]:
    return [(name, {label for label, _ in labels}) for name, labels in scrape(address)]


def test_every_metric_of_a_panel_is_scraped_with_the_label_that_it_is_picked_by(
    scraped: dict[str, set[str]],
) -> None:
    queries = [
        variable["definition"]
        for variable in dashboard()["templating"]["list"]
        if variable["type"] == "query"
    ]
    wanted = {name for text in [*expressions(), *queries] for name in METRIC.findall(text)}
    assert wanted and wanted <= scraped.keys()
    for text in expressions():
        for name, label in re.findall(r"(conkd_\w+)\{(\w+)=~", text):
            assert label in scraped[name], name
        for labels in re.findall(r"sum by \(([^)]*)\) \(rate\((conkd_\w+)", text):
            grouped = set(labels[0].split(", ")) - {"instance"}
            assert grouped <= scraped[labels[1]], labels


def test_every_metric_of_ours_has_a_panel(scraped: dict[str, set[str]]) -> None:
    ours = {family(name) for name in scraped if name.startswith("conkd_")}
    used = {family(name) for text in expressions() for name in METRIC.findall(text)}
    assert ours - used == NOT_SHOWN


def family(name: str) -> str:
    """Of a histogram one of its three is enough."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def test_dashboard_can_be_imported_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    content = json.loads(capsys.readouterr().out)
    assert content == dashboard()
    assert content["schemaVersion"] >= 36
    assert "id" not in content and content["uid"] == "conkd"
    variables = {variable["name"] for variable in content["templating"]["list"]}
    assert variables == {"datasource", "job", "kind", "rank"}
    assert {name for text in expressions() for _, name in LABELS.findall(text)} <= variables
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in shown():
        assert panel["datasource"] == chosen
        assert all(target["datasource"] == chosen for target in panel["targets"])
    numbers = [panel["id"] for panel in content["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
