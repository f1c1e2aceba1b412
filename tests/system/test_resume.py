"""Runs that go on: at every ZeRO stage, on other numbers of ranks, after a torn or failed write."""

from __future__ import annotations

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

from tests.support.scrapes import of_rank, scrape
from tests.support.student_runs import (
    PLAIN,
    PLAIN_STEPS,
    error_lines,
    free_port,
    loss_curve,
    run_student,
    started,
    step_lines,
    student_command,
)
from trainer.checkpoints.files import WholeCheckpoint, newest_whole

PlainRun = Callable[[int], Path]


def wait_for(condition: Callable[[], bool], run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert run.poll() is None, "the run ended"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_begun(output: Path) -> bool:
    return (output / "metrics.jsonl").exists() and len(step_lines(output)) > 0


def kill_one_rank(launcher: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(launcher.pid).children(recursive=True)
    rank = next(
        process
        for process in family
        if any("trainer/main.py" in part for part in process.cmdline())
        and "--local_rank=1" in process.cmdline()
    )
    rank.send_signal(signal.SIGKILL)


def test_rank_killed_in_the_middle_of_a_write_loses_no_step_before(
    prepared_dir: Path, plain_run: PlainRun, tmp_path: Path
) -> None:
    """A watched run is killed in its last checkpoint, and goes on from the one before."""
    undisturbed = loss_curve(plain_run(1))
    output, port = tmp_path / "run", free_port(in_a_row=2)
    torn = output / "checkpoints" / "step-00000060"
    watched = (*PLAIN, "train.checkpoint_every=30", f"watch.metrics_port={port}")
    with started(student_command(prepared_dir, output, *watched), tmp_path / "log") as run:
        wait_for(lambda: has_begun(output), run)
        for rank in range(2):
            seen = of_rank(scrape(f"127.0.0.1:{port + rank}"), rank)
            assert seen["tokens_total"] > 0 and seen["step_seconds_total"] > 0
            assert seen["exposed_wait_seconds_total"] < seen["step_seconds_total"]
            assert "requests_total" not in seen
        wait_for(lambda: newest_whole(output / "checkpoints") is not None, run)
        # A pipe that nobody reads holds rank 1 in its write, while rank 0 has written all its own.
        torn.mkdir()
        os.mkfifo(torn / "zero_pp_rank_1_mp_rank_00_optim_states.pt")
        wait_for((torn / "zero_pp_rank_0_mp_rank_00_optim_states.pt").exists, run)
        kill_one_rank(run)
        assert run.wait(timeout=120) != 0
    assert torn.exists()
    assert newest_whole(output / "checkpoints") == WholeCheckpoint(step=30, ranks=2)
    result = run_student(prepared_dir, output, *PLAIN)
    assert result.returncode == 0, result.stderr
    assert f"{torn.name} is not used and removed: it was not finished" in result.stderr
    assert error_lines(result) == []
    assert [entry["step"] for entry in step_lines(output)] == list(range(1, PLAIN_STEPS + 1))
    assert loss_curve(output) == pytest.approx(undisturbed, rel=1e-6)


def later(stage: int, ranks: int) -> object:
    return pytest.param(stage, ranks, marks=pytest.mark.everything)


@pytest.mark.parametrize(
    ("stage", "ranks"),
    [
        *[(1, 4), (3, 1)],
        *[later(0, 1), later(2, 1), later(3, 4)],
        # The killed run above has stage 1.
        *[later(0, 2), later(2, 2), later(3, 2)],
    ],
)
def test_run_goes_on_from_the_checkpoint_before_a_damaged_one_on_any_number_of_ranks(
    stage: int, ranks: int, prepared_dir: Path, plain_run: PlainRun, tmp_path: Path
) -> None:
    undisturbed, output = loss_curve(plain_run(stage)), tmp_path / "run"
    shutil.copytree(plain_run(stage), output)
    damaged = next((output / "checkpoints" / "step-00000060").glob("*rank*.pt"))
    if ranks == 1:
        # What a disk may do: the right size and other bytes.
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 0x5A
        damaged.write_bytes(content)
    else:
        # What a crash of the machine may leave: a file that was named and is short.
        os.truncate(damaged, damaged.stat().st_size // 2)
    result = run_student(prepared_dir, output, *PLAIN, f"zero_stage={stage}", ranks=ranks)
    assert result.returncode == 0, result.stderr
    assert f"{damaged.name} must have" in result.stderr
    assert [entry["step"] for entry in step_lines(output)] == list(range(1, PLAIN_STEPS + 1))
    exact = 1e-6 if ranks == 2 else 1e-4
    assert loss_curve(output) == pytest.approx(undisturbed, rel=exact)
    newest = newest_whole(output / "checkpoints")
    assert newest == WholeCheckpoint(step=PLAIN_STEPS, ranks=ranks)


# The first run that offloads compiles DeepSpeed's optimiser for the CPU.
COMPILE_S = 480


@pytest.mark.everything
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
    output = tmp_path / "run"
    settings = ("distill.gamma=0", "train.checkpoint_every=3", "zero_stage=3", f"deepspeed={file}")
    for ranks, steps in ((2, 3), (1, 6)):
        more = (*settings, f"train.steps={steps}")
        result = run_student(prepared_dir, output, *more, ranks=ranks, timeout_s=COMPILE_S)
        assert result.returncode == 0, result.stderr
    path = next((output / "checkpoints" / "step-00000006").glob("*rank_0*optim_states.pt"))
    saved = torch.load(path, map_location="cpu", weights_only=False)["optimizer_state_dict"]
    states = saved["optimizer_state_dict"]["state"].values()
    assert len(states) > 2
    assert {float(state["step"]) for state in states} == {6}
    # What DeepSpeed would copy beside the checkpoints is not there.
    names = {path.name for path in (output / "checkpoints").iterdir()}
    assert names == {"step-00000003", "step-00000006"}


@pytest.mark.everything
def test_full_disk_at_a_checkpoint_is_one_error_and_leaves_the_last_good_one(
    prepared_dir: Path, plain_run: PlainRun, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(plain_run(1), output)
    torn = output / "checkpoints" / "step-00000200"
    longer = (*PLAIN, "train.checkpoint_every=200", "train.steps=400")
    with started(student_command(prepared_dir, output, *longer), tmp_path / "log") as run:
        wait_for(lambda: len(step_lines(output)) > PLAIN_STEPS, run)
        # The kernel's own full disk, for one rank of two: every write to it fails with ENOSPC.
        torn.mkdir()
        (torn / "zero_pp_rank_1_mp_rank_00_optim_states.pt").symlink_to("/dev/full")
        assert run.wait(timeout=120) != 0
    log = (tmp_path / "log").read_text()
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert "the checkpoint of step 200 must be written to" in line
    assert f"it goes on from step {PLAIN_STEPS}" in line
    assert not torn.exists()
    assert newest_whole(output / "checkpoints") == WholeCheckpoint(step=PLAIN_STEPS, ranks=2)
