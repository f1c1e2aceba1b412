"""Proof: a third kind of teacher, from a plugin, is served and distilled from on two ranks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cluster.bench.fleet.fleet import Served, running_fleet
from tests.support import toy_teacher
from tests.support.served_teachers import FittedTeachers
from tests.support.student_runs import ROOT, loss_curve, run_student
from trainer.data.prepared import load_prepared
from trainer.targets.__main__ import main as targets

# tests/unit/trainer/kinds/test_toy_kind.py proves the same in one process, in every tier.
pytestmark = pytest.mark.everything

PLUGIN = "tests.support.toy_teacher"
STEPS = 5


def test_student_on_two_ranks_learns_from_three_kinds(
    teachers: FittedTeachers,
    prepared_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Replicas and ranks find the plugin as they would a user's.
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    data = load_prepared(prepared_dir)
    folders = {
        "dialogue": teachers.dialogue,
        "recommendation": teachers.recommendation,
        toy_teacher.KIND: tmp_path / "bigram",
    }
    toy_teacher.fit_bigrams(folders[toy_teacher.KIND], data.vocabulary, data.examples("train"))
    output, cache = tmp_path / "run", tmp_path / "cache"
    learnt = (f"plugins=[{PLUGIN}]", "distill.shares.bigram=0.25", f"train.steps={STEPS}")
    with running_fleet(Served(folders=folders, plugins=(PLUGIN,)), tmp_path / "fleet") as fleet:
        settings = (*fleet.settings, f"teachers.cache={cache}", *learnt)
        result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    assert len(loss_curve(output)) == STEPS
    origin = json.loads((output / "origin.json").read_text())
    assert list(origin["teachers"]) == list(folders)
    targets(["stats", str(cache), "--json"])
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert {group["kind"] for group in groups} == set(folders)
    assert all(group["targets"] > 0 for group in groups)
