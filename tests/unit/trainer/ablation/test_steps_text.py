from __future__ import annotations

import dataclasses

from tests.support.ablation_cells import cell
from trainer.ablation.arms import TABLES
from trainer.ablation.cell import Cell
from trainer.ablation.steps_text import COLUMNS, steps_lines
from trainer.telemetry.step_metrics import TAUGHT_METRICS

PAPER = TABLES["paper"]


def with_steps(arm: str, seed: int, **steps: float | None) -> Cell:
    return dataclasses.replace(cell("paper", arm, seed), steps={"nll": 4.0, **steps})


def test_arms_with_teachers_have_the_means_of_their_seeds() -> None:
    cells = [
        with_steps("plus_D_R", 0, kept_mass=0.5, dialogue_student_mass=0.25),
        with_steps("plus_D_R", 1, kept_mass=1.0, dialogue_student_mass=0.75),
        with_steps("vanilla", 0, kept_mass=None),
    ]
    *_, header, rule, row = steps_lines(PAPER, cells)
    assert header.count("|") == rule.count("|") == row.count("|") == len(COLUMNS) + 2
    assert row.startswith("| plus_D_R | 0.750 | 0.500 | - |")


def test_what_a_teacher_that_the_arm_has_not_sums_to_is_no_measurement() -> None:
    steps = {
        "kept_mass": 0.0,
        "dialogue_entropy": 0.0,
        "dialogue_student_mass": None,
        "recommendation_student_mass": 0.5,
        "recommendation_entropy": 3.0,
    }
    *_, row = steps_lines(PAPER, [with_steps("plus_R", 0, **steps)])
    assert row == "| plus_R |" + " - |" * 6 + " 0.500 | 3.000 | - | - |"


def test_a_table_of_students_without_teachers_has_no_such_rows() -> None:
    assert list(steps_lines(PAPER, [with_steps("vanilla", 0)])) == []


def test_columns_are_step_metrics() -> None:
    assert COLUMNS.keys() <= {it.name for it in TAUGHT_METRICS}
