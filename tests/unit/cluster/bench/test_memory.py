"""How the memory benchmark measures: against processes whose memory is known."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.bench.memory import bench as memory
from cluster.bench.memory.bench import ARMS, Arm, command, figures, largest_shape, plan_arm, row_of
from cluster.bench.memory.rank_memory import (
    RankMemory,
    Sampler,
    find_ranks,
    status_bytes,
    steps_done,
)
from cluster.launch.launcher import Launcher
from cluster.stages import Demo, this_machine
from tests.support.student_runs import ROOT, TINY, student_command
from trainer.data.prepared import load_prepared
from trainer.plan.memory import CPU_OVERHEAD

HOLDS_100_MIB = """
import sys, time
held = bytearray(100 << 20)
held[:: 4096] = b"x" * len(held[:: 4096])
print("ready", flush=True)
time.sleep(600)
"""


def test_status_of_a_process_tells_what_it_holds() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDS_100_MIB], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        held = status_bytes(holder.pid)
        assert held is not None
        assert 100 << 20 <= held["VmRSS"] <= held["VmHWM"] <= 200 << 20
    finally:
        holder.kill()
        holder.communicate()
    assert status_bytes(holder.pid) is None


def test_ranks_are_found_by_their_environment_once_all_are_there() -> None:
    command = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]
    ranks = []
    try:
        for rank in (1, 0):
            environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
            child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
            ranks.append(child)
            assert child.stdout is not None
            child.stdout.readline()
            assert find_ranks() == ({0: ranks[1].pid, 1: ranks[0].pid} if rank == 0 else {})
    finally:
        for child in ranks:
            child.kill()
            child.communicate()


def test_steps_are_counted_without_events_and_half_lines(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert steps_done(metrics) == 0
    lines = [{"event": "start"}, {"step": 1}, {"step": 2}, {"event": "valid", "step": 9}]
    metrics.write_text("".join(json.dumps(it) + "\n" for it in lines) + '{"step": 3')
    assert steps_done(metrics) == 2


def test_a_run_that_was_not_seen_is_an_error(tmp_path: Path) -> None:
    with Sampler(tmp_path, 3) as sampler:
        pass
    with pytest.raises(
        ValueError, match=r"memory must be seen of 2 ranks after step 3, got .*\[\]"
    ):
        sampler.result(2)


def test_plan_of_an_arm_takes_the_longest_of_its_micro_batches(prepared_dir: Path) -> None:
    arm = Arm(student="small", stage=3, batch_size=4)
    vocab_size, shape = largest_shape(arm, prepared_dir)
    assert vocab_size == load_prepared(prepared_dir).vocabulary.size
    assert shape.examples == 2
    assert 2 <= shape.positions < shape.examples * shape.length
    plan = plan_arm(arm, prepared_dir)
    assert (plan.stage, plan.parts["fixed"]) == (3, CPU_OVERHEAD)


def test_figures_are_of_the_whole_runs_and_of_the_worst_plan(prepared_dir: Path) -> None:
    plan = plan_arm(Arm(student="small", stage=0, batch_size=2), prepared_dir)
    rows = []
    for arm in ARMS:
        # The plan is right, but for medium's: its first rank took a quarter more.
        peak = plan.total * 5 // 4 if arm.student == "medium" else plan.total
        measured = RankMemory(steps_peak={0: peak, 1: plan.total}, together=3 * plan.total)
        rows.append(row_of(arm, plan, measured))
    found = figures(rows)
    assert found["plan_max_error"] == pytest.approx(0.2)
    assert found["large_zero3_peak_gib"] == pytest.approx(3 * plan.total / 2**30)
    assert rows[1]["steps_peak_gib"] == pytest.approx(2.25 * plan.total / 2**30)


def test_arms_of_the_small_student_that_would_begin_late_are_left_out(
    monkeypatch: pytest.MonkeyPatch, prepared_dir: Path, tmp_path: Path
) -> None:
    times = iter([9.0, 10.5])
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: next(times)))
    measured = RankMemory(steps_peak={0: 1 << 30, 1: 1 << 30}, together=2 << 30)
    monkeypatch.setattr(
        memory, "run_arm", lambda arm, *_: (plan_arm(ARMS[-1], prepared_dir), measured)
    )
    demo = Demo(source=None, output=tmp_path, machine=this_machine())
    with Launcher(tmp_path / "logs", screen=io.StringIO()) as launcher:
        rows, left_out = memory.run_arms(demo, launcher, start_by=10.0)
    assert [row["student"] for row in rows] == ["large", "medium", "small"]
    assert left_out == list(ARMS[3:])


def test_command_of_an_arm_gives_freed_memory_back_and_has_no_teacher(tmp_path: Path) -> None:
    run = command(ARMS[0], this_machine(), tmp_path, tmp_path, "synthetic")
    argv = run.argv
    assert run.env["MALLOC_MMAP_THRESHOLD_"] == "1048576"
    assert {"distill.gamma=0", "zero_stage=3"} <= set(argv)
    assert {"student.num_layers=36", "student.hidden_size=1280"} <= set(argv)


@pytest.mark.cluster
def test_a_real_run_is_seen_on_both_ranks(prepared_dir: Path, tmp_path: Path) -> None:
    # Steps enough after the third for a sampler that has to share its core.
    settings = ("distill.gamma=0", "train.steps=30", "train.checkpoint_every=30", "zero_stage=3")
    argv = student_command(prepared_dir, tmp_path, *settings, *TINY, "train.batch_size=2")
    environment = {**os.environ, **command_environment()}
    with Sampler(tmp_path, 3) as sampler:
        subprocess.run(argv, cwd=ROOT, env=environment, check=True, capture_output=True)
    measured = sampler.result(2)
    # Almost nothing but the interpreter with torch and DeepSpeed in it: see CPU_OVERHEAD.
    for peak in measured.steps_peak.values():
        assert CPU_OVERHEAD / 2 < peak < CPU_OVERHEAD * 1.5
    assert measured.together <= 2.5 * CPU_OVERHEAD


def command_environment() -> dict[str, str]:
    machine = dataclasses.replace(this_machine(), num_devices=0)
    return {name: it for name, it in machine.environment(2).items() if it is not None}
