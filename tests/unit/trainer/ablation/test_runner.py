from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from cluster.launch.launcher import Launcher
from cluster.launch.machine import Machine
from tests.support import evaluation_fakes as fakes
from tests.support import tiny_teachers
from tests.support.ablation_cells import REVISION, ablation_config
from tests.support.ablation_launcher import RecordingLauncher
from trainer.ablation.cell import read_cell
from trainer.ablation.plan import PlannedCell, planned_cells
from trainer.ablation.revision import Revision, SameRevisions
from trainer.ablation.runner import Runner
from trainer.data.prepared import PreparedData
from trainer.models.frozen import read_card

MACHINE = Machine(num_cores=2, num_devices=0, python=Path(sys.executable))
OTHER_SCORING = Revision(training=REVISION.training, scoring="other")
OTHER_TRAINING = Revision(training="other", scoring=REVISION.scoring)


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    """Data and teachers where `ablation_config` has them."""
    data = fakes.write_tiny_data(tmp_path / "data")
    fakes.write_dialogue_teacher(tmp_path / "dialogue", data.vocabulary, seed=2)
    tiny_teachers.write_recommendation_teacher(tmp_path / "recommendation", data.vocabulary)
    return data


def runner(root: Path, launcher: RecordingLauncher, revision: Revision = REVISION) -> Runner:
    return Runner(
        machine=MACHINE,
        launcher=cast(Launcher, launcher),
        cells=root / "cells",
        work=root / "runs",
        revision=revision,
        same=SameRevisions([]),
    )


def planned(root: Path, *arms: str, table: str = "paper", seeds: int = 1) -> list[PlannedCell]:
    cells = planned_cells(ablation_config(root, **{table: {}}), tables=[], num_seeds=seeds)
    return [cell for cell in cells if cell.arm.name in arms]


def make(root: Path, launcher: RecordingLauncher, cells: Sequence[PlannedCell]) -> None:
    runner(root, launcher).make_all(cells)


def test_the_teachers_score_once_for_all_arms_and_seeds(tmp_path: Path, data: PreparedData) -> None:
    launcher = RecordingLauncher(data)
    make(tmp_path, launcher, planned(tmp_path, "vanilla", "plus_D", "plus_D_R", seeds=2))
    assert [it.split()[0] for it in launcher.names[:2]] == ["teachers", "targets"]
    assert sum(it.startswith("targets") for it in launcher.names) == 1
    caches = {config.teachers.cache for config in launcher.configs if config.distill.gamma}
    assert len(caches) == 1 and Path(caches.pop()).parent == tmp_path / "runs" / "targets"
    assert {it.teachers.cache for it in launcher.configs if not it.distill.gamma} == {""}


def test_a_cell_has_what_its_run_was_and_came_to(tmp_path: Path, data: PreparedData) -> None:
    make(tmp_path, RecordingLauncher(data), planned(tmp_path, "plus_D"))
    cell = read_cell(tmp_path / "cells" / "paper" / "plus_D-seed0.json")
    assert cell.settings["distill.fixed_lambda"] == 0.0
    assert cell.shared["train.steps"] == 4 and "output" not in cell.shared
    assert cell.revision == REVISION
    teacher = read_card(tmp_path / "dialogue", "dialogue")
    assert cell.sources["teachers"] == {"dialogue": teacher.weights_digest}
    assert cell.steps["loss"] == 5.0 / 4 and cell.steps["step"] == 4
    assert set(cell.seconds) == {"train", "respond", "score"}
    assert cell.scores["paper.all"]["responses"] == 6.0
    assert str(tmp_path) not in (tmp_path / "cells" / "paper" / "plus_D-seed0.json").read_text()


def test_teachers_are_scored_as_systems_and_not_trained(tmp_path: Path, data: PreparedData) -> None:
    launcher = RecordingLauncher(data)
    make(tmp_path, launcher, planned(tmp_path, "dialogue_teacher", "recommendation_teacher"))
    assert launcher.configs == []
    assert {it.rpartition(" ")[0] for it in launcher.names} == {
        "dialogue teacher respond",
        "recommendation teacher respond",
    }
    assert read_cell(tmp_path / "cells" / "paper" / "dialogue_teacher-seed0.json").steps == {}


def test_finished_cells_are_not_made_again(tmp_path: Path, data: PreparedData) -> None:
    cells = planned(tmp_path, "vanilla", "plus_D")
    make(tmp_path, RecordingLauncher(data), cells[:1])
    missing = runner(tmp_path, RecordingLauncher(data)).missing(cells, again=False)
    assert [cell.arm.name for cell in missing] == ["plus_D"]


def test_a_cell_of_another_revision_is_one_error_or_made_again(
    tmp_path: Path, data: PreparedData
) -> None:
    cells = planned(tmp_path, "vanilla")
    make(tmp_path, RecordingLauncher(data), cells)
    later = runner(tmp_path, RecordingLauncher(data), OTHER_TRAINING)
    with pytest.raises(ValueError, match=r"must be of this revision's training code other, got aa"):
        later.missing(cells, again=False)
    assert later.missing(cells, again=True) == cells


def test_a_run_of_other_training_code_is_made_anew_and_one_of_other_scoring_code_is_kept(
    tmp_path: Path, data: PreparedData
) -> None:
    cells = planned(tmp_path, "vanilla")
    make(tmp_path, RecordingLauncher(data), cells)
    for revision, num_trained in ((OTHER_SCORING, 0), (OTHER_TRAINING, 1)):
        launcher = RecordingLauncher(data)
        runner(tmp_path, launcher, revision).make_all(cells)
        assert len(launcher.configs) == num_trained
        assert any("respond" in it for it in launcher.names)


def test_what_was_stopped_goes_on_with_the_stage_that_is_missing(
    tmp_path: Path, data: PreparedData
) -> None:
    cells = planned(tmp_path, "vanilla")
    stopped = RecordingLauncher(data, fails=lambda name: "respond" in name)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, stopped, cells)
    assert len(stopped.configs) == 1
    launcher = RecordingLauncher(data)
    make(tmp_path, launcher, cells)
    assert launcher.configs == []
    assert runner(tmp_path, launcher).missing(cells, again=False) == []


def test_a_table_of_tails_puts_students_beside_the_dense_teacher(
    tmp_path: Path, data: PreparedData
) -> None:
    make(tmp_path, RecordingLauncher(data), planned(tmp_path, "bucket_16", table="tail"))
    cell = read_cell(tmp_path / "cells" / "tail" / "bucket_16-seed0.json")
    assert (cell.scores["paper.all"]["kl_dialogue"] or 0.0) > 0.0


def test_a_cell_of_other_teachers_is_one_error_or_made_again(
    tmp_path: Path, data: PreparedData
) -> None:
    cells = planned(tmp_path, "plus_D")
    make(tmp_path, RecordingLauncher(data), cells)
    fakes.write_dialogue_teacher(tmp_path / "dialogue", data.vocabulary, seed=3)
    later = runner(tmp_path, RecordingLauncher(data))
    with pytest.raises(ValueError, match="must be of the dialogue teacher"):
        later.missing(cells, again=False)
    assert later.missing(cells, again=True) == cells
