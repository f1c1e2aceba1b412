"""Cells of several tables that train the same student share its run; how it answers is apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.ablation.arms import ANSWERS, TABLES
from trainer.ablation.checks import declared_settings, shared_settings, training_settings
from trainer.ablation.config import AblationConfig, TeacherPair
from trainer.ablation.plan import Answering, PlannedCell, planned_cells
from trainer.ablation.run_folder import RunFolder
from trainer.config.distill import DistillConfig
from trainer.config.run import RunConfig

VECTORS = {"item_vectors": "r"}
CONFIG = AblationConfig(
    run=RunConfig(
        data="d", output="runs", distill=DistillConfig(gamma=0.8, eta=0.15), action_tokens=False
    ),
    teachers=TeacherPair(dialogue="d", recommendation="r"),
    tables={"paper": {}, "vectors": VECTORS, "gamma": VECTORS, "decoding": VECTORS, "tail": {}},
)


def cells(config: AblationConfig = CONFIG, *tables: str) -> dict[str, PlannedCell]:
    """By table and name, of two seeds."""
    planned = planned_cells(config, tables=tables, num_seeds=2)
    return {f"{it.table.name} {it.name}": it for it in planned}


def outputs(*names: str) -> Iterator[str]:
    found = cells()
    return (found[name].config.output for name in names)


def test_the_same_student_of_several_tables_has_one_run() -> None:
    names = ("vectors plus_D_R", "gamma gamma_0_8", "decoding plus_D_R_greedy")
    assert len(set(outputs(*(f"{name}-seed0" for name in names)))) == 1
    assert len(set(outputs("vectors vanilla-seed1", "gamma gamma_0_0-seed1"))) == 1


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("vectors plus_D_R-seed0", "vectors plus_D_R-seed1"),
        ("vectors plus_D_R-seed0", "paper plus_D_R-seed0"),
        ("vectors plus_D_R-seed0", "vectors vanilla-seed0"),
        ("tail bucket_16-seed0", "tail bucket_64-seed0"),
    ],
)
def test_students_that_differ_in_seed_rows_or_arm_have_their_own(one: str, two: str) -> None:
    assert len(set(outputs(one, two))) == 2


def test_other_teachers_are_another_student_but_for_one_without_any() -> None:
    other = dataclasses.replace(CONFIG, teachers=TeacherPair(dialogue="x", recommendation="r"))
    before, after = cells(), cells(other)
    distilled, vanilla = "vectors plus_D_R-seed0", "vectors vanilla-seed0"
    assert before[distilled].config.output != after[distilled].config.output
    assert before[vanilla].config.output == after[vanilla].config.output


def test_how_a_student_answers_is_declared_and_is_no_setting_of_its_training() -> None:
    found = cells(CONFIG, "decoding")
    greedy, nucleus = (found[f"decoding plus_D_R_{it}-seed0"] for it in ("greedy", "nucleus_0_7"))
    assert (greedy.answering, nucleus.answering) == (
        Answering(),
        Answering(decoding="nucleus", top_p=0.7),
    )
    assert declared_settings(nucleus)[f"{ANSWERS}top_p"] == 0.7
    assert declared_settings(greedy)[f"{ANSWERS}decoding"] == "greedy"
    assert training_settings(greedy) == training_settings(nucleus)
    assert not any(key.startswith(ANSWERS) for key in training_settings(nucleus))
    # Cells of another table keep how they answer among what they share.
    assert shared_settings(cells()["vectors plus_D_R-seed0"])[f"{ANSWERS}decoding"] == "greedy"


def test_answers_of_one_student_lie_in_files_of_their_own() -> None:
    folder = RunFolder(path=Path("run"))
    nucleus = Answering(decoding="nucleus", top_p=0.7)
    names = [folder.responses(it.name).name for it in (Answering(), nucleus)]
    assert names == ["responses.jsonl", "responses-nucleus-0.7.jsonl"]


def test_arms_of_a_table_have_names_of_their_own() -> None:
    for table in TABLES.values():
        names = [arm.name for arm in table.arms]
        assert len(set(names)) == len(names)
        assert table.baseline in names
