"""The memory plan against what DeepSpeed holds after a step."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from tests.support.student_runs import ROOT, environment, launcher
from trainer.data.prepared import load_prepared
from trainer.plan.memory import (
    GPU_OVERHEAD,
    Setting,
    held,
    read_buckets,
)
from trainer.plan.shape import student_size
from trainer.plan.stages import CONFIGS


@pytest.mark.everything
def test_what_deepspeed_holds_after_a_step_is_what_the_plan_says(
    prepared_dir: Path, tmp_path: Path
) -> None:
    shape = ("student.num_layers=2", "student.hidden_size=256", "student.num_heads=2")
    run = (f"data={prepared_dir}", f"output={tmp_path}", "train.steps=2", "train.batch_size=4")
    config = ("--config", "trainer/configs/synthetic.yaml", "distill.gamma=0")
    command = [*launcher(2), "tests/support/plan_probe.py", *config, *run, *shape]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    student = GPT2Config(
        vocab_size=load_prepared(prepared_dir).vocabulary.size,
        n_positions=320,
        n_embd=256,
        n_layer=2,
        n_head=2,
    )
    size = student_size(student, length=8, dtype=torch.float32)
    settings = (Setting(ranks=2), Setting(ranks=2, precision="bf16"))
    for setting in settings:
        precision = setting.precision
        for stage in range(4):
            parts, _ = held(stage, size, setting, read_buckets(CONFIGS / f"zero{stage}.json"))
            wanted = sum(parts.values()) - GPU_OVERHEAD
            assert found[f"{precision} {stage}"] == pytest.approx(wanted, rel=0.05), (
                precision,
                stage,
            )
