"""fp16 under the real launcher: its loss scale skips steps, and a row without end is an error."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from deepspeed.accelerator import get_accelerator

from tests.support.student_runs import (
    error_lines,
    loss_curve,
    run_student,
    run_to_end,
    step_lines,
    student_command,
)

pytestmark = pytest.mark.everything

FP16 = ("distill.gamma=0", "train.precision=fp16")


def run_fp16(
    data: Path, output: Path, *overrides: str, ranks: int = 2
) -> subprocess.CompletedProcess[str]:
    argv = student_command(data, output, *FP16, *overrides, ranks=ranks)
    argv[argv.index("trainer/main.py")] = "tests/support/fp16_student.py"
    return run_to_end(argv)


def scale_file(folder: Path, stage: int, **scale: int) -> str:
    path = folder / "deepspeed.json"
    path.write_text(json.dumps({"fp16": scale, "zero_optimization": {"stage": stage}}))
    return f"deepspeed={path}"


@pytest.mark.parametrize(("stage", "ranks"), [(1, 1), (3, 2)])
def test_steps_that_overflow_are_skipped_until_the_scale_fits(
    stage: int, ranks: int, prepared_dir: Path, tmp_path: Path
) -> None:
    file = scale_file(tmp_path, stage, initial_scale_power=28, hysteresis=1)
    settings = (file, f"zero_stage={stage}", "train.steps=24")
    output = tmp_path / "run"
    result = run_fp16(prepared_dir, output, *settings, ranks=ranks)
    assert result.returncode == 0, result.stderr
    steps = step_lines(output)
    skipped = [each["skipped_steps"] for each in steps]
    num_skipped = sum(skipped)
    assert 0 < num_skipped < 16
    assert skipped[0] == 1
    assert not any(skipped[-6:])
    # Every skip halves the scale, and nothing else changes it in so few steps.
    scales = [each["loss_scale"] for each in steps]
    assert scales == [2.0 ** (28 - sum(skipped[: step + 1])) for step in range(24)]
    assert min(loss_curve(output)[-3:]) < 0.99 * loss_curve(output)[0]
    lines = (output / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["skipped_steps"] == num_skipped
    assert "step 1 skipped, loss scale now" in result.stderr


def test_overflow_at_the_smallest_scale_is_one_error_line(
    prepared_dir: Path, tmp_path: Path
) -> None:
    file = scale_file(tmp_path, 1, initial_scale_power=25, hysteresis=1, min_loss_scale=1 << 24)
    result = run_fp16(prepared_dir, tmp_path / "run", file, "zero_stage=1", "train.steps=8")
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "got 1 skipped steps in a row down to a scale of 1.67772e+07" in line


def test_fp16_is_refused_on_a_cpu_without_it(prepared_dir: Path, tmp_path: Path) -> None:
    accelerator = get_accelerator()
    assert accelerator is not None
    if accelerator.is_fp16_supported():
        pytest.skip("this device computes in fp16")
    result = run_student(prepared_dir, tmp_path / "run", *FP16, ranks=1)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "train.precision must be float32 or bf16 on this cpu" in line
