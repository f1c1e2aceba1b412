"""The student under the real DeepSpeed launcher, without teachers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.student_runs import (
    PLAIN,
    PLAIN_STEPS,
    error_lines,
    loss_curve,
    run_student,
    step_lines,
)
from trainer.checkpoints.files import WholeCheckpoint, newest_whole
from trainer.data.prepared import load_prepared
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.evaluate import EvaluateConfig, evaluate_model

PlainRun = Callable[[int], Path]


def test_exported_student_loads_with_transformers(plain_run: PlainRun) -> None:
    folder = plain_run(1) / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = Vocabulary.load(folder)
    assert len(tokenizer) == vocabulary.size
    assert tokenizer.decode([vocabulary.item_token(0)]) == vocabulary.titles[0]
    assert "Licence" in (folder / "README.md").read_text()
    logits = model(torch.tensor([[1, 2, vocabulary.rec_id]])).logits
    assert logits.shape == (1, 3, vocabulary.size)
    card = json.loads((folder / "student.json").read_text())
    assert card["vocabulary_digest"] == vocabulary.digest
    assert card["action_tokens"] is True


def test_exported_student_is_evaluated(plain_run: PlainRun, prepared_dir: Path) -> None:
    data = load_prepared(prepared_dir)
    config = EvaluateConfig(split="test", classifier="oracle", limit=6)
    perplexity = evaluate_model(plain_run(1), data, config).to_dict()["perplexity"]
    assert math.log(perplexity) < loss_curve(plain_run(1))[0]


def test_run_directory_holds_config_metrics_events_and_checkpoint(plain_run: PlainRun) -> None:
    output = plain_run(1)
    names = {path.name for path in output.iterdir()}
    assert names == {
        "config.yaml",
        "origin.json",
        "metrics.jsonl",
        "events",
        "checkpoints",
        "model",
    }
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "start"
    assert lines[-1]["event"] == "end"
    assert lines[-1]["steps"] == PLAIN_STEPS
    assert lines[-1]["teacher_requests"] == 0
    kept = sorted(path.name for path in (output / "checkpoints").glob("*-*"))
    assert kept == ["step-00000040", "step-00000060"]


def test_mistake_in_the_settings_is_one_line_of_a_whole_node(
    prepared_dir: Path, tmp_path: Path
) -> None:
    # tests/unit/trainer/test_checked_input.py has the mistakes themselves.
    result = run_student(prepared_dir, tmp_path / "run", "distil.gamma=0")
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "unknown key distil. Did you mean distill?" in line


@pytest.mark.everything
def test_student_without_teacher_server_says_how_to_start_one(
    prepared_dir: Path, tmp_path: Path
) -> None:
    settings = ("teachers.directory=127.0.0.1:1", "teachers.connect_s=2")
    result = run_student(prepared_dir, tmp_path / "run", *settings, ranks=1)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "no Directory answers at 127.0.0.1:1" in line
    assert "python -m teacher_server up" in line


@pytest.mark.everything
def test_student_whose_loss_is_not_finite_stops_with_one_error_line(
    prepared_dir: Path, tmp_path: Path
) -> None:
    settings = ("distill.gamma=0", "train.steps=8", "optimiser.learning_rate=1e30")
    result = run_student(prepared_dir, tmp_path / "run", *settings)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "the loss must be finite, got nan at step" in line


@pytest.mark.everything
def test_student_with_fewer_steps_than_its_checkpoint_is_refused(
    prepared_dir: Path, plain_run: PlainRun, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(plain_run(1), output)
    result = run_student(prepared_dir, output, *PLAIN, "zero_stage=1", "train.steps=15")
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert f"train.steps must be at least {PLAIN_STEPS}" in line


@pytest.mark.everything
def test_student_that_starts_over_forgets_the_checkpoints_of_the_run_before(
    prepared_dir: Path, plain_run: PlainRun, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(plain_run(1), output)
    settings = ("distill.gamma=0", "train.steps=2", "train.resume=false", "seed=1")
    result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    assert [entry["step"] for entry in step_lines(output)] == [1, 2]
    assert newest_whole(output / "checkpoints") == WholeCheckpoint(step=2, ranks=2)
    assert [path.name for path in (output / "checkpoints").glob("*-*")] == ["step-00000002"]
