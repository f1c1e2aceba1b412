"""The short form of `make proof`: weights do not show what happened to the teachers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.proof.events import CUT_S, EVENTS
from cluster.proof.materials import copy_materials
from cluster.proof.prove import SHORT, prove
from tests.support.labs import need_lab
from tests.support.served_teachers import FittedTeachers


@pytest.mark.everything
@pytest.mark.timeout(900)
def test_student_has_the_weights_of_a_calm_run_whatever_happens_to_its_teachers(
    teachers: FittedTeachers, prepared_dir: Path, tmp_path: Path
) -> None:
    need_lab()
    folders = {"dialogue": teachers.dialogue, "recommendation": teachers.recommendation}
    copy_materials(tmp_path / "shared", prepared_dir, folders)
    said: list[str] = []
    proof = prove(SHORT, tmp_path, say=said.append)
    assert proof.is_proved, proof.weights
    assert set(proof.weights) == {"student1", "calm", "in-process"}
    assert [it.text for it in proof.events] == [it.text for it in SHORT.events]
    # It noticed: without a network there were no answers.
    (cut,) = [it for it in proof.events if it.text == EVENTS["link"][0].text]
    assert max(proof.stalls_s(cut)) > CUT_S / 2
    assert proof.spread == {"dialogue": 2, "recommendation": 1}
