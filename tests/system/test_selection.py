"""Selection of the best checkpoint in real runs of two ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.student_runs import run_student, step_lines
from trainer.data.prepared import load_prepared
from trainer.evaluation.likelihood import gold_nlls
from trainer.evaluation.loaded_model import load_model


@pytest.mark.everything
def test_run_that_overfits_exports_its_best_checkpoint_and_ends_early(
    prepared_dir: Path, tmp_path: Path
) -> None:
    # At this rate the loss soon goes up and down.
    rate = ("optimiser.learning_rate=0.3", "optimiser.schedule=constant")
    settings = ("distill.gamma=0", "action_tokens=false", *rate)
    choice = ("train.select=best", "train.patience=2", "train.checkpoint_every=4", "train.steps=60")
    output = tmp_path / "run"
    result = run_student(prepared_dir, output, *settings, *choice, "zero_stage=3")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    valid = {line["step"]: line["nll"] for line in lines if line.get("event") == "valid"}
    best = min(valid, key=lambda step: valid[step])
    assert max(valid) == best + 8 < 60
    assert [f.name for f in (output / "best").iterdir()] == [f"step-{best:08d}"]
    # What was exported has the loss that was measured under ZeRO-3 on two ranks.
    data = load_prepared(prepared_dir)
    examples = data.examples("valid")
    nll = sum(gold_nlls(load_model(output), examples))
    tokens = sum(len(example.response_ids) for example in examples)
    assert nll / tokens == pytest.approx(valid[best], rel=1e-4)
    card = json.loads((output / "model" / "student.json").read_text())
    assert card["steps"] == best
    # The run is over: the same command takes no further step and exports the same.
    again = run_student(prepared_dir, output, *settings, *choice, "zero_stage=3")
    assert again.returncode == 0, again.stderr
    assert len(step_lines(output)) == best + 8
