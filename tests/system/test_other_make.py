"""Proof: a teacher without Ray and torch passes the checks, joins, and a student learns from it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.bench.fleet.fleet import Served, running_fleet
from teacher_server.fleet.directory_server import fetch_fleet
from tests.support.served_teachers import FittedTeachers, command
from tests.support.student_runs import ROOT, environment, loss_curve, run_student
from trainer.targets.__main__ import main as targets

# tests/unit/protos/conformance proves the same of a server in one process, in every tier.
pytestmark = pytest.mark.everything

MODULE = "tests.support.other_make"
STEPS = 5
# Says what was loaded, then starts the module as `python -m` does.
LOADED = f"""
import runpy, sys
import {MODULE}
assert not {{"ray", "torch"}} & set(sys.modules), sorted(sys.modules)
runpy.run_module("{MODULE}", run_name="__main__", alter_sys=True)
"""


@contextlib.contextmanager
def joined(data: Path, directory: str) -> Iterator[str]:
    """The teacher in a process of its own; its address."""
    argv = [sys.executable, "-c", LOADED, "--data", str(data), "--directory", directory]
    with subprocess.Popen(
        argv, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as teacher:
        try:
            assert teacher.stdout is not None
            address = teacher.stdout.readline().strip()
            assert address, "the teacher must join and print its address"
            yield address
        finally:
            teacher.send_signal(signal.SIGTERM)
    assert teacher.returncode == 0


def test_student_on_two_ranks_learns_from_a_teacher_of_another_make(
    teachers: FittedTeachers,
    prepared_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, cache = tmp_path / "run", tmp_path / "cache"
    served = Served(folders={"recommendation": teachers.recommendation})
    with running_fleet(served, tmp_path / "fleet") as fleet:
        (ours,) = fleet.replicas("recommendation")
        with joined(prepared_dir, fleet.directory) as address:
            for each in (address, fleet.address_of(ours)):
                command("protos.conformance", each)
            settings = (*fleet.settings, f"teachers.cache={cache}", f"train.steps={STEPS}")
            result = run_student(prepared_dir, output, *settings)
            assert len(fetch_fleet(fleet.directory, 5.0)) == 2
        # It gave its lease up.
        assert [it.kind for it in fetch_fleet(fleet.directory, 5.0)] == ["recommendation"]
    assert result.returncode == 0, result.stderr
    assert len(loss_curve(output)) == STEPS
    targets(["stats", str(cache), "--json"])
    groups = {it["kind"]: it for it in json.loads(capsys.readouterr().out)["groups"]}
    assert set(groups) == {"dialogue", "recommendation"}
    assert all(group["targets"] > 0 for group in groups.values())
    assert "bigrams-of-seed-0" in (output / "origin.json").read_text()
