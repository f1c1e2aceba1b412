"""A report of conformance, for people and for programs."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

from protos.conformance.run import Report
from trainer.common.tables import fitted, terminal_width

COLUMNS = ("check", "outcome", "detail")


def as_text(report: Report) -> str:
    """A line for each check, and their counts."""
    rows = [(each.name, each.outcome, " ".join(each.detail.split())) for each in report.results]
    title = f"{report.about.replica_id or 'a teacher'} at {report.address}"
    table = fitted(rows, COLUMNS, title=title, width=terminal_width())
    counts = Counter(each.outcome for each in report.results)
    told = ", ".join(f"{counts[it]} {it}" for it in ("passed", "failed", "not applicable"))
    return f"{table}\n{told}, in {report.seconds:.1f} s"


def as_json(report: Report) -> str:
    """One object: whom, how many failed, and each check."""
    content = {
        "address": report.address,
        "kind": report.about.kind,
        "replica_id": report.about.replica_id,
        "failed": report.failed,
        "seconds": report.seconds,
        "checks": [dataclasses.asdict(each) for each in report.results],
    }
    return json.dumps(content, indent=2)
