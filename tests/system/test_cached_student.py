"""Whole runs with a cache of targets: what is in it needs no teacher, and teaches the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.served_teachers import Service
from tests.support.student_runs import (
    EXACT,
    SERVED,
    SERVED_STEPS,
    error_lines,
    loss_curve,
    run_student,
    step_lines,
)
from trainer.targets.__main__ import main as targets

STEPS = 12
WIRE = ("distill.gamma=0.6", "distill.eta=0.1", "distill.values=uint8")
NOWHERE = ("teachers.directory=127.0.0.1:1", "teachers.connect_s=1", "teachers.patience_s=2")


def end_of(output: Path) -> dict[str, Any]:
    end = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    assert end["event"] == "end"
    return end


def run(data: Path, output: Path, cache: Path, *overrides: str) -> list[float]:
    settings = (f"teachers.cache={cache}", f"train.steps={STEPS}")
    result = run_student(data, output, *WIRE, *settings, *overrides)
    assert result.returncode == 0, result.stderr
    return loss_curve(output)


def check_needed_no_teacher(output: Path, steps: int = STEPS) -> None:
    end = end_of(output)
    assert (end["teacher_requests"], end["cache_misses"]) == (0, 0)
    check_every_row_is_accounted_for(output, steps)
    assert end["cache_read_bytes"] > 0
    assert end["cache_written_bytes"] == end["cache_broken"] == end["cache_unwritten"] == 0
    assert end["wire_bytes_per_position"] is None


def check_every_row_is_accounted_for(output: Path, steps: int) -> None:
    """Two kinds, 32 examples a step: a target is looked up, or the gate gives it no weight."""
    end = end_of(output)
    spared = sum(entry["spared_rows"] for entry in step_lines(output))
    assert end["cache_hits"] + end["cache_misses"] + spared == 2 * 32 * steps


def test_targets_built_exported_and_imported_teach_any_seed_what_the_fleet_does(
    service: Service, served_run: Path, prepared_dir: Path, tmp_path: Path
) -> None:
    built, elsewhere = str(tmp_path / "built"), str(tmp_path / "elsewhere")
    config = ("--config", "trainer/configs/synthetic.yaml", "--output", built)
    overrides = (f"data={prepared_dir}", f"teachers.directory={service.directory}", *EXACT)
    # The second time there is nothing left to ask.
    for _ in range(2):
        targets(["build", *config, *overrides])
    targets(["verify", built])
    targets(["export", built, str(tmp_path / "file")])
    targets(["import", str(tmp_path / "file"), elsewhere])
    targets(["stats", elsewhere])
    # Built with seed 0.
    settings = (f"teachers.cache={elsewhere}", *SERVED, *NOWHERE)
    result = run_student(prepared_dir, tmp_path / "run", *settings)
    assert result.returncode == 0, result.stderr
    assert loss_curve(tmp_path / "run") == pytest.approx(loss_curve(served_run), rel=1e-5)
    check_needed_no_teacher(tmp_path / "run", SERVED_STEPS)


@pytest.mark.everything
def test_second_run_needs_no_teacher_and_has_the_same_losses(
    service: Service, prepared_dir: Path, tmp_path: Path
) -> None:
    cache, there = tmp_path / "cache", f"teachers.directory={service.directory}"
    first = run(prepared_dir, tmp_path / "first", cache, there)
    second = run(prepared_dir, tmp_path / "second", cache, *NOWHERE)
    assert len(first) == STEPS
    # Bit for bit: JSON has all digits of a float.
    assert first == second
    end = end_of(tmp_path / "first")
    assert end["teacher_requests"] > 0
    check_every_row_is_accounted_for(tmp_path / "first", STEPS)
    check_needed_no_teacher(tmp_path / "second")
    # What is not there needs a teacher, and none comes.
    settings = (f"teachers.cache={cache}", f"train.steps={STEPS}", *NOWHERE, "seed=1")
    result = run_student(prepared_dir, tmp_path / "other", *WIRE, *settings)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "teacher answered for 2 s" in line
