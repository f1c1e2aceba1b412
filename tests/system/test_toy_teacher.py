"""Proof: a third kind of teacher, from a plugin, is served and distilled from on two ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.bench.fleet.fleet import Fleet, Served, running_fleet
from tests.support import toy_teacher
from tests.support.served_teachers import FittedTeachers, command
from tests.support.student_runs import ROOT, loss_curve, run_student
from trainer.data.prepared import load_prepared

pytestmark = pytest.mark.everything

PLUGIN = "tests.support.toy_teacher"
STEPS = 5


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """Replicas and ranks find the plugin as a user's would be found: on PYTHONPATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def fleet(
    teachers: FittedTeachers, prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("toy")
    data = load_prepared(prepared_dir)
    folders = {
        "dialogue": teachers.dialogue,
        "recommendation": teachers.recommendation,
        toy_teacher.KIND: root / "bigram",
    }
    toy_teacher.fit_bigrams(folders[toy_teacher.KIND], data.vocabulary, data.examples("train"))
    with running_fleet(Served(folders=folders, plugins=(PLUGIN,)), root / "run") as fleet:
        yield fleet


def test_student_on_two_ranks_learns_from_three_kinds(
    fleet: Fleet, prepared_dir: Path, tmp_path: Path
) -> None:
    settings = (*fleet.settings, f"train.steps={STEPS}", f"plugins=[{PLUGIN}]")
    curves = []
    # Targets are built once, so that the shares alone tell the runs apart.
    cache = ("--output", str(tmp_path / "cache"), "distill.shares.bigram=0.25")
    build = ("trainer.targets", "build", "--config", "trainer/configs/synthetic.yaml")
    command(*build, *cache, f"data={prepared_dir}", f"output={tmp_path}", *settings)
    for name, share in (("quarter", 0.25), ("half", 0.5)):
        shares = (f"teachers.cache={tmp_path / 'cache'}", f"distill.shares.bigram={share}")
        result = run_student(prepared_dir, tmp_path / name, *settings, *shares)
        assert result.returncode == 0, result.stderr
        curves.append(loss_curve(tmp_path / name))
        origin = json.loads((tmp_path / name / "origin.json").read_text())
        assert list(origin["teachers"]) == ["dialogue", "recommendation", "bigram"]
    quarter, half = curves
    assert len(quarter) == len(half) == STEPS
    assert all(abs(a - b) > 1e-3 for a, b in zip(quarter, half, strict=True))
