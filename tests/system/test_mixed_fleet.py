"""A run of two ranks on a fleet that has two teachers of a kind: from one of them, or from both."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cluster.bench.fleet.fleet import Fleet, Served, running_fleet
from cluster.bench.fleet.replica import ready_file
from tests.support.served_teachers import FittedTeachers
from tests.support.student_runs import (
    SERVED,
    environment,
    error_lines,
    loss_curve,
    run_student,
    run_to_end,
    student_command,
)
from trainer.models.frozen import WEIGHTS_NAME, read_card, write_card

WEIGHT = 0.7
MIXTURE_STUDENT = "tests/support/mixture_student.py"


def warmer_copy(folder: Path, copy: Path) -> Path:
    """The same weights at another temperature: another teacher."""
    shutil.copytree(folder, copy)
    card = json.loads((copy / "teacher.json").read_text())
    (copy / "teacher.json").write_text(json.dumps({**card, "temperature": 2.0}))
    return copy


def other_weights(folder: Path, copy: Path) -> Path:
    """A teacher whose weights are a tenth larger."""
    shutil.copytree(folder, copy)
    tensors = load_file(folder / WEIGHTS_NAME)
    larger = {name: it * 1.1 if it.is_floating_point() else it for name, it in tensors.items()}
    save_file(larger, copy / WEIGHTS_NAME, metadata={"format": "pt"})
    write_card(copy, read_card(copy, copy.name, check_weights=False))
    return copy


@contextmanager
def beside(fleet: Fleet, folder: Path, kind: str = "dialogue") -> Iterator[None]:
    """One more replica of a kind in a fleet, of the teacher in `folder`."""
    run, name = fleet.socket.parent, f"other-{kind}"
    options = ("--kind", kind, "--folder", str(folder), "--id", name)
    argv = [sys.executable, "-m", "cluster.bench.fleet.replica", *options]
    argv += ["--host", "127.0.0.1", "--run", str(run)]
    with subprocess.Popen(argv, env=environment()) as replica:
        try:
            deadline = time.monotonic() + 120
            while not ready_file(run, name).exists():
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


def named(name: str, folder: Path, weight: float) -> str:
    """The setting that names the teacher in a folder, by its weights or by the folder."""
    kind = json.loads((folder / "teacher.json").read_text())["kind"]
    digest = read_card(folder, kind, check_weights=False).weights_digest
    which = f"weights_digest: '{digest[:12]}'" if weight == WEIGHT else f"folder: {folder}"
    return f"distill.teachers.{name}={{kind: {kind}, weight: {weight}, {which}}}"


@pytest.mark.everything
def test_ranks_learn_from_two_teachers_of_each_kind_as_from_their_dense_mixture(
    teachers: FittedTeachers, prepared_dir: Path, tmp_path: Path
) -> None:
    first = {"dialogue": teachers.dialogue, "recommendation": teachers.recommendation}
    second = {kind: other_weights(folder, tmp_path / kind) for kind, folder in first.items()}
    rest = round(1.0 - WEIGHT, 3)
    settings = (
        *(named(f"first-{kind}", folder, WEIGHT) for kind, folder in first.items()),
        *(named(f"second-{kind}", folder, rest) for kind, folder in second.items()),
    )
    steps = (*SERVED, "train.steps=8")
    with running_fleet(Served(folders=first), tmp_path / "fleet") as fleet, ExitStack() as others:
        for kind, folder in second.items():
            others.enter_context(beside(fleet, folder, kind))
        there = f"teachers.directory={fleet.directory}"
        result = run_student(prepared_dir, tmp_path / "served", *steps, there, *settings)
    assert result.returncode == 0, result.stderr
    argv = student_command(prepared_dir, tmp_path / "dense", *steps)
    script = argv.index("trainer/main.py")
    folders = [*("--first", *map(str, first.values())), *("--second", *map(str, second.values()))]
    argv[script : script + 1] = [MIXTURE_STUDENT, *folders, "--weight", str(WEIGHT)]
    result = run_to_end(argv)
    assert result.returncode == 0, result.stderr
    served, dense = (loss_curve(tmp_path / name) for name in ("served", "dense"))
    assert len(served) == 8
    assert served == pytest.approx(dense, rel=1e-5)
    origin = json.loads((tmp_path / "served" / "origin.json").read_text())["teachers"]
    assert sorted(origin) == sorted(f"{it}-{kind}" for it in ("first", "second") for kind in first)
    assert len(set(origin.values())) == 4
