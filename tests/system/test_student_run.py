"""The student under the real DeepSpeed launcher, without teachers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.student_runs import (
    error_lines,
    loss_curve,
    run_student,
    started,
    step_lines,
    student_command,
)
from tests.support.tiny_teachers import tiny_vocabulary, write_recommendation_teacher
from trainer.checkpoints.files import WholeCheckpoint, newest_whole
from trainer.data.vocabulary import Vocabulary

# Enough to be killed among them: some 4 s.
STEPS = 100
EVERY = "train.checkpoint_every=20"


@pytest.fixture(scope="module")
def stage_1_run(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("stage1") / "run"
    settings = ("distill.gamma=0", "zero_stage=1", f"train.steps={STEPS}")
    result = run_student(prepared_dir, output, *settings, EVERY)
    assert result.returncode == 0, result.stderr
    return output


def test_student_killed_in_the_middle_resumes_exactly(
    prepared_dir: Path, stage_1_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    settings = ("distill.gamma=0", f"train.steps={STEPS}", EVERY)
    command = student_command(prepared_dir, output, *settings)
    with started(command, tmp_path / "log") as victim:
        wait_for_checkpoint(output, victim)
        kill_one_rank(victim)
        assert victim.wait(timeout=60) != 0
    left = newest_whole(output / "checkpoints")
    assert left is not None and left.step < STEPS
    result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    assert loss_curve(output) == pytest.approx(loss_curve(stage_1_run), rel=1e-6)
    assert [entry["step"] for entry in step_lines(output)] == list(range(1, STEPS + 1))


def wait_for_checkpoint(output: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while newest_whole(output / "checkpoints") is None:
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_one_rank(launcher: subprocess.Popen[bytes]) -> None:
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    rank = next(
        p
        for p in ranks
        if any("trainer/main.py" in part for part in p.cmdline())
        and ("--local_rank=1" in p.cmdline())
    )
    rank.send_signal(signal.SIGKILL)


def test_exported_student_loads_with_transformers(stage_1_run: Path) -> None:
    folder = stage_1_run / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    vocabulary = Vocabulary.load(folder)
    logits = model(torch.tensor([[1, 2, vocabulary.rec_id]])).logits
    assert logits.shape == (1, 3, vocabulary.size)
    card = json.loads((folder / "student.json").read_text())
    assert card["vocabulary_digest"] == vocabulary.digest
    assert card["action_tokens"] is True


def test_run_directory_holds_config_metrics_events_and_checkpoint(stage_1_run: Path) -> None:
    names = {path.name for path in stage_1_run.iterdir()}
    assert names == {
        "config.yaml",
        "origin.json",
        "metrics.jsonl",
        "events",
        "checkpoints",
        "model",
    }
    lines = [json.loads(x) for x in (stage_1_run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "start"
    assert lines[-1]["event"] == "end"
    assert lines[-1]["steps"] == STEPS
    assert lines[-1]["teacher_requests"] == 0
    kept = sorted(path.name for path in (stage_1_run / "checkpoints").glob("*-*"))
    assert kept == ["step-00000080", "step-00000100"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distil.gamma=0", "unknown key distil. Did you mean distill?"),
        ("data=nowhere", "nowhere"),
        ("classifier=nowhere", "must be a frozen classifier model"),
        ("item_vectors=nowhere", "must be a frozen recommendation model"),
    ],
)
def test_student_mistake_in_the_settings_is_one_line(
    override: str, message: str, prepared_dir: Path, tmp_path: Path
) -> None:
    result = run_student(prepared_dir, tmp_path / "run", override)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert message in line


def test_student_with_item_vectors_of_another_vocabulary_is_refused(
    prepared_dir: Path, tmp_path: Path
) -> None:
    write_recommendation_teacher(tmp_path / "teacher", tiny_vocabulary())
    settings = ("distill.gamma=0", f"item_vectors={tmp_path / 'teacher'}")
    result = run_student(prepared_dir, tmp_path / "run", *settings)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "must have the data's vocabulary" in line


def test_student_without_teacher_server_says_how_to_start_one(
    prepared_dir: Path, tmp_path: Path
) -> None:
    settings = ("teachers.directory=127.0.0.1:1", "teachers.connect_s=2")
    result = run_student(prepared_dir, tmp_path / "run", *settings, ranks=1)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "no Directory answers at 127.0.0.1:1" in line
    assert "python -m teacher_server up" in line


def test_student_whose_loss_is_not_finite_stops_with_one_error_line(
    prepared_dir: Path, tmp_path: Path
) -> None:
    settings = ("distill.gamma=0", "train.steps=8", "optimiser.learning_rate=1e30")
    result = run_student(prepared_dir, tmp_path / "run", *settings)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "the loss must be finite, got nan at step" in line


def test_student_with_fewer_steps_than_its_checkpoint_is_refused(
    prepared_dir: Path, stage_1_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(stage_1_run, output)
    settings = ("distill.gamma=0", "zero_stage=1", EVERY)
    result = run_student(prepared_dir, output, *settings, "train.steps=15")
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert f"train.steps must be at least {STEPS}" in line


def test_student_too_short_for_the_data_is_told_once(prepared_dir: Path, tmp_path: Path) -> None:
    settings = ("distill.gamma=0", "student.max_positions=8")
    result = run_student(prepared_dir, tmp_path / "run", *settings)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "student.max_positions must be at least" in line


def test_student_that_starts_over_forgets_the_checkpoints_of_the_run_before(
    prepared_dir: Path, stage_1_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(stage_1_run, output)
    settings = ("distill.gamma=0", "train.steps=2", "train.resume=false", "seed=1")
    result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    assert [entry["step"] for entry in step_lines(output)] == [1, 2]
    assert newest_whole(output / "checkpoints") == WholeCheckpoint(step=2, ranks=2)
    assert [path.name for path in (output / "checkpoints").glob("*-*")] == ["step-00000002"]
