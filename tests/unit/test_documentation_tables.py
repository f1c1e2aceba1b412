"""Tables of the documentation are those that the declarations give."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacher_server.replica.metrics import PREFIX as TEACHER
from teacher_server.replica.metrics import RUN_PREFIX as RUN
from teacher_server.replica.metrics import ReplicaLevels
from teacher_server.replica.runs import RunCounters
from teacher_server.scoring.counters import ReplicaCounters
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.counters import counters_table
from trainer.telemetry.rank_metrics import PREFIX as STUDENT
from trainer.telemetry.rank_metrics import RankProgress
from trainer.telemetry.run_totals import RUN_TOTALS
from trainer.telemetry.step_metrics import STEP_METRICS, TEACHER_METRICS, metrics_table

DOCS = Path(__file__).resolve().parents[2] / "docs"
MAX_COLUMNS = 120
TABLES = {
    "steps": ("training.md", metrics_table((*STEP_METRICS, *TEACHER_METRICS))),
    "totals": ("training.md", metrics_table(RUN_TOTALS)),
    "replica": (
        "operations.md",
        counters_table(TEACHER, "kind", ReplicaCounters, ReplicaLevels),
    ),
    "run": ("operations.md", counters_table(RUN, "run", RunCounters)),
    "rank": ("operations.md", counters_table(STUDENT, "rank", RankProgress, ClientCounters)),
}


@pytest.mark.parametrize("table", TABLES)
def test_table_is_what_the_declarations_give(table: str) -> None:
    name, wanted = TABLES[table]
    text = (DOCS / name).read_text(encoding="utf-8")
    assert f"\n\n{wanted}\n" in text, f"docs/{name} must hold this table:\n\n{wanted}\n"


@pytest.mark.parametrize("table", TABLES)
def test_table_is_not_too_wide(table: str) -> None:
    assert max(map(len, TABLES[table][1].splitlines())) <= MAX_COLUMNS
