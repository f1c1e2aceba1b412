"""Runs that go on: at every ZeRO stage, on other numbers of ranks, after a torn or failed write."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.student_runs import (
    error_lines,
    loss_curve,
    run_student,
    started,
    step_lines,
    student_command,
)
from trainer.checkpoints.files import WholeCheckpoint, newest_whole

STEPS = 12
SETTINGS = ("distill.gamma=0", "train.checkpoint_every=6")


@pytest.mark.parametrize(("stage", "other_ranks"), [(0, 1), (1, 4), (2, 1), (3, 4), (3, 1)])
def test_run_goes_on_from_the_checkpoint_before_a_damaged_one_on_any_number_of_ranks(
    stage: int, other_ranks: int, prepared_dir: Path, tmp_path: Path
) -> None:
    output, settings = tmp_path / "run", (*SETTINGS, f"zero_stage={stage}", f"train.steps={STEPS}")
    result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    undisturbed = loss_curve(output)
    # What a crash of the machine may leave: a file that was named and is short.
    damaged = next((output / "checkpoints" / "step-00000012").glob("*rank*.pt"))
    os.truncate(damaged, damaged.stat().st_size // 2)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(output, elsewhere)

    result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    assert f"{damaged.name} must have" in result.stderr
    assert [entry["step"] for entry in step_lines(output)] == list(range(1, STEPS + 1))
    assert loss_curve(output) == pytest.approx(undisturbed, rel=1e-6)

    result = run_student(prepared_dir, elsewhere, *settings, ranks=other_ranks)
    assert result.returncode == 0, result.stderr
    assert loss_curve(elsewhere) == pytest.approx(undisturbed, rel=1e-4)
    newest = newest_whole(elsewhere / "checkpoints")
    assert newest == WholeCheckpoint(step=STEPS, ranks=other_ranks)


# The first run that offloads compiles DeepSpeed's optimiser for the CPU.
COMPILE_S = 480


@pytest.mark.timeout(2 * COMPILE_S)
@pytest.mark.parametrize("offload", ["none", "all"])
def test_adam_counts_every_step_once_on_another_number_of_ranks(
    offload: str, prepared_dir: Path, tmp_path: Path
) -> None:
    # Parts so small that a rank has several of them, as a large student has with the usual ones.
    # With "all" DeepSpeedCPUAdam keeps each count as a number of its own: only the way is tried.
    zero: dict[str, object] = {"stage": 3, "sub_group_size": 2000}
    if offload == "all":
        zero |= {name: {"device": "cpu"} for name in ("offload_optimizer", "offload_param")}
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": zero}))
    output, settings = tmp_path / "run", (*SETTINGS, "zero_stage=3", f"deepspeed={file}")
    for ranks, steps in ((2, 6), (1, STEPS)):
        more = (*settings, f"train.steps={steps}")
        result = run_student(prepared_dir, output, *more, ranks=ranks, timeout_s=COMPILE_S)
        assert result.returncode == 0, result.stderr
    path = next((output / "checkpoints" / "step-00000012").glob("*rank_0*optim_states.pt"))
    saved = torch.load(path, map_location="cpu", weights_only=False)["optimizer_state_dict"]
    states = saved["optimizer_state_dict"]["state"].values()
    assert len(states) > 2
    assert {float(state["step"]) for state in states} == {STEPS}
    # What DeepSpeed would copy beside the checkpoints is not there.
    names = {path.name for path in (output / "checkpoints").iterdir()}
    assert names == {"step-00000006", "step-00000012", "latest_universal"}


def longer_run(data: Path, output: Path) -> list[str]:
    """Its first checkpoint, at step 200, is seconds away."""
    settings = ("distill.gamma=0", "train.checkpoint_every=200", "train.steps=400")
    return student_command(data, output, *settings)


def wait_for(condition: Callable[[], bool], run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert run.poll() is None, "the run ended"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_full_disk_at_a_checkpoint_is_one_error_and_leaves_the_last_good_one(
    prepared_dir: Path, tmp_path: Path
) -> None:
    output, settings = tmp_path / "run", (*SETTINGS, "train.steps=6")
    result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    torn = output / "checkpoints" / "step-00000200"
    with started(longer_run(prepared_dir, output), tmp_path / "log") as run:
        wait_for(lambda: len(step_lines(output)) > 6, run)
        # The kernel's own full disk, for one rank of two: every write to it fails with ENOSPC.
        torn.mkdir()
        (torn / "zero_pp_rank_1_mp_rank_00_optim_states.pt").symlink_to("/dev/full")
        assert run.wait(timeout=120) != 0
    log = (tmp_path / "log").read_text()
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert "the checkpoint of step 200 must be written to" in line
    assert "it goes on from step 6" in line
    assert not torn.exists()
    assert newest_whole(output / "checkpoints") == WholeCheckpoint(step=6, ranks=2)


def test_rank_killed_in_the_middle_of_a_write_leaves_the_checkpoint_before(
    prepared_dir: Path, tmp_path: Path
) -> None:
    output, settings = tmp_path / "run", (*SETTINGS, "train.steps=6")
    result = run_student(prepared_dir, output, *settings)
    assert result.returncode == 0, result.stderr
    torn = output / "checkpoints" / "step-00000200"
    with started(longer_run(prepared_dir, output), tmp_path / "log") as run:
        wait_for(lambda: len(step_lines(output)) > 6, run)
        # A pipe that nobody reads holds rank 1 in its write, while rank 0 has written all its own.
        torn.mkdir()
        os.mkfifo(torn / "zero_pp_rank_1_mp_rank_00_optim_states.pt")
        wait_for((torn / "zero_pp_rank_0_mp_rank_00_optim_states.pt").exists, run)
        family = psutil.Process(run.pid).children(recursive=True)
        is_rank = [any("--local_rank=" in part for part in it.cmdline()) for it in family]
        # Found before the first of them is killed: the launcher ends the others by itself.
        for process in itertools.compress(family, is_rank):
            process.send_signal(signal.SIGKILL)
        assert run.wait(timeout=120) != 0
    assert torn.exists()
    assert newest_whole(output / "checkpoints") == WholeCheckpoint(step=6, ranks=2)
    result = run_student(prepared_dir, output, *SETTINGS, "train.steps=8")
    assert result.returncode == 0, result.stderr
    assert f"{torn.name} is not used and removed: it was not finished" in result.stderr
    assert error_lines(result) == []
    assert [entry["step"] for entry in step_lines(output)] == list(range(1, 9))
