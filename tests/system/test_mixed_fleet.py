"""A run of two ranks on a fleet that has two teachers of one kind."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.bench.fleet.fleet import Fleet, Served, running_fleet
from cluster.bench.fleet.replica import ready_file
from tests.support.served_teachers import FittedTeachers
from tests.support.student_runs import SERVED, environment, error_lines, run_student

OTHER = "other"


def warmer_copy(folder: Path, copy: Path) -> Path:
    """The same weights at another temperature: another teacher."""
    shutil.copytree(folder, copy)
    card = json.loads((copy / "teacher.json").read_text())
    (copy / "teacher.json").write_text(json.dumps({**card, "temperature": 2.0}))
    return copy


@contextmanager
def beside(fleet: Fleet, folder: Path) -> Iterator[None]:
    """One more dialogue replica in a fleet, of the teacher in `folder`."""
    run = fleet.socket.parent
    options = ("--kind", "dialogue", "--folder", str(folder), "--id", OTHER)
    argv = [sys.executable, "-m", "cluster.bench.fleet.replica", *options]
    argv += ["--host", "127.0.0.1", "--run", str(run)]
    with subprocess.Popen(argv, env=environment()) as replica:
        try:
            deadline = time.monotonic() + 120
            while not ready_file(run, OTHER).exists():
                assert replica.poll() is None, "the replica ended"
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            replica.kill()


def trained(data: Path, output: Path, *settings: str) -> str:
    """Train on, or anew; the dialogue teacher that the run learnt from."""
    result = run_student(data, output, *SERVED, *settings)
    assert result.returncode == 0, result.stderr
    end = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    # Once on each rank.
    assert end["teacher_quarantined"] == result.stderr.count("is put aside")
    return json.loads((output / "origin.json").read_text())["teachers"]["dialogue"]


@pytest.mark.everything
def test_ranks_take_one_of_two_teachers_and_go_on_with_it(
    teachers: FittedTeachers, prepared_dir: Path, tmp_path: Path
) -> None:
    other, output = warmer_copy(teachers.dialogue, tmp_path / "warmer"), tmp_path / "run"
    folders = {"dialogue": teachers.dialogue, "recommendation": teachers.recommendation}
    with running_fleet(Served(folders=folders), tmp_path / "fleet") as fleet:
        there = f"teachers.directory={fleet.directory}"
        first = trained(prepared_dir, output, there, "train.steps=4")
        assert first.endswith("at temperature 1")
        with beside(fleet, other):
            # Ranks that took one each would be refused.
            trained(prepared_dir, tmp_path / "fresh", there, "train.steps=4")
            assert trained(prepared_dir, output, there, "train.steps=6") == first
            asyncio.run(fleet.kill(fleet.replicas("dialogue")[0]))
            result = run_student(prepared_dir, output, *SERVED, there, "train.steps=8")
    (line,) = error_lines(result)
    assert f"must have the weights {first}, got" in line
