"""What the students of one table learnt of their teachers, in Markdown: their step metrics."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from trainer.ablation.arms import Table
from trainer.ablation.cell import Cell

COLUMNS: Mapping[str, str] = {
    "kept_mass": "teacher's kept mass",
    "dialogue_student_mass": "student's there",
    "dialogue_entropy": "teacher's entropy",
    "dialogue_agreement_item_steps": "same first id, item steps",
    "dialogue_agreement_word_steps": "word steps",
    "dialogue_overlap_word_steps": "overlap of first 10, word steps",
    "recommendation_student_mass": "student's mass on kept films",
    "recommendation_entropy": "entropy over films",
    "recommendation_agreement_item_steps": "same first film, item steps",
    "recommendation_overlap_item_steps": "overlap of first 10, item steps",
}
"""Step metric -> title."""
OF_ROWS = {
    "kept_mass": "dialogue_student_mass",
    "dialogue_entropy": "dialogue_student_mass",
    "recommendation_entropy": "recommendation_student_mass",
}
"""Sums that are 0 in a run without rows of the kind -> a mean that is absent there."""
NONE = "-"


def steps_lines(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """A row for each arm that learnt from a teacher, means over its seeds; nothing if none did."""
    taught = {
        arm.name: found
        for arm in table.arms
        if (found := [it.steps for it in cells if it.arm == arm.name and _is_taught(it.steps)])
    }
    if not taught:
        return
    yield "Step metrics of arms with teachers, means over the last tenth of the steps and seeds:"
    yield ""
    yield _row(["arm", *COLUMNS.values()])
    yield "|---|" + "---:|" * len(COLUMNS)
    for arm, steps in taught.items():
        yield _row([arm, *(_mean([_value(it, name) for it in steps]) for name in COLUMNS)])


def _is_taught(steps: Mapping[str, float | None]) -> bool:
    return any(steps.get(name) is not None for name in COLUMNS)


def _value(steps: Mapping[str, float | None], name: str) -> float | None:
    """None for what was not measured, as the rows of a teacher that the arm has not."""
    return None if steps.get(OF_ROWS.get(name, name)) is None else steps.get(name)


def _mean(values: Sequence[float | None]) -> str:
    """Of the seeds that have one."""
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.3f}" if known else NONE


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
