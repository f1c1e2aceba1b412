"""A student is trained on a corpus that only a plugin knows."""

from __future__ import annotations

import math
from pathlib import Path

from tests.support.served_teachers import command
from tests.support.student_runs import loss_curve, run_student
from tests.support.toy_corpus import write_toy_corpus

STEPS = 6


def test_student_trains_on_the_corpus_of_a_plugin(tmp_path: Path) -> None:
    raw, data, output = tmp_path / "raw", tmp_path / "prepared", tmp_path / "run"
    write_toy_corpus(raw)
    source = ("--source", "toy", "--plugin", "tests.support.toy_corpus", "--input", str(raw))
    command("trainer.data", "prepare", *source, "--output", str(data))
    settings = ("distill.gamma=0", "train.batch_size=8", f"train.steps={STEPS}")
    result = run_student(data, output, *settings, "optimiser.warmup_steps=1")
    assert result.returncode == 0, result.stderr
    losses = loss_curve(output)
    assert len(losses) == STEPS and all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
